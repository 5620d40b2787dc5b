"""Work that may be killed at any moment and goes on from its last checkpoint when it is run again.

Beside an output `chunks.npy` that is not finished lies a folder `chunks.npy.unfinished`:

    progress.json    what the work is made from, and how far it was at the last checkpoint
    NAME             arrays, whose rows after the checkpoint are cut off when the work goes on
    lock             held by the process at work

A folder of other work (another input, other settings) is emptied: what it holds would not fit.
"""

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from indexing import files
from indexing.errors import DatastoreError

SUFFIX = ".unfinished"
_PROGRESS = "progress.json"
_SECONDS_BETWEEN_CHECKPOINTS = 5.0


class Unfinished:
    """The unfinished results of one step; a context manager that lets go of them, finished or not.

    output     the file that the step makes, or the first of them
    made_from  JSON that tells everything the results depend on
    progress   JSON as of the last checkpoint, {} at the beginning
    """

    def __init__(self, output: Path, made_from: dict[str, Any]):
        self.folder = output.with_name(output.name + SUFFIX)
        self._output, self._made_from = output, made_from
        self._writers: dict[str, files.ArrayWriter] = {}
        self._last_checkpoint = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "w")  # noqa: SIM115 - closed by `__exit__`
        except OSError as error:
            raise DatastoreError(
                f"Cannot write {output}: {error.strerror}. Make room there, or choose another place."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise DatastoreError(
                f"Another process is making {output} at this moment. Wait for it, or choose another file."
            ) from error
        self.progress: dict[str, Any] = self._saved_progress()
        if not self.progress:
            self.clear()

    def _saved_progress(self) -> dict[str, Any]:
        try:
            saved = json.loads((self.folder / _PROGRESS).read_bytes())
            fits = saved["made_from"] == self._made_from
            return saved["progress"] if fits else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def clear(self) -> None:
        """Begin anew: nothing that was made so far counts any more."""
        self.progress = {}
        self._close_writers()
        for path in self.folder.iterdir():
            if path.name != "lock":
                path.unlink()

    def array(self, name: str, dtype: np.typing.DTypeLike, row_shape: tuple[int, ...], rows: int):
        """A writer for the array `name` after its first `rows` rows. Raises ValueError if they are not there
        (somebody took the file away); `clear` then."""
        self._writers[name] = files.ArrayWriter(self.folder / name, dtype, row_shape, keep=rows)
        return self._writers[name]

    def path(self, name: str) -> Path:
        return self.folder / name

    def due(self) -> bool:
        """Whether the last checkpoint is some seconds ago."""
        return time.monotonic() - self._last_checkpoint > _SECONDS_BETWEEN_CHECKPOINTS

    def checkpoint(self, progress: dict[str, Any]) -> None:
        """From here the work goes on if it is stopped: `progress` is true of what is on the disk."""
        for writer in self._writers.values():
            writer.sync()
        value = {"made_from": self._made_from, "progress": progress}
        files.write_json(self.folder / _PROGRESS, value)
        self.progress = progress
        self._last_checkpoint = time.monotonic()

    def publish(self, targets: dict[str, Path]) -> None:
        """Finish: each file of the folder gets its place, and the folder goes."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
        for name, target in targets.items():
            (self.folder / name).replace(target)
        for folder in {target.parent for target in targets.values()}:
            files.sync(folder)
        shutil.rmtree(self.folder)

    def __enter__(self) -> "Unfinished":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._close_writers()
        except OSError as full:  # what the last checkpoint tells of is on the disk all the same
            error = error or full
        self._lock.close()
        if isinstance(error, OSError):
            raise DatastoreError(
                f"Cannot write {self._output}: {error.strerror}. Make room there and run it again: it goes "
                "on from where it was."
            ) from error

    def _close_writers(self) -> None:
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            writer.close()


def write_rows(
    output: Path,
    made_from: dict[str, Any],
    dtype: np.typing.DTypeLike,
    shape: tuple[int, int],
    rows_of: Callable[[slice], np.ndarray],
    at_once: int,
) -> Iterator[tuple[int, str]]:
    """Write an array of `shape` (N, d) to `output`, each `at_once` rows as `rows_of` gives them; yields
    (rows done, a sentence or "").

    Stopped and run again with the same `made_from` it goes on where it was.
    """
    total, width = shape
    with Unfinished(output, made_from) as work:
        start = work.progress.get("rows", 0)
        try:
            writer = work.array("rows", dtype, (width,), start)
        except ValueError:  # somebody took the file away
            work.clear()
            start, writer = 0, work.array("rows", dtype, (width,), 0)
        yield start, f"going on after row {start:,}" if start else ""
        for begin in range(start, total, at_once):
            end = min(begin + at_once, total)
            writer.append(rows_of(slice(begin, end)))
            if work.due():
                work.checkpoint({"rows": end})
            if end < total:
                yield end, ""
        work.publish({"rows": output})
    if total > start:
        yield total, ""


def sha256(path: Path) -> str:
    """Of a file's content. Raises DatastoreError if it cannot be read."""
    try:
        return files.sha256(path)
    except OSError as error:
        raise DatastoreError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
