"""What a run tells while it trains: events and where they are written, speed, samples, what CCA writes."""

import dataclasses
import gzip
import json
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from indexing.errors import TrainingError
from indexing.files import write_bytes
from indexing.neighbours import NO_CHUNK, PASTED, Neighbours
from indexing.tokenizer import Tokenizer
from retro_core.checkpoint import LoadedModel
from retro_core.config import GenerationConfig
from retro_core.dataset import RetroDataset, Window
from retro_core.explain import explain
from retro_core.generation import Finished, generate
from retro_core.model import Capture, Retro
from retro_core.run_folder import METRICS_FILE, SAMPLES_FILE, TENSORBOARD_FOLDER, sample_path, sample_paths
from retro_core.trace import Trace

_LOOKED_INTO = 4  # held-out windows in which CCA's writing is measured


@dataclass(frozen=True)
class Started:
    """folder: of the run · step it goes on from · processes that share it · parameters of the whole model"""

    folder: Path
    step: int
    steps: int
    parameters: int
    processes: int


@dataclass(frozen=True)
class Warned:
    """One sentence about something that is allowed and seldom meant."""

    message: str


@dataclass(frozen=True)
class FellBack:
    """The newest checkpoint cannot be used, `reason` says why; the run goes on from that of `step`, 0 for
    the beginning."""

    step: int
    path: Path
    reason: str


