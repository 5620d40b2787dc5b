"""After any sequence of changes a datastore holds what a plain dict would, and nothing that was deleted."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as some
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from reliability_worker import FULL, amount
from reliability_world import WORDS, Content, M, Step, canary, cut, differs, embedder, nearest, tokenizer

from indexing import datastore
from indexing.bundle import export, import_bundle
from indexing.datastore import Datastore
from indexing.errors import DatastoreError


class Living(RuleBasedStateMachine):
    """A datastore beside a dict of its documents. Document numbers are never used twice, so each canary tells
    where a byte comes from."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "notes"
        self.content: Content = {}
        self.gone: list[str] = []  # canaries of deleted documents
        self.purged: list[str] = []  # of those whose bytes must be gone too
        self.fresh = 0
        self.copies = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def new(self, number: int) -> tuple[int, ...]:
        self.fresh += number
        return tuple(range(self.fresh - number, self.fresh))

    def do(self, step: Step) -> None:
        before = self.datastore.version if self.content else 0
        step.run(self.path)
        self.content = step.expect(self.content)
        self.datastore = Datastore.open(self.path, tokenizer(), embedder())
        assert step.kind in ("build", "compact") or self.datastore.version == before + 1

    @initialize(number=some.integers(1, 4), words=some.sampled_from([1, 20, 90]))
    def create(self, number, words):
        self.do(Step("build", self.new(number), words))

    @rule(number=some.integers(1, 3), words=some.sampled_from([1, 20, 90]))
    def add(self, number, words):
        self.do(Step("append", self.new(number), words))

    @rule(data=some.data())
    @precondition(lambda self: len(self.content) > 1)
    def remove(self, data):
        numbers = sorted(int(name[len("id-canary") : -1]) for name in self.content)
        leaving = data.draw(some.lists(some.sampled_from(numbers), min_size=1, max_size=3, unique=True))
        leaving = leaving[: len(numbers) - 1]
        self.do(Step("delete", tuple(leaving)))
        self.gone += [canary(number) for number in leaving]

    @rule()
    def merge(self):
        self.do(Step("compact"))
        self.purged = list(self.gone)

    @rule(again=some.booleans())
    def reopen(self, again):
        self.datastore = self.datastore.current() if again else Datastore.open(self.path, None, embedder())

    @rule()
    def travel(self):
        """Out as one file, and in again under another name."""
        file = self.folder / "travelling"
        self.copies += 1
        for _ in export(self.path, file):
            pass
        self.path = self.folder / f"copy-{self.copies}"
        for _ in import_bundle(file, self.path):
            pass
        file.unlink()
        self.datastore = Datastore.open(self.path, None, embedder())

    @rule(words=some.lists(some.sampled_from(WORDS), min_size=1, max_size=4), k=some.sampled_from([1, 3, 50]))
    def ask(self, words, k):
        query = " ".join(words)
        hits = self.datastore.search(query, k)
        found = [(hit.document_id, hit.offset, hit.text, hit.continuation, hit.distance) for hit in hits]
        assert not differs(found, nearest(self.content, query), k)

    @rule(data=some.data())
    def ask_for_the_deleted(self, data):
        if self.gone:
            word = data.draw(some.sampled_from(self.gone))
            for hit in self.datastore.search(f"{word} {word}", 50):
                assert word not in f"{hit.document_id} {hit.title} {hit.text} {hit.continuation}"

    @rule(data=some.data(), excluded=some.booleans())
    def retrieve(self, data, excluded):
        name = data.draw(some.sampled_from(sorted(self.content)))
        tokens = np.array(cut(self.content[name].text)[0][2])
        ids = {document.id: number for number, document in enumerate(self.datastore.documents)}
        leave_out = np.array([ids[name]]) if excluded else None
        answer = self.datastore.retrieve(tokens[None], 3, exclude_documents=leave_out)
        expected = nearest(self.content, tokenizer().decode(tokens))
        expected = [each for each in expected if not (excluded and each[0] == name)]
        found = []
        for row, distance, retrieved in zip(
            answer.ids[0].tolist(), answer.distances[0].tolist(), answer.tokens[0].tolist(), strict=True
        ):
            if row >= 0:
                origin = self.datastore.provenance(row)
                texts = (self.datastore.text(row), self.datastore.continuation(row))
                found.append((origin.document_id, origin.offset, *texts, distance))
                chunks = cut(self.content[origin.document_id].text)
                place = [offset for offset, *_ in chunks].index(origin.offset)
                following = chunks[place + 1][2] if place + 1 < len(chunks) else (tokenizer().pad_id,) * M
                assert tuple(retrieved) == chunks[place][2] + following
        assert not differs(found, expected, 3)

    @invariant()
    def holds_what_it_should(self):
        snapshot, store = self.datastore, self.datastore.chunks
        alive = np.asarray(snapshot.alive)
        of, starts = np.asarray(store.chunk2seq), np.asarray(store.starts)
        assert snapshot.num_documents == len(self.content)
        held = [number for number in range(len(snapshot.documents)) if alive[of == number].any()]
        assert [snapshot.documents[number] for number in held] == list(self.content.values())
        for number, document in zip(held, self.content.values(), strict=True):
            rows = np.flatnonzero(of == number)
            chunks = cut(document.text)
            assert alive[rows].all() and store.seq2chunk[number] == rows[0]
            assert np.array_equal(rows, rows[0] + np.arange(len(chunks)))
            assert np.array_equal(store.tokens[rows], [tokens for _, _, tokens, _ in chunks])
            assert starts[rows].tolist() == [offset for offset, *_ in chunks]
            assert "".join(snapshot.text(row) for row in rows) == document.text
            assert [snapshot.embeddings[row].tobytes() for row in rows] == [vector for *_, vector in chunks]

    @invariant()
    def has_purged_what_it_should(self):
        everything = b"".join(file.read_bytes() for file in self.path.rglob("*") if file.is_file())
        for word in self.purged:
            assert word.encode() not in everything


def trying(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=not FULL,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class TestAFewChanges(Living.TestCase):
    settings = trying(2, 12)


@pytest.mark.reliability
class TestManyChanges(Living.TestCase):
    settings = trying(amount(12, 200), amount(25, 50))


@pytest.mark.reliability
def test_a_datastore_that_finds_the_deleted_is_found_out(monkeypatch):
    """The control."""
    open_index = datastore.open_index

    def careless(vectors, documents, alive, *rest, **options):
        return open_index(vectors, documents, np.ones_like(alive), *rest, **options)

    monkeypatch.setattr(datastore, "open_index", careless)
    quick = settings(trying(40, 25), phases=[Phase.generate], derandomize=True)
    with pytest.raises((AssertionError, DatastoreError)):
        run_state_machine_as_test(Living, settings=quick)
