"""On a full disk, or one that fails, a step stops with one sentence; what was there stays, and the step works
later."""

import builtins
import errno
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reliability_worker import FULL, amount, in_a_child
from reliability_world import ABSENT, BASE, Step, make, state

from indexing.errors import RetroError

BIG = {
    "build": Step("build", tuple(range(30, 60)), words=400),
    "append": Step("append", tuple(range(30, 60)), words=400),
    "delete": Step("delete", (4, 7)),
    "compact": Step("compact"),
}


def before(kind: str) -> tuple[Step, ...]:
    """What there is before the step; a deletion and a compaction have something to do."""
    return {"build": (), "compact": (*BASE, BIG["append"], Step("delete", (3, 33)))}.get(kind, BASE)


def attempt(path: Path, step: Step) -> str:
    """The sentence with which the step fails; '' if it does not."""
    try:
        step.run(path)
    except RetroError as error:
        return str(error)
    return ""


# ---- A disk of a certain size ------------------------------------------------------------------------------


def can_mount() -> bool:
    return os.geteuid() == 0 and bool(shutil.which("mount")) and bool(shutil.which("umount"))


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def used(folder: Path) -> int:
    """Bytes that a tmpfs needs for a folder: whole pages, and one for each folder."""
    sizes = [path.lstat().st_size if path.is_file() else 1 for path in folder.rglob("*")]
    return sum(-(-size // 4096) * 4096 for size in sizes)


class FullDisks:
    def __init__(self, work: Path, kind: str):
        self.work, self.step = work, BIG[kind]
        self.at = work / "disk"
        self.at.mkdir()
        self.before = work / "before"
        self.before.mkdir()
        if before(kind):
            in_a_child(make, self.before / "notes", before(kind))
        self.old = in_a_child(state, self.before / "notes")
        shutil.copytree(self.before, work / "after")
        in_a_child(self.step.run, work / "after" / "notes")
        self.new = in_a_child(state, work / "after" / "notes")
        self.least, self.enough = used(self.before), 2 << 20
        low = self.least
        while self.enough - low > 4096:  # what the step needs, old and new files together
            middle = (low + self.enough) // 2
            if self.trial(middle) == "fits":
                self.enough = middle
            else:
                low = middle

    def trial(self, size: int, faults: tuple[str, ...] = ()) -> str:
        """Do the step on a disk of `size` bytes; '' or what is wrong; 'fits' if it had room."""
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", self.at)
        try:
            path = self.at / "notes"
            shutil.copytree(self.before, self.at, dirs_exist_ok=True)
            sentence = in_a_child(attempt, path, self.step, faults=faults)
            found = in_a_child(state, path)
            if not sentence:
                return "fits" if found == self.new else f"no error, and yet {found}"
            if found != self.old:
                return f"{found} instead of {self.old} after: {sentence}"
            if (
                not re.search("No space left|disk is full", sentence)
                or sentence.count("\n")
                or len(sentence) > 400
            ):
                return f"not a clear sentence: {sentence}"
            if (grown := used(self.at)) > used(self.before) + 3 * 4096:
                return f"{grown - used(self.before)} bytes are left over"
            run("mount", "-o", "remount,size=64m", self.at)
            sentence = in_a_child(attempt, path, self.step)
            if sentence or in_a_child(state, path) != self.new:
                return f"with room again: {sentence or 'another state'}"
            return ""
        except Exception as error:
            return str(error)
        finally:
            run("umount", self.at)


@pytest.fixture
def full_disks(tmp_path, request) -> FullDisks:
    return FullDisks(tmp_path, request.param)


@pytest.mark.reliability
@pytest.mark.skipif(not can_mount(), reason="needs root, to mount small disks")
@pytest.mark.parametrize("full_disks", BIG, indirect=True)
def test_a_full_disk_changes_nothing(full_disks):
    rng = random.Random(5)
    sizes = [rng.uniform(full_disks.least, full_disks.enough) for _ in range(amount(4, 15))]
    verdicts = [full_disks.trial(int(size)) for size in sizes]
    wrong = [verdict for verdict in verdicts if verdict not in ("", "fits")]
    assert not wrong, f"{len(wrong)}, among them {wrong[0]}"
    assert "" in verdicts


@pytest.mark.reliability
@pytest.mark.skipif(not can_mount(), reason="needs root, to mount small disks")
@pytest.mark.parametrize("full_disks", ["append"], indirect=True)
def test_a_writer_that_does_not_look_at_its_writes_is_found_out(full_disks):
    """The control."""
    rng = random.Random(6)
    sizes = (rng.uniform(full_disks.least, full_disks.enough) for _ in range(15))
    assert any(full_disks.trial(int(size), ("lost writes",)) not in ("", "fits") for size in sizes)


# ---- A disk that fails -------------------------------------------------------------------------------------

CALLS = ("open", "os.fsync", "os.rename", "os.replace", "os.mkdir", "os.unlink", "os.rmdir")


def fail_at(nth: int, path: Path, step: Step) -> tuple[str, int]:
    """Do a step while the `nth` call that changes files fails; its sentence, and the number of such calls."""
    calls = 0

    def failing(call: Callable) -> Callable:
        def called(*args: Any, **options: Any) -> Any:
            nonlocal calls
            if call is not opening or "w" in str(args[1:2]) + str(options.get("mode")):
                calls += 1
                if calls == nth:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(*args, **options)

        return called

    opening = builtins.open
    for name in CALLS:
        place, name = (os, name.removeprefix("os.")) if "." in name else (builtins, name)
        setattr(place, name, failing(getattr(place, name)))
    return attempt(path, step), calls


@pytest.mark.reliability
@pytest.mark.parametrize("kind", BIG)
def test_whichever_call_fails_the_old_or_the_new_version_stays(tmp_path, kind):
    step, start = BIG[kind], tmp_path / "start"
    start.mkdir()
    if before(kind):
        in_a_child(make, start / "notes", before(kind))
    old = in_a_child(state, start / "notes")
    shutil.copytree(start, tmp_path / "whole")
    sentence, calls = in_a_child(fail_at, 0, tmp_path / "whole" / "notes", step)
    new = in_a_child(state, tmp_path / "whole" / "notes")
    assert not sentence and calls and old != new
    rng = random.Random(9)
    for nth in range(1, calls + 1) if FULL else sorted(rng.sample(range(1, calls + 1), min(10, calls))):
        path = tmp_path / f"failing-{nth}" / "notes"
        shutil.copytree(start, path.parent)
        sentence, _ = in_a_child(fail_at, nth, path, step)
        found = in_a_child(state, path)
        assert found == (old if sentence else new), f"call {nth}: {sentence}"
        assert "Input/output error" in sentence or not sentence
        following = Step("build" if found == ABSENT else "append", (70,))
        assert in_a_child(attempt, path, following) == ""
