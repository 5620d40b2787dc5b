"""Training runs as child processes of our own command line: start, list, stop, resume, delete, compare.

All there is to know of a run lies in its folder (`run_folder`), so nothing here remembers anything: whoever
asks, page or command line, before a restart or after it, finds the same. A run lives on when its starter
ends, because it is a session of its own.

Who may train a run is told by two locks beside its folder, which the system lets go of when a process is
killed. `.NAME.lock` is held by whatever trains; `.NAME.process` is taken before a child is started and
inherited by it, so that of two starts at the same moment exactly one comes through.

Reading needs no torch, so that a page can ask every second from the first.
"""

import bisect
import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from indexing import files, paths
from indexing.errors import ConfigError, InputError, TrainingError
from retro_core import run_folder
from retro_core.config import TrainConfig, as_arguments, from_dict, read_object
from retro_core.presets import located
from retro_core.run_folder import (
    COMMAND_FILE,
    CONFIG_FILE,
    FAILED,
    FINISHED,
    LOG_FILE,
    METRICS_FILE,
    NOT_ANSWERING,
    RUNNING,
    SAMPLES_FILE,
    STOPPED,
    STOPPED_EXIT_CODE,
    Status,
)

EXIT_FILE = "exit.json"  # {"pid", "code"}: how a child ended, noted by the process that started it
LONGEST_TAIL = 64 << 10  # bytes of a log at once
GRACE = 60.0  # seconds that a run has to save after it was asked to stop
_ROOT = Path(__file__).resolve().parent.parent
_NICENESS = 10  # the page and other programs come first
_LINES_OF_A_FAILURE = 20
_METRICS_AT_ONCE = 4 << 20  # bytes
_LOOKED_BACK = 256 << 10  # bytes of the metrics in which the newest are sought
_POLL = 0.1  # seconds
_ENDING = 30.0  # seconds in which a process that has said its last word is waited for
_DELETED = ".deleted-"
_LOG_BEGINS = "---- started "


@dataclass(frozen=True)
class RunInfo:
    """A run as it is now.

    state      RUNNING, NOT_ANSWERING (its process lives and said nothing for half a minute), FINISHED,
               STOPPED or FAILED
    pid        of the process that trains it or did last
    started    of the last command, and updated, of the last sign of life: seconds since 1970
    message    one sentence, empty while all is well
    exit_code  of the last process; negative for a signal; None while it runs and where nobody saw it end
    settings   config.json
    argv       the exact command
    training   the newest line about a step, held_out the newest about an evaluation; None before the first
    log        the last lines of a run that failed
    """

    name: str
    folder: Path
    state: str
    pid: int | None
    step: int
    steps: int
    started: float | None
    updated: float | None
    message: str
    exit_code: int | None
    settings: dict[str, Any]
    argv: tuple[str, ...]
    training: dict[str, Any] | None
    held_out: dict[str, Any] | None
    log: str

    @property
    def active(self) -> bool:
        """Its process lives."""
        return self.state in (RUNNING, NOT_ANSWERING)


@dataclass(frozen=True)
class Lines:
    """Events of metrics or samples: new ones from where the last call ended.

    position   to be handed in the next time
    restarted  the file is not the one that was read before, as when a run was resumed from an earlier step:
               forget what you have, `events` begin at the beginning
    """

    events: list[dict[str, Any]]
    position: int
    restarted: bool


