"""What strangers leave behind on a shared server is removed: what nobody used for as long as the policy keeps
it, what was never finished, what has passed through the page; the longest unused first on a full disk.

Only what carries a visitor's mark is touched, and files of the page's own folder for passing things. Nothing
that ships, nothing that the server's owner made, nothing at all where there are no strangers.
"""

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from app import owners, policy, settings
from indexing import files, paths
from indexing.errors import RetroError
from retro_core import measurements, runs

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Left:
    """Something of a visitor's on the disk, and how to remove it."""

    path: Path
    used: float
    remove: Callable[[], None]

    @property
    def bytes(self) -> int:
        if self.path.is_file():
            return self.path.stat().st_size
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def start() -> None:
    """Sweep every minute from now on, where strangers share the server."""
    if policy.mode() is policy.Mode.PUBLIC:
        threading.Thread(target=_sweep_for_ever, daemon=True, name="janitor").start()


def _sweep_for_ever() -> None:
    while True:
        try:
            sweep(time.time())
        except Exception as error:  # a janitor who is gone would be noticed only when the disk is full
            _log.exception("The janitor stumbled", exc_info=error)
        time.sleep(settings.SECONDS_BETWEEN_SWEEPS)


def sweep(now: float) -> list[str]:
    """Remove what is due at `now` (seconds since 1970); the names of it."""
    removed = []
    for left in sorted(_left_behind(), key=lambda left: left.used):
        if now - left.used > 60 * policy.keep_minutes(left.path.name) and _remove(left):
            removed.append(left.path.name)
    removed += _make_room()
    for path in _passing(now):
        _forget(path)
        removed.append(path.name)
    return removed


def _left_behind() -> Iterator[Left]:
    """All that visitors have here, finished or not."""
    for folder in (paths.datastores_dir(), paths.training_sets_dir()):
        for path in _marked(folder):
            yield Left(path, _last_used(path), lambda path=path: _remove_unless_written(path))
    for folder, delete in ((paths.runs_dir(), runs.delete), (paths.measurements_dir(), measurements.delete)):
        for path in _marked(folder):
            if path.name.startswith("."):
                yield Left(path, _last_used(path), lambda path=path: _forget(path))
            else:
                yield Left(path, _last_used(path), lambda path=path, delete=delete: delete(path.name))


def _marked(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (path for path in folder.iterdir() if owners.find_mark(path.name))


def _last_used(path: Path) -> float:
    """When it was opened or written last; of a folder that something writes into, when that was."""
    times = [0.0]
    for one in [path, *(path.iterdir() if path.is_dir() else ())]:
        with suppress(OSError):  # removed meanwhile
            times.append(one.stat().st_mtime)
    return max(times)


def _remove(left: Left) -> bool:
    """False where it is in use."""
    try:
        left.remove()
    except (RetroError, filelock.Timeout, OSError) as error:
        _log.info("%s stays for now: %s", left.path.name, error)
        return False
    return True


def _remove_unless_written(path: Path) -> None:
    """All at once for whoever looks; an unreadable datastore too."""
    if path.name.startswith("."):
        _forget(path)
        return
    with files.lock(path):
        gone = path.with_name(f"{files.UNFINISHED}{path.name}-{time.time_ns()}")
        path.rename(gone)
    _forget(gone)


def _make_room() -> list[str]:
    """Remove what was not used for the longest time until all of it together fits."""
    left = sorted(_left_behind(), key=lambda left: left.used)
    sizes = [one.bytes for one in left]
    removed, total = [], sum(sizes)
    for one, size in zip(left, sizes, strict=True):
        if total <= settings.DISK_OF_STRANGERS:
            break
        if _remove(one):
            total -= size
            removed.append(one.path.name)
    return removed


def _passing(now: float) -> Iterator[Path]:
    """Exports that were downloaded or forgotten, uploads, and parts of uploads that were cut off."""
    with suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob("retro-export-*"):
            if now - path.stat().st_mtime > settings.EXPORTS_KEPT:
                yield path
    with suppress(OSError):
        for path in settings.passing_files().iterdir():
            part = path.is_file() and path.name.startswith("tmp")
            if now - _last_used(path) > (settings.PARTS_KEPT if part else settings.CACHE_SWEPT[1]):
                yield path


def _forget(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
