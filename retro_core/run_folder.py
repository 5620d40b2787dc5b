"""A training run's folder: the names of its files, its status, its checkpoints, and how it is asked to stop.

    config.json           the TrainConfig
    model.json            the RetroConfig, and of which weights the base is, if there is one
    command.json          the command that started it last: {"argv", "started", "version"}
    status.json           see `Status`; written at least every `HEARTBEAT` seconds while it is being trained
    log.txt               standard output and error, if it was started as a child process
    metrics.jsonl         one line an event
    samples.jsonl         texts written while training, with neighbours and without
    samples/              how each of them was read: step-…-0.retro.json.gz, a trace
    tensorboard/          the same numbers, for TensorBoard
    checkpoints/step-…/   model.safetensors, optimizer.pt, state.json
    stop                  a file that asks the process to save and stop
    checkpoint.pt         of runs from before there were several: the newest checkpoint

No torch is needed to read any of this but the tensors themselves.
"""

import dataclasses
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexing import files, paths
from indexing.errors import CheckpointError

CONFIG_FILE, MODEL_FILE, COMMAND_FILE = "config.json", "model.json", "command.json"
STATUS_FILE, LOG_FILE, STOP_FILE = "status.json", "log.txt", "stop"
METRICS_FILE, SAMPLES_FILE, TENSORBOARD_FOLDER = "metrics.jsonl", "samples.jsonl", "tensorboard"
SAMPLES_FOLDER, TRACE_SUFFIX = "samples", ".retro.json.gz"
CHECKPOINTS_FOLDER, OLD_CHECKPOINT_FILE = "checkpoints", "checkpoint.pt"
WEIGHTS_FILE, OPTIMIZER_FILE, STATE_FILE = "model.safetensors", "optimizer.pt", "state.json"

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
NOT_ANSWERING = "not answering"  # what readers make of RUNNING after `SILENCE`
HEARTBEAT, SILENCE = 5.0, 30.0  # seconds: between two of them; after which nobody is taken to be there
STARTING, STARTING_SILENCE = "Starting.", 300.0  # message of one that has not spoken yet; seconds it may take
STOPPED_EXIT_CODE = 143  # what a process ended by SIGTERM has
_STEP = re.compile(r"step-(\d+)")
LOST = (
    "The process is gone and did not say why: it was killed, or the computer went down. What it saved is "
    "there; resume the run."
)


def run_folder(run: str, experiment_dir: str = "") -> Path:
    """Where a run lives: `experiment_dir`/run, or among the user's runs. `run` with a slash in it is a folder
    itself. Raises InputError for a name that cannot be one."""
    if "/" in run and not experiment_dir:
        return Path(run)
    return (Path(experiment_dir) if experiment_dir else paths.runs_dir()) / paths.check_name(run)


def next_version(experiment_dir: Path) -> str:
    """version_N, N one more than the largest there is: how the reference (Lightning) numbers its runs."""
    names = [path.name for path in experiment_dir.glob("version_*")] if experiment_dir.is_dir() else []
    numbers = [int(name[8:]) for name in names if name[8:].isdigit()]
    return f"version_{max(numbers, default=-1) + 1}"


# ---------------------------------------------------------------------------------------------- status


@dataclass(frozen=True)
class Status:
    """How a run is doing.

    state        RUNNING, FINISHED, STOPPED (on request, resumable) or FAILED
    pid          of the process that trains or trained it; pid_started: when the kernel started that process,
                 in its ticks, as pids are used again (None where the system does not tell)
    step, steps  optimiser steps done, and asked for
    message      one sentence, empty while all is well
    updated      seconds since 1970
    """

    state: str
    pid: int
    pid_started: int | None
    step: int
    steps: int
    message: str
    updated: float


def write_status(
    folder: Path, state: str, step: int, steps: int, message: str = "", pid: int | None = None
) -> Status:
    """Say how this process is doing, or the process `pid`, as long as it cannot do so itself."""
    pid = os.getpid() if pid is None else pid
    status = Status(state, pid, process_start(pid), step, steps, message, time.time())
    files.write_json(folder / STATUS_FILE, dataclasses.asdict(status))
    return status


def read_status(folder: Path) -> Status | None:
    """The truth: a run whose process is gone has FAILED whatever its file says; one that lives and has said
    nothing for `SILENCE` seconds is NOT_ANSWERING, which may pass. None if the run never had a status (it was
    trained before there were any)."""
    try:
        values = json.loads((folder / STATUS_FILE).read_text(encoding="utf-8"))
        status = Status(**{spec.name: values[spec.name] for spec in dataclasses.fields(Status)})
        kinds = [
            (status.state, str), (status.pid, int), (status.pid_started, int | None), (status.step, int),
            (status.steps, int), (status.message, str), (status.updated, int | float),
        ]  # fmt: skip
        known = status.state in (RUNNING, FINISHED, STOPPED, FAILED) and 0 < status.pid < 1 << 31
        if not known or not all(isinstance(value, kind) for value, kind in kinds):
            raise ValueError("other values than a status has")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Status(FAILED, 0, None, 0, 0, f"{STATUS_FILE} cannot be read. Resume the run.", 0.0)
    if status.state != RUNNING:
        return status
    if not is_alive(status.pid, status.pid_started):
        return dataclasses.replace(status, state=FAILED, message=LOST)
    if time.time() - status.updated > (STARTING_SILENCE if status.message == STARTING else SILENCE):
        words = f"The process {status.pid} has said nothing for {time.time() - status.updated:,.0f} seconds."
        return dataclasses.replace(status, state=NOT_ANSWERING, message=words)
    return status


