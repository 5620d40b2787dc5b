"""Whatever happens to a datastore's files at rest is noticed or does no harm: no wrong answer, no crash."""

import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from reliability_worker import Child, Died, Raised, amount, in_a_child
from reliability_world import BASE, Step, make, state

from indexing.errors import RetroError

HISTORY = (*BASE, Step("append", (10, 11, 12, 13)))
SAME_SIZE = ("flipped", "flipped often", "zeroed")
KINDS = (
    "cut",
    "grown",
    "flipped",
    "flipped often",
    "zeroed",
    "gone",
    "swapped",
    "another's",
    "garbage",
    "empty",
)


def harm(path: Path, other: Path, rng: random.Random, kinds: Sequence[str]) -> str:
    """Do one bad thing to a file of the datastore at `path`; tells what. `other` is another datastore."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "lock")
    file, kind = rng.choice(files), rng.choice(kinds)
    before = file.stat()
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data)) if data else 0
    if kind == "cut":
        data = data[:at]
    elif kind == "grown":
        data += rng.randbytes(rng.randint(1, 5000))
    elif kind.startswith("flipped"):
        for _ in range(1 if kind == "flipped" else 20):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "zeroed":
        length = min(rng.choice((1, 16, 512, 4096)), len(data) - at)
        data[at : at + length] = bytes(length)
    elif kind == "garbage":
        data = bytearray(rng.randbytes(len(data)))
    elif kind == "empty":
        data = bytearray()
    elif kind == "another's":
        same = [twin for twin in other.rglob(file.name) if twin.is_file()]
        data = bytearray(rng.choice(same).read_bytes()) if same else data[:at]
    what = f"{file.relative_to(path)} {kind} at {at} of {before.st_size}"
    if kind == "gone":
        file.unlink()
    elif kind == "swapped":
        twin = rng.choice(files)
        data, theirs = file.read_bytes(), twin.read_bytes()
        file.write_bytes(theirs)
        twin.write_bytes(data)
        what += f" with {twin.relative_to(path)}"
    else:
        file.write_bytes(data)
        if rng.random() < 0.5:  # what a failing disk does leaves no trace in the times
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return what


def open_harmed(tell, folder: Path, numbers: range, kinds: Sequence[str], expected: tuple[int, str]) -> None:
    """Harm a copy of the datastore for each number and read all of it; tell what became of it."""
    for number in numbers:
        path = folder / f"copy-{number}" / "notes"
        shutil.copytree(folder / "notes", path)
        what = harm(path, folder / "other", random.Random(number), kinds)
        tell("reading", what)
        try:
            found = state(path)
        except RetroError as error:
            tell("noticed", f"{what}: {error}")
        except Exception as error:
            tell("not ours", f"{what}: {type(error).__name__}: {error}")
        else:
            tell("harmless" if found == expected else "wrong", what)
        shutil.rmtree(path.parent)
    tell("done")


def verdicts(
    folder: Path, number: int, kinds: Sequence[str] = KINDS, faults: tuple[str, ...] = ()
) -> dict[str, list[str]]:
    """What became of `number` harmed copies: verdict -> what was done to those that met it."""
    in_a_child(make, folder / "notes", HISTORY)
    in_a_child(make, folder / "other", (Step("build", tuple(range(40, 52))), Step("delete", (44,))))
    expected = in_a_child(state, folder / "notes")
    found: dict[str, list[str]] = {}
    next_one = 0
    while next_one < number:
        child = Child(open_harmed, folder, range(next_one, number), kinds, expected, faults=faults)
        what = "before the first"
        try:
            while (told := child.hear())[0] != "done":
                if told[0] == "reading":
                    what, next_one = told[1], next_one + 1
                elif told[0] == "raised":
                    raise Raised(*told[1])
                elif told[0] != "started":
                    found.setdefault(told[0], []).append(told[1])
        except Died as death:
            found.setdefault(f"died of {death.signal}", []).append(what)
            assert next_one, "the child died before it began"
    return found


def told(found: dict[str, list[str]]) -> str:
    return str({verdict: (len(whats), whats[:8]) for verdict, whats in found.items()})


@pytest.mark.reliability
def test_every_damage_is_noticed_or_harmless(tmp_path):
    found = verdicts(tmp_path, amount(250, 2000))
    assert set(found) <= {"noticed", "harmless"}, told(found)
    assert len(found["noticed"]) > len(found.get("harmless", ()))


@pytest.mark.reliability
def test_without_checksums_most_damage_goes_unnoticed(tmp_path):
    """The control. What changes a file's size is noticed without them."""
    found = verdicts(tmp_path, 120, SAME_SIZE, ("no checksums",))
    assert len(found["wrong"]) + len(found["not ours"]) > 60, told(found)
