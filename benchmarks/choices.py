"""What each choice behind the bundled model brings: short trainings that differ in one thing, on the same
batches with the same seed, and their held-out loss with neighbours (On), without (Off) and with random ones.

    python -m benchmarks.choices TRAIN_SPEC NAME=HELD_OUT_SPEC ... [--steps 250] [--variants NAME ...]

The specs are made by assets/models/make_training_set.py. One line for each variant and probe, one JSON line
last. A variant takes two to three minutes for 250 steps on two free cores. Nats per token of different
vocabularies do not compare: with `--documents 8` whole documents are measured, in bits per byte too.
"""

import argparse
import copy
import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.machine import opened
from benchmarks.vocabularies import learned, retokenised
from indexing import paths
from indexing.neighbours import overlap
from indexing.pipeline.specs import read_data_spec, write_data_spec
from indexing.tokenizer import Tokenizer
from retro_core import model, training
from retro_core.config import REFERENCE, RetroConfig, TrainConfig
from retro_core.dataset import Batch, RetroDataset, TrainingBatches, Window
from retro_core.evaluation.windows import window_losses
from retro_core.presets import preset
from retro_core.training import StepDone, load_run, train

# name -> what differs
#   model, train  fields of RetroConfig and of TrainConfig
#   copying       whether CCA starts as copying heads
#   texts         word in the name of a shard -> how often an epoch has each of its texts, instead of as it is
#   useful        share of the steps, the first ones, whose texts are those that neighbours help most with
#   pieces        size of a vocabulary learned from the training texts, which are then cut anew
VARIANTS: dict[str, dict[str, Any]] = {
    "as bundled": {},
    "no copying start": {"copying": False},
    "reading at the full rate": {"train": {"reading_rate": 1.0}},
    "no copies of the text": {"train": {"copy_share": 0.0}},
    "no strangers": {"train": {"stranger_share": 0.0}},
    "one neighbour": {"train": {"num_neighbours": 1}},
    "four neighbours": {"train": {"num_neighbours": 4}},
    "CCA in layer 1 alone": {"model": {"dec_cca_layers": [1]}},
    "CCA in layer 3 alone": {"model": {"dec_cca_layers": [3]}},
    "CCA in all layers": {"model": {"dec_cca_layers": [0, 1, 2, 3]}},
    "encoder of two layers": {"model": {"enc_num_layers": 2, "enc_ca_layers": [0, 1]}},
    "reference mode": {"model": {"mode": REFERENCE}},
    "half the width": {
        "model": {
            f"{part}_{size}": value
            for part in ("enc", "dec")
            for size, value in (("hidden_dim", 128), ("qkv_dim", 128), ("ffn_dim", 384))
        }
    },
    "half as wide again": {
        "model": {
            **{f"{part}_{size}": 384 for part in ("enc", "dec") for size in ("hidden_dim", "qkv_dim")},
            "enc_ffn_dim": 384, "dec_ffn_dim": 1152,
        }
    },
    "no retrieval at all": {"model": {"dec_cca_layers": []}},
    "no wiki, no techdocs": {"texts": {"wiki": 0, "techdocs": 0}},
    "wiki, techdocs four times": {"texts": {"wiki": 4, "techdocs": 4}},
    "wiki, techdocs alone": {"texts": {"factbook": 0, "bible": 0}},
    "useful half first": {"useful": 0.5},
    "useful half alone": {"useful": 1.0},
    # Cards are two texts of one chunk each, which another vocabulary would cut elsewhere.
    "no cards": {"texts": {"cards": 0}},
    "2,048 pieces, no cards": {"texts": {"cards": 0}, "pieces": 2048},
    "8,192 pieces, no cards": {"texts": {"cards": 0}, "pieces": 8192},
}  # fmt: skip
READ = 2  # neighbours while evaluating, whatever the training read


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("probes", metavar="NAME=SPEC", nargs="+")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--windows", type=int, default=24, help="held-out windows of each probe")
    parser.add_argument("--documents", type=int, help="whole held-out documents instead, with bits per byte")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0 for torch's own choice")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS, metavar="NAME")
    arguments = parser.parse_args()
    probes = {name: Path(spec) for name, _, spec in (text.partition("=") for text in arguments.probes)}
    machine = opened(arguments.threads, quick=True)
    print(f"{'variant':<26}{'probe':<12}{'on':>8}{'off':>8}{'random':>8}{'on-off':>8}   seconds", flush=True)
    rows = []
    for name in arguments.variants:
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, RETRO_HOME=folder):
            rows += measure(name, arguments, probes, Path(folder))
    print(json.dumps({"benchmark": "choices", **machine, "steps": arguments.steps, "rows": rows}))


