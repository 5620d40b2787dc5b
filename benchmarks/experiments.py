"""Do the shapes of the paper's results come out at our scale? Signs and rough sizes, not its values.

    python -m benchmarks.experiments DATA OUT [--model demo] [--seed 0] [--quick] [--threads 2]

DATA is what `python -m assets.models.make_training_set` made: a folder with a data.spec.json in each of
train, factbook, bible, techdocs and wiki (probes that are not there are left out). OUT keeps every finished
part, so a killed run goes on when it is started again; another seed goes into another folder there. Made to
take less than 40 minutes on two cores, with --quick less than 8; --documents and --steps change that.

Evaluated is the model, with `retro_core.evaluation.measure`; OUT/seed-N/evaluation/report.html shows all.
Trained are, for the two questions about RETRO-fitting, a plain language model, a RETRO-fit of it, and a RETRO
from scratch with as many operations as these two together; all of them small and far from done. A table says
which marks were met; the last line is JSON.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import table
from indexing.files import new_folder, sha256, write_bytes, write_json
from retro_core.checkpoint import fingerprint, load_model
from retro_core.config import EvaluationConfig, TrainConfig
from retro_core.dataset import RetroDataset, TrainingBatches
from retro_core.evaluation.held_out import HeldOut
from retro_core.evaluation.measure import Asked, Began, Done, Finished, Subject, measure
from retro_core.evaluation.report import write_report
from retro_core.evaluation.searching import Searchable
from retro_core.presets import preset
from retro_core.training import StepDone, load_run, train

PROBES = ("factbook", "bible", "techdocs", "wiki")
SPEC = "data.spec.json"
K, WINDOW = 2, 512
NEAR_OFF = 0.01  # random neighbours: the share of the perplexity that is noise
SATURATED = 0.2  # of the largest gain: more than the last doubling of k may still add
AS_GOOD = 1.05  # RETRO-fit: perplexity over that of a RETRO from scratch


@dataclass(frozen=True)
class Row:
    """passed: None where it could not be measured"""

    experiment: str
    probe: str
    mark: str
    found: str
    passed: bool | None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--model", default="demo", help="name or folder of a model (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (%(default)s)")
    parser.add_argument("--documents", type=int, help="held-out documents of each probe (24; quick: 6)")
    parser.add_argument("--steps", type=int, help="of the RETRO-fit; its base has three times as many (120)")
    parser.add_argument("--probes", nargs="*", default=PROBES, help="only these")
    parser.add_argument("--no-training", action="store_true", help="evaluate only")
    parser.add_argument("--quick", action="store_true", help="a few documents and steps: a sketch")
    parser.add_argument("--threads", type=int, default=0, help="0 for torch's own choice")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    documents = arguments.documents or (6 if arguments.quick else 24)
    steps = arguments.steps or (12 if arguments.quick else 120)
    folder = arguments.out / f"seed-{arguments.seed}"
    specs = {name: arguments.data / name / SPEC for name in arguments.probes}
    specs = {name: spec for name, spec in specs.items() if spec.is_file()}
    if not specs:
        parser.error(f"there is no PROBE/{SPEC} in {arguments.data}")
    config = EvaluationConfig(
        num_neighbours=K,
        max_len=WINDOW,
        limit=documents,
        sweep_limit=max(2, documents // 3),
        seed=arguments.seed,
    )
    begun = time.monotonic()
    result = evaluated(arguments.model, specs, config, folder / "evaluation")
    rows = [row for name, probe in result["probes"].items() for row in of_probe(name, probe)]
    if not arguments.no_training and (arguments.data / "train" / SPEC).is_file():
        spec = arguments.data / "train" / SPEC
        rows += list(fitting(spec, specs, arguments.model, steps, config, folder))
    minutes = (time.monotonic() - begun) / 60
    lines = [[r.experiment, r.probe, verdict(r.passed), r.found] for r in rows]
    print(table(["experiment", "probe", "", "found"], lines))
    summary = {
        "benchmark": "experiments",
        "model": arguments.model,
        "fingerprint": result["model"]["fingerprint"],
        "seed": arguments.seed,
        "documents": documents,
        "steps": steps,
        "minutes": round(minutes, 1),
        "met": sum(r.passed is True for r in rows),
        "missed": sum(r.passed is False for r in rows),
        "rows": [dataclasses.asdict(r) for r in rows],
    }
    write_json(folder / "experiments.json", summary)
    write_bytes(folder / "experiments.md", markdown(rows).encode())
    print(f"written: {folder}/experiments.md and {folder}/evaluation/report.html", file=sys.stderr)
    print(json.dumps(summary))
    return 0


def verdict(passed: bool | None) -> str:
    return "not measured" if passed is None else "met" if passed else "MISSED"


def markdown(rows: list[Row]) -> str:
    lines = ["| experiment | probe | found | mark | |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {r.experiment} | {r.probe} | {r.found} | {r.mark} | {verdict(r.passed)} |" for r in rows]
    return "\n".join(lines) + "\n"


# Evaluations


def evaluated(model: str, specs: dict[str, Path], config: EvaluationConfig, folder: Path) -> dict[str, Any]:
    loaded = load_model(model)
    subject = Subject(
        loaded.name,
        loaded.fingerprint,
        loaded.model,
        loaded.tokenizer,
        {"parameters": sum(p.numel() for p in loaded.model.parameters())},
    )
    return measured(subject, specs, config, folder, ("readings", "leakage", "relations", "k", "size"))


def measured(
    subject: Subject,
    specs: dict[str, Path],
    config: EvaluationConfig,
    folder: Path,
    parts: tuple[str, ...],
    names: tuple[str, ...] = ("on", "off", "random", "bm25", "n_only", "f_only"),
) -> dict[str, Any]:
    probes = []
    for name, spec in specs.items():
        held_out = HeldOut.from_spec(
            name, spec, subject.model.config, subject.tokenizer, num_neighbours=K, window=config.max_len
        )
        open_it = lambda spec=spec: Searchable.of_spec(spec, subject.tokenizer)  # noqa: E731
        probes.append(Asked(held_out, open_it, {"spec": sha256(spec)}))
    events = measure(subject, probes, config, parts=parts, names=names, folder=folder)
    result: dict[str, Any] = {}
    for event in events:
        match event:
            case Began(of, part, number, count, kept):
                say(f"[{number}/{count}] {subject.name}, {of}: {part}{' (was made before)' if kept else ''}")
            case Done(left=left) if left:
                say(f"    about {left / 60:.0f} min for the rest of these")
            case Finished():
                result = event.result
    write_report(result, folder)
    return result


def of_probe(name: str, probe: dict[str, Any]) -> Iterator[Row]:
    """What the evaluation of one probe says."""
    changes = probe["differences"]
    on, random, bm25 = changes["on-off"], changes["random-off"], changes["bm25-off"]
    low, high = on["ci95"] or (math.nan, math.nan)
    yield Row(
        "On < Off", name, "the interval of On − Off is below 0",
        f"{on['nats']:+.4f} nats [{low:+.4f}, {high:+.4f}], perplexity × {on['ratio']:.3f}", high < 0,
    )  # fmt: skip
    yield Row(
        "random ≈ Off", name, f"perplexity within {NEAR_OFF:.0%}", f"{random['ratio'] - 1:+.2%}",
        abs(random["ratio"] - 1) <= NEAR_OFF,
    )  # fmt: skip
    n, f = changes["n_only-off"], changes["f_only-off"]
    yield Row(
        "F only > N only", name, "continuations alone gain more than neighbours alone",
        f"F {-f['nats']:+.4f}, N {-n['nats']:+.4f} nats", f["nats"] < n["nats"],
    )  # fmt: skip
    slope = (probe.get("slope") or {}).get("on-off")
    if slope:
        ends = slope["ci95"] or (math.nan, math.nan)
        yield Row(
            "leakage slope", name, "bpb(α) falls more steeply for On than for Off",
            f"{slope['value']:+.3f} bits per byte [{ends[0]:+.3f}, {ends[1]:+.3f}]", slope["value"] < 0,
        )  # fmt: skip
    yield Row(
        "BM25 against dense", name, "BM25's neighbours at test time are at least as good",
        f"BM25 {bm25['nats']:+.4f}, dense {on['nats']:+.4f} nats", bm25["nats"] <= on["nats"],
    )  # fmt: skip
    sweeps = probe.get("sweeps") or {}
    if sweeps.get("size"):
        yield of_size(name, sweeps["size"])
    if sweeps.get("k"):
        yield of_k(name, sweeps["k"])


def of_size(name: str, points: list[dict[str, Any]]) -> Row:
    shares = sorted({point["share"] for point in points})
    gains = [-np.mean([p["gain"]["minus_off"] for p in points if p["share"] == share]) for share in shares]
    found = ", ".join(f"{share:.0%}: {gain:+.4f}" for share, gain in zip(shares, gains, strict=True))
    rises = np.diff(gains) > 0
    return Row(
        "gain grows with the datastore", name, "largest with all of it, and rising at three of four steps",
        found, bool(gains[-1] == max(gains) and rises.mean() >= 0.75),
    )  # fmt: skip


def of_k(name: str, points: list[dict[str, Any]]) -> Row:
    gains = {point["num_neighbours"]: -point["gain"]["minus_off"] for point in points}
    found = ", ".join(f"{k}: {gain:+.4f}" for k, gain in gains.items())
    ks = list(gains)
    best = max(gains.values())
    last = gains[ks[-1]] - gains[ks[-2]] if len(ks) > 1 else math.nan
    return Row(
        "gain saturates in k", name,
        f"several gain more than one; {ks[-1]} at most {SATURATED:.0%} of the best more than {ks[-2]}",
        found, bool(best > gains[1] and last <= SATURATED * best),
    )  # fmt: skip


# Training


def fitting(
    spec: Path, probes: dict[str, Path], model: str, steps: int, config: EvaluationConfig, folder: Path
) -> Iterator[Row]:
    """A base, its RETRO-fit, and a RETRO from scratch with as many operations as the two took."""
    tokenizer = load_model(model).tokenizer
    batch, seed = 3, config.seed
    base_steps = 3 * steps
    base = folder / "base"
    sizes = preset("small", tokenizer.vocab_size, tokenizer.pad_id)
    if not base.is_dir():
        train_base(base, spec, sizes, tokenizer, base_steps, batch, seed)
    common = {
        "data_spec": str(spec), "experiment_dir": str(folder / "runs"), "batch_size": batch,
        "max_len": WINDOW, "seed": seed, "save_every": 25, "samples": 0, "tensorboard": False,
        "threads": torch.get_num_threads(), "copy_share": 0.2, "stranger_share": 0.1,
    }  # fmt: skip
    fit = TrainConfig(
        run="fit", base=str(base), learning_rate=1e-3, warmup=10, steps=steps, copy_steps=steps // 3, **common
    )
    say("RETRO-fit of the base")
    trained(fit)
    operations = counted(spec, sizes, folder, base, fit, batch, seed)
    equal = round((base_steps * operations["base"] + steps * operations["fit"]) / operations["scratch"])
    scratch = TrainConfig(
        run="scratch", tokenizer=model, model="small", learning_rate=8e-4, warmup=max(5, equal // 10),
        steps=equal, copy_steps=equal // 3, **common,
    )  # fmt: skip
    say(f"RETRO from scratch, {equal} steps with as many operations as {base_steps} + {steps}")
    trained(scratch)
    fitted = opened(fit, tokenizer, "fit")
    same, count = off_is_base(base, fitted, probes)
    yield Row(
        "Off = base", ", ".join(probes), "the same logits to the last bit, after training with a frozen base",
        f"{count:,} positions, {'all equal' if same else 'not equal'}", same,
    )  # fmt: skip
    names = ("on", "off", "random")
    of_fit = measured(fitted, probes, config, folder / "evaluation-fit", ("readings",), names)
    of_scratch = measured(
        opened(scratch, tokenizer, "scratch"),
        probes,
        config,
        folder / "evaluation-scratch",
        ("readings",),
        names,
    )
    for name in probes:
        one, other = (result["probes"][name] for result in (of_fit, of_scratch))
        ratio = one["readings"]["on"]["perplexity"] / other["readings"]["on"]["perplexity"]
        change = one["differences"]["on-off"]
        yield Row(
            "RETRO-fit gains over its base", name, "the interval of On − Off is below 0",
            f"{change['nats']:+.4f} nats, perplexity × {change['ratio']:.3f}",
            bool(change["ci95"] and change["ci95"][1] < 0),
        )  # fmt: skip
        yield Row(
            "RETRO-fit against from scratch", name,
            f"perplexity On at most {AS_GOOD} of that from scratch, with as many operations in all",
            f"{one['readings']['on']['perplexity']:.1f} against {other['readings']['on']['perplexity']:.1f} "
            f"(× {ratio:.3f})", ratio <= AS_GOOD,
        )  # fmt: skip


def train_base(base: Path, spec: Path, sizes: Any, tokenizer: Any, steps: int, batch: int, seed: int) -> None:
    """A plain language model as large as the decoder of `small`, on the same batches, as a base's folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(llama_config(sizes, LlamaConfig))
    batches = TrainingBatches(RetroDataset(spec, sizes, K, WINDOW), batch, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    since = time.monotonic()
    for step in range(steps):
        rate = 1e-3 * min(1.0, (step + 1) / max(1, steps // 10), (steps - step) / max(1, steps // 4))
        for group in optimizer.param_groups:
            group["lr"] = rate
        some = batches.batch(step)
        loss = plain_loss(model, some.input_ids, some.labels, sizes.pad_token_idx)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 20 == 0 or step + 1 == steps:
            each = (time.monotonic() - since) / (step + 1)
            say(f"base: step {step + 1} of {steps}, loss {loss.item():.3f}, {each:.2f} s a step")
    with new_folder(base) as work:
        model.eval().save_pretrained(work)
        tokenizer.save(work)


def llama_config(sizes: Any, cls: Callable[..., Any]) -> Any:
    return cls(
        vocab_size=sizes.num_embeddings,
        hidden_size=sizes.dec_hidden_dim,
        intermediate_size=sizes.dec_ffn_dim,
        num_hidden_layers=sizes.dec_num_layers,
        num_attention_heads=sizes.dec_num_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=sizes.pad_token_idx,
    )


def plain_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor, pad: int) -> torch.Tensor:
    logits = model(ids, attention_mask=(ids != pad).long()).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def trained(config: TrainConfig) -> None:
    for event in train(config):
        if isinstance(event, StepDone) and (event.step % 20 == 0 or event.step == config.steps):
            say(
                f"{config.run}: step {event.step} of {config.steps}, loss {event.loss:.3f}, "
                f"{event.tokens_per_second:,.0f} tokens a second"
            )


def opened(config: TrainConfig, tokenizer: Any, name: str) -> Subject:
    model = load_run(str(Path(config.experiment_dir) / config.run))[0]
    return Subject(name, fingerprint(model), model, tokenizer, {"run": config.run, "steps": config.steps})


def counted(
    spec: Path, sizes: Any, folder: Path, base: Path, fit: TrainConfig, batch: int, seed: int
) -> dict[str, float]:
    """Operations of one step, forward and backward, of the base, the fit and `small`, on the same batch."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    from retro_core.model import Retro

    some = TrainingBatches(RetroDataset(spec, sizes, K, WINDOW), batch, seed).batch(0)
    plain = AutoModelForCausalLM.from_pretrained(base)
    reading = (some.input_ids, some.neighbour_ids, some.labels)
    fitted = load_run(str(Path(fit.experiment_dir) / fit.run))[0]
    whole = Retro(sizes)
    steps: dict[str, Callable[[], torch.Tensor]] = {
        "base": lambda: plain_loss(plain, some.input_ids, some.labels, sizes.pad_token_idx),
        "fit": lambda: fitted(*reading, logits_to_keep=None).loss,
        "scratch": lambda: whole(*reading, logits_to_keep=None).loss,
    }
    # The counter knows no product in place, and only the plain one of torch's kernels for attention.
    in_place = dict.fromkeys((torch.ops.aten.baddbmm_, torch.ops.aten.addmm_), added_product)
    found = {}
    for name, loss in steps.items():
        with FlopCounterMode(display=False, custom_mapping=in_place) as counter, sdpa_kernel(SDPBackend.MATH):
            loss().backward()
        found[name] = float(counter.get_total_flops())
    return found


def added_product(_: object, left: torch.Size, right: torch.Size, *__: object, **___: object) -> int:
    """Operations of total += left @ right, by the operands' shapes."""
    return 2 * math.prod(left) * right[-1]


@torch.inference_mode()
def off_is_base(base: Path, fitted: Subject, probes: dict[str, Path]) -> tuple[bool, int]:
    """Whether the fit without neighbours and the base as it lies on the disk give the same logits on the
    first windows of each probe, and over how many positions."""
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    same, count = True, 0
    for spec in probes.values():
        data = RetroDataset(spec, fitted.model.config, K, WINDOW)
        for window in data.windows[:4]:
            tokens = data.tokens(window)
            ids = torch.from_numpy(tokens[tokens != data.pad_id])[None]
            if not ids.shape[1]:
                continue
            same &= torch.equal(fitted.model(ids, logits_to_keep=0).logits, plain(ids).logits)
            count += ids.shape[1]
    return same, count


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
