"""The train and export commands: the reference's arguments, folders of experiments, and what comes out."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from training_set import M, config, make_training_set, tiny_sizes

from indexing import paths
from retro_core import runs
from retro_core.checkpoint import fingerprint, load_model, load_reference
from retro_core.cli import main
from retro_core.config import RetroConfig, TrainConfig, from_dict
from retro_core.dataset import RetroDataset, TrainingBatches
from retro_core.monitoring import flops_per_place
from retro_core.run_folder import checkpoints
from retro_core.training import export_checkpoint, load_run, train


@pytest.fixture(scope="module")
def material(tmp_path_factory, tokenizer) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("material")
    made = make_training_set(folder, tokenizer)
    (folder / "reference.json").write_text(
        json.dumps(tiny_sizes(tokenizer, mode="reference", tie_embeddings=False))
    )
    return made


def test_the_arguments_of_the_reference_mean_what_they_mean_there(material, tmp_path, capsys):
    (tmp_path / "some").write_text("3\n\n 5 \n500\n")
    (tmp_path / "few").write_text("0\n2\n")
    folder = tmp_path / "experiments"
    (folder / "version_0").mkdir(parents=True)
    (folder / "version_7").mkdir()
    command = [
        "train", "--training-dataset-spec", material["data_spec"],
        "--validation-dataset-spec", material["validation"], "--retro-config", material["model"],
        "--batch-size", "1", "--experiment-dir", str(folder), "--num-neighbours", "1",
        "--num-continuation-chunks", "2", "--max-len", str(4 * M),
        "--training-data-subset-indices", str(tmp_path / "some"),
        "--validation-data-subset-indices", str(tmp_path / "few"), "--num-nodes", "1", "--num-workers", "4",
        "--accumulate-grad-batches", "2", "--val-check-interval", "1",
        "--tokenizer", material["tokenizer"], "--steps", "2", "--threads", "1", "--no-tensorboard",
    ]  # fmt: skip
    assert main(command) == 0
    run = folder / "version_8"
    assert [saved.step for saved in checkpoints(run)] == [1, 2]
    said = capsys.readouterr().err
    assert f"of 2 in {run}" in said and said.count("held out: on") == 2 and said.count("goes on") == 4
    settings = from_dict(TrainConfig, json.loads((run / "config.json").read_text()))
    assert (settings.evaluate_every, settings.num_continuation_chunks, settings.num_workers) == (1, 2, 4)
    assert main([*command, "--run", "version_8", "--steps", "3"]) == 0, "that one goes on"
    assert checkpoints(run)[-1].step == 3 and not (folder / "version_9").exists()
    assert load_run(str(run))[2] == 3

    model = RetroConfig.from_json(Path(material["model"]))
    data = RetroDataset(Path(material["data_spec"]), model, 1, 4 * M, 2, tmp_path / "some")
    assert {window.document for window in data.windows} == {3, 5, 500}
    assert data.collate(data.windows[:1]).neighbour_ids.shape[2:] == (1, 3 * M)


def test_a_checkpoint_becomes_a_model_that_is_made_once(material):
    list(train(config(material, steps=2, evaluate_every=1)))
    best, newest = export_checkpoint("try", "best"), export_checkpoint("try")
    assert newest == "try-step-2" and best in ("try-step-1", "try-step-2")
    opened = load_model(newest)
    assert opened.fingerprint == fingerprint(load_run("try")[0]) and "after 2 steps" in opened.card
    written = opened.folder.stat().st_mtime_ns
    assert export_checkpoint("try", 2) == newest and opened.folder.stat().st_mtime_ns == written

    runs.delete("try")
    time.sleep(0.02)
    list(train(config(material, steps=2, evaluate_every=1, seed=3)))
    assert export_checkpoint("try") == newest, "of the run that has the name now"
    assert load_model(newest).fingerprint == fingerprint(load_run("try")[0]) != opened.fingerprint


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("1\n-1\n", "0 to 599, in line 2 of .*, got '-1'"),
        ("600", "in line 1 of .*, got '600'"),
        ("1\n\nx y\n", "in line 3 of .*, got 'x y'"),
        ("\n \n", "names no document"),
    ],
)
def test_numbers_that_no_document_has_are_told(material, tmp_path, capsys, text, sentence):
    (tmp_path / "some").write_text(text)
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in material.items()]
    arguments += ["--max-len", "32", "--training-data-subset-indices", str(tmp_path / "some")]
    assert main(["train", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and re.search(sentence, said), said
    assert not (paths.runs_dir() / "run").exists()


def test_the_files_order_is_kept_without_shuffling(material):
    model = RetroConfig.from_json(Path(material["model"]))
    data = RetroDataset(Path(material["data_spec"]), model, 0, 4 * M)
    assert data.num_neighbours == 2, "0 means all"
    batches = TrainingBatches(data, 7, seed=0, shuffle=False)
    windows = [w for w in data.windows if w.stop - w.start > 1]
    for number in (0, 1, len(batches) - 1, len(batches)):
        start = number % len(batches) * 7
        expected = [w.document for w in windows[start : start + 7]]
        assert batches.batch(number).documents.tolist() == expected


def test_a_reference_model_is_exported_for_the_reference(material, tmp_path, capsys):
    described = str(Path(material["tokenizer"]) / "reference.json")
    list(train(config(material, model=described, steps=4, evaluate_every=100)))
    out = tmp_path / "out.ckpt"
    assert main(["export", "try", "mine", "--step", "2", "--reference", str(out)]) == 0
    said = capsys.readouterr().out
    assert "after 2 steps" in said and str(out) in said
    content = torch.load(out, weights_only=True)
    assert {*content} == {
        "epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops", "callbacks",
        "optimizer_states", "lr_schedulers",
    }  # fmt: skip
    assert content["global_step"] == 2
    assert {"base.dec_embs.weight", "lm_head.weight"} <= {*content["state_dict"]}
    described = json.loads((tmp_path / "out.config.json").read_text())
    assert "mode" not in described and described["chunk_size"] == M, "fields it does not know stop it"
    back, mine = load_reference(out, tmp_path / "out.config.json"), load_model("mine").model
    ids = torch.arange(2, 2 + 3 * M)[None]
    read = torch.arange(2, 2 + 6 * 2 * M).view(1, 3, 2, 2 * M)
    assert torch.equal(back(ids, read).logits, mine(ids, read).logits)
    assert torch.equal(back(ids, read).logits, load_run("try", 2)[0](ids, read).logits)
    assert not torch.equal(back(ids, read).logits, load_run("try")[0](ids, read).logits)
    assert main(["export", "try", "--reference", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_what_cannot_be_exported_is_told(material, tmp_path, capsys):
    list(train(config(material, steps=1, validation="")))
    for arguments, sentence in [
        (["try", "--reference", str(tmp_path / "x.ckpt")], "only models of mode 'reference'"),
        (["try", "mine", "--best"], "No checkpoint of run 'try' has a held-out loss, so none is the best"),
        (["try", "mine", "--step", "9"], "no checkpoint of step 9; it has 1. Choose one of them"),
        (["try"], "Expected a NAME for the new model, or --reference FILE, got neither"),
        (["none", "mine"], "Run 'none' has no checkpoint"),
    ]:
        assert main(["export", *arguments]) == 2
        assert sentence in capsys.readouterr().err
    assert not list(tmp_path.glob("x*")) and not (paths.models_dir() / "mine").exists()


def test_tensorboard_has_the_same_numbers(material):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    running = train(config(material, tensorboard=True, samples=1))
    while type(next(running)).__name__ != "Saved":
        pass
    running.close()
    list(train(config(material, tensorboard=True, samples=1)))
    folder = paths.runs_dir() / "try"
    shown = EventAccumulator(str(folder / "tensorboard"))
    shown.Reload()
    events = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    for tag, name in [
        ("train/loss", "loss"),
        ("held_out/on", "on"),
        ("train/learning_rate", "learning_rate"),
    ]:
        kind = "Evaluated" if name == "on" else "StepDone"
        expected = [(e["step"], e[name]) for e in events if e["event"] == kind]
        found = [(scalar.step, scalar.value) for scalar in shown.Scalars(tag)]
        assert [step for step, _ in found] == [step for step, _ in expected], "a resumed step is there once"
        assert np.allclose([value for _, value in found], [value for _, value in expected])


def test_flops_are_those_of_the_matrix_products(tokenizer):
    """Counted by hand from the sizes; the positions before the first that reads are the difference."""
    from retro_core.model import Retro

    sizes = tiny_sizes(tokenizer)
    model = Retro(RetroConfig.from_json(sizes))
    b, l, k, r, v = 2, 4, 2, 2 * M, tokenizer.vocab_size  # noqa: E741
    n, d, f, q = l * M, 48, 32, 48
    rows = (torch.ones(b, n, dtype=torch.int64), torch.ones(b, n, dtype=torch.int64))
    read = torch.ones(b, l, k, r, dtype=torch.int64)
    places, neighbours = b * n, b * l * k * r
    feed = 3 * d * f
    decoder = 2 * (4 * d * q + 2 * n * q + feed) + d * v
    cca = 2 * d * q + 2 * k * r * q  # what asks, and what it makes of the answers
    encoder = 4 * d * q + 2 * r * q + feed + 2 * d * q + 2 * M * q
    expected = 2 * (places * (decoder + cca) + neighbours * (encoder + 2 * d * q) + b * l * M * 2 * d * q)
    found = flops_per_place(model, (*rows, read), torch.device("cpu")) * places
    assert expected * 0.97 < found <= expected * 1.01