@dataclass(frozen=True)
class History:
    """What a run has logged, by name, for drawing: lists of one length, None where there is no finite number.

    training   step, tokens, loss, tokens_per_second; of very many lines, means of consecutive ones
    held_out   step, tokens, on, off, random, write_strength
    written    write strength by number of the layer, at the steps of `held_out`; empty where a run has only
               the mean, as older ones have
    """

    training: dict[str, list[float | None]]
    held_out: dict[str, list[float | None]]
    written: dict[int, list[float | None]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """Held-out nats per token of one run by step, and where it stands.

    best_step, best_on  of the lowest loss with neighbours
    """

    name: str
    state: str
    step: int
    tokens: int
    evaluations: list[dict[str, Any]]
    final_on: float | None
    final_off: float | None
    best_step: int | None
    best_on: float | None
    best_off: float | None


@dataclass(frozen=True)
class Comparison:
    """settings: name of a setting -> its value in each run, of those that differ; None where not told"""

    runs: list[Curve]
    settings: dict[str, list[Any]]


# ---------------------------------------------------------------------------------------------- look


def list_runs(experiment_dir: str = "") -> list[RunInfo]:
    """All runs, the one with the newest sign of life first. A run with damaged files is listed too: its
    message says what is wrong with it."""
    parent = Path(experiment_dir) if experiment_dir else paths.runs_dir()
    if not parent.is_dir():
        return []
    found = [_info(path) for path in parent.iterdir() if path.is_dir() and _is_run(path)]
    return sorted(found, key=lambda info: (info.updated or info.started or 0.0, info.name), reverse=True)


def show(name: str) -> RunInfo:
    """One run. Raises InputError if there is none of that name."""
    return _info(_folder(name))


def log_tail(name: str, size: int = LONGEST_TAIL) -> str:
    """The end of a run's log, whole lines of at most `size` bytes."""
    return _tail(_folder(name) / LOG_FILE, min(size, LONGEST_TAIL))


def metrics(name: str, after: int = 0) -> Lines:
    """What a run has logged since `after`, a `Lines.position`. A line that is being written, or is damaged,
    is not there; of very much only a part comes, ask again."""
    return _lines(_folder(name) / METRICS_FILE, after)


def samples(name: str, after: int = 0) -> Lines:
    """What a run has written as samples since `after`; see `metrics`."""
    return _lines(_folder(name) / SAMPLES_FILE, after)


def history(name: str, points: int = 400) -> History:
    """All that a run has logged so far, in at most so many points of training."""
    path = _folder(name) / METRICS_FILE
    try:
        facts = path.stat()
    except OSError:
        return _history(path, 0, 0, points)
    return _history(path, facts.st_size, facts.st_mtime_ns, points)


def sampled_steps(name: str) -> list[int]:
    """The steps at which a run has written samples."""
    return sorted({event["step"] for event in _all_samples(_folder(name))})


def samples_of(name: str, step: int) -> list[dict[str, Any]]:
    """What a run wrote as samples at this step; nothing if it wrote none then."""
    return [event for event in _all_samples(_folder(name)) if event["step"] == step]


def gains(name: str) -> list[list[float | None]]:
    """For each step of `sampled_steps` and each of its samples how much better the text was expected with the
    neighbours, in nats per token; None where that was not measured."""
    found: dict[int, list[float | None]] = {}
    for event in _all_samples(_folder(name)):
        both = zip(event["lp_on"], event["lp_off"], strict=True)
        known = [on - off for on, off in both if on is not None and off is not None]
        found.setdefault(event["step"], []).append(sum(known) / len(known) if known else None)
    return [found[step] for step in sorted(found)]


def sample_trace(name: str, step: int, number: int) -> Path | None:
    """The file of the trace of a sample, None where there is none: older runs have only their texts."""
    path = run_folder.sample_path(_folder(name), step, number)
    return path if path.is_file() else None


def compare(names: Sequence[str]) -> Comparison:
    """Some runs side by side. Raises InputError for a name that is no run's."""
    infos = [show(name) for name in names]
    keys = dict.fromkeys(
        key for info in infos for key in info.settings if key not in ("run", "experiment_dir")
    )
    values = {key: [info.settings.get(key) for info in infos] for key in keys}
    return Comparison(
        runs=[_curve(info) for info in infos],
        settings={key: row for key, row in values.items() if any(value != row[0] for value in row)},
    )


def follow(name: str) -> Iterator[str]:
    """The run's log from its last start on, as it grows, until its process ends."""
    folder = _folder(name)
    position = _log_began(folder)
    while True:
        active = _info(folder).active  # before reading: what it wrote last is read too
        with suppress(OSError), open(folder / LOG_FILE, "rb") as file:
            file.seek(position)
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1] if active else data
            position += len(whole)
            if whole:
                yield whole.decode(errors="replace")
        if not active:
            return
        time.sleep(_POLL)


# ---------------------------------------------------------------------------------------------- act