def measure(name: str, arguments: argparse.Namespace, probes: dict[str, Path], folder: Path) -> list[dict]:
    changes = VARIANTS[name]
    spec, tokenizer = arguments.train, Tokenizer.load(paths.model_dir(paths.DEMO_MODEL))
    if "texts" in changes:
        spec = mixed(spec, changes["texts"], folder / "mixed.spec.json")
    if "pieces" in changes:
        own, tokenizer = tokenizer, learned(spec, tokenizer, changes["pieces"])
        spec, *held_out_specs = (
            retokenised(path, own, tokenizer, folder / f"retokenised-{number}")
            for number, path in enumerate([spec, *probes.values()])
        )
        probes = dict(zip(probes, held_out_specs, strict=True))
    tokenizer.save(folder)
    config = dataclasses.replace(
        preset("small", tokenizer.vocab_size, tokenizer.pad_id), **changes.get("model", {})
    )
    (folder / "model.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    settings = TrainConfig(
        **{
            "data_spec": str(spec), "tokenizer": str(folder), "model": str(folder / "model.json"),
            "run": "variant", "steps": arguments.steps, "batch_size": 3, "learning_rate": 8e-4,
            "reading_rate": 0.2, "warmup": min(150, arguments.steps // 3), "copy_share": 0.2,
            "copy_steps": 6000, "stranger_share": 0.15, "log_every": 50, "save_every": arguments.steps,
            "seed": arguments.seed, "threads": arguments.threads,
            **changes.get("train", {}),
        }
    )  # fmt: skip
    began = time.monotonic()
    with copying(changes.get("copying", True)), useful_first(changes.get("useful", 0.0) * arguments.steps):
        tokens = [event.tokens for event in train(settings) if isinstance(event, StepDone)][-1]
    seconds = time.monotonic() - began
    trained = load_run("variant")[0]
    rows = []
    for probe, held_out_spec in probes.items():
        means = held_out(trained, config, held_out_spec, arguments, tokenizer)
        rows.append(
            {"variant": name, "probe": probe, **means, "tokens": tokens, "seconds": round(seconds, 1),
             "seed": arguments.seed, "parameters": sum(p.numel() for p in trained.parameters())}
        )  # fmt: skip
        shown = "".join(f"{means[key]:8.3f}" for key in ("on", "off", "random"))
        print(f"{name:<26}{probe:<12}{shown}{means['on'] - means['off']:+8.3f}   {seconds:.0f}", flush=True)
    return rows


def mixed(spec: Path, times: dict[str, int], out: Path) -> Path:
    """The same spec with other shares of its texts."""
    shards, index_spec = read_data_spec(spec)
    found = []
    for shard in shards:
        name = "/".join(shard["chunks"].parts[-4:])  # of the shard; of a datastore two folders further up
        of = [count for word, count in times.items() if word in name]
        found += [shard] * (of[0] if of else 1)
    write_data_spec(out, found, index_spec)
    return out


@contextmanager
def copying(wanted: bool) -> Iterator[None]:
    """Whether new models begin with copying heads."""
    if wanted:
        yield
    else:
        with mock.patch.object(model, "start_copying", lambda _: None):
            yield


@contextmanager
def useful_first(steps: float) -> Iterator[None]:
    """The first `steps` take their texts from the useful half."""
    if not steps:
        yield
        return

    class UsefulFirst(TrainingBatches):
        def __init__(self, dataset: RetroDataset, *settings: Any):
            super().__init__(dataset, *settings)
            useful = copy.copy(dataset)
            useful.windows = useful_half(dataset)
            self.useful = TrainingBatches(useful, *settings)

        def batch(self, step: int, copies: float = 0.0, strangers: float = 0.0) -> Batch:
            if step < steps:
                return self.useful.batch(step, copies, strangers)
            return super().batch(step, copies, strangers)

    with mock.patch.object(training, "TrainingBatches", UsefulFirst):
        yield


def useful_half(data: RetroDataset, at_once: int = 1024) -> list[Window]:
    """Of the windows of each shard and length the half whose chunks stand most nearly literally in what the
    chunk before each of them reads: of each, so that the kinds of text keep their shares."""
    literal = []
    for store, rows in zip(data.shards, data.neighbours, strict=True):
        shares = [np.zeros(1)]
        for first in range(0, len(store) - 1, at_once):
            asking = slice(first, min(first + at_once, len(store) - 1))
            read = data.retrieved_tokens(np.asarray(rows[asking, : data.num_neighbours], dtype=np.int64))
            shares.append(overlap(store.tokens[asking.start + 1 : asking.stop + 1], read, data.pad_id))
        literal.append(np.concatenate(shares))
    kinds: dict[tuple[int, int], list[Window]] = {}
    for window in data.windows:
        kinds.setdefault((window.shard, window.stop - window.start), []).append(window)
    return [
        window
        for (shard, length), of in kinds.items()
        if length > 1
        for window in sorted(of, key=lambda w: -literal[shard][w.start + 1 : w.stop].mean())[
            : -(-len(of) // 2)
        ]
    ]


def held_out(
    trained: torch.nn.Module,
    config: RetroConfig,
    spec: Path,
    arguments: argparse.Namespace,
    tokenizer: Tokenizer,
) -> dict[str, float]:
    """Nats per token; of whole documents also bits per byte."""
    data, limit = RetroDataset(spec, config, READ, 512), arguments.windows
    if arguments.documents:
        of = np.unique([window.document for window in data.windows])
        chosen = np.random.default_rng(0).permutation(of)[: arguments.documents]
        data.windows, limit = [window for window in data.windows if window.document in chosen], None
    losses = window_losses(trained, data, limit=limit)
    sums = {name: sum(getattr(w, name) for w in losses) for name in ("on", "off", "random")}
    means = {name: total / sum(w.tokens for w in losses) for name, total in sums.items()}
    if arguments.documents:
        length = sum(int(tokenizer.byte_counts(data.tokens(window)[1:]).sum()) for window in data.windows)
        means |= {f"{name}_bits_per_byte": nats / math.log(2) / length for name, nats in sums.items()}
    return means


if __name__ == "__main__":
    main()