@dataclass(frozen=True)
class StepDone:
    """loss in nats per token of this step · tokens trained on so far, padding not counted

    mfu           share of the peak arithmetic of the devices that the model's matrix products used since the
                  last such event, see `Pace`; None where no peak is known
    seconds_left  until the last step, at the speed so far, evaluations included
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    tokens_per_second: float
    mfu: float | None
    seconds_left: float


@dataclass(frozen=True)
class Evaluated:
    """Held-out nats per token with neighbours, without, and with another chunk's neighbours.

    write_strength_by_layer  |what CCA adds| / |what it is added to|, mean over positions that read, of each
                             layer with CCA by its number from 0: 0 while a model ignores its neighbours
    write_strength           mean of it over layers
    """

    step: int
    on: float
    off: float
    random: float
    write_strength: float
    write_strength_by_layer: dict[int, float]
    learning_rate: float


@dataclass(frozen=True)
class Sampled:
    """A held-out chunk, how the model goes on with its neighbours and without, and how the text really does.

    tokens  of the original, as texts · lp_on, lp_off: their log-probabilities with neighbours and without
    read    the neighbours' texts, nearest first
    number  of the chunk, from 0: the same at each evaluation
    trace   of the chunk and the original after it, as they were read
    """

    step: int
    prompt: str
    on: str
    off: str
    original: str
    tokens: tuple[str, ...] = ()
    lp_on: tuple[float, ...] = ()
    lp_off: tuple[float, ...] = ()
    read: tuple[str, ...] = ()
    number: int = 0
    trace: Trace | None = None


@dataclass(frozen=True)
class Saved:
    step: int
    path: Path


@dataclass(frozen=True)
class Stopped:
    """On request, after everything was saved."""

    step: int


TrainEvent = Warned | Started | FellBack | StepDone | Evaluated | Sampled | Saved | Stopped
_SCALARS = {
    "loss": "train/loss", "learning_rate": "train/learning_rate", "gradient_norm": "train/gradient_norm",
    "tokens": "train/tokens", "tokens_per_second": "speed/tokens_per_second", "mfu": "speed/mfu",
    "on": "held_out/on", "off": "held_out/off", "random": "held_out/random",
    "write_strength": "held_out/write_strength",
}  # fmt: skip


class Log:
    """Writes events to metrics.jsonl, samples.jsonl, samples/ and, if wanted, tensorboard/.

    step  that the run goes on from: what is later, and a line that was cut off, is dropped
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool):
        self.folder = folder
        for name in (METRICS_FILE, SAMPLES_FILE):
            _forget_lines_after(step, folder / name)
        for at, path in sample_paths(folder):
            if at > step:
                path.unlink(missing_ok=True)
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # TensorBoard hides what an earlier process wrote from the purge step on.
            self._writer = SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=step + 1)

    def write(self, event: StepDone | Evaluated | Sampled) -> None:
        fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        trace = fields.pop("trace", None)
        line = {"event": type(event).__name__, "time": time.time(), **fields}
        name = SAMPLES_FILE if isinstance(event, Sampled) else METRICS_FILE
        try:
            if isinstance(event, Sampled) and trace is not None:
                _write_trace(trace, sample_path(self.folder, event.step, event.number))
            with open(self.folder / name, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            if self._writer is not None:
                self._draw(event, line)
        except OSError as error:
            raise TrainingError(
                f"{self.folder / name} could not be written ({error.strerror or error}). What was saved "
                "before is untouched. Make room on the disk and start the same command again."
            ) from error

    def _draw(self, event: StepDone | Evaluated | Sampled, line: dict[str, Any]) -> None:
        if isinstance(event, Sampled):
            texts = {"prompt": event.prompt, "on": event.on, "off": event.off, "original": event.original}
            shown = "\n\n".join(f"    {key}: {text!r}" for key, text in texts.items())
            self._writer.add_text("sample", shown, event.step)
            return
        for name, tag in _SCALARS.items():
            if line.get(name) is not None and not (isinstance(event, Evaluated) and name == "learning_rate"):
                self._writer.add_scalar(tag, line[name], event.step)
        if isinstance(event, Evaluated):
            self._writer.add_scalar("held_out/on_minus_off", event.on - event.off, event.step)
            for layer, strength in event.write_strength_by_layer.items():
                self._writer.add_scalar(f"write_strength/layer_{layer}", strength, event.step)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            with suppress(OSError):  # a full disk is told by whoever saves
                self._writer.close()


def _write_trace(trace: Trace, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    content = json.dumps(_rounded(trace.to_json()), ensure_ascii=False, separators=(",", ":"))
    write_bytes(path, gzip.compress(content.encode(), mtime=0))


def _rounded(value: Any) -> Any:
    """Four decimals are more than can be seen, and a third of the bytes."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def _forget_lines_after(step: int, path: Path) -> None:
    """Drop what a resumed run will log again, and a line that was cut off."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    write_bytes(path, "".join(kept).encode())


# ---------------------------------------------------------------------------------------------- speed


class Pace:
    """How fast a run is: tokens a second, time left, and model FLOPs utilisation (MFU).

    MFU is the arithmetic of the model's matrix products divided by what the devices could have done in that
    time. Counted is a forward pass (two for each multiplication and addition), times 3 for forward and
    backward, or times 2 where a frozen base keeps most weights from having gradients; what is computed twice
    to save memory counts once. Time for evaluations and saving is left out.
    """

    def __init__(self, step: int, steps: int, tokens: int, flops_per_place: float, peak: float | None):
        """flops_per_place: of a place (token or padding) of a batch · peak: FLOP/s of all devices together"""
        self.first, self.steps, self.flops_per_place, self.peak = step, steps, flops_per_place, peak
        self.began = self._since = time.monotonic()
        self._tokens, self._places, self._places_then = tokens, 0, 0

    def add(self, places: int) -> None:
        self._places += places

    def measured(self, step: int, tokens: int) -> tuple[float, float | None, float]:
        """(tokens a second, MFU, seconds left) since the last time this was asked."""
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        rate = (tokens - self._tokens) / seconds
        places = self._places - self._places_then
        mfu = self.flops_per_place * places / seconds / self.peak if self.peak else None
        left = (self.steps - step) * (now - self.began) / max(1, step - self.first)
        self._since, self._tokens, self._places_then = now, tokens, self._places
        return rate, mfu, left

    def skip(self, seconds: float) -> None:
        """So much of the time since the last measurement went into something else than training."""
        self._since += seconds


def passes(model: nn.Module) -> int:
    """How many forward passes' arithmetic a step of training is: 3, or 2 where most weights are frozen, which
    need no gradient."""
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return 3 if 2 * trained > sum(p.numel() for p in parameters) else 2


def flops_per_place(model: nn.Module, rows: Sequence[Tensor], device: torch.device) -> float:
    """FLOPs of the matrix products in a forward pass, per place of its texts; see `Pace`. rows: input_ids,
    labels and neighbour_ids of a batch."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    on_processor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    counter = FlopCounterMode(display=False, custom_mapping={on_processor: attention})
    was_training = model.training
    model.eval()
    with torch.no_grad(), counter:
        ids, labels, read = (tensor.to(device) for tensor in rows)
        # Without reduction no gradient is made along with the loss.
        model(ids, read, labels, loss_reduction="none", logits_to_keep=None)
    model.train(was_training)
    return counter.get_total_flops() / ids.numel()


# Dense bf16 (fp16 where there is no bf16) with sums in 32 bits, TFLOP/s, from the makers' data sheets. The
# first name that occurs in the device's own counts.
_PEAKS = {
    "B200": 2250, "GH200": 989, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312,
    "L40S": 362, "L40": 181, "L4": 121, "A40": 150, "A30": 165, "A10": 125, "A6000": 155, "V100": 125,
    "T4": 65, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip


_LONG = 0.2  # seconds of one product; usual are some thousandths


def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOP/s that a device can do at best: of a processor, measured with a product of two matrices of 1,024
    rows in the run's precision; of a graphics card, its maker's figure for bf16, in whatever precision the
    run is. None for one that is not known."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return next((peak * 1e12 for known, peak in _PEAKS.items() if known in name), None)
    if device.type != "cpu":
        return None
    size = 1024
    kind = {"32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    x = torch.ones(size, size, dtype=kind)
    best = math.inf
    for _ in range(4):  # the first wakes threads and memory
        since = time.perf_counter()
        x @ x
        best = min(best, time.perf_counter() - since)
        if best > _LONG:  # fp16 or bf16 on a processor that has none: waking is nothing beside it
            break
    return 2 * size**3 / best


# ---------------------------------------------------------------------------------------------- reading


@torch.no_grad()
def write_strength(model: Retro, data: RetroDataset) -> dict[int, float]:
    """See `Evaluated.write_strength_by_layer`; over the first few held-out windows that read something."""
    layers = sorted(model.config.dec_cca_layers)
    windows = [w for w in data.windows if w.stop - w.start > 1][:_LOOKED_INTO]
    if not windows:
        return dict.fromkeys(layers, 0.0)
    batch = data.collate(windows)
    out = model(
        batch.input_ids.to(model.device),
        batch.neighbour_ids.to(model.device),
        capture=Capture(write_strength=True),
        logits_to_keep=1,
    )
    if out.write_strength is None:
        return dict.fromkeys(layers, 0.0)
    reads = batch.input_ids != data.pad_id
    reads[:, : data.chunk_size - 1] = False
    strengths = out.write_strength.float().cpu()[:, reads].mean(dim=1).tolist()
    return dict(zip(layers, strengths, strict=True))


def sample_windows(data: RetroDataset, count: int) -> list[Window]:
    """The same `count` held-out windows each time, spread evenly over those with two chunks or more."""
    windows = [w for w in data.windows if w.stop - w.start > 1]
    apart = max(1, len(windows) // count) if count else 1
    return windows[::apart][:count]


@dataclass(frozen=True)
class _HeldOut:
    """What a trace says of where a sample's neighbours come from. Which document each is of, it does not."""

    chunks: Sequence[Any]
    name: str = "training set"
    fingerprint: str = ""
    embedder_name: str = ""
    num_documents: int = 0


def sample(
    model: Retro,
    tokenizer: Tokenizer,
    data: RetroDataset,
    window: Window,
    step: int,
    number: int = 0,
    run: str = "run",
) -> Sampled:
    """Continue a window's first chunk by another one; On reads the neighbours that `data` has for it."""
    m = data.chunk_size
    text = data.tokens(window)
    prompt, original = text[:m], text[m : 2 * m]
    ids = data.neighbour_ids(window)[:1]
    found = Neighbours(ids, np.zeros(ids.shape, dtype=np.float32), data.retrieved_tokens(ids), data.pad_id)
    # Drawn, with one seed: greedily a model that has hardly begun repeats one token.
    config = GenerationConfig(max_new_tokens=min(m, 256))
    written = {}
    for name, neighbours in (("on", [found]), ("off", [])):
        events = generate(model, tokenizer, prompt.tolist(), None, config, found=neighbours)
        tokens = next(event.tokens for event in events if isinstance(event, Finished))
        written[name] = tokenizer.decode(np.array(tokens[m:], dtype=np.int64))
    whole = original[original != data.pad_id]
    ids = np.concatenate([prompt, whole])
    loaded = LoadedModel(model, model.config, tokenizer, f"{run}-step-{step}", "", Path(), None)
    unmeasured = np.full(found.ids.shape, np.inf, dtype=np.float32)
    pasted = np.where(found.ids == NO_CHUNK, NO_CHUNK, PASTED)  # no datastore has them under these ids
    trace = explain(
        loaded,
        ids.tolist(),
        [dataclasses.replace(found, ids=pasted, distances=unmeasured)],
        _HeldOut(range(int(data.index_starts[-1]))),
        dataclasses.replace(config, num_neighbours=found.ids.shape[-1]),
        prompt_tokens=m,
        title=f"{run}, step {step:,}: a held-out text",
    )
    for card, chunk in zip(trace.data["chunks"][0]["neighbours"], found.ids[0].tolist(), strict=False):
        card["title"] = f"chunk {chunk:,} of what it reads"
    return Sampled(
        step,
        tokenizer.decode(prompt[prompt != data.pad_id]),
        written["on"],
        written["off"],
        tokenizer.decode(whole),
        tuple(tokenizer.token_texts(whole.tolist())),
        _log_probs(model, ids, found.tokens, m),
        _log_probs(model, ids, None, m),
        tuple(tokenizer.decode(row[row != data.pad_id]) for row in found.tokens[0]),
        number,
        trace,
    )


@torch.no_grad()
def _log_probs(model: Retro, ids: np.ndarray, read: np.ndarray | None, first: int) -> tuple[float, ...]:
    """Of the tokens from `first` on, with the neighbours (1, k, r) of the first chunk or without any."""
    tokens = torch.from_numpy(ids)[None].to(model.device)
    neighbours = None if read is None else torch.from_numpy(read)[None].to(model.device)
    logits = model(tokens[:, :-1], neighbours).logits[0, first - 1 :].float()
    chosen = logits.log_softmax(-1).gather(-1, tokens[0, first:, None])[:, 0]
    return tuple(round(value, 4) for value in chosen.tolist())
