"""Child processes that may be killed, the protections that can be taken away in them, and points to kill at.

Children come from Python's fork server, which has the slow imports done: a new process costs milliseconds and
shares nothing with the test but its arguments.
"""

import builtins
import contextlib
import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parent.parent
PRELOADED = ["pytest", "faiss", "numpy", "reliability_world", "reliability_worker"]

FULL = os.environ.get("RETRO_PROFILE") == "full"


def amount(short: int, full: int) -> int:
    """How many trials: `short` by default, `full` with RETRO_PROFILE=full."""
    return full if FULL else short


class Died(Exception):
    """A child ended without an answer; `signal` is what killed it, or 0."""

    def __init__(self, signal_number: int):
        super().__init__(f"the child died of signal {signal_number}")
        self.signal = signal_number


class Raised(Exception):
    """What a child raised: the error's name, whether it is a RetroError, and its sentence."""

    def __init__(self, kind: str, ours: bool, sentence: str, trace: str):
        super().__init__(f"{kind}: {sentence}\n{trace}")
        self.kind, self.ours, self.sentence = kind, ours, sentence


@cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    inherited = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",  # a fork has no threads of its parent's
        "TOKENIZERS_PARALLELISM": "false",
    }
    before = {name: os.environ.get(name) for name in inherited}
    os.environ.update(inherited)
    try:
        context.Process(target=os.getpid).start()  # the first child starts the server, which keeps these
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return context


