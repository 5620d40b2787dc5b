"""Training, as a generator of events: `for event in train(config)`.

Lightning Fabric supplies devices, precision and gradient handling; the loop is ours so that it can be read
from top to bottom, stopped between any two steps and resumed bit for bit.

A run is a folder, $RETRO_HOME/runs/NAME/:
    config.json      the TrainConfig
    model.json       the RetroConfig, and of which weights the base is, if there is one
    metrics.jsonl    one line per logged step or evaluation
    checkpoint.pt    weights (those that are trained), optimiser, step; the newest one
"""

import ctypes
import dataclasses
import io
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from indexing import paths
from indexing.errors import CheckpointError, ConfigError, InputError, TrainingError
from indexing.files import write_bytes, write_json
from indexing.tokenizer import Tokenizer
from retro_core import retrofit
from retro_core.bases import Base, base_folder, load_base
from retro_core.checkpoint import model_folder
from retro_core.config import RetroConfig, TrainConfig, fit_config, from_dict, read_object
from retro_core.dataset import RetroDataset, TrainingBatches
from retro_core.evaluation import window_losses
from retro_core.model import ChunkedCrossAttention, NeighbourEncoder, PositionBias, Retro, RMSNorm
from retro_core.presets import resolve_model

CONFIG_FILE, MODEL_FILE = "config.json", "model.json"
METRICS_FILE, CHECKPOINT_FILE = "metrics.jsonl", "checkpoint.pt"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_CALIBRATION_TOKENS = 8192  # a few for each direction of the stream of a small base


@dataclass(frozen=True)
class StepDone:
    """loss in nats per token of this step · tokens trained on so far, padding not counted"""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    tokens_per_second: float


@dataclass(frozen=True)
class Evaluated:
    """Held-out nats per token with neighbours, without, and with another chunk's neighbours."""

    step: int
    on: float
    off: float
    random: float


@dataclass(frozen=True)
class Saved:
    step: int
    path: Path


TrainEvent = StepDone | Evaluated | Saved


def train(config: TrainConfig) -> Iterator[TrainEvent]:
    """Train, or resume the run of that name, until `config.steps`.

    Raises ConfigError, InputError or CheckpointError before the first step if something does not fit, and
    TrainingError as soon as loss or gradient are no number.
    """
    folder = paths.runs_dir() / paths.check_name(config.run)
    base = _open_base(config)
    if base is None:
        model_config = resolve_model(config.model, Tokenizer.load(model_folder(config.tokenizer)))
    else:
        model_config = retrofit.fit_sizes(base.model, base.tokenizer.pad_id, fit_config(config))
    facts = model_config.to_dict()
    if base is not None:
        facts["base"] = retrofit.base_fingerprint(base.model)
    _same_settings(folder, config, facts)
    if not config.data_spec:
        raise InputError("Expected a training set, got none. Give data_spec, a data.spec.json.")
    reads = (model_config, config.num_neighbours, config.max_len)
    dataset = RetroDataset(Path(config.data_spec), *reads)
    held_out = RetroDataset(Path(config.validation), *reads) if config.validation else None
    batches = TrainingBatches(dataset, config.batch_size, config.seed)
    write_json(folder / CONFIG_FILE, config.to_dict())
    write_json(folder / MODEL_FILE, facts)

    from lightning.fabric import Fabric  # 5 to 8 s of import, needed by training only

    keep_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    fabric = Fabric(accelerator="auto", devices=1)
    fabric.seed_everything(config.seed, verbose=False)
    if base is None:
        module: nn.Module = Retro(model_config)
    elif (folder / CHECKPOINT_FILE).is_file():
        module = retrofit.FittedRetro(base.model, model_config, fit_config(config), config.base)
    else:
        text = calibration_texts(batches) if config.start == "copy" else None
        module = retrofit.retrofit(base.model, base.tokenizer.pad_id, fit_config(config), text, config.base)
    model, optimizer = fabric.setup(
        module, torch.optim.AdamW(parameter_groups(module, config), lr=config.learning_rate, fused=True)
    )
    step, tokens = _load(folder / CHECKPOINT_FILE, module, optimizer)
    _forget_lines_after(step, folder / METRICS_FILE)

    model.train()
    since, tokens_then = time.monotonic(), tokens
    while step < config.steps:
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(step, config)
        batch = batches.batch(step, copy_share(step, config), config.stranger_share)
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout of a step does not depend on earlier ones
        inputs, labels, read = (
            t.to(fabric.device) for t in (batch.input_ids, batch.labels, batch.neighbour_ids)
        )
        # Without logits: of a large vocabulary they would need more memory than all of the rest.
        loss = model(inputs, read, labels, logits_to_keep=None).loss
        fabric.backward(loss)
        norm = fabric.clip_gradients(
            model, optimizer, max_norm=config.clip or math.inf, error_if_nonfinite=False
        )
        if not torch.isfinite(loss) or not torch.isfinite(norm):
            raise TrainingError(
                f"Step {step + 1} of run {config.run!r} has a loss of {loss.item():g} and a gradient of norm "
                f"{norm.item():g}, expected finite numbers. What it saved before is untouched. Start another "
                "run with a lower learning_rate."
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        tokens += int((batch.labels != -100).sum())

        if step % config.log_every == 0 or step == config.steps:
            now = time.monotonic()
            rate, since, tokens_then = (tokens - tokens_then) / (now - since), now, tokens
            yield _logged(
                folder,
                StepDone(step, loss.item(), learning_rate(step - 1, config), float(norm), tokens, rate),
            )
        if held_out and (step % config.evaluate_every == 0 or step == config.steps):
            model.eval()
            losses = window_losses(module, held_out, limit=config.evaluate_windows, seed=config.seed)
            model.train()
            total = sum(w.tokens for w in losses)
            means = {name: sum(getattr(w, name) for w in losses) / total for name in ("on", "off", "random")}
            yield _logged(folder, Evaluated(step, **means))
            since, tokens_then = time.monotonic(), tokens
        if step % config.save_every == 0 or step == config.steps:
            _save(folder / CHECKPOINT_FILE, module, optimizer, step, tokens)
            yield Saved(step, folder / CHECKPOINT_FILE)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, constant, then linearly down to `final_rate` of the peak over the last `decay_share`.

    Until the decay begins nothing depends on `steps`, so a run can be lengthened or shortened by resuming it.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    decay_steps = max(1, round(config.steps * config.decay_share))
    left = min(1.0, (config.steps - step) / decay_steps)
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * left)


