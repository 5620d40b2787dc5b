"""What was acknowledged is on the disk: after a power cut at any moment a datastore is the last acknowledged
version or the one that was being made.

The file system lies in memory. A copy of it, taken while the writer stands still, is what a disk would hold
if the power went at that moment: what fsync put there, and what the kernel happened to write by itself.
"""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from reliability_worker import Child, amount, in_a_child
from reliability_world import Step, make, state

MEMORY = Path("/dev/shm")
MEGABYTES = 48
DIRTY = Path("/proc/sys/vm")
# Hundredths of a second until the kernel writes by itself: never within a trial, and almost at once.
NEVER, AT_ONCE = 60_000, 5

BASE = (Step("build", tuple(range(7))),)
CHAIN = (
    Step("append", (20, 21, 22)),
    Step("delete", (3,)),
    Step("append", (23,)),
    Step("compact"),
    Step("delete", (21,)),
    Step("append", (24, 25)),
    Step("compact"),
    Step("append", (26,)),
)


def can_mount() -> bool:
    tools = all(shutil.which(tool) for tool in ("losetup", "mkfs.ext4", "mount", "umount"))
    return tools and os.geteuid() == 0 and MEMORY.is_dir() and Path("/dev/loop-control").exists()


pytestmark = pytest.mark.skipif(not can_mount(), reason="needs root, loop devices and mkfs.ext4")


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """`image` as a file system that writes its journal by itself only every five minutes."""
    at.mkdir(exist_ok=True)
    run("mount", "-o", "loop,commit=300,noatime", image, at)
    try:
        yield at / "notes"
    finally:
        run("umount", at)


@pytest.fixture
def write_back() -> Iterator[None]:
    """The kernel's habits of writing, put back at the end."""
    names = ("dirty_writeback_centisecs", "dirty_expire_centisecs")
    before = {name: (DIRTY / name).read_text() for name in names}

    def set_to(hundredths: int) -> None:
        for name in names:
            (DIRTY / name).write_text(str(hundredths))

    try:
        yield set_to
    finally:
        for name, value in before.items():
            (DIRTY / name).write_text(value)


def walk(tell, path: Path) -> None:
    tell("acked", 0)
    for number, step in enumerate(CHAIN):
        step.run(path)
        tell("acked", number + 1)
    time.sleep(60)  # until it is killed


class Disk:
    """Images in memory: one with the datastore `BASE`, from which each trial starts."""

    def __init__(self, folder: Path, work: Path):
        self.folder, self.work = folder, work
        self.fresh, self.image, self.copy = folder / "fresh", folder / "image", folder / "copy"
        with open(self.fresh, "wb") as file:
            file.truncate(MEGABYTES << 20)
        run("mkfs.ext4", "-q", "-F", self.fresh)
        with mounted(self.fresh, work / "at") as path:
            in_a_child(make, path, BASE)
        reference = work / "reference" / "notes"
        reference.parent.mkdir()
        in_a_child(make, reference, BASE)
        self.expected = [in_a_child(state, reference)]
        for step in CHAIN:
            in_a_child(step.run, reference)
            self.expected.append(in_a_child(state, reference))
        self.seconds = self.time(())

    def time(self, faults: tuple[str, ...]) -> float:
        """How long the chain takes when it is left alone."""
        run("cp", "--sparse=always", self.fresh, self.image)
        with mounted(self.image, self.work / "at") as path:
            child = Child(walk, path, faults=faults)
            child.hear_until(("acked", 0))
            begin = time.perf_counter()
            child.hear_until(("acked", len(CHAIN)))
            seconds = time.perf_counter() - begin
            child.kill()
        return seconds

    def cut(self, rng: random.Random, faults: tuple[str, ...] = ()) -> str:
        """Cut the power at a moment of the chain; '' or what is wrong on the disk."""
        run("cp", "--sparse=always", self.fresh, self.image)
        with mounted(self.image, self.work / "at") as path:
            child = Child(walk, path, faults=faults)
            heard = child.hear_until(("acked", rng.randrange(len(CHAIN))))
            time.sleep(rng.random() * self.seconds / len(CHAIN))
            child.stop()
            run("cp", "--sparse=always", self.image, self.copy)
            child.kill()
        acked = max(value for kind, value in heard + child.rest() if kind == "acked")
        with mounted(self.copy, self.work / "at") as path:
            try:
                found = in_a_child(state, path)
                in_a_child(Step("append", (90,)).run, path)
            except Exception as error:
                return f"after {acked} acknowledged steps: {error}"
        if found not in self.expected[acked : acked + 2]:
            lost = f"that of step {self.expected.index(found)}" if found in self.expected else "none of ours"
            return f"the state after {acked} acknowledged steps is {lost}: {found}"
        return ""


@pytest.fixture
def disk(tmp_path, request) -> Iterator[Disk]:
    folder = MEMORY / f"retro-power-cut-{os.getpid()}"
    folder.mkdir()
    try:
        yield Disk(folder, tmp_path)
    finally:
        shutil.rmtree(folder)


@pytest.mark.reliability
def test_a_power_cut_loses_nothing_acknowledged(disk, write_back):
    rng = random.Random(3)
    wrong = []
    for trial in range(amount(12, 100)):
        write_back((NEVER, AT_ONCE)[trial % 2])
        if verdict := disk.cut(rng):
            wrong.append(verdict)
    assert not wrong, f"{len(wrong)}, among them {wrong[0]}"


@pytest.mark.reliability
@pytest.mark.parametrize("fault", ["no fsync", "only sqlite's fsync"])
def test_without_fsync_a_power_cut_does_harm(disk, write_back, fault):
    """The control: otherwise the test above would prove nothing."""
    rng = random.Random(4)
    write_back(NEVER)
    trials = amount(6, 40)
    disk.seconds = disk.time((fault,))
    wrong = [verdict for _ in range(trials) if (verdict := disk.cut(rng, (fault,)))]
    assert len(wrong) >= trials / 2
