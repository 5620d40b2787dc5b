"""Training, as a generator of events: `for event in train(config)`.

Lightning Fabric supplies devices, precision and what several processes exchange (`devices`); the loop is ours
so that it can be read from top to bottom, stopped between any two steps and resumed bit for bit. A run is a
folder (`run_folder`), with checkpoints in it (`training_state`); what it tells is in `monitoring`.
"""

import ctypes
import dataclasses
import math
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from indexing import files, paths
from indexing.errors import CheckpointError, ConfigError, InputError, RetroError, TrainingError
from indexing.files import write_json
from indexing.tokenizer import Tokenizer
from retro_core import estimates, retrofit, run_folder, training_state
from retro_core.bases import Base, base_folder, load_base
from retro_core.checkpoint import load_model, model_folder, save_model
from retro_core.config import RetroConfig, TrainConfig, fit_config, from_dict, read_object
from retro_core.dataset import Batch, RetroDataset, TrainingBatches
from retro_core.devices import check_devices, open_fabric, own_rows, share_again
from retro_core.evaluation.windows import window_losses
from retro_core.functions import IGNORED_LABEL
from retro_core.model import PositionBias, Retro, RMSNorm
from retro_core.monitoring import (
    Evaluated,
    FellBack,
    Log,
    Pace,
    Sampled,
    Saved,
    Started,
    StepDone,
    Stopped,
    TrainEvent,
    Warned,
    flops_per_place,
    passes,
    peak_flops,
    sample,
    sample_windows,
    write_strength,
)
from retro_core.presets import located, tokenizer_and_sizes
from retro_core.run_folder import CONFIG_FILE, MODEL_FILE, OLD_CHECKPOINT_FILE, Heartbeat
from retro_core.schedule import copy_share, learning_rate
from retro_core.training_state import TrainingState

if TYPE_CHECKING:
    from lightning.fabric import Fabric

NEWEST, BEST = "newest", "best"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_CALIBRATION_TOKENS = 8192  # a few for each direction of the stream of a small base
_OVERFLOWS = 40  # steps in a row that fp16 may pass over while it looks for a scale: each halves it
# Where it runs and how often it reports do not change what is learned.
_FREE = {
    "run", "experiment_dir", "steps", "threads", "log_every", "save_every", "evaluate_every",
    "evaluate_windows", "validation", "validation_data_subset_indices", "samples", "tensorboard", "device",
    "gpus_per_node", "num_nodes", "strategy", "num_workers",
}  # fmt: skip


@dataclass(frozen=True)
class _Prepared:
    """What is known of a run before any work: everything was opened and fits together."""

    config: TrainConfig
    base: Base | None
    model_config: RetroConfig
    facts: dict[str, Any]  # model.json
    tokenizer: Tokenizer
    batches: TrainingBatches
    held_out: RetroDataset | None