def start(config: TrainConfig) -> RunInfo:
    """Begin a run in a process of its own, or go on with the run of that name.

    Raises what `estimates.check` does, before anything is written; TrainingError if the run is being trained
    already; ConfigError if it was begun with other settings.
    """
    if config.experiment_dir and not config.run:
        config = dataclasses.replace(config, run=run_folder.next_version(Path(config.experiment_dir)))
    config = located(config)
    folder = run_folder.run_folder(config.run, config.experiment_dir)
    if folder.is_dir():
        _refuse_active(folder)  # at once; the check takes seconds
    _check(config, folder)
    with _about_to_train(folder) as inherited:
        return _launch(config, folder, inherited)


def resume(name: str) -> RunInfo:
    """Go on with a run, with exactly the settings that it has. Raises like `start`; InputError if there is
    nothing left to do."""
    info = show(name)
    _refuse_active(info.folder)
    if info.state == FINISHED:
        raise InputError(
            f"Run {info.name!r} has done all of its {info.steps:,} steps. Start it with more steps to train "
            "it further."
        )
    config = from_dict(TrainConfig, read_object(info.folder / CONFIG_FILE))
    if info.folder != run_folder.run_folder(config.run, config.experiment_dir).absolute():
        # The folder was moved or copied, and is what counts.
        config = dataclasses.replace(config, run=info.folder.name, experiment_dir=str(info.folder.parent))
    return start(config)


def ask_to_stop(name: str) -> RunInfo:
    """Ask a run to save and stop, and return at once. Raises InputError if it does not run."""
    info = show(name)
    if not info.active:
        raise InputError(f"Run {info.name!r} is {info.state}, so there is nothing to stop.")
    run_folder.ask_to_stop(info.folder)
    with suppress(ProcessLookupError, PermissionError):
        os.kill(info.pid, signal.SIGTERM)
    return info


def stop(name: str, grace: float = GRACE) -> RunInfo:
    """Ask a run to save and stop, and wait until it has; after `grace` seconds its process group is killed.
    Raises InputError if it does not run."""
    info = ask_to_stop(name)
    status = run_folder.read_status(info.folder)
    if not _wait_until_gone(status, grace):
        _kill(status)
        _wait_until_gone(status, GRACE)
        now = run_folder.read_status(info.folder)
        message = (
            f"It did not save within {grace:g} seconds and was ended. It goes on from the step that was "
            "saved last."
        )
        run_folder.write_status(info.folder, STOPPED, now.step, now.steps, message, pid=status.pid)
        run_folder.forget_stop(info.folder)
    return _info(info.folder)


def delete(name: str) -> None:
    """Remove a run and all that it saved: it is gone from the list in one step. Raises InputError if there is
    none, TrainingError if it is being trained."""
    folder = _folder(name)
    with _about_to_train(folder):
        away = folder.parent / f"{_DELETED}{folder.name}-{os.getpid()}-{time.time_ns()}"
        os.rename(folder, away)
    for left in folder.parent.glob(f"{_DELETED}*"):  # also of a deletion that was killed
        shutil.rmtree(left, ignore_errors=True)


def command(config: TrainConfig) -> list[str]:
    """The command that trains a run of these settings."""
    return [sys.executable, "-m", "retro_core", "train", *as_arguments(config)]


# --------------------------------------------------------------------------------------------- processes


def _check(config: TrainConfig, folder: Path) -> None:
    # Here, because they need torch, and looking at runs does not.
    from retro_core import estimates
    from retro_core.training import check_same_settings

    check_same_settings(folder, config, {})
    estimates.check(config)


