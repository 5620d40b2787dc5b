"""Readers see one whole version while another process changes the datastore, and only one may change it."""

import itertools
import random
import time
from functools import cache
from pathlib import Path

import pytest
from reliability_worker import Child, amount, in_a_child
from reliability_world import (
    QUERIES,
    WORDS,
    Content,
    Step,
    differs,
    document,
    embedder,
    ident,
    make,
    nearest,
)

from indexing.build import append
from indexing.datastore import Datastore
from indexing.errors import DatastoreError

FIRST = Step("build", tuple(range(20)))


@cache
def history(seed: int, length: int) -> tuple[tuple[Step, ...], list[Content]]:
    """A list of changes, and what the datastore holds after the first build and after each of them."""
    rng = random.Random(seed)
    steps: list[Step] = []
    contents = [FIRST.expect({})]
    fresh = 20
    for number in range(length):
        present = [int(name[len("id-canary") : -1]) for name in contents[-1]]
        if number % 11 == 10:
            step = Step("compact")
        elif number % 3 == 2 and len(present) > 5:
            step = Step("delete", tuple(rng.sample(present, 2)))
        else:
            step = Step("append", (fresh, fresh + 1))
            fresh += 2
        steps.append(step)
        contents.append(step.expect(contents[-1]))
    return tuple(steps), contents


def change(tell, path: Path, seed: int, length: int) -> None:
    for step in history(seed, length)[0]:
        step.run(path)


def ask(tell, path: Path, seed: int, length: int, most: int, reader: int, mistaken: bool) -> None:
    """Query the newest snapshot, and now and then an older one, until the last version is there and `most`
    queries have been asked; tell every answer that is not right for the version that gave it.

    mistaken  compare with the newest version instead
    """
    rng = random.Random(reader)
    newest = Datastore.open(path, embedder=embedder())
    first, kept, asked, versions = newest.version, newest, 0, set()
    while asked < most or newest.version < first + length:
        newest = newest.current()
        if rng.random() < 0.05:
            kept = newest
        datastore = kept if rng.random() < 0.3 else newest
        told = newest.version if mistaken else datastore.version
        content = history(seed, length)[1][told - first]
        query = " ".join(rng.sample(WORDS, 4))
        hits = datastore.search(query, 6)
        found = [(hit.document_id, hit.offset, hit.text, hit.continuation, hit.distance) for hit in hits]
        if wrong := differs(found, nearest(content, query), 6):
            tell("wrong", f"version {datastore.version}, {query!r}: {wrong}")
        asked += 1
        versions.add(datastore.version)
    tell("asked", (asked, len(versions)))


def read_while_written(path: Path, length: int, queries: int, mistaken: bool = False) -> tuple[list, int]:
    """What was wrong, and how many versions the readers saw."""
    in_a_child(make, path, (FIRST,))
    readers = [Child(ask, path, 7, length, queries // 2, reader, mistaken) for reader in range(2)]
    Child(change, path, 7, length).result(600)
    wrong, versions, asked = [], 0, 0
    for reader in readers:
        for kind, value in reader.rest():
            if kind in ("raised", "wrong"):
                wrong.append(value)
            elif kind == "asked":
                asked += value[0]
                versions = max(versions, value[1])
    assert wrong or asked >= queries
    return wrong, versions


@pytest.mark.parametrize(
    ("length", "queries"),
    [(12, 60), pytest.param(amount(44, 220), amount(1000, 5000), marks=pytest.mark.reliability)],
)
def test_every_answer_is_that_of_the_version_it_states(tmp_path, length, queries):
    wrong, versions = read_while_written(tmp_path / "notes", length, queries)
    assert not wrong, f"{len(wrong)}, among them {wrong[0]}"
    assert versions > length / 4


@pytest.mark.reliability
def test_answers_of_another_version_are_told_apart(tmp_path):
    """The control."""
    wrong, _ = read_while_written(tmp_path / "notes", 22, 100, mistaken=True)
    assert wrong


def replace(tell, path: Path, times: int) -> None:
    for number in range(times):
        Step("replace", (number, number + 1)).run(path)


def open_again_and_again(tell, path: Path, seconds: float) -> int:
    """Open the datastore for some time; it must always be there, and be what one of the replacements made."""
    until, opened = time.monotonic() + seconds, set()
    while time.monotonic() < until:
        datastore = Datastore.open(path, embedder=embedder())
        names = [document.id for document in datastore.documents]
        number = int(names[0][len("id-canary") : -1])
        assert names == [ident(number), ident(number + 1)], names
        assert datastore.search(QUERIES[0], 1)[0].document_id in names
        opened.add(number)
    return len(opened)


@pytest.mark.reliability
def test_a_datastore_is_there_while_it_is_replaced(tmp_path):
    path = tmp_path / "notes"
    in_a_child(make, path, (Step("build", (0, 1)),))
    times = amount(20, 100)
    writer = Child(replace, path, times)
    readers = [Child(open_again_and_again, path, amount(3, 12)) for _ in range(2)]
    assert max(reader.result() for reader in readers) > 3
    writer.result()


class Slow:
    """An embedder that takes its time, so that writers meet."""

    def __init__(self, seconds: float):
        self._inner, self._seconds = embedder(), seconds
        self.name, self.dim, self.fingerprint = self._inner.name, self._inner.dim, self._inner.fingerprint

    def embed(self, texts):
        time.sleep(self._seconds)
        return self._inner.embed(texts)


def write_again_and_again(tell, path: Path, numbers: range, begin: float) -> None:
    """Append one document at a time; tell from when to when each had the datastore to itself."""
    for number in numbers:
        time.sleep(max(0.0, begin - time.time()))
        try:
            started = None
            for _ in append(path, [document(number)], embedder=Slow(0.02)):
                started = started or time.monotonic()
            tell("wrote", (number, started, time.monotonic()))
        except DatastoreError as error:
            tell("refused", (number, str(error)))


def write_at_once(path: Path, faults: tuple[str, ...] = ()) -> list:
    """50 appends from 4 processes at the same time: everything that is wrong about it."""
    in_a_child(make, path, (FIRST,))
    begin = time.time() + 0.5
    shares = [range(100 + i, 150, 4) for i in range(4)]
    assert sum(map(len, shares)) == 50
    writers = [Child(write_again_and_again, path, share, begin, faults=faults) for share in shares]
    told = [message for writer in writers for message in writer.rest()]
    wrote = sorted((value for kind, value in told if kind == "wrote"), key=lambda each: each[1])
    refused = [value for kind, value in told if kind == "refused"]
    wrong = [value for kind, value in told if kind == "raised"]
    wrong += [sentence for _, sentence in refused if "is being changed at this moment" not in sentence]
    wrong += [(a, b) for a, b in itertools.pairwise(wrote) if b[1] < a[2]]
    if not (wrote and refused and len(wrote) + len(refused) == 50):
        wrong.append(f"{len(wrote)} wrote and {len(refused)} were refused")
    expected = {ident(number) for number in (*FIRST.numbers, *(each[0] for each in wrote))}
    try:
        present = {document.id for document in Datastore.open(path, embedder=embedder()).documents}
    except DatastoreError as error:
        return [*wrong, str(error)]
    return wrong + sorted(present ^ expected)


@pytest.mark.reliability
def test_of_fifty_writers_one_writes_at_a_time(tmp_path):
    for repeat in range(amount(1, 20)):
        assert not write_at_once(tmp_path / f"notes-{repeat}")


@pytest.mark.reliability
def test_without_the_lock_writers_meet(tmp_path):
    """The control."""
    assert write_at_once(tmp_path / "notes", ("no lock",))
