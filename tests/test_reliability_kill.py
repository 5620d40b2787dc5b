"""Killed with SIGKILL at any moment, a datastore is what it was before the step or after it, and goes on."""

import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from reliability_worker import FULL, Child, amount, die_at, in_a_child, lines_run
from reliability_world import ABSENT, BASE, CHAINS, Step, make, make_flat, state

NEXT = Step("append", (90, 91))


def walk(
    tell, path: Path, chain: tuple[Step, ...], place: tuple[str, int] | None = None, nth: int = 0
) -> None:
    """Do a chain of steps, telling after each that it is done. Dies at a line, if one is given."""
    if place:
        die_at(place, nth)
    tell("acked", 0)
    for number, step in enumerate(chain):
        step.run(path)
        tell("acked", number + 1)


def survey(path: Path) -> tuple[tuple[int, str], tuple[int, str], Counter]:
    """State of a datastore as a new process finds it; after one more step; and what files there are then."""
    found = state(path)
    (Step("build", NEXT.numbers) if found == ABSENT else NEXT).run(path)
    return found, state(path), listing(path.parent)


def listing(folder: Path) -> Counter:
    """How many files of each name and place there are, segments not told apart, disposable ones left out."""
    found = Counter()
    for path in folder.rglob("*"):
        parts = list(path.relative_to(folder).parts)
        if "index" not in parts and not path.name.endswith(("-wal", "-shm", "-journal")):
            if "segments" in parts[:-1]:
                parts[parts.index("segments") + 1] = "*"
            found["/".join(parts)] += 1
    return found


class Trials:
    """Kills of one chain of steps in copies of one datastore, judged against runs that were left alone."""

    def __init__(self, folder: Path, kind: str):
        self.kind, self.folder, self.chain = kind, folder, CHAINS[kind]
        self.before = folder / "before" / "notes"
        if kind == "migrate":
            in_a_child(make_flat, self.before)
        elif kind != "build":
            in_a_child(make, self.before, BASE)
        self.expected = []  # what `survey` finds after the first 0, 1, 2 … steps
        for length in range(len(self.chain) + 1):
            path = self.copy(f"whole-{length}")
            for step in self.chain[:length]:
                in_a_child(step.run, path)
            self.expected.append(in_a_child(survey, path))
        assert len({found for found, _, _ in self.expected}) == len(self.expected)
        self.lines = in_a_child(lines_run, walk, silent, self.copy("traced"), self.chain)
        self.cut_short = 0  # kills that came before the end
        self.seconds = statistics.median(self.time(f"timed-{i}") for i in range(3))

    def copy(self, name: str) -> Path:
        path = self.folder / name / "notes"
        path.parent.mkdir()
        if self.before.exists():
            shutil.copytree(self.before, path)
        return path

    def at_a_time(self, rng: random.Random, faults: tuple[str, ...] = ()) -> str:
        """Kill at a moment of the chain; '' or what is wrong afterwards."""
        path = self.copy("killed")
        child = Child(walk, path, self.chain, faults=faults)
        # So many steps, then some part of the next: a pause counted from the start would mostly fall into the
        # first step whenever the machine has other things to do.
        heard = child.hear_until(("acked", rng.randrange(len(self.chain))))
        time.sleep(rng.random() * 1.2 * self.seconds / len(self.chain))
        child.kill()
        return self.judge(path, heard + child.rest())

    def at_a_line(self, place: tuple[str, int], nth: int, faults: tuple[str, ...] = ()) -> str:
        """Kill before a line of the writers runs the `nth` time."""
        path = self.copy("killed")
        child = Child(walk, path, self.chain, place, nth, faults=faults)
        return self.judge(path, child.rest())

    def judge(self, path: Path, told: list[tuple]) -> str:
        acked = max([value for kind, value in told if kind == "acked"], default=0)
        self.cut_short += acked < len(self.chain)
        try:
            found, after, files_after = in_a_child(survey, path)
        except Exception as error:
            return f"after {acked} acknowledged steps: {error}"
        finally:
            shutil.rmtree(path.parent)
        for steps in (acked, acked + 1):
            if steps < len(self.expected) and found == self.expected[steps][0]:
                if after != self.expected[steps][1]:
                    return f"the step after {steps} gave {after}, not {self.expected[steps][1]}"
                left_over = files_after - self.expected[steps][2]
                return f"left over after {steps}: {dict(left_over)}" if left_over else ""
        return f"{found} after {acked} acknowledged steps is neither the old nor the new state"

    def time(self, name: str) -> float:
        """How long the chain takes when it is left alone."""
        child = Child(walk, self.copy(name), self.chain)
        child.hear_until(("acked", 0))
        begin = time.perf_counter()
        child.result()
        return time.perf_counter() - begin


def silent(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def trials(request) -> Iterator[Trials]:
    # In memory where that is possible: where its files are makes no difference to a process that is killed.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Trials(Path(folder), request.param)


KINDS = pytest.mark.parametrize("trials", CHAINS, indirect=True)


@pytest.mark.reliability
@KINDS
def test_a_kill_at_any_time_leaves_the_old_or_the_new_version(trials):
    rng = random.Random(1)
    number = amount(15, 200)
    wrong = [verdict for _ in range(number) if (verdict := trials.at_a_time(rng))]
    assert not wrong, f"{len(wrong)}, among them {wrong[0]}"
    assert trials.cut_short > number / 2


@pytest.mark.parametrize(
    ("trials", "number"),
    [("append", 5), *[pytest.param(kind, 20, marks=pytest.mark.reliability) for kind in CHAINS]],
    indirect=["trials"],
)
def test_a_kill_at_any_line_leaves_the_old_or_the_new_version(trials, number):
    rng = random.Random(2)
    lines = sorted(trials.lines)
    wrong = {}
    for place in lines if FULL else rng.sample(lines, number):
        if verdict := trials.at_a_line(place, rng.randint(1, trials.lines[place])):
            wrong[place] = verdict
    assert not wrong, f"{len(wrong)}: {wrong}"


@pytest.mark.reliability
@pytest.mark.parametrize("trials", ["append"], indirect=True)
def test_without_transactions_a_kill_does_harm(trials):
    """The control."""
    lines = [place for place in trials.lines if place[0] == "catalogue"]
    random.Random(3).shuffle(lines)
    broken = (trials.at_a_line(place, trials.lines[place], ("no transactions",)) for place in lines)
    assert any("damaged" in verdict for verdict in broken)
