"""Whatever happens to a datastore's files at rest is noticed or does no harm: no wrong answer, no crash."""

import json
import os
import random
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from reliability_worker import Child, Died, Raised, amount, in_a_child
from reliability_world import ABSENT, BASE, Step, cut, document, make, state

from indexing.bundle import export, import_bundle
from indexing.errors import RetroError
from indexing.index import IndexSettings, remember_settings

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
        index = path / "index"
        what = harm(index if index.exists() else path, folder / "other", random.Random(number), kinds)
        tell("reading", what)
        try:
            found = state(path)
        except RetroError as error:
            tell("noticed", f"{what}: {error}")
        except Exception as error:
            tell("not ours", f"{what}: {type(error).__name__}: {error}")
        else:
            same = "harmless" if found == expected else "wrong"
            tell("noticed" if found == ABSENT else same, what)
        shutil.rmtree(path.parent)
    tell("done")


def verdicts(
    folder: Path,
    number: int,
    kinds: Sequence[str] = KINDS,
    faults: tuple[str, ...] = (),
    indexed: bool = False,
) -> dict[str, list[str]]:
    """What became of `number` harmed copies: verdict -> what was done to those that met it.

    indexed  harm the built index of a datastore that has one, and nothing else
    """
    if indexed:
        in_a_child(make_indexed, folder / "notes")
    else:
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


def make_indexed(path: Path) -> None:
    """A datastore with a built index, which reads all of its lists: its answers are those without it."""
    # No chunk of an end mark alone: few rows among others that nobody finds are searched without the index.
    numbers = [number for number in range(120) if cut(document(number).text)[-1][1]]
    make(path, (Step("build", tuple(numbers)),))
    remember_settings(path / "index", IndexSettings(factory="IVF4,Flat", nprobe=4, candidates=1))
    state(path)
    assert (path / "index" / "index.faiss").exists()


def told(found: dict[str, list[str]]) -> str:
    return str({verdict: (len(whats), whats[:8]) for verdict, whats in found.items()})


@pytest.mark.parametrize("number", [30, pytest.param(amount(250, 2000), marks=pytest.mark.reliability)])
def test_every_damage_is_noticed_or_harmless(tmp_path, number):
    found = verdicts(tmp_path, number)
    assert set(found) <= {"noticed", "harmless"}, told(found)
    assert len(found["noticed"]) > len(found.get("harmless", ()))


@pytest.mark.reliability
def test_without_checksums_most_damage_goes_unnoticed(tmp_path):
    """The control. What changes a file's size is noticed without them."""
    found = verdicts(tmp_path, 120, SAME_SIZE, ("no checksums",))
    assert len(found.get("noticed", ())) < 60 and len(found["wrong"]) > 10, told(found)


@pytest.mark.reliability
def test_a_damaged_index_is_built_again(tmp_path):
    found = verdicts(tmp_path, amount(60, 400), indexed=True)
    assert set(found) == {"harmless"}, told(found)


@pytest.mark.reliability
def test_without_checksums_a_damaged_index_does_harm(tmp_path):
    """The control."""
    found = verdicts(tmp_path, 60, SAME_SIZE, ("no checksums",), indexed=True)
    assert set(found) != {"harmless"}, told(found)


JUNK = (None, True, -1, 10**30, float("inf"), "", "../../evil", [], [[]], {}, {"bytes": []})


def replaced(value: Any, rng: random.Random) -> tuple[Any, str]:
    """`value` of a JSON file with something else at one place in it, and which place."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        changed = value.copy()
        key = rng.choice(sorted(value) if isinstance(value, dict) else range(len(value)))
        changed[key], place = replaced(value[key], rng)
        return changed, f"/{key}{place}"
    junk = rng.choice([junk for junk in JUNK if junk != value])
    return junk, f"/ = {junk!r}"


def harm_bundle(file: Path, harmed: Path, rng: random.Random) -> str:
    """Write a bundle with bytes or words changed; tells what."""
    data = bytearray(file.read_bytes())
    if rng.random() < 0.5:
        at = rng.randrange(len(data))
        kind = rng.choice(("cut", "flipped", "zeroed"))
        if kind == "cut":
            data = data[:at]
        elif kind == "flipped":
            data[at] ^= 1 << rng.randrange(8)
        else:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        harmed.write_bytes(data)
        return f"{kind} at {at} of {len(data)}"
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(harmed, "w") as new:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "state.json":
                state, place = replaced(json.loads(content), rng)
                content = json.dumps(state).encode()
            new.writestr(name, content)
    return f"forged {place}"


def import_harmed(tell, folder: Path, numbers: range, expected: tuple[int, str]) -> None:
    for number in numbers:
        harmed, path = folder / "harmed", folder / f"imported-{number}"
        what = f"{number}: {harm_bundle(folder / 'bundle', harmed, random.Random(number))}"
        try:
            for _ in import_bundle(harmed, path):
                pass
            found = state(path)
        except RetroError as error:
            tell("noticed", f"{what}: {error}")
            if path.exists():
                tell("left behind", what)
        except Exception as error:
            tell("not ours", f"{what}: {type(error).__name__}: {error}")
        else:
            # A bundle is not signed: one that says that other documents were deleted is as good as any.
            forged = "forged" in what and {"deleted", "version"} & {*what.split("/")}
            tell("harmless" if found == expected or forged else "wrong", what)
            shutil.rmtree(path)


@pytest.mark.parametrize("number", [30, pytest.param(amount(150, 1000), marks=pytest.mark.reliability)])
def test_a_damaged_or_forged_bundle_is_refused(tmp_path, number):
    in_a_child(make, tmp_path / "notes", HISTORY)
    expected = in_a_child(state, tmp_path / "notes")
    for _ in export(tmp_path / "notes", tmp_path / "bundle"):
        pass
    before = {path.name for path in tmp_path.parent.iterdir()}
    heard = Child(import_harmed, tmp_path, range(number), expected).rest()
    assert heard[-1][0] == "returned", heard[-1]
    found: dict[str, list[str]] = {}
    for verdict, what in heard[1:-1]:
        found.setdefault(verdict, []).append(what)
    assert set(found) <= {"noticed", "harmless"}, told(found)
    assert {path.name for path in tmp_path.parent.iterdir()} == before