def _launch(config: TrainConfig, folder: Path, inherited: int) -> RunInfo:
    """Start the child, with the lock of the descriptor `inherited` for its life."""
    folder.mkdir(parents=True, exist_ok=True)
    run_folder.forget_stop(folder)
    (folder / EXIT_FILE).unlink(missing_ok=True)
    if not run_folder.has_checkpoint(folder):
        files.write_json(folder / CONFIG_FILE, config.to_dict())
    argv = command(config)
    run_folder.write_command(folder, argv)
    before = run_folder.read_status(folder)
    with open(folder / LOG_FILE, "ab") as log:
        log.write(f"{_LOG_BEGINS}{time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        log.flush()
        process = subprocess.Popen(
            argv,
            cwd=_ROOT,
            env=paths.child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(inherited,),
        )
    with suppress(ProcessLookupError, PermissionError):
        os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
    # It takes seconds until it can say so itself.
    step = before.step if before else 0
    run_folder.write_status(folder, RUNNING, step, config.steps, run_folder.STARTING, pid=process.pid)
    # Who collects a child that has ended is its parent, as long as there is one.
    threading.Thread(target=_collect, args=(process, folder), name="run", daemon=True).start()
    return _info(folder)


def _collect(process: subprocess.Popen, folder: Path) -> None:
    code = process.wait()
    with suppress(OSError):  # deleted meanwhile, or a full disk
        if folder.is_dir():
            files.write_json(folder / EXIT_FILE, {"pid": process.pid, "code": code})


@contextmanager
def _about_to_train(folder: Path) -> Iterator[int]:
    """Be the only one who starts or deletes this run; the descriptor of a lock that a child can inherit.

    Raises TrainingError if somebody else is at it, or the run is being trained.
    """
    import fcntl  # not on Windows

    folder.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder.parent / f".{folder.name}.process", os.O_RDWR | os.O_CREAT, 0o644)
    until = time.monotonic() + _ENDING
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with files.lock(folder):
                    break
            except (BlockingIOError, TimeoutError):
                status = run_folder.read_status(folder)
                ended = status is not None and status.state not in (RUNNING, NOT_ANSWERING)
                if not ended or time.monotonic() > until:
                    raise _being_trained(folder.name) from None
            time.sleep(_POLL)
        yield descriptor
    finally:
        os.close(descriptor)  # a child that inherited it holds the lock on


def _refuse_active(folder: Path) -> None:
    status = run_folder.read_status(folder)
    if status and status.state in (RUNNING, NOT_ANSWERING):
        raise _being_trained(folder.name)


def _being_trained(name: str) -> TrainingError:
    return TrainingError(
        f"Run {name!r} is being trained at this moment. Stop it first, with "
        f"`python -m retro_core runs stop {name}`, or wait until it has ended."
    )


def _wait_until_gone(status: Status, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while run_folder.is_alive(status.pid, status.pid_started):
        if time.monotonic() > until:
            return False
        time.sleep(_POLL)
    return True


def _kill(status: Status) -> None:
    """End the process and, if it leads a session of its own as our children do, what belongs to it."""
    with suppress(ProcessLookupError, PermissionError):
        if os.getpgid(status.pid) == status.pid:
            os.killpg(status.pid, signal.SIGKILL)
        else:
            os.kill(status.pid, signal.SIGKILL)


# ---------------------------------------------------------------------------------------------- files


def _folder(name: str) -> Path:
    folder = run_folder.run_folder(name).absolute()
    if not _is_run(folder):
        raise InputError(
            f"There is no run {name!r} in {folder.parent}. See which there are with "
            "`python -m retro_core runs`."
        )
    return folder


def _is_run(folder: Path) -> bool:
    """Nothing else is taken for a run, as one can be deleted: a model has a config.json too."""
    told = any((folder / name).exists() for name in (run_folder.STATUS_FILE, COMMAND_FILE))
    older = (folder / CONFIG_FILE).exists() and (folder / METRICS_FILE).exists()
    return not folder.name.startswith(".") and (told or older)


def _info(folder: Path) -> RunInfo:
    wrong: list[str] = []

    def read(name: str) -> dict[str, Any]:
        try:
            return read_object(folder / name)
        except ConfigError as error:
            if (folder / name).exists():
                wrong.append(str(error))
            return {}

    settings, begun, ended = read(CONFIG_FILE), read(COMMAND_FILE), read(EXIT_FILE)
    training, held_out = _newest(folder / METRICS_FILE)
    status = run_folder.read_status(folder) or _status_without_one(folder, settings, training)
    code = ended.get("code") if ended.get("pid") == status.pid else None
    message = " ".join([status.message, *wrong]).strip()
    if status.state == FAILED and status.message == run_folder.LOST and code == -signal.SIGKILL:
        message = (
            "The process was killed. If nobody did that, the computer ran out of memory: lower batch_size or "
            "max_len. What it saved is there; resume the run."
        )
    if status.state == FAILED and status.message == run_folder.LOST and run_folder.stop_asked(folder):
        status = dataclasses.replace(status, state=STOPPED)  # before it could hear that it shall
        message = "Stopped before it had anything new to save."
    if code is None:
        code = {FINISHED: 0, STOPPED: STOPPED_EXIT_CODE}.get(status.state)
    started, argv = begun.get("started"), begun.get("argv")
    return RunInfo(
        name=folder.name,
        folder=folder,
        state=status.state,
        pid=status.pid or None,
        step=max(status.step, (training or {}).get("step", 0)),  # the status is some seconds old
        steps=status.steps,
        started=float(started) if isinstance(started, int | float) else None,
        updated=status.updated or None,
        message=message,
        exit_code=code if isinstance(code, int) else None,
        settings=settings,
        argv=tuple(map(str, argv)) if isinstance(argv, list) else (),
        training=training,
        held_out=held_out,
        log=_last_lines(folder / LOG_FILE) if status.state == FAILED else "",
    )


def _status_without_one(folder: Path, settings: dict[str, Any], training: dict[str, Any] | None) -> Status:
    """Of a run from before runs had a status."""
    step, steps = (training or {}).get("step", 0), settings.get("steps", 0)
    step, steps = (value if isinstance(value, int) else 0 for value in (step, steps))
    state = FINISHED if steps and step >= steps else STOPPED
    updated = float((training or {}).get("time") or 0)
    return Status(
        state, 0, None, step, steps, "It has no status: it was trained by an older version.", updated
    )


def _newest(path: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(newest line about a step, newest about an evaluation)"""
    found: dict[str, dict[str, Any]] = {}
    for line in _tail(path, _LOOKED_BACK).splitlines():
        event = _parsed(line)
        if event is not None:
            found[event["event"]] = event
    return found.get("StepDone"), found.get("Evaluated")


def _parsed(line: str | bytes) -> dict[str, Any] | None:
    """One line of metrics or samples; None if it is damaged."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    fits = (
        isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("step"), int)
    )
    return event if fits else None


