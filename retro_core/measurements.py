"""Measurements as child processes of our own command line: begin, find again, stop, go on with, delete.

    $RETRO_HOME/measurements/NAME/
        order.json      what was asked for, and the exact command
        texts.jsonl     the documents that are measured
        process.json    {"pid", "pid_started", "started"}: the process that measures, or did last
        stop            a file: somebody asked it to stop
        log.txt         what the process said
        …               what `evaluate --out` writes: progress, finished parts, the result, the report

All there is to know lies in the folder, so whoever asks, before a restart of the server or after it, finds
the same; the process is a session of its own and goes on when its starter ends. It may be killed at any
moment: finished parts are kept, and `resume` computes only the others.

Reading needs no torch, so that a page can ask every second.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from indexing import files, paths
from indexing.corpus import Document
from indexing.errors import InputError
from retro_core.config import EvaluationConfig, as_arguments
from retro_core.evaluation.result import PROGRESS_FILE, RESULT_FILE, SO_FAR_FILE
from retro_core.run_folder import is_alive, process_start

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
ORDER_FILE, TEXTS_FILE, PROCESS_FILE, STOP_FILE = "order.json", "texts.jsonl", "process.json", "stop"
LOG_FILE = "log.txt"

_ROOT = Path(__file__).resolve().parent.parent
_NICENESS = 10  # the page and other programs come first
_DELETED = ".deleted-"
_GRACE = 5.0  # seconds until a process that was asked to end is killed
_LAST_OF_THE_LOG = 8192  # bytes
_LOST = "The process is gone and did not say why: it was killed, or the computer went down."


@dataclass(frozen=True)
class Order:
    """What to measure.

    title      what is measured on, for people · kind: where it comes from, a word of the page's own
    probe      how the result calls these documents
    model, datastore  names · parts, readings: of `evaluate`
    settings   changes to `EvaluationConfig`
    leakage    neighbours that share so much of a chunk with what comes next are left out; None for none
    swap       whether the fact swap is measured too
    """

    title: str
    kind: str
    probe: str
    model: str
    datastore: str
    parts: tuple[str, ...]
    readings: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    leakage: float | None = None
    swap: bool = False

    def arguments(self) -> list[str]:
        """Of `python -m retro_core`, in the measurement's folder. Raises ConfigError for settings that cannot
        be."""
        config = EvaluationConfig(**self.settings)
        return [
            "evaluate",
            f"{self.probe}={TEXTS_FILE}",
            "--model", self.model,
            "--datastore", self.datastore,
            "--parts", ",".join([*self.parts, *(["swap"] if self.swap else [])]),
            "--readings", ",".join(self.readings),
            *as_arguments(config),
            *([] if self.leakage is None else ["--leakage", str(self.leakage)]),
            *(["--swap"] if self.swap else []),
            "--out", ".",
        ]  # fmt: skip


@dataclass(frozen=True)
class Measurement:
    """One measurement as it is now.

    state     RUNNING, FINISHED, STOPPED or FAILED; the last two can be gone on with
    progress  what `evaluate` noted last, see `retro_core.evaluation.measure`; empty before
    message   one sentence, empty while all is well
    started   seconds since 1970, of the last process
    changed   changes when there is more of a result to be read
    """

    name: str
    folder: Path
    order: Order
    state: str
    progress: dict[str, Any]
    message: str
    started: float
    changed: int

    @property
    def active(self) -> bool:
        return self.state == RUNNING


# ---------------------------------------------------------------------------------------------- look


def list_measurements() -> list[Measurement]:
    """All there are, the last begun first; folders that are not ours to read are passed over."""
    found = []
    folder = paths.measurements_dir()
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.name.startswith(".") and (path / ORDER_FILE).is_file():
            with suppress(InputError):
                found.append(_info(path))
    return sorted(found, key=lambda one: one.name, reverse=True)


def show(name: str) -> Measurement:
    """Raises InputError if there is none of that name."""
    folder = paths.measurements_dir() / paths.check_name(name)
    if not (folder / ORDER_FILE).is_file():
        raise InputError(f"There is no measurement {name!r}; it may have been deleted. Choose another one.")
    return _info(folder)


def result(name: str) -> dict[str, Any] | None:
    """What was measured, whole or so far; None before anything was."""
    folder = show(name).folder
    return _read(folder / RESULT_FILE) or _read(folder / SO_FAR_FILE) or None


# ---------------------------------------------------------------------------------------------- act


def new_name(now: float | None = None) -> str:
    """Sorts by time, and cannot be guessed."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + "-" + secrets.token_hex(4)


def start(name: str, order: Order, documents: Sequence[Document], at_once: int = 1) -> Measurement:
    """Begin to measure in a process of its own.

    Raises InputError if there is nothing to measure on, if the name is taken, or if `at_once` measurements
    are going on already; ConfigError for settings that cannot be.
    """
    if not documents:
        raise InputError("There is no document to measure on. Give a text, or choose other documents.")
    folder = paths.measurements_dir() / paths.check_name(name)
    arguments = order.arguments()
    with _starting(at_once):
        if folder.exists():
            raise InputError(f"There is a measurement {name!r} already. Choose another name.")
        with files.new_folder(folder) as new:
            rows = [{"id": one.id, "title": one.title, "text": one.text} for one in documents]
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            files.write_bytes(new / TEXTS_FILE, lines.encode("utf-8", "replace"))
            files.write_json(new / ORDER_FILE, {**asdict(order), "arguments": arguments})
        _launch(folder, arguments)
    return _info(folder)


