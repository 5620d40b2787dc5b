"""What a training run needs, told before it begins: memory, disk and time; and whether what it names fits
together. Nothing is written and no weights are made.

Memory, in bytes, of P parameters of which T are trained:

    4 P             weights
    12 T            gradients and AdamW's two moments
    one step        what the way forward keeps for the way back, at a batch of full windows
    one piece       of logits, with its gradient
    the program     Python, torch and Lightning, as measured

What a step keeps is not a formula but counted on the model itself: it runs on torch's device "meta", where
tensors have shapes and no values, and whatever autograd saves is added up; a quarter more is for what the way
back needs in passing.

Disk: the checkpoints that are kept and the one that is being written, each 12 T, and the log.

Time: what a step multiplies, counted in the same way, by what this computer multiplies in a second, found out
by multiplying two matrices of 1,024 rows. A run that has steps behind it is judged by those instead.
"""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from indexing import paths
from indexing.errors import InputError, MismatchError, TrainingError
from indexing.pipeline.specs import read_data_spec, read_index_spec, tokenizer_folder
from indexing.tokenizer import Tokenizer
from retro_core import retrofit
from retro_core.bases import hollow_base
from retro_core.checkpoint import hollow_model
from retro_core.config import RetroConfig, TrainConfig, fit_config
from retro_core.dataset import RetroDataset, TrainingBatches
from retro_core.devices import check_devices, device_kind
from retro_core.monitoring import flops_per_place, passes, peak_flops
from retro_core.presets import tokenizer_and_sizes
from retro_core.run_folder import CHECKPOINTS_FOLDER, METRICS_FILE, next_version, run_folder
from retro_core.training_state import KEPT

KEPT_CHECKPOINTS = KEPT + 1  # the newest and the best
# Resident memory after the imports and a first step of a model of no size; on a GPU, what CUDA takes.
_PROGRAM = {"cpu": 450_000_000, "cuda": 600_000_000, "mps": 600_000_000}
_LOGITS_AT_ONCE = 256  # rows, see `functions.cross_entropy_in_pieces`
_LINE_OF_THE_LOG = 1000  # bytes, with its share of TensorBoard's
# A step of the presets does so much of what products alone would do in its time: measured, 0.6 to 0.9.
_EFFICIENCY = 0.75
_IN_PASSING = 1.25  # of what a step keeps: measured, 0.9 to 1.4


@dataclass(frozen=True)
class Estimate:
    """What a run needs, and what there is. None where it cannot be known.

    parameters, trained  all, and those that the run changes
    device               where it will train
    step_bytes           the part of `memory_bytes` that grows with batch_size and max_len
    seconds              from here to the last step
    warnings             sentences about what is allowed, and seldom meant
    """

    parameters: int
    trained: int
    device: str
    memory_bytes: int
    step_bytes: int
    free_memory_bytes: int | None
    disk_bytes: int
    free_disk_bytes: int
    seconds: float | None
    warnings: tuple[str, ...] = ()


def check(config: TrainConfig) -> Estimate:
    """Raise in one sentence whatever would stop this run later: ConfigError, InputError, CheckpointError,
    MismatchError for settings and files that do not fit each other; TrainingError for memory or disk that is
    not there. What remains is the estimate."""
    found = estimate(config, with_time=False)
    check_fits(config, found)
    return found


def estimate(config: TrainConfig, with_time: bool = True) -> Estimate:
    """What the run of these settings needs. Raises like `check`, but not for what is not there."""
    plan = _Plan.of(config)
    parameters = sum(p.numel() for p in plan.model.parameters())
    trained = sum(p.numel() for p in plan.model.parameters() if p.requires_grad)
    step = plan.step_bytes()
    kind = device_kind(config)
    piece = 2 * 4 * _LOGITS_AT_ONCE * plan.model_config.num_embeddings
    processes = max(1, config.gpus_per_node)
    memory = 4 * parameters + 12 * trained + step + piece + _PROGRAM[kind]
    if kind == "cpu":
        memory *= processes  # they share it
    elif config.strategy == "fsdp":
        memory -= (4 * parameters + 12 * trained) * (processes - 1) // processes
    folder = _folder(config)
    return Estimate(
        parameters=parameters,
        trained=trained,
        device=kind,
        memory_bytes=memory,
        step_bytes=step,
        free_memory_bytes=_free_memory(kind),
        disk_bytes=_disk_bytes(config, trained, folder),
        free_disk_bytes=shutil.disk_usage(_existing(folder)).free,
        seconds=_seconds(config, plan, kind, folder) if with_time else None,
        warnings=tuple(plan.warnings()),
    )


def in_words(seconds: float | None) -> str:
    """For example 'about 40 minutes'."""
    if seconds is None:
        return "nobody knows how long"
    for size, one, many in ((86400, "day", "days"), (3600, "hour", "hours"), (60, "minute", "minutes")):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.0f} {many}"
        if seconds >= 0.9 * size:
            return f"about one {one}"
    return "less than a minute"