def train(
    config: TrainConfig,
    *,
    command: Sequence[str] = (),
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[TrainEvent]:
    """Train, or resume the run of that name, until `config.steps`, or until somebody asks it to stop: with
    `run_folder.ask_to_stop`, or by `should_stop`, which is asked after each step.

    With an experiment_dir and an empty `run`, the run is a new version_N in there.

    command  what started this, to be noted in the run's folder

    Raises what `estimates.check` does before any weights are made; TrainingError as soon as loss or gradient
    are no number, if something cannot be saved, and if another process is at this run.
    """
    config = located(config)
    try:
        found = estimates.check(config)
        prepared = _prepare(config)
        keep_memory()
        if config.threads:
            torch.set_num_threads(config.threads)
        fabric = open_fabric(config)
    except RetroError as error:
        _note_failure(config, error)
        raise
    if config.experiment_dir and not config.run:
        version = run_folder.next_version(Path(config.experiment_dir)) if fabric.is_global_zero else ""
        config = dataclasses.replace(config, run=fabric.broadcast(version))
        prepared = dataclasses.replace(prepared, config=config)
    folder = _folder(config)
    heartbeat = Heartbeat(folder, 0, config.steps)
    with ExitStack() as stack:
        if fabric.is_global_zero:  # one process writes
            stack.enter_context(_alone(folder, config.run))
            stack.enter_context(_status(heartbeat))
            run_folder.sweep(folder)
            write_json(folder / CONFIG_FILE, config.to_dict())
            write_json(folder / MODEL_FILE, prepared.facts)
            if command:
                run_folder.write_command(folder, command)
        fabric.barrier()
        if fabric.is_global_zero:
            yield from map(Warned, found.warnings)
        for event in _train(prepared, folder, fabric, heartbeat, should_stop):
            if fabric.is_global_zero or isinstance(event, Stopped):  # the others would say the same
                yield event


def _train(
    prepared: _Prepared,
    folder: Path,
    fabric: "Fabric",
    heartbeat: Heartbeat,
    should_stop: Callable[[], bool] | None,
) -> Iterator[TrainEvent]:
    config, batches, held_out = prepared.config, prepared.batches, prepared.held_out
    rank, processes, pieces = fabric.global_rank, fabric.world_size, config.accumulate_grad_batches
    fabric.seed_everything(config.seed, verbose=False)
    state, source, broken = _newest(folder)
    module = _module(prepared, state)
    if state is not None:
        _check_same_data(state, prepared, source)
        training_state.put_weights(module, state, source)
    model = fabric.setup_module(module)  # with fsdp the weights are now shared out
    adam = torch.optim.AdamW(
        parameter_groups(module, config),
        lr=config.learning_rate,
        fused=config.precision
        != "fp16",  # the fused one would take scaled gradients, before they are clipped
    )
    optimizer, precision = fabric.setup_optimizers(adam), fabric.strategy.precision
    step = tokens = overflows = 0
    best = math.inf
    if state is not None:
        if source.name == OLD_CHECKPOINT_FILE:
            state = training_state.load_old(source, _names(module, adam))
        training_state.put_moments(module, adam, state)
        if state.scaler:
            precision.load_state_dict(state.scaler)
        step, tokens, best = state.step, state.tokens, state.facts.get("best_held_out_on") or math.inf
    heartbeat.step = step
    if broken is not None:
        yield FellBack(step, broken[0], broken[1])
    yield Started(folder, step, config.steps, sum(p.numel() for p in module.parameters()), processes)

    def make(number: int) -> Batch:
        """Batch `number` of the run; a step takes `pieces` of them."""
        copies = copy_share(number // pieces, config)
        return batches.batch(number, copies, config.stranger_share, config.ignore_share)

    model.train()
    log = Log(folder, step, config.tensorboard) if fabric.is_global_zero else None
    pace = Pace(step, config.steps, tokens, *_arithmetic(module, make(step * pieces), fabric, config))
    with _made_ahead(make, step * pieces, config.steps * pieces, config.num_workers) as made, _closing(log):
        while step < config.steps:
            for group in adam.param_groups:
                group["lr"] = group["share"] * learning_rate(step, config)
            taken = [next(made) for _ in range(pieces)]
            counted = sum(int((batch.labels != IGNORED_LABEL).sum()) for batch in taken)
            loss = torch.zeros((), device=fabric.device)
            for piece, batch in enumerate(taken):
                # Dropout of a step does not depend on earlier ones.
                torch.manual_seed((config.seed * 1_000_003 + step * pieces + piece) * processes + rank)
                *rows, own = own_rows(batch, rank, processes)
                inputs, labels, read = (t.to(fabric.device) for t in rows)
                if batch.ignoring:
                    labels = without_neighbours(model, inputs, labels)
                with fabric.no_backward_sync(model, enabled=piece < pieces - 1):
                    # Without logits: of a large vocabulary they would need more memory than all of the rest.
                    mean = model(inputs, read, labels, logits_to_keep=None).loss
                    share = own / counted
                    fabric.backward(mean * (share * processes))  # gradients are averaged over processes
                loss += mean.detach() * share
            norm = float(
                fabric.clip_gradients(
                    model, optimizer, max_norm=config.clip or math.inf, error_if_nonfinite=False
                )
            )
            asked = should_stop is not None and should_stop()
            asked = asked or (fabric.is_global_zero and run_folder.stop_asked(folder))
            loss, stopping = _summed(fabric, loss, asked)
            overflows = 0 if math.isfinite(norm) else overflows + 1
            if not math.isfinite(loss) or overflows > (_OVERFLOWS if config.precision == "fp16" else 0):
                raise TrainingError(
                    f"Step {step + 1} of run {config.run!r} has a loss of {loss:g} and a gradient of norm "
                    f"{norm:g}, expected finite numbers. What it saved before is untouched. Start another "
                    "run with a lower learning_rate."
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            heartbeat.step = step
            tokens += counted
            pace.add(sum(batch.input_ids.numel() for batch in taken))

            last = step == config.steps
            if step % config.log_every == 0 or last:
                speed = pace.measured(step, tokens)
                yield _told(log, StepDone(step, loss, learning_rate(step - 1, config), norm, tokens, *speed))
            since = time.monotonic()
            on = None
            if held_out and (step % config.evaluate_every == 0 or last):
                model.eval()
                for event in _evaluated(module, prepared, step):
                    on = event.on if isinstance(event, Evaluated) else on
                    yield _told(log, event)
                model.train()
            better = on is not None and on < best
            if step % config.save_every == 0 or last or better or stopping:
                best = on if better else best
                now = training_state.collect(module, adam, precision.state_dict())
                now.facts = {
                    "step": step,
                    "tokens": tokens,
                    "epoch": step * pieces // len(batches),
                    "batch_of_epoch": step * pieces % len(batches),
                    "held_out_on": on,
                    "best_held_out_on": best if math.isfinite(best) else None,
                    **_identity(prepared),
                }
                if log is not None:
                    saved = training_state.save(folder, now)
                    log.flush()
                    yield Saved(step, saved.path)
            pace.skip(time.monotonic() - since)
            if stopping and not last:
                run_folder.forget_stop(folder)
                heartbeat.end(run_folder.STOPPED, "Stopped on request; start the same command to go on.")
                yield Stopped(step)
                return
    run_folder.forget_stop(folder)
    heartbeat.end(run_folder.FINISHED)


# ------------------------------------------------------------------------------------- before the first step


def _prepare(config: TrainConfig) -> _Prepared:
    check_devices(config)
    base = _open_base(config)
    if base is None:
        tokenizer, model_config = tokenizer_and_sizes(config)
    else:
        tokenizer = base.tokenizer
        model_config = retrofit.fit_sizes(base.model, tokenizer.pad_id, fit_config(config))
    facts = model_config.to_dict()
    if base is not None:
        facts["base"] = retrofit.base_fingerprint(base.model)
    if config.run or not config.experiment_dir:
        check_same_settings(_folder(config), config, facts)
    if not config.data_spec:
        raise InputError("Expected a training set, got none. Give data_spec, a data.spec.json.")

    def opened(spec: str, subset: str) -> RetroDataset:
        return RetroDataset(
            Path(spec),
            model_config,
            config.num_neighbours,
            config.max_len,
            config.num_continuation_chunks,
            Path(subset) if subset else None,
        )

    dataset = opened(config.data_spec, config.training_data_subset_indices)
    held_out = None
    if config.validation:
        held_out = opened(config.validation, config.validation_data_subset_indices)
    batches = TrainingBatches(dataset, config.batch_size, config.seed, config.shuffle)
    return _Prepared(config, base, model_config, facts, tokenizer, batches, held_out)


def _folder(config: TrainConfig) -> Path:
    return run_folder.run_folder(config.run, config.experiment_dir)


def check_same_settings(folder: Path, config: TrainConfig, facts: dict[str, Any]) -> None:
    """Refuse to resume a run under other settings: the result would be neither run. Raises ConfigError.

    facts  what its model.json will say, as far as that is to be compared
    """
    if not run_folder.has_checkpoint(folder):
        return
    unsaid = TrainConfig().to_dict()  # what a run from before a setting was there meant
    for file, now in ((CONFIG_FILE, config.to_dict()), (MODEL_FILE, facts)):
        before = {**unsaid, **read_object(folder / file)}
        if file == CONFIG_FILE:  # older ones name files as they were typed
            before |= located(from_dict(TrainConfig, {key: before[key] for key in unsaid})).to_dict()
        changed = [key for key in now if key not in _FREE and before.get(key) != now[key]]
        if changed:
            raise ConfigError(
                f"Run {config.run!r} was started with {changed[0]} = {before.get(changed[0])!r}, now it is "
                f"{now[changed[0]]!r}. Use the same settings to resume, or another run name."
            )


def _identity(prepared: _Prepared) -> dict[str, Any]:
    """What a checkpoint says of the settings and the data that it belongs to. Settings at their defaults are
    left out, so that a new one which changes nothing does not make old checkpoints foreign."""
    usual = TrainConfig().to_dict()
    values = {k: v for k, v in prepared.config.to_dict().items() if k not in _FREE and v != usual[k]}
    data = prepared.batches.dataset
    return {
        "config_hash": training_state.settings_hash(values),
        "training_windows": len(data.windows),
        "indexed_chunks": int(data.index_starts[-1]),
    }


def _check_same_data(state: TrainingState, prepared: _Prepared, source: Path) -> None:
    now = _identity(prepared)
    if state.facts.get("config_hash", now["config_hash"]) != now["config_hash"]:
        raise CheckpointError(
            f"{source} was saved under other settings than {CONFIG_FILE} of its run has. Copy the whole run "
            "again, or start another one."
        )
    for key in ("training_windows", "indexed_chunks"):
        if state.facts.get(key, now[key]) != now[key]:
            raise InputError(
                f"The training set has changed: it had {state.facts[key]:,} {key.replace('_', ' ')} when "
                f"{source.name} was saved, now it has {now[key]:,}. Bring the old one back, or start another "
                "run."
            )


def _note_failure(config: TrainConfig, error: RetroError) -> None:
    """Who started this as a child process has given the run a status, and looks there for what became of it.
    A run of another process is not touched by a command that does not fit it."""
    try:
        folder = _folder(config)
    except RetroError:
        return
    status = run_folder.read_status(folder)
    if status is not None and status.pid == os.getpid():
        run_folder.write_status(folder, run_folder.FAILED, status.step, config.steps, str(error))


@contextmanager
def _alone(folder: Path, run: str) -> Iterator[None]:
    """Hold the run's lock, so that two processes do not write into one folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = files.lock(folder)
    try:
        lock.acquire()
    except TimeoutError as error:
        raise TrainingError(
            f"Run {run!r} is being trained by another process. Wait until it has ended, or stop it."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _status(heartbeat: Heartbeat) -> Iterator[None]:
    """Keep the run's status true while the block runs, and when it ends other than well."""
    heartbeat.folder.mkdir(parents=True, exist_ok=True)
    heartbeat.start()
    try:
        yield
    except (GeneratorExit, KeyboardInterrupt):
        if not heartbeat.ended:  # who was told that it has stopped takes no further event
            heartbeat.end(run_folder.STOPPED, "Stopped at once; goes on from the step that was saved last.")
        raise
    except BaseException as error:
        words = str(error) if isinstance(error, RetroError) else f"{type(error).__name__}: {error}"
        heartbeat.end(run_folder.FAILED, words)
        raise


def _newest(folder: Path) -> tuple[TrainingState | None, Path, tuple[Path, str] | None]:
    """(the newest checkpoint that can be used, where it is, the newest of all and what is wrong with it if
    that is another one). Raises CheckpointError if there are some and none can be used."""
    broken: tuple[Path, str] | None = None
    for saved in reversed(run_folder.checkpoints(folder)):
        try:
            return training_state.load(saved), saved.path, broken
        except CheckpointError as error:
            broken = broken or (saved.path, str(error))
    old = folder / OLD_CHECKPOINT_FILE
    if old.is_file():
        return training_state.load_old(old, []), old, broken
    if broken:
        raise CheckpointError(f"{broken[1]} No other checkpoint of this run can be used either.")
    return None, folder, None


def _module(prepared: _Prepared, state: TrainingState | None) -> nn.Module:
    """The model, with its initial weights, or about to get those of `state`."""
    config, base = prepared.config, prepared.base
    if base is None:
        anew = state is not None or not config.weights
        model = Retro(prepared.model_config) if anew else load_model(config.weights).model
        if config.reading_only:
            model.freeze_decoder()
        return model
    if state is not None:
        return retrofit.FittedRetro(base.model, prepared.model_config, fit_config(config), config.base)
    text = calibration_texts(prepared.batches) if config.start == "copy" else None
    return retrofit.retrofit(base.model, base.tokenizer.pad_id, fit_config(config), text, config.base)


def _names(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Of an optimiser's weights, in its order."""
    names = {id(p): name for name, p in module.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


# --------------------------------------------------------------------------------------------- while it runs


def _arithmetic(
    module: nn.Module, batch: Batch, fabric: "Fabric", config: TrainConfig
) -> tuple[float, float | None]:
    """(FLOPs of training on one place of a batch, FLOP/s that all devices can do), see `Pace`."""
    peak = peak_flops(fabric.device, config.precision)
    if peak is None:
        return 0.0, None
    *rows, _ = own_rows(batch, fabric.global_rank, fabric.world_size)
    return passes(module) * flops_per_place(module, rows, fabric.device), peak * fabric.world_size


@torch.no_grad()
def without_neighbours(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Tensor:
    """input_ids and labels (b, n) -> (b, n, v): how likely each token is to follow by Retro[Off], without
    dropout; 0 where there is no label."""
    model.eval()
    likely = model(input_ids).logits.float().softmax(dim=-1)
    model.train()
    share_again(model)
    return likely * (labels != IGNORED_LABEL)[..., None]


@contextmanager
def _made_ahead(make: Callable[[int], Batch], first: int, last: int, ahead: int) -> Iterator[Iterator[Batch]]:
    """make(first), make(first + 1), … make(last - 1); `ahead` of them are made by another thread while the
    current one is used."""
    if not ahead:
        yield map(make, range(first, last))
        return

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        waiting: deque = deque(pool.submit(make, i) for i in range(first, min(first + ahead, last)))

        def taken() -> Iterator[Batch]:
            for number in range(first, last):
                if number + ahead < last:
                    waiting.append(pool.submit(make, number + ahead))
                yield waiting.popleft().result()

        try:
            yield taken()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _closing(log: Log | None) -> Iterator[None]:
    try:
        yield
    finally:
        if log is not None:
            log.close()


def _told(log: Log | None, event: StepDone | Evaluated | Sampled) -> StepDone | Evaluated | Sampled:
    if log is not None:
        log.write(event)
    return event


def _summed(fabric: "Fabric", loss: Tensor, asked: bool) -> tuple[float, bool]:
    """(the loss summed over processes, whether any of them was asked to stop)."""
    both = torch.stack([loss.float(), torch.tensor(float(asked), device=loss.device)])
    both = fabric.all_reduce(both, reduce_op="sum")
    return float(both[0]), float(both[1]) > 0


def _evaluated(module: nn.Module, prepared: _Prepared, step: int) -> Iterator[Evaluated | Sampled]:
    """Held-out losses and samples. Each process computes all of it: with fsdp a forward pass needs all."""
    config, data = prepared.config, prepared.held_out
    losses = window_losses(module, data, limit=config.evaluate_windows, seed=config.seed)
    total = sum(w.tokens for w in losses)
    written = write_strength(module, data)
    means = {name: sum(getattr(w, name) for w in losses) / total for name in ("on", "off", "random")}
    yield Evaluated(
        step,
        **means,
        write_strength=sum(written.values()) / max(1, len(written)),
        write_strength_by_layer=written,
        learning_rate=learning_rate(step - 1, config),
    )
    for number, window in enumerate(sample_windows(data, config.samples)):
        yield sample(module, prepared.tokenizer, data, window, step, number, config.run)


# ------------------------------------------------------------------------------------- shared with others


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
        for module in ([] if fitted else _reading_modules(model))
        for p in module.parameters()
        if p is not model.base.dec_embs.weight
    }
    shares = [1.0, 1.0 if config.reading_only else config.reading_rate]
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


def _reading_modules(model: Retro) -> list[nn.Module]:
    """Encoder, CCA, and the self-attention that tells CCA which token was the last but one."""
    layers = [model.base.decoder[i] for i in sorted(model.config.dec_cca_layers)]
    encoder = [model.base.encoder] if layers else []
    return [*encoder, *(layer["1"] for layer in layers), *(layer["0"] for layer in layers[:1])]


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


# --------------------------------------------------------------------------------------------- afterwards


def load_run(name: str, checkpoint: int | str = NEWEST) -> tuple[nn.Module, TrainConfig, int, int]:
    """(model, settings, step, tokens) of a run's checkpoint, in eval mode; the model is a `Retro`, or a
    `FittedRetro` if the run has a base.

    name        of the run, or with a slash in it its folder
    checkpoint  NEWEST, BEST (lowest held-out loss with neighbours) or a step

    Raises CheckpointError if there is no such checkpoint, or it is damaged.
    """
    folder = run_folder.run_folder(name)
    if not run_folder.has_checkpoint(folder):
        raise CheckpointError(f"Run {name!r} has no checkpoint in {folder}. Train it first.")
    config = from_dict(TrainConfig, read_object(folder / CONFIG_FILE))
    facts = read_object(folder / MODEL_FILE)
    expected = facts.pop("base", None)
    state, source = _chosen(folder, name, checkpoint)
    base = _open_base(config)
    if base is None:
        model: nn.Module = Retro(RetroConfig.from_json(facts))
    else:
        retrofit.check_fingerprint(base.model, config.base, expected, f"Run {name!r}")
        model = retrofit.FittedRetro(
            base.model, RetroConfig.from_json(facts), fit_config(config), config.base
        )
    training_state.put_weights(model, state, source)
    return model.eval(), config, state.step, state.tokens


def _chosen(folder: Path, name: str, checkpoint: int | str) -> tuple[TrainingState, Path]:
    found = run_folder.checkpoints(folder)
    old = folder / OLD_CHECKPOINT_FILE
    if checkpoint == NEWEST:
        chosen = found[-1] if found else None
        if chosen is None:
            return training_state.load_old(old, []), old
    elif checkpoint == BEST:
        chosen = run_folder.best_checkpoint(folder)
        if chosen is None:
            raise CheckpointError(
                f"No checkpoint of run {name!r} has a held-out loss, so none is the best. Take the newest, "
                "or give the run validation documents."
            )
    else:
        chosen = next((saved for saved in found if saved.step == checkpoint), None)
        if chosen is None:
            steps = ", ".join(str(saved.step) for saved in found) or "none by step"
            raise CheckpointError(
                f"Run {name!r} has no checkpoint of step {checkpoint}; it has {steps}. Choose one of them."
            )
    return training_state.load(chosen, with_optimizer=False), chosen.path


def export_checkpoint(run: str, checkpoint: int | str = NEWEST) -> str:
    """Make a model of a run's checkpoint, or find the one that was made of it before; its name, by which it
    is chosen wherever models are. Raises what `load_run` does."""
    model, config, step, tokens = load_run(run, checkpoint)
    folder = run_folder.run_folder(run)
    name = f"{folder.name[:52].rstrip('.-_')}-step-{step}"
    target = paths.models_dir() / name
    source = run_folder.checkpoint_path(folder, step)
    if target.exists():
        if not source.exists() or target.stat().st_mtime >= source.stat().st_mtime:
            return name
        shutil.rmtree(target)  # of another run of this name
    card = f"Checkpoint of run {folder.name!r} after {step:,} steps and {tokens:,} tokens.\n"
    save_model(target, model, run_tokenizer(config), card)
    return name


def run_tokenizer(config: TrainConfig) -> Tokenizer:
    """The tokenizer of a run's training set: that of its base, or of the model that it trains further, if it
    has one."""
    if config.base:
        return Tokenizer.load(base_folder(config.base))
    return Tokenizer.load(model_folder(config.weights or config.tokenizer))


def _open_base(config: TrainConfig) -> Base | None:
    return load_base(config.base) if config.base else None
