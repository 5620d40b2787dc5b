"""Which start of a RETRO-fit learns fastest on few tokens: held-out loss with neighbours, minus that without
and minus that with random ones. The second difference is what was learned about reading; the first also
counts what was learned about the kind of text, for which any neighbours do.

    python -m benchmarks.retrofit_init TRAIN_SPEC HELD_OUT_SPEC [--base smollm2-135m] [--steps 30] [--json]

Every variant sees the same batches with the same seed. One line for each, one JSON line last.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from retro_core.bases import Base, load_base
from retro_core.config import TrainConfig, fit_config
from retro_core.dataset import Batch, RetroDataset, TrainingBatches
from retro_core.retrofit import FittedRetro, fit_sizes, retrofit
from retro_core.training import calibration_texts, learning_rate, parameter_groups

# (encoder, its layers, start)
VARIANTS = [
    ("small", 1, "zero"),
    ("small", 1, "base"),
    ("small", 1, "copy"),
    ("base", 4, "zero"),
    ("base", 4, "base"),
    ("base", 4, "copy"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--held-out-windows", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--cca-layers", type=int, nargs="*", default=[])
    parser.add_argument("--variants", nargs="*", default=["-".join(map(str, v)) for v in VARIANTS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base(arguments.base)
    off: dict[int, float] = {}
    rows = [measure(arguments, base, off, *variant.split("-")) for variant in arguments.variants]
    print(json.dumps({"benchmark": "retrofit_init", "base": arguments.base, "rows": rows}))


def measure(
    arguments: argparse.Namespace, base: Base, off: dict[int, float], encoder: str, layers: str, start: str
) -> dict:
    """off: the base's loss on each held-out window, filled at the first call"""
    config = TrainConfig(
        base=arguments.base,
        encoder=encoder,
        encoder_layers=int(layers),
        start=start,
        cca_layers=arguments.cca_layers,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        warmup=5,
    )
    pad = base.tokenizer.pad_id
    lm = copy.deepcopy(base.model)  # without the hooks of the variant before
    sizes = fit_sizes(lm, pad, fit_config(config))
    data, held = (
        RetroDataset(spec, sizes, 2, arguments.window) for spec in (arguments.train, arguments.held_out)
    )
    batches = TrainingBatches(data, arguments.batch_size, seed=0)
    full = [w for w in held.windows if (w.stop - w.start) * sizes.chunk_size == arguments.window]
    windows = full[:: max(1, len(full) // arguments.held_out_windows)][: arguments.held_out_windows]
    torch.manual_seed(0)
    text = calibration_texts(batches) if start == "copy" else None
    since = time.perf_counter()
    model = retrofit(lm, pad, fit_config(config), text, arguments.base)
    made = time.perf_counter() - since
    optimizer = torch.optim.AdamW(parameter_groups(model, config), lr=config.learning_rate)
    tokens = 0
    model.train()
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(step, config)
        batch = batches.batch(step)
        loss = model(batch.input_ids, batch.neighbour_ids, batch.labels, logits_to_keep=None).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.new_parameters().values(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += int((batch.labels != -100).sum())
    trained = time.perf_counter() - since
    model.eval()
    on, random, count = 0.0, 0.0, 0
    with torch.inference_mode():
        batches_held = [held.collate([window]) for window in windows]
        for number, batch in enumerate(batches_held):
            if number not in off:
                off[number] = summed(model, batch, None)
            on += summed(model, batch, batch.neighbour_ids)
            random += summed(model, batch, batches_held[number - 1].neighbour_ids)
            count += int((batch.labels != -100).sum())
    minus_off, minus_random = (on - sum(off.values())) / count, (on - random) / count
    print(
        f"{encoder} encoder, {layers} layers, start {start}: {tokens:,} tokens, "
        f"on minus off {minus_off:+.4f}, on minus random {minus_random:+.4f} "
        f"on {count:,} held-out tokens; {made:.0f} s to make, "
        f"{trained - made:.0f} s to train",
        flush=True,
    )
    new = sum(p.numel() for p in model.new_parameters().values())
    return {
        "encoder": encoder, "layers": int(layers), "start": start, "tokens": tokens,
        "on_minus_off": minus_off, "on_minus_random": minus_random, "held_out_tokens": count,
        "new_parameters": new,
    }  # fmt: skip


def summed(model: FittedRetro, batch: Batch, neighbour_ids: Tensor | None) -> float:
    """Nats of all tokens together."""
    out = model(batch.input_ids, neighbour_ids, batch.labels, loss_reduction="none", logits_to_keep=None)
    return out.loss.double().sum().item()


if __name__ == "__main__":
    main()