def bytes_in_words(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


# ---------------------------------------------------------------------------------------------- limits


def check_fits(config: TrainConfig, found: Estimate) -> None:
    """Raise TrainingError if memory or disk do not suffice for what was found about the run of `config`."""
    free = found.free_memory_bytes
    if free is not None and found.memory_bytes > free:
        left = free - (found.memory_bytes - found.step_bytes)
        fits = math.floor(0.95 * config.batch_size * left / found.step_bytes) if found.step_bytes else 0
        advice = "Choose a smaller model, end other programs, or use a larger computer."
        if 0 < fits < config.batch_size:
            times = math.ceil(config.batch_size / fits) * config.accumulate_grad_batches
            advice = f"batch_size {fits} would fit; accumulate_grad_batches {times} makes up for it."
        where = "memory" if found.device == "cpu" else f"memory of the device {found.device}"
        raise TrainingError(
            f"Run {config.run!r} needs about {bytes_in_words(found.memory_bytes)} of {where}: "
            f"{bytes_in_words(found.memory_bytes - found.step_bytes)} for {found.parameters:,} parameters "
            f"and the program, {bytes_in_words(found.step_bytes)} for batches of {config.batch_size} windows "
            f"of {config.max_len} tokens. {bytes_in_words(free)} are free. {advice}"
        )
    if found.disk_bytes > found.free_disk_bytes:
        folder = _folder(config)
        raise TrainingError(
            f"Run {config.run!r} needs about {bytes_in_words(found.disk_bytes)} in {folder.parent}, for "
            f"{KEPT_CHECKPOINTS} checkpoints and one being written, of {bytes_in_words(12 * found.trained)} "
            f"each. {bytes_in_words(found.free_disk_bytes)} are free there. Make room, or name another disk "
            "with experiment_dir or RETRO_HOME."
        )


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that a new process can have: what the kernel says is available, or less where a control group
    (version 1 or 2, as containers have them) limits this process. None where the system does not tell."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return min([available, *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterator[int]:
    mount = root / "sys/fs/cgroup"
    names = {
        "2": ("memory.max", "memory.current", "inactive_file"),
        "1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        version = "1" if controllers else "2"
        limit_file, used_file, cache_name = names[version]
        top = mount / "memory" if version == "1" else mount
        own = top / group.strip("/")
        # A limit of any group above holds too. In a container its own group is what is mounted on top.
        for folder in (own, *(parent for parent in own.parents if parent.is_relative_to(top))):
            with suppress(OSError, ValueError):  # no such file, or "max"
                limit = int((folder / limit_file).read_text())
                used = int((folder / used_file).read_text())
                facts = dict(text.split() for text in (folder / "memory.stat").read_text().splitlines())
                # Files that were read are given up when memory is wanted.
                yield max(0, limit - used + int(facts.get(cache_name, 0)))


def _free_memory(kind: str) -> int | None:
    if kind == "cuda":
        return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    return free_memory()


def _disk_bytes(config: TrainConfig, trained: int, folder: Path) -> int:
    """More than is there already."""
    lines = config.steps // config.log_every + 2 * (config.steps // config.evaluate_every)
    checkpoints = min(KEPT_CHECKPOINTS, math.ceil(config.steps / config.save_every)) + 1
    there = sum(path.stat().st_size for path in (folder / CHECKPOINTS_FOLDER).rglob("*") if path.is_file())
    return max(0, 12 * trained * checkpoints - there) + _LINE_OF_THE_LOG * lines


def _folder(config: TrainConfig) -> Path:
    if config.experiment_dir and not config.run:
        return Path(config.experiment_dir) / next_version(Path(config.experiment_dir))
    return run_folder(paths.check_name(config.run), config.experiment_dir)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


# ------------------------------------------------------------------------------------------------ time


def _seconds(config: TrainConfig, plan: "_Plan", kind: str, folder: Path) -> float | None:
    """From here to the last step; on an accelerator only from steps that were done."""
    step, rate = _done(folder / METRICS_FILE)
    left = max(0, config.steps - step)
    if rate is not None:
        return left / rate
    if kind != "cpu":
        return None
    ids, read = plan.batch(1)
    forward = flops_per_place(plan.model, (ids, ids, read), ids.device) * ids.numel()  # of one window
    flops = passes(plan.model) * forward * config.batch_size * config.accumulate_grad_batches
    if plan.held_out is not None:  # On, Off and random
        windows = min(config.evaluate_windows, len(plan.held_out.windows))
        flops += 3 * forward * windows / config.evaluate_every
    threads = min(config.threads or torch.get_num_threads(), torch.get_num_threads())
    speed = peak_flops(torch.device("cpu"), config.precision) * threads
    return left * flops / (_EFFICIENCY * speed / torch.get_num_threads())


def _done(metrics: Path) -> tuple[int, float | None]:
    """(last step in the log, steps a second there)"""
    step, rate = 0, None
    with suppress(OSError):
        for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines()[-200:]:
            with suppress(ValueError, KeyError, TypeError, ZeroDivisionError):
                event = json.loads(line)
                step = max(step, int(event["step"]))
                rate = float(event["tokens_per_second"]) / (int(event["tokens"]) / int(event["step"]))
    return step, rate or None


# ------------------------------------------------------------------------------------------------ plan


@dataclass(frozen=True)
class _Plan:
    """What a run's settings name, opened and found to fit together; the model without values."""

    config: TrainConfig
    model_config: RetroConfig
    model: nn.Module
    data: RetroDataset
    held_out: RetroDataset | None

    @classmethod
    def of(cls, config: TrainConfig) -> "_Plan":
        _folder(config)  # a name that cannot be one
        check_devices(config)
        if config.base:
            base = hollow_base(config.base)
            tokenizer, fit = base.tokenizer, fit_config(config)
            model_config = retrofit.fit_sizes(base.model, tokenizer.pad_id, fit)
        else:
            tokenizer, model_config = tokenizer_and_sizes(config)
        if not config.data_spec:
            raise InputError("Expected a training set, got none. Give data_spec, a data.spec.json.")
        data = _open(config, config.data_spec, config.training_data_subset_indices, model_config, tokenizer)
        TrainingBatches(data, config.batch_size, config.seed)  # there are any
        held_out = None
        if config.validation:
            subset = config.validation_data_subset_indices
            held_out = _open(config, config.validation, subset, model_config, tokenizer)
            if not any(_has_a_token_to_predict(held_out, number) for number in range(len(held_out.windows))):
                raise InputError(
                    f"The held-out documents of {config.validation} have no token to predict. Give documents "
                    "of some words."
                )
        if config.base:
            with torch.device("meta"):
                model: nn.Module = retrofit.FittedRetro(base.model, model_config, fit, config.base)
        else:
            model = hollow_model(model_config)
            if config.reading_only:
                model.freeze_decoder()
        return cls(config, model_config, model.train(), data, held_out)

    def batch(self, windows: int) -> tuple[Tensor, Tensor]:
        """(ids, neighbour_ids) of so many full windows, without values."""
        m, k = self.model_config.chunk_size, self.data.num_neighbours
        chunks = max(window.stop - window.start for window in self.data.windows)
        with torch.device("meta"):
            ids = torch.zeros(windows, chunks * m, dtype=torch.int64)
            return ids, torch.zeros(
                windows, chunks, k, m * (1 + self.data.num_continuations), dtype=torch.int64
            )

    def step_bytes(self) -> int:
        """What one process keeps of a step's way forward for its way back."""
        processes = max(1, self.config.gpus_per_node) * self.config.num_nodes
        ids, read = self.batch(math.ceil(self.config.batch_size / processes))
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage()._cdata] = tensor  # one storage may be saved as several tensors
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            labels = ids
            if self.config.ignore_share:  # the dearest batches have how likely each token is as their labels
                with torch.device("meta"):
                    labels = torch.zeros(*ids.shape, self.model_config.num_embeddings)
            self.model(ids, read, labels, logits_to_keep=None)
        own = {p.untyped_storage()._cdata for p in self.model.parameters()}
        size = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)
        return round(_IN_PASSING * size)

    def warnings(self) -> Iterator[str]:
        if self.held_out is None:
            return
        known = set(_first_chunks(self.data))
        both = sum(first in known for first in _first_chunks(self.held_out))
        if both:
            count = len({window.document for window in self.held_out.windows})
            yield (
                f"{both:,} of the {count:,} held-out documents begin like a document of the training set. "
                "What is measured on them is partly memory."
            )