def _lines(path: Path, after: int) -> Lines:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            restarted = not 0 <= after <= size
            if 0 < after <= size:
                file.seek(after - 1)
                restarted = file.read(1) != b"\n"
            after = 0 if restarted else after
            file.seek(after)
            data = file.read(_METRICS_AT_ONCE)
    except OSError:
        return Lines([], 0, after > 0)
    data = data[: data.rfind(b"\n") + 1]
    events = [event for event in map(_parsed, data.splitlines()) if event is not None]
    return Lines(events, after + len(data), restarted)


@lru_cache(maxsize=16)
def _history(path: Path, size: int, changed: int, points: int) -> History:
    """`size` and `changed` say which state of the file is meant."""
    kinds: dict[str, dict[int, dict[str, Any]]] = {"StepDone": {}, "Evaluated": {}}
    for event in _all_lines(path):
        if event["event"] in kinds:
            kinds[event["event"]][event["step"]] = event
    training, held_out = ([kind[step] for step in sorted(kind)] for kind in kinds.values())
    drawn = _columns(training, ("step", "tokens", "loss", "tokens_per_second"))
    told = _columns(held_out, ("step", "on", "off", "random", "write_strength"))
    told["tokens"] = [_tokens_at(step, drawn) for step in told["step"]]
    together = -(-len(training) // points) if training else 1
    means = {key: _means(column, together) for key, column in drawn.items()}
    return History(means, told, _written(held_out))


def _written(held_out: Sequence[dict[str, Any]]) -> dict[int, list[float | None]]:
    """Of what evaluations say by layer: a column a layer. JSON's keys are texts, and here perhaps any."""
    said = [event.get("write_strength_by_layer") for event in held_out]
    by_layer = [one if isinstance(one, dict) else {} for one in said]
    named = {key for one in by_layer for key in one if re.fullmatch("0|[1-9][0-9]{0,3}", key)}
    return {int(key): [_finite(one.get(key)) for one in by_layer] for key in sorted(named, key=int)}


def _columns(events: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, list[float | None]]:
    return {name: [_finite(event.get(name)) for event in events] for name in names}


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def _means(column: list[float | None], together: int) -> list[float | None]:
    if together == 1:
        return column
    found = []
    for start in range(0, len(column), together):
        values = [value for value in column[start : start + together] if value is not None]
        found.append(sum(values) / len(values) if values else None)
    return found


def _tokens_at(step: float | None, training: dict[str, list[float | None]]) -> float | None:
    """How many tokens a run had seen at a step, which lies between two lines or on one."""
    known = [(s, t) for s, t in zip(training["step"], training["tokens"], strict=True) if None not in (s, t)]
    if step is None or not known:
        return None
    place = bisect.bisect_left(known, (step, -1))
    (s, t), (s1, t1) = known[max(0, place - 1)], known[min(place, len(known) - 1)]
    return t if s1 == s else t + (t1 - t) * (step - s) / (s1 - s)


def _all_lines(path: Path) -> Iterator[dict[str, Any]]:
    position, more = 0, True
    while more:
        lines = _lines(path, position)
        more, position = lines.position > position, lines.position
        yield from lines.events


def _all_samples(folder: Path) -> list[dict[str, Any]]:
    path = folder / SAMPLES_FILE
    try:
        facts = path.stat()
    except OSError:
        return []
    return _read_samples(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=4)
def _read_samples(path: Path, size: int, changed: int) -> list[dict[str, Any]]:
    return [_sample(event) for event in _all_lines(path) if event["event"] == "Sampled"]


def _sample(event: dict[str, Any]) -> dict[str, Any]:
    """What a line says, in the types that are promised: the file may be damaged, or anybody's."""
    words = {
        key: value if isinstance(value := event.get(key), str) else ""
        for key in ("prompt", "on", "off", "original")
    }
    lists = {
        key: value if isinstance(value := event.get(key), list) else []
        for key in ("tokens", "lp_on", "lp_off", "read")
    }
    told = {"read": [text for text in lists["read"] if isinstance(text, str)]}
    for key in ("lp_on", "lp_off"):
        told[key] = [_finite(value) for value in lists[key]]
    whole = len(told["lp_on"]) == len(told["lp_off"]) == len(lists["tokens"])
    if not whole or not all(isinstance(token, str) for token in lists["tokens"]):
        lists["tokens"] = told["lp_on"] = told["lp_off"] = []
    return {"step": event["step"], **words, "tokens": lists["tokens"], **told}


def _tail(path: Path, size: int) -> str:
    """The last whole lines of a text file, at most `size` bytes; of a longer line its end."""
    try:
        with open(path, "rb") as file:
            begin = max(0, os.fstat(file.fileno()).st_size - size)
            file.seek(begin)
            data = file.read(size)
    except OSError:
        return ""
    if begin and b"\n" in data[:-1]:
        data = data[data.index(b"\n") + 1 :]
    return data.decode(errors="replace")


def _last_lines(path: Path) -> str:
    return "\n".join(_tail(path, LONGEST_TAIL).splitlines()[-_LINES_OF_A_FAILURE:])


def _log_began(folder: Path) -> int:
    """Where in the log the last start is, as far as the log's end shows."""
    try:
        with open(folder / LOG_FILE, "rb") as file:
            begin = max(0, os.fstat(file.fileno()).st_size - _LOOKED_BACK)
            file.seek(begin)
            return begin + max(0, file.read().rfind(_LOG_BEGINS.encode()))
    except OSError:
        return 0


def _curve(info: RunInfo) -> Curve:
    evaluations: dict[int, dict[str, Any]] = {}
    for event in _all_lines(info.folder / METRICS_FILE):
        if event["event"] == "Evaluated" and isinstance(event.get("on"), int | float):
            kept = ("step", "on", "off", "random")
            evaluations[event["step"]] = {key: event.get(key) for key in kept}
    rows = [evaluations[step] for step in sorted(evaluations)]
    best = min(rows, key=lambda row: row["on"], default=None)
    last = rows[-1] if rows else None
    return Curve(
        name=info.name,
        state=info.state,
        step=info.step,
        tokens=(info.training or {}).get("tokens", 0),
        evaluations=rows,
        final_on=last and last["on"],
        final_off=last and last["off"],
        best_step=best and best["step"],
        best_on=best and best["on"],
        best_off=best and best["off"],
    )
