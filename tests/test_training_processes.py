"""Several processes train what one would: the same batches, the same losses, one folder."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from training_set import M, checkpoint, config, lines, make_training_set, tiny_sizes
from transformers import LlamaConfig, LlamaForCausalLM

from indexing import paths
from indexing.errors import ConfigError
from indexing.tokenizer import Tokenizer
from retro_core import devices
from retro_core.checkpoint import save_model
from retro_core.config import RetroConfig, TrainConfig
from retro_core.dataset import RetroDataset, TrainingBatches
from retro_core.devices import check_devices, own_rows
from retro_core.functions import IGNORED_LABEL
from retro_core.model import Retro
from retro_core.run_folder import checkpoints, read_status
from retro_core.training import train

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def material(tmp_path_factory, tokenizer) -> dict[str, str]:
    """Without dropout, which draws other numbers in each process."""
    folder = tmp_path_factory.mktemp("material")
    made = make_training_set(folder, tokenizer)
    (folder / "model.json").write_text(json.dumps(tiny_sizes(tokenizer, dropout_p=0.0)))
    return made


@pytest.mark.parametrize("processes", [2, 3, 11])
def test_shares_of_a_batch_add_up_to_its_gradient(material, processes):
    """Each row has one owner, and sums by token, not means of means, are what is added."""
    torch.manual_seed(0)
    model = Retro(RetroConfig.from_json(Path(material["model"])))
    data = RetroDataset(Path(material["data_spec"]), model.config, 2, 4 * M)
    batch = TrainingBatches(data, 5, 0, shuffle=False).batch(0)
    rows = len(batch.labels)
    assert len({int((row != IGNORED_LABEL).sum()) for row in batch.labels}) > 1, "rows of unequal length"
    model(batch.input_ids, batch.neighbour_ids, batch.labels).loss.backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    total, seen, counted = int((batch.labels != IGNORED_LABEL).sum()), [], 0
    for rank in range(processes):
        ids, labels, read, own = own_rows(batch, rank, processes)
        counted += own
        seen += [row.tolist() for row in ids] if own else []
        (model(ids, read, labels).loss * own / total).backward()
    assert counted == total and sorted(seen) == sorted(row.tolist() for row in batch.input_ids)
    assert rows < 11, "one process has nothing of its own to do"
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, whole[name], rtol=1e-4, atol=1e-7)


def test_devices_that_are_not_there_are_told_before_anything_is_loaded(monkeypatch):
    for changes, sentence in [
        ({"device": "cuda"}, "The device 'cuda' is not here. Use 'auto'"),
        ({"strategy": "fsdp", "precision": "fp16"}, "fsdp does not go with fp16.* Use bf16 or 32"),
    ]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ConfigError, match=sentence):
            check_devices(TrainConfig(**changes))
    monkeypatch.setattr(devices, "device_kind", lambda config: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="gpus_per_node is 3, but here are 2. Ask for fewer"):
        check_devices(TrainConfig(gpus_per_node=3))


def together(cases: list[TrainConfig], folder: Path, command: list[str] | None = None) -> str:
    """Train these runs one after the other in two processes that torchrun starts; what they print."""
    (folder / "cases.json").write_text(json.dumps([case.to_dict() for case in cases]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}",
            *(command or [str(HERE / "training_worker.py"), str(folder / "cases.json")]),
        ],
        cwd=HERE.parent, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def agree(one: str, other: str) -> None:
    """Loss by loss, within 1e-5."""
    pairs = list(zip(lines(one), lines(other), strict=True))
    for a, b in pairs:
        assert (a["event"], a["step"]) == (b["event"], b["step"])
        for name in ("loss", "on", "off", "random", "learning_rate"):
            assert name not in a or abs(a[name] - b[name]) < 1e-5, (a, b)
        for name in ("gradient_norm", "write_strength"):
            assert name not in a or a[name] == pytest.approx(b[name], rel=1e-4), (a, b)
        assert a.keys() == b.keys()


@pytest.mark.slow
def test_two_processes_train_what_one_does(material, tmp_path):
    """DDP and FSDP, with and without accumulation; a run that one began is finished by two, and back; and a
    model trained further, frozen but for what reads, with batches whose labels it makes itself."""
    long = {"steps": 50, "batch_size": 3, "evaluate_every": 25, "save_every": 25}
    short = {"steps": 6, "batch_size": 3, "accumulate_grad_batches": 2, "schedule": "constant"}
    half = {**short, "steps": 3}
    torch.manual_seed(1)
    known = Retro(RetroConfig.from_json(Path(material["model"])))
    save_model(tmp_path / "known", known, Tokenizer.load(material["tokenizer"]))
    further = {**short, "weights": str(tmp_path / "known"), "reading_only": True, "ignore_share": 0.5}
    list(train(config(material, run="further", **further)))
    list(train(config(material, run="one", **long)))
    list(train(config(material, run="pieces", **short)))
    list(train(config(material, run="one-then-two", **half)))
    together(
        [
            config(material, run="ddp", **long),
            config(material, run="fsdp", strategy="fsdp", **long),
            config(material, run="ddp-pieces", **short),
            config(material, run="fsdp-pieces", strategy="fsdp", samples=1, tensorboard=True, **short),
            config(material, run="one-then-two", **short),
            config(material, run="two-then-one", **half),
            config(material, run="fsdp-then-one", strategy="fsdp", **half),
            config(material, run="fsdp-then-fsdp", strategy="fsdp", **half),
            config(material, run="fsdp-then-fsdp", strategy="fsdp", **short),
            config(material, run="ddp-further", **further),
            config(material, run="fsdp-further", strategy="fsdp", **further),
        ],
        tmp_path,
    )
    for run in ("two-then-one", "fsdp-then-one"):
        list(train(config(material, run=run, **short)))
    agree("one", "ddp")
    agree("one", "fsdp")
    agree("further", "ddp-further")
    agree("further", "fsdp-further")
    for run in (
        "ddp-pieces",
        "fsdp-pieces",
        "one-then-two",
        "two-then-one",
        "fsdp-then-one",
        "fsdp-then-fsdp",
    ):
        agree("pieces", run)
        weights, expected = checkpoint(run)["weights"], checkpoint("pieces")["weights"]
        assert all(np.allclose(weights[name], expected[name], atol=1e-5) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", [False, True], ids=["frozen", "unfrozen"])
def test_two_processes_fit_what_one_does(tokenizer, tmp_path, unfreeze):
    """A base of other people's code: its layers are the units that FSDP shares out, its weights are frozen,
    CCA is called by hooks."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 40, "intermediate_size": 28, "num_hidden_layers": 4, "num_attention_heads": 5}
    base = tmp_path / "base"
    LlamaForCausalLM(
        LlamaConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=256, **sizes)
    ).save_pretrained(base)
    tokenizer.save(base)
    material = {**make_training_set(tmp_path, tokenizer, 64), "tokenizer": "", "model": ""}
    fit = {"base": str(base), "unfreeze": unfreeze, "batch_size": 3, "max_len": 256, "evaluate_every": 5}
    long, half = {"steps": 10, "schedule": "constant", **fit}, {"steps": 5, "schedule": "constant", **fit}
    list(train(config(material, run="one", **long)))
    list(train(config(material, run="one-then-two", **half)))
    together(
        [
            config(material, run="ddp", **long),
            config(material, run="fsdp", strategy="fsdp", **long),
            config(material, run="one-then-two", strategy="fsdp", **long),
            config(material, run="two-then-one", strategy="fsdp", **half),
        ],
        tmp_path,
    )
    list(train(config(material, run="two-then-one", **long)))
    on, off = ([line[name] for line in lines("one") if name in line] for name in ("on", "off"))
    assert len(on) == 2 and on[0] != on[1] and (unfreeze or off[0] == off[1]), "learns, and only where it may"
    for run in ("ddp", "fsdp", "one-then-two", "two-then-one"):
        agree("one", run)
        weights, expected = checkpoint(run)["weights"], checkpoint("one")["weights"]
        assert {*weights} == {*expected} and any(key.startswith("lm.") for key in weights) == unfreeze
        # Adam divides by gradients that are next to nothing here, and so makes much of the last digit.
        assert all(np.allclose(weights[name], expected[name], atol=1e-4) for name in expected)


@pytest.mark.slow
def test_the_command_in_two_processes_writes_one_run(material, tmp_path):
    arguments = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in config(material, steps=4).to_dict().items()
        if not isinstance(value, bool | list) and name != "run"
    ]
    folder = tmp_path / "experiments"
    (folder / "version_3").mkdir(parents=True)
    said = together(
        [], tmp_path, ["-m", "--", "retro_core", "train", *arguments, "--experiment-dir", str(folder)]
    )
    run = folder / "version_4"
    assert said.count(f"of 4 in {run}") == 1 and "2 processes" in said
    assert read_status(run).state == "finished" and checkpoints(run)[-1].step == 4
    assert json.loads((run / "command.json").read_text())["argv"][1:4] == ["-m", "retro_core", "train"]
    list(train(config(material, steps=4, run="alone")))
    losses = []
    for path in (run, paths.runs_dir() / "alone"):
        events = map(json.loads, (path / "metrics.jsonl").open())
        losses.append([event["loss"] for event in events if "loss" in event])
    assert len(losses[0]) == 4 and np.allclose(*losses, atol=1e-5, rtol=0)