def _open(
    config: TrainConfig, spec: str, subset: str, model_config: RetroConfig, tokenizer: Tokenizer
) -> RetroDataset:
    data = RetroDataset(
        Path(spec),
        model_config,
        config.num_neighbours,
        config.max_len,
        config.num_continuation_chunks,
        Path(subset) if subset else None,
    )
    shards, index_spec = read_data_spec(Path(spec))
    noted = {tokenizer_folder(shard) for shard in (*shards, *read_index_spec(index_spec, ("chunks",)))}
    for folder in sorted(folder for folder in noted if folder is not None):
        made_with = Tokenizer.load(folder)
        if made_with.fingerprint != tokenizer.fingerprint:
            raise MismatchError(
                f"The chunks in {folder} were made with the tokenizer that lies there, but the run has the "
                f"tokenizer {tokenizer.name!r}, which gives other ids. Name the folder as tokenizer, or make "
                "the chunks again."
            )
    return data


def _has_a_token_to_predict(data: RetroDataset, number: int) -> bool:
    tokens = data.tokens(data.windows[number])
    return bool(((tokens[1:] != data.pad_id) & (tokens[:-1] != data.pad_id)).any())


def _first_chunks(data: RetroDataset) -> Iterator[bytes]:
    """The beginning of each document."""
    last = None
    for window in data.windows:
        if window.document != last:
            last = window.document
            yield np.ascontiguousarray(data.shards[window.shard].tokens[window.start], np.int64).tobytes()
