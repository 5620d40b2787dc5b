"""What each choice behind the bundled model brings: short trainings that differ in one thing, on the same
batches with the same seed, and their held-out loss with neighbours (On), without (Off) and with random ones.

    python -m benchmarks.choices TRAIN_SPEC NAME=HELD_OUT_SPEC ... [--steps 250] [--variants NAME ...]

The specs are made by assets/models/make_training_set.py. One line for each variant and probe, one JSON line
last. A variant takes two to three minutes for 250 steps on two free cores.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.machine import opened
from indexing import paths
from indexing.tokenizer import Tokenizer
from retro_core import model
from retro_core.config import REFERENCE, RetroConfig, TrainConfig
from retro_core.dataset import RetroDataset
from retro_core.evaluation.windows import window_losses
from retro_core.presets import preset
from retro_core.training import StepDone, load_run, train

# name -> what differs: fields of RetroConfig, of TrainConfig, and whether CCA starts as copying heads
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
    "no retrieval at all": {"model": {"dec_cca_layers": []}},
}
READ = 2  # neighbours while evaluating, whatever the training read


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("probes", metavar="NAME=SPEC", nargs="+")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--windows", type=int, default=24, help="held-out windows of each probe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0 for torch's own choice")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS, metavar="NAME")
    arguments = parser.parse_args()
    probes = {name: Path(spec) for name, _, spec in (text.partition("=") for text in arguments.probes)}
    tokenizer = Tokenizer.load(paths.model_dir(paths.DEMO_MODEL))
    machine = opened(arguments.threads, quick=True)
    print(f"{'variant':<26}{'probe':<12}{'on':>8}{'off':>8}{'random':>8}{'on-off':>8}   seconds", flush=True)
    rows = []
    for name in arguments.variants:
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, RETRO_HOME=folder):
            rows += measure(name, arguments, probes, tokenizer, Path(folder))
    print(json.dumps({"benchmark": "choices", **machine, "steps": arguments.steps, "rows": rows}))


def measure(
    name: str, arguments: argparse.Namespace, probes: dict[str, Path], tokenizer: Tokenizer, folder: Path
) -> list[dict]:
    changes = VARIANTS[name]
    config = dataclasses.replace(
        preset("small", tokenizer.vocab_size, tokenizer.pad_id), **changes.get("model", {})
    )
    (folder / "model.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    settings = TrainConfig(
        **{
            "data_spec": str(arguments.train), "model": str(folder / "model.json"), "run": "variant",
            "steps": arguments.steps, "batch_size": 3, "learning_rate": 8e-4, "reading_rate": 0.2,
            "warmup": min(150, arguments.steps // 3), "copy_share": 0.2, "copy_steps": 6000,
            "stranger_share": 0.15, "log_every": 50, "save_every": arguments.steps,
            "seed": arguments.seed, "threads": arguments.threads,
            **changes.get("train", {}),
        }
    )  # fmt: skip
    began = time.monotonic()
    with copying(changes.get("copying", True)):
        tokens = [event.tokens for event in train(settings) if isinstance(event, StepDone)][-1]
    seconds = time.monotonic() - began
    trained = load_run("variant")[0]
    rows = []
    for probe, spec in probes.items():
        means = held_out(trained, config, spec, arguments.windows)
        rows.append(
            {"variant": name, "probe": probe, **means, "tokens": tokens, "seconds": round(seconds, 1),
             "parameters": sum(p.numel() for p in trained.parameters())}
        )  # fmt: skip
        shown = "".join(f"{means[key]:8.3f}" for key in ("on", "off", "random"))
        print(f"{name:<26}{probe:<12}{shown}{means['on'] - means['off']:+8.3f}   {seconds:.0f}", flush=True)
    return rows


@contextmanager
def copying(wanted: bool) -> Iterator[None]:
    """Whether new models begin with copying heads."""
    if wanted:
        yield
    else:
        with mock.patch.object(model, "start_copying", lambda _: None):
            yield


def held_out(trained: torch.nn.Module, config: RetroConfig, spec: Path, windows: int) -> dict[str, float]:
    """Nats per token."""
    losses = window_losses(trained, RetroDataset(spec, config, READ, 512), limit=windows)
    total = sum(window.tokens for window in losses)
    return {name: sum(getattr(w, name) for w in losses) / total for name in ("on", "off", "random")}


if __name__ == "__main__":
    main()
