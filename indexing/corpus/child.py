"""Parsing in a process of its own, so that a file can waste that process' time and memory only."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from indexing.corpus.documents import shown
from indexing.errors import CorpusError

_ROOT = Path(__file__).resolve().parent.parent.parent
_FILES_A_CHILD = 100  # then a new one: parsers keep things
_LONGEST_ANSWER = 256 << 20  # bytes


@dataclass(frozen=True)
class Limits:
    """What reading one file may take. Tables (.parquet) may take the time for every thousand rows."""

    seconds: float = 90
    cpu_seconds: int = 60
    memory: int = 1 << 30  # bytes of addresses, the parser itself included
    table_memory: int = 3 << 30
    characters: int = 50_000_000


class Child:
    """A `parse` process: begun when needed, replaced when it dies, ended by leaving the `with` block."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._process: subprocess.Popen | None = None
        self._files = 0
        self._memory = 0  # bytes that the process may have

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_) -> None:
        self.end()

    def end(self) -> None:
        if self._process:
            self._process.kill()
            with suppress(BrokenPipeError):  # a request that it did not live to read
                self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()
            self._process = None

    def answers(self, kind: str, path: Path, name: str, column: str = "") -> Iterator[dict]:
        """What `parse` answers to one file but for the end, which is an end here or a CorpusError.

        Close it before asking for the next file: the child is in the midst of this one.
        """
        limits = self._limits
        memory = limits.table_memory if kind == "parquet" else limits.memory
        # Parsers keep things, and that of tables more addresses than others may have at all.
        if self._files >= _FILES_A_CHILD or memory != self._memory:
            self.end()
        if self._process is None:
            self._begin()
            self._memory = memory
        self._files += 1
        request = {
            "kind": kind,
            "path": str(path.resolve()),
            "name": name,
            "column": column,
            "memory": memory,
            "cpu": limits.cpu_seconds,
            "output": limits.characters,
        }
        done = False
        try:
            left = limits.seconds
            try:
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
            except OSError as error:
                raise _refused(name, "its parser broke down. Try again") from error
            while True:
                begin = time.monotonic()
                answer = self._answer(name, left)
                # The time is the child's: what is done with an answer takes as long as it takes.
                left = limits.seconds if "rows" in answer else left - (time.monotonic() - begin)
                if "end" in answer:
                    done = True
                    return
                if "error" in answer:
                    done = not answer.get("spent")
                    raise _refused(name, answer["error"])
                if "sentence" in answer:
                    done = True
                    raise CorpusError(answer["sentence"])
                yield answer
        finally:
            if not done:
                self.end()

    def _begin(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "indexing.corpus.parse"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us: we end the child
        )
        self._files = 0

    def _answer(self, name: str, seconds: float) -> dict:
        process = self._process
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        clock = threading.Timer(max(0.0, seconds), stop)
        clock.daemon = True
        clock.start()
        try:
            line = process.stdout.readline(_LONGEST_ANSWER)
        finally:
            clock.cancel()
        too_long = "reading it took over {:g} s. Split it, or save it as plain text"
        if late.is_set():
            raise _refused(name, too_long.format(self._limits.seconds))
        if not line.endswith(b"\n"):
            process.kill()
            if -process.wait() == getattr(signal, "SIGXCPU", 0):
                raise _refused(name, too_long.format(self._limits.cpu_seconds))
            raise _refused(name, "its parser broke down over it. Save it as plain text")
        return json.loads(line)


def _refused(name: str, why: str) -> CorpusError:
    return CorpusError(f"Cannot read {shown(name)}: {why}.")
