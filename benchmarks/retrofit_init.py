"""Which start of a RETRO-fit learns fastest on few tokens: held-out loss On minus Off after so many tokens.

    python -m benchmarks.retrofit_init TRAIN_SPEC HELD_OUT_SPEC [--base smollm2-135m] [--steps 40] [--json]

Every variant sees the same batches with the same seed. One line for each, one JSON line last.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from retro_core.bases import load_base
from retro_core.config import TrainConfig
from retro_core.dataset import RetroDataset, TrainingBatches
from retro_core.evaluation import window_losses
from retro_core.retrofit import fit_sizes, retrofit
from retro_core.training import calibration_texts, fit_config, learning_rate, parameter_groups

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
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--held-out-windows", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--gate-rate", type=float, default=10.0)
    parser.add_argument("--cca-layers", type=int, nargs="*", default=[])
    parser.add_argument("--variants", nargs="*", default=["-".join(map(str, v)) for v in VARIANTS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(arguments, *variant.split("-")) for variant in arguments.variants]
    print(json.dumps({"benchmark": "retrofit_init", "base": arguments.base, "rows": rows}))


def measure(arguments: argparse.Namespace, encoder: str, layers: str, start: str) -> dict:
    config = TrainConfig(
        base=arguments.base,
        encoder=encoder,
        encoder_layers=int(layers),
        start=start,
        cca_layers=arguments.cca_layers,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        gate_rate=arguments.gate_rate,
        warmup=5,
        stranger_share=0.0,
    )
    base = load_base(arguments.base)
    pad = base.tokenizer.pad_id
    sizes = fit_sizes(base.model, pad, fit_config(config))
    data, held = (
        RetroDataset(spec, sizes, 2, arguments.window) for spec in (arguments.train, arguments.held_out)
    )
    batches = TrainingBatches(data, arguments.batch_size, seed=0)
    torch.manual_seed(0)
    text = calibration_texts(batches) if start == "copy" else None
    since = time.perf_counter()
    model = retrofit(base.model, pad, fit_config(config), text, arguments.base)
    made = time.perf_counter() - since
    optimizer = torch.optim.AdamW(parameter_groups(model, config), lr=config.learning_rate)
    curve, tokens = [], 0
    for step in range(config.steps + 1):
        if step in (config.steps // 2, config.steps):
            model.eval()
            losses = window_losses(model, held, limit=arguments.held_out_windows, seed=1)
            total = sum(w.tokens for w in losses)
            on, off, other = (
                sum(getattr(w, name) for w in losses) / total for name in ("on", "off", "random")
            )
            curve.append({"tokens": tokens, "on": on, "off": off, "random": other})
        if step == config.steps:
            break
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(step, config)
        batch = batches.batch(step)
        loss = model(batch.input_ids, batch.neighbour_ids, batch.labels, logits_to_keep=None).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.new_parameters().values(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += int((batch.labels != -100).sum())
    last = curve[-1]
    print(
        f"{encoder} encoder, {layers} layers, start {start}: {tokens:,} tokens, on minus off "
        f"{last['on'] - last['off']:+.4f}, random minus off {last['random'] - last['off']:+.4f}; "
        f"{time.perf_counter() - since:.0f} s, of which {made:.0f} before the first step; gates "
        + " ".join(f"{gate.item():.3f}" for gate in model.gates.values()),
        flush=True,
    )
    return {
        "encoder": encoder, "layers": int(layers), "start": start, "curve": curve,
        "new_parameters": sum(p.numel() for p in model.new_parameters().values()),
    }  # fmt: skip


if __name__ == "__main__":
    main()