class Child:
    """`function(tell, *args)` running in a process group of its own; what it tells arrives in `told`.

    faults  names of `FAULTS` to apply in the child first
    """

    def __init__(self, function: Callable, *args: Any, faults: tuple[str, ...] = ()):
        self._pipe, theirs = _context().Pipe(duplex=False)
        self._process = _context().Process(target=_run, args=(theirs, faults, function, args), daemon=True)
        self._process.start()
        theirs.close()
        self.pid: int = self._process.pid

    def hear(self, timeout: float = 120) -> Any:
        """The next thing told. Raises Died when there is nothing more to come, TimeoutError."""
        if not self._pipe.poll(timeout):
            self.kill()
            raise TimeoutError(f"the child said nothing for {timeout} s")
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            raise Died(-min(self._process.exitcode, 0)) from None

    def hear_until(self, last: Any) -> list[Any]:
        """Everything told up to `last`."""
        told = [self.hear()]
        while told[-1] != last:
            told.append(self.hear())
        return told

    def rest(self) -> list[Any]:
        """Everything told that was not heard yet, to the end; the child must be dead or about to end."""
        told = []
        while True:
            try:
                told.append(self.hear())
            except Died:
                return told

    def result(self, timeout: float = 120) -> Any:
        """What the function returns. Raises Raised, Died, TimeoutError."""
        while True:
            kind, value = self.hear(timeout)
            if kind == "returned":
                self._process.join()
                return value
            if kind == "raised":
                self._process.join()
                raise Raised(*value)

    def stop(self) -> None:
        """Make the child stand still, and return when it does."""
        os.killpg(self.pid, signal.SIGSTOP)
        while Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "TZ":
            time.sleep(0.0005)

    def kill(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # it is quicker, or has no group yet
            self._process.kill()
        self._process.join()


def in_a_child(function: Callable, *args: Any, faults: tuple[str, ...] = (), timeout: float = 120) -> Any:
    """`function(*args)` in a new process. Raises Raised, Died, TimeoutError."""
    return Child(_silently, function, *args, faults=faults).result(timeout)


def _silently(tell: Callable, function: Callable, *args: Any) -> Any:
    return function(*args)


def _run(pipe: Any, faults: tuple[str, ...], function: Callable, args: tuple) -> None:
    from indexing.errors import RetroError

    os.setsid()
    for name in faults:
        FAULTS[name]()
    # One write for each message: it has arrived whole or not at all when the process is killed.
    tell = lambda kind, value=None: pipe.send((kind, value))  # noqa: E731
    tell("started")
    try:
        tell("returned", function(tell, *args))
    except BaseException as error:
        ours = isinstance(error, RetroError)
        tell("raised", (type(error).__name__, ours, str(error), traceback.format_exc(limit=-6)))


# ---- Points to kill at: every line of the modules that write -----------------------------------------------

# Tokenising and chunking write nothing, and would be nine lines of ten.
WRITERS = ("build", "upkeep", "catalogue", "segment", "files", "bundle", "manifest", "datastore", "embedder")


def trace_writers(at_line: Callable[[tuple[str, int]], None]) -> None:
    """Call `at_line` with (module, line) before each line that this process runs in `WRITERS`."""
    modules = {str(ROOT / "indexing" / f"{name}.py"): name for name in WRITERS}

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        name = modules.get(frame.f_code.co_filename)
        if name is None:
            return None

        def line(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                at_line((name, frame.f_lineno))
            return line

        return line

    threading.settrace(enter)
    sys.settrace(enter)


def lines_run(function: Callable, *args: Any) -> dict[tuple[str, int], int]:
    """How often `function(*args)` runs each line of the writers."""
    counts: dict[tuple[str, int], int] = {}
    trace_writers(lambda place: counts.__setitem__(place, counts.get(place, 0) + 1))
    try:
        function(*args)
    finally:
        sys.settrace(None)
        threading.settrace(None)
    return counts


def die_at(place: tuple[str, int], nth: int) -> None:
    """From now on: SIGKILL to this process when it comes to that line the `nth` time."""
    left = [nth]

    def at_line(here: tuple[str, int]) -> None:
        if here == place:
            left[0] -= 1
            if not left[0]:
                os.killpg(os.getpid(), signal.SIGKILL)

    trace_writers(at_line)


# ---- Faults: one protection less ---------------------------------------------------------------------------


def _no_fsync() -> None:
    os.fsync = lambda descriptor: None
    os.fdatasync = lambda descriptor: None


def _no_sqlite_fsync() -> None:
    def change(statement: str) -> str:
        return "" if "synchronous" in statement else statement

    _every_connection(change, "PRAGMA synchronous=OFF")


def _no_transactions() -> None:
    """Each statement is its own transaction."""

    def change(statement: str) -> str:
        return "" if statement.split()[0] in ("BEGIN", "COMMIT") else statement

    _every_connection(change)


def _every_connection(change: Callable[[str], str], first: str = "") -> None:
    class Changed(sqlite3.Connection):
        def execute(self, statement: str, *args: Any) -> sqlite3.Cursor:
            return super().execute(change(statement.strip()), *args)

        def executescript(self, statements: str) -> sqlite3.Cursor:
            kept = [change(statement.strip()) for statement in statements.split(";") if statement.strip()]
            return super().executescript(";".join(kept))

    connect = sqlite3.connect

    def changed(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **{**options, "factory": Changed, "isolation_level": None})
        if first:
            sqlite3.Connection.execute(connection, first)
        return connection

    sqlite3.connect = changed


def _lost_writes() -> None:
    """Files that drop what does not fit on the disk, as if nobody had looked at how writing went."""
    opening = builtins.open

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode == "wb" and not isinstance(file, int):
            return _Careless(opening(file, mode, buffering=0))
        return opening(file, mode, *args, **options)

    builtins.open = opened


class _Careless:
    def __init__(self, file: Any):
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Careless":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        before = self._file.tell()
        length = memoryview(data).nbytes
        written = 0
        with contextlib.suppress(OSError):
            written = self._file.write(data)
        if written < length:
            self._file.truncate(before)
        return length


class _EqualToAll(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


class _HoldsAll(set):
    def __contains__(self, _: object) -> bool:
        return True


def _no_checksums() -> None:
    """Files of the right size are taken as they are."""
    from indexing import built, catalogue, manifest

    manifest._sha256 = lambda file: _EqualToAll()
    catalogue.State.checksum = property(lambda state: _EqualToAll())
    built._verified = _HoldsAll()


def _no_lock() -> None:
    import fcntl

    fcntl.flock = lambda *_: None


FAULTS: dict[str, Callable[[], None]] = {
    "no fsync": lambda: (_no_fsync(), _no_sqlite_fsync()),
    "only sqlite's fsync": _no_fsync,
    "no transactions": _no_transactions,
    "lost writes": _lost_writes,
    "no checksums": _no_checksums,
    "no lock": _no_lock,
}