def resume(name: str, at_once: int = 1) -> Measurement:
    """Go on with one that was stopped or has failed: only what is not there yet is computed. Raises like
    `start`; InputError if it runs or has finished."""
    info = show(name)
    if info.state in (RUNNING, FINISHED):
        raise InputError(f"This measurement is {info.state}; there is nothing to go on with.")
    with _starting(at_once):
        if _info(info.folder).active:
            raise InputError("This measurement is going on already.")
        _launch(info.folder, info.order.arguments())
    return _info(info.folder)


def stop(name: str) -> Measurement:
    """End its process; finished parts stay. One that has ended is left as it is."""
    info = show(name)
    if info.active:
        files.write_bytes(info.folder / STOP_FILE, b"")
        _end(_read(info.folder / PROCESS_FILE))
    return _info(info.folder)


def delete(name: str) -> None:
    """Remove a measurement and all that it made. Raises InputError if there is none, or it runs."""
    info = show(name)
    if info.active:
        raise InputError("This measurement is going on. Stop it first, then it can be deleted.")
    _end(_read(info.folder / PROCESS_FILE))  # it may still draw the report
    away = info.folder.parent / f"{_DELETED}{info.name}-{time.time_ns()}"
    os.rename(info.folder, away)
    for left in info.folder.parent.glob(f"{_DELETED}*"):  # also of a deletion that was killed
        shutil.rmtree(left, ignore_errors=True)


# ---------------------------------------------------------------------------------------------- inside


@contextmanager
def _starting(at_once: int) -> Iterator[None]:
    """To be the only one who starts a measurement, and only where fewer than `at_once` are going on."""
    paths.measurements_dir().mkdir(parents=True, exist_ok=True)
    try:
        lock = files.lock(paths.measurements_dir() / "starting").acquire()
    except TimeoutError as error:
        raise InputError("Another measurement is just being begun. Try again in a moment.") from error
    with lock:
        if sum(one.active for one in list_measurements()) >= at_once:
            raise InputError(
                "Another measurement is going on, and one at a time keeps the processors busy. Wait until it "
                "has finished, or stop it if it is yours. What you entered is kept."
            )
        yield


def command(arguments: Sequence[str]) -> list[str]:
    """-P: what lies in the folder that it runs in is not for importing."""
    return [sys.executable, "-P", "-m", "retro_core", *arguments]


def _launch(folder: Path, arguments: Sequence[str]) -> None:
    (folder / STOP_FILE).unlink(missing_ok=True)
    (folder / PROGRESS_FILE).unlink(missing_ok=True)
    environment = paths.child_environment()
    found = [str(_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    with open(folder / LOG_FILE, "wb") as log:
        process = subprocess.Popen(
            command(arguments),
            cwd=folder,  # so that the command that a report quotes names no folder of the server's
            env={**environment, "PYTHONPATH": os.pathsep.join(found)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with suppress(ProcessLookupError, PermissionError):
        os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
    facts = {"pid": process.pid, "pid_started": process_start(process.pid), "started": time.time()}
    files.write_json(folder / PROCESS_FILE, facts)
    # Who collects a child that has ended is its parent, as long as there is one.
    threading.Thread(target=process.wait, name="measurement", daemon=True).start()


def _end(process: dict[str, Any]) -> None:
    """SIGTERM to the process and what belongs to it, and SIGKILL to whoever does not hear it."""
    pid, started = process.get("pid"), process.get("pid_started")
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not isinstance(pid, int) or not is_alive(pid, started):
            return
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) == pid:  # as our children do, it leads a session of its own
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
        until = time.monotonic() + _GRACE
        while is_alive(pid, started) and time.monotonic() < until:
            time.sleep(0.02)


def _info(folder: Path) -> Measurement:
    order = _order(folder)
    process, message = _read(folder / PROCESS_FILE), ""
    pid, started = process.get("pid"), process.get("started")
    alive = isinstance(pid, int) and 0 < pid < 1 << 31 and is_alive(pid, process.get("pid_started"))
    # The result is written before the report is drawn, which takes seconds: it is there to be seen already.
    if (folder / RESULT_FILE).is_file():
        state = FINISHED
    elif alive:
        state = RUNNING
    elif (folder / STOP_FILE).exists():
        state = STOPPED
    else:
        state, message = FAILED, _said_last(folder / LOG_FILE)
    newest = 0
    for name in (RESULT_FILE, SO_FAR_FILE):
        with suppress(OSError):
            newest = newest or (folder / name).stat().st_mtime_ns
    return Measurement(
        name=folder.name,
        folder=folder,
        order=order,
        state=state,
        progress=_read(folder / PROGRESS_FILE),
        message=message,
        started=float(started) if isinstance(started, int | float) else 0.0,
        changed=newest,
    )


def _order(folder: Path) -> Order:
    try:
        values = json.loads((folder / ORDER_FILE).read_text(encoding="utf-8"))
        values.pop("arguments", None)
        return Order(
            **{**values, "parts": tuple(values["parts"]), "readings": tuple(values["readings"])},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"The measurement {folder.name!r} is damaged: its order cannot be read.") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _said_last(log: Path) -> str:
    """The sentence with which the command line ended, where it did."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LAST_OF_THE_LOG))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return said[-1] if said else _LOST