def process_start(pid: int) -> int | None:
    """Kernel ticks at which a process started; None where this cannot be known."""
    found = _process(pid)
    return found[1] if found else None


def is_alive(pid: int, started: int | None) -> bool:
    """Whether the process `pid` lives and is the one that was `started` then. One that has ended and was not
    yet collected by its parent does not live."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    found = _process(pid)
    if found is None:
        return True  # alive, and nothing more is known on this system
    return found[0] not in "ZX" and started in (None, found[1])


def _process(pid: int) -> tuple[str, int] | None:
    """(state letter, start in ticks), from Linux's /proc."""
    try:
        # The second field is the program's name in brackets, and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


class Heartbeat:
    """Writes the status of a run being trained, every `HEARTBEAT` seconds, also while a step, an evaluation
    or a checkpoint takes long. `step` is set by whoever trains."""

    def __init__(self, folder: Path, step: int, steps: int):
        self.folder, self.step, self.steps = folder, step, steps
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def start(self) -> None:
        write_status(self.folder, RUNNING, self.step, self.steps)
        self._thread.start()

    def end(self, state: str, message: str = "") -> None:
        """Write the last status. A disk too full even for that leaves the one before, and a dead process."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            write_status(self.folder, state, self.step, self.steps, message)
        except OSError:
            return

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            try:
                write_status(self.folder, RUNNING, self.step, self.steps)
            except OSError:
                continue  # a full disk is told by whoever saves; the next beat tries again


# ---------------------------------------------------------------------------------------------- asking


def write_command(folder: Path, argv: Sequence[str], version: str = "") -> None:
    """Note the command that is about to train this run."""
    files.write_json(folder / COMMAND_FILE, {"argv": list(argv), "started": time.time(), "version": version})


def ask_to_stop(folder: Path) -> None:
    """Ask the process that trains this run to save and stop after the step it is at."""
    files.write_bytes(folder / STOP_FILE, b"")


def stop_asked(folder: Path) -> bool:
    return (folder / STOP_FILE).exists()


def forget_stop(folder: Path) -> None:
    """Remove the request to stop: whoever starts a run does this first, and whoever has stopped."""
    (folder / STOP_FILE).unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------- checkpoints


@dataclass(frozen=True)
class SavedCheckpoint:
    """One of a run's checkpoints: a folder that is complete, as it appeared by a rename."""

    step: int
    path: Path

    def state(self) -> dict[str, Any]:
        """state.json. Raises CheckpointError if it cannot be read."""
        try:
            state = json.loads((self.path / STATE_FILE).read_text(encoding="utf-8"))
            return {**state, "step": int(state["step"]), "tokens": int(state["tokens"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.path / STATE_FILE} cannot be read ({type(error).__name__}). {OTHER_CHECKPOINTS}"
            ) from error


OTHER_CHECKPOINTS = "Delete that folder to go on from the checkpoint before it, or copy it here again."


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / CHECKPOINTS_FOLDER / f"step-{step:07d}"


def sample_path(folder: Path, step: int, number: int) -> Path:
    """Where a sample's trace is."""
    return folder / SAMPLES_FOLDER / f"step-{step:07d}-{number}{TRACE_SUFFIX}"


def sample_paths(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of all traces of samples."""
    found = [
        (_STEP.match(path.name), path) for path in (folder / SAMPLES_FOLDER).glob(f"step-*{TRACE_SUFFIX}")
    ]
    return sorted((int(match[1]), path) for match, path in found if match)


def checkpoints(folder: Path) -> list[SavedCheckpoint]:
    """All complete checkpoints, oldest first."""
    parent = folder / CHECKPOINTS_FOLDER
    if not parent.is_dir():
        return []
    found = [(match, path) for path in parent.iterdir() if (match := _STEP.fullmatch(path.name))]
    return sorted(
        (SavedCheckpoint(int(match[1]), path) for match, path in found if path.is_dir()),
        key=lambda saved: saved.step,
    )


def best_checkpoint(folder: Path) -> SavedCheckpoint | None:
    """The one with the lowest held-out loss with neighbours, measured at its own step; None if none was."""
    measured = []
    for saved in checkpoints(folder):
        try:
            on = saved.state().get("held_out_on")
        except CheckpointError:
            continue
        if isinstance(on, int | float):
            measured.append((on, saved.step, saved))
    return min(measured)[2] if measured else None


def has_checkpoint(folder: Path) -> bool:
    return bool(checkpoints(folder)) or (folder / OLD_CHECKPOINT_FILE).is_file()


def keep(folder: Path, newest: int) -> None:
    """Remove all checkpoints but the `newest` ones and the best."""
    found, best = checkpoints(folder), best_checkpoint(folder)
    for saved in found[: max(0, len(found) - newest)]:
        if saved != best:
            # Out of sight in one step: what is left of a folder half removed must not look like a checkpoint.
            away = saved.path.parent / f"{files.UNFINISHED}{saved.path.name}"
            shutil.rmtree(away, ignore_errors=True)
            os.rename(saved.path, away)
            shutil.rmtree(away, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written. Only for who holds the run's lock."""
    for parent in (folder, folder / CHECKPOINTS_FOLDER):
        for path in parent.glob(f"{files.UNFINISHED}*") if parent.is_dir() else ():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    parent = folder / CHECKPOINTS_FOLDER
    for path in parent.glob(f"{files.PREVIOUS}*") if parent.is_dir() else ():
        files.recover(parent / path.name.removeprefix(files.PREVIOUS))