def copy_share(step: int, config: TrainConfig) -> float:
    return config.copy_share * max(0.0, 1 - step / config.copy_steps) if config.copy_steps else 0.0


def keep_memory() -> None:
    """Let the C library keep large blocks that were freed, for the next step to use again.

    By default each is given back to the kernel, which zeroes it before it gives it out again: that is 6 to
    9 % of a training step on a processor. Costs some memory; does nothing where there is no mallopt.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    """Matrices decay; norms, position biases and embeddings do not.

    In a model from scratch what reads neighbours learns more slowly: it starts as a working induction head
    (`start_copying`), which the coarse first steps of the language model would otherwise wash out before it
    is of use. In a fitted model a base that is trained too learns more slowly than what is new.
    """
    fitted = isinstance(model, retrofit.FittedRetro)
    still = {
        id(p)
        for module in model.modules()
        if isinstance(module, (RMSNorm, PositionBias, nn.Embedding))
        for p in module.parameters()
    }
    slower = {
        id(p)
        for module in model.modules()
        if not fitted and isinstance(module, (NeighbourEncoder, ChunkedCrossAttention))
        for p in module.parameters()
        if p is not model.base.dec_embs.weight
    }
    shares = [1.0, config.reading_rate]
    if fitted:
        shares = [1.0, config.base_rate]
        slower = {id(p) for p in model.lm.parameters()}
        still |= {id(p) for p in model.parameters() if p.dim() < 2}  # the base's norms are classes of others

    return [
        {
            "params": [
                p
                for p in model.parameters()
                if p.requires_grad and (id(p) in still) == rests and (id(p) in slower) == slows
            ],
            "weight_decay": 0.0 if rests else config.weight_decay,
            "share": share,
        }
        for rests in (False, True)
        for slows, share in enumerate(shares)
    ]


def load_run(name: str) -> tuple[nn.Module, TrainConfig, int, int]:
    """(model, settings, step, tokens) of a run's newest checkpoint, in eval mode; the model is a `Retro`, or
    a `FittedRetro` if the run has a base."""
    folder = paths.runs_dir() / paths.check_name(name)
    if not (folder / CHECKPOINT_FILE).is_file():
        raise CheckpointError(f"Run {name!r} has no checkpoint in {folder}. Train it first.")
    config = from_dict(TrainConfig, read_object(folder / CONFIG_FILE))
    facts = read_object(folder / MODEL_FILE)
    expected = facts.pop("base", None)
    base = _open_base(config)
    if base is None:
        model: nn.Module = Retro(RetroConfig.from_json(facts))
    else:
        retrofit.check_fingerprint(base.model, config.base, expected, f"Run {name!r}")
        model = retrofit.FittedRetro(
            base.model, RetroConfig.from_json(facts), fit_config(config), config.base
        )
    step, tokens = _load(folder / CHECKPOINT_FILE, model, None)
    return model.eval(), config, step, tokens


def run_tokenizer(config: TrainConfig) -> Tokenizer:
    """The tokenizer of a run's training set: the base's, if it has one."""
    return Tokenizer.load(base_folder(config.base) if config.base else model_folder(config.tokenizer))


def _open_base(config: TrainConfig) -> Base | None:
    return load_base(config.base) if config.base else None


def calibration_texts(batches: TrainingBatches) -> Tensor:
    """(b, n) ids of the first windows of full length without padding, some 8,000 tokens."""
    data = batches.dataset
    texts = (data.tokens(window) for window in data.windows)
    longest = max(window.stop - window.start for window in data.windows) * data.chunk_size
    full = [text for text in texts if len(text) == longest and (text != data.pad_id).all()]
    if not full:
        raise InputError(
            f"No document of the training set fills a window of {longest} tokens. Lower max_len, or "
            f"train on longer "
            "documents."
        )
    apart = max(1, len(full) * longest // _CALIBRATION_TOKENS)
    return torch.from_numpy(np.stack(full[::apart]))


def _same_settings(folder: Path, config: TrainConfig, facts: dict[str, Any]) -> None:
    """Refuse to resume a run under other settings: the result would be neither run."""
    if not (folder / CHECKPOINT_FILE).is_file():
        return
    # Where it runs and how often it reports do not change what is learned.
    free = {"steps", "threads", "log_every", "save_every", "evaluate_every", "evaluate_windows", "validation"}
    unsaid = TrainConfig().to_dict()  # what a run from before a setting was there meant
    for file, now in ((CONFIG_FILE, config.to_dict()), (MODEL_FILE, facts)):
        before = {**unsaid, **read_object(folder / file)}
        changed = [key for key in now if key not in free and before.get(key) != now[key]]
        if changed:
            raise ConfigError(
                f"Run {config.run!r} was started with {changed[0]} = {before.get(changed[0])!r}, now it is "
                f"{now[changed[0]]!r}. Use the same settings to resume, or another run name."
            )


def _logged(folder: Path, event: StepDone | Evaluated) -> StepDone | Evaluated:
    with open(folder / METRICS_FILE, "a", encoding="utf-8") as file:
        file.write(
            json.dumps({"event": type(event).__name__, "time": time.time(), **dataclasses.asdict(event)})
            + "\n"
        )
    return event


def _forget_lines_after(step: int, path: Path) -> None:
    """Drop what a resumed run will log again, and a line that was cut off."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    write_bytes(path, "".join(kept).encode())


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """The weights that a run changes; a frozen base is not copied into each checkpoint."""
    if isinstance(model, retrofit.FittedRetro):
        return {name: p.detach() for name, p in model.new_parameters().items()}
    return model.state_dict()


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, tokens: int) -> None:
    inner = getattr(optimizer, "optimizer", optimizer)  # Fabric wraps it
    buffer = io.BytesIO()
    torch.save(
        {"model": _trained(model), "optimizer": inner.state_dict(), "step": step, "tokens": tokens}, buffer
    )
    write_bytes(path, buffer.getvalue())


def _load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[int, int]:
    if not path.is_file():
        return 0, 0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if {*state["model"]} != {*_trained(model)}:
            raise ValueError("other weights")
        model.load_state_dict(state["model"], strict=not isinstance(model, retrofit.FittedRetro))
        if optimizer is not None:
            getattr(optimizer, "optimizer", optimizer).load_state_dict(state["optimizer"])
        return state["step"], state["tokens"]
    except Exception as error:  # a damaged file ends in any of a dozen kinds, AssertionError among them
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} is damaged or does not belong to {MODEL_FILE} beside it ({reason}). "
            "Copy the folder again, or start another run."
        ) from error
