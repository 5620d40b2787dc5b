"""BM25 gives what its formula says, whatever is kept on the disk, in however many segments and blocks."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import SENTENCES
from shelves import M, make, plain_bm25, texts_of

from indexing import bm25, paths
from indexing.bm25 import WordIndex, WordsIndexed, base_of, open_word_index, words
from indexing.datastore import Datastore
from indexing.errors import DatastoreError

QUERIES = [*SENTENCES, "the river the river", "東京の首都", "किताब", "nothing-of-this xyzzy", "SHORT"]


def opened(datastore: Datastore) -> tuple[WordIndex, list[WordsIndexed]]:
    events, generator = [], open_word_index(datastore)
    while True:
        try:
            events.append(next(generator))
        except StopIteration as end:
            return end.value, events


def in_parts(monkeypatch, datastore: Datastore, *sizes: int) -> None:
    """Let the datastore's chunks be those of several segments."""
    assert sum(sizes) == len(datastore.chunks)
    parts = [(f"{number}{size:015d}", size) for number, size in enumerate(sizes)]
    monkeypatch.setattr(bm25, "_parts", lambda _: parts)


@pytest.fixture
def datastore(tokenizer, embedder) -> Datastore:
    return make(tokenizer, embedder)


def test_scores_are_those_of_the_formula_and_of_the_library(datastore):
    import bm25s

    chunks = [words(text) for text in texts_of(datastore)]
    index, _ = opened(datastore)
    theirs = bm25s.BM25(k1=bm25.K1, b=bm25.B)
    theirs.index(chunks, show_progress=False)
    some = 0
    for query in QUERIES:
        scores = index.scores(query)
        expected = plain_bm25(chunks, words(query))
        assert scores.dtype == np.float32 and np.allclose(scores, expected, rtol=1e-5, atol=1e-6)
        assert np.allclose(scores, theirs.get_scores(words(query)), rtol=1e-5, atol=1e-6)
        some += (scores > 0).any()
    assert some == len(QUERIES) - 1
    assert not index.scores("").any() and not index.scores("???").any()


@pytest.mark.parametrize(("text", "expected"), [
    ("Don't STOP, naïve_2 Ǆ", ["don", "t", "stop", "naïve_2", "dž"]),
    ("ﬁne Ｗide Straße", ["fine", "wide", "strasse"]),
    ("हिन्दी किताब", ["हिन्दी", "किताब"]),
    ("עִברִית, русский", ["עִברִית", "русский"]),
    ("東京tower東", ["東京", "tower", "東"]),
    ("日本の首都", ["日本", "本の", "の首", "首都"]),
    ("ภาษาไทย", ["ภา", "าษ", "ษา", "าไ", "ไท", "ทย"]),
    ("한국어 책", ["한국어", "책"]),
    ("", []), (" – ?\ufffd", []),
])  # fmt: skip
def test_words_of_any_script(text, expected):
    assert words(text) == expected


def test_small_blocks_read_a_little_at_a_time_and_make_no_difference(datastore, monkeypatch):
    whole, _ = opened(datastore)
    shutil.rmtree(datastore.path / bm25.FOLDER)
    monkeypatch.setattr(bm25, "_BLOCK", 5)
    read = []
    tokens = datastore.chunks.tokens

    class Watched:
        def __getitem__(self, rows: slice) -> np.ndarray:
            read.append(rows.stop - rows.start)
            return tokens[rows]

    monkeypatch.setattr(bm25, "_VERSION", "blocks")
    object.__setattr__(datastore.chunks, "tokens", Watched())
    monkeypatch.setattr(type(datastore.chunks), "__len__", lambda _: len(tokens))
    blocks, events = opened(datastore)
    assert max(read) == 5 and len(read) == -(-len(tokens) // 5) == len(events) > 7
    assert (events[-1].done, events[-1].total) == (len(tokens), len(tokens))
    for query in QUERIES:
        assert np.array_equal(whole.scores(query), blocks.scores(query))


@pytest.mark.parametrize(("sizes", "base"), [
    ([100], 1), ([100, 25], 1), ([100, 26], 2), ([100, 20, 5], 1), ([100, 20, 6], 3),
    ([100, 26, 31], 2), ([100, 26, 32], 3), ([7, 1, 1, 1], 3), ([0, 3], 2), ([0], 1),
])  # fmt: skip
def test_a_quarter_more_is_counted_anew(sizes, base):
    assert base_of(sizes) == base
    assert [base_of(sizes[: i + 1]) for i in range(len(sizes))][-1] == base


def test_appended_segments_are_found_by_the_bases_statistics(datastore, monkeypatch):
    chunks = [words(text) for text in texts_of(datastore)]
    total = len(chunks)
    old, new = total - 12, 5
    in_parts(monkeypatch, datastore, old, total - old)
    later, events = opened(datastore)
    assert base_of([old, total - old]) == 1 and events[-1].total == total - old
    for query in QUERIES:
        expected = plain_bm25(chunks, words(query), chunks[:old])
        assert np.allclose(later.scores(query), expected, rtol=1e-5, atol=1e-6)
    # One more segment: nothing of the others is made again.
    written = {path: path.stat().st_mtime_ns for path in files_of(datastore)}
    in_parts(monkeypatch, datastore, old, total - old - new, new)
    _, events = opened(datastore)
    assert [(event.done, event.total) for event in events] == [(total - old - new,) * 2, (new,) * 2]
    assert all(path.stat().st_mtime_ns == then for path, then in written.items())


def test_a_larger_datastore_is_counted_anew_and_the_old_count_goes(datastore, monkeypatch):
    chunks = [words(text) for text in texts_of(datastore)]
    total = len(chunks)
    opened(datastore)
    (before,) = (datastore.path / bm25.FOLDER).iterdir()
    in_parts(monkeypatch, datastore, 3, total - 3)
    index, _ = opened(datastore)
    (after,) = (datastore.path / bm25.FOLDER).iterdir()
    assert before != after
    for query in QUERIES:
        assert np.allclose(index.scores(query), plain_bm25(chunks, words(query)), rtol=1e-5, atol=1e-6)


def files_of(datastore: Datastore) -> list[Path]:
    return sorted(path for path in (datastore.path / bm25.FOLDER).rglob("*") if path.is_file())


def test_it_is_kept_memory_mapped_checked_and_made_again(datastore, monkeypatch):
    in_parts(monkeypatch, datastore, len(datastore.chunks) - 4, 4)
    index, events = opened(datastore)
    assert events
    again, events = opened(datastore)
    assert not events
    for block in again._blocks:
        arrays = block.terms, block.index.scores["data"], block.index.scores["indices"]
        assert all(isinstance(array, np.memmap) for array in arrays)
    names = [path.relative_to(datastore.path) for path in files_of(datastore)]
    assert len(names) == 3 + 2 * 6
    for name in {(name.name, len(name.parts)): name for name in names}.values():  # one of each kind
        for damage in ("flip", "cut", "gone") if name.name == "terms.npy" else ("flip",):
            file = datastore.path / name
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 4
            file.unlink()
            if damage != "gone":
                file.write_bytes(data if damage == "flip" else data[: len(data) // 2])
            healed, events = opened(datastore)
            assert events, (name, damage)
            for query in QUERIES:
                assert np.array_equal(index.scores(query), healed.scores(query)), (name, damage)
    assert [path.relative_to(datastore.path) for path in files_of(datastore)] == names


def test_nothing_is_written_where_nothing_should_be(datastore, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "ASSETS", datastore.path.parent.parent)
    index, events = opened(datastore)
    assert events and not (datastore.path / bm25.FOLDER).exists()
    assert index.scores("the river Nile").any()


def test_a_full_disk_is_said_in_a_sentence(datastore, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bm25.files, "save_array", full)
    with pytest.raises(DatastoreError, match="the words of datastore 'shelf': No space left.*Make room"):
        opened(datastore)
    assert not files_of(datastore)
    monkeypatch.undo()


def test_what_is_removed_while_it_is_made_is_made_elsewhere(datastore, monkeypatch):
    whole, _ = opened(datastore)
    shutil.rmtree(datastore.path / bm25.FOLDER)
    monkeypatch.setattr(bm25, "_BLOCK", 5)
    index = None
    generator = open_word_index(datastore)
    for _ in range(3):
        next(generator)
    shutil.rmtree(datastore.path / "index")  # as when somebody compacts the datastore
    while index is None:
        try:
            next(generator)
        except StopIteration as end:
            index = end.value
    assert not files_of(datastore)
    for query in QUERIES:
        assert np.array_equal(index.scores(query), whole.scores(query))


@pytest.mark.slow
def test_four_processes_may_make_it_at_once(datastore):
    code = (
        "import sys; from indexing import bm25; from indexing.datastore import Datastore\n"
        "from indexing.retrievers import open_lookup; bm25._BLOCK = 9\n"
        f"for turn in range(5):\n lookup = open_lookup('bm25', Datastore.open({str(datastore.path)!r}))\n"
        " print('ready', flush=True); sys.stdin.readline()\n"
        " print([hit.chunk_id for hit in lookup.search('the river Nile flows', 5)], flush=True)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": paths.ASSETS.parent}
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(4)]
    for _ in range(5):
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 4
        shutil.rmtree(datastore.path / bm25.FOLDER, ignore_errors=True)
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = {process.stdout.readline() for process in processes}
        assert len(answers) == 1 and answers.pop().count(",") == 4
    assert [process.wait() for process in processes] == [0] * 4


def test_stopping_half_way_leaves_nothing(datastore, monkeypatch):
    monkeypatch.setattr(bm25, "_BLOCK", 5)
    generator = open_word_index(datastore)
    next(generator)
    generator.close()
    assert not files_of(datastore)


def test_it_needs_neither_torch_nor_an_embedder(datastore):
    code = (
        "import sys; from indexing.retrievers import *; from indexing.datastore import Datastore;"
        f"hits = open_retriever('bm25', Datastore.open({str(datastore.path)!r})).search('river Nile', 2);"
        "print(len(hits), [m for m in ('torch', 'sentence_transformers', 'faiss') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.ASSETS.parent
    )
    assert done.stdout.strip() == "2 []", done.stderr


def test_chunks_of_the_shelf_are_as_short_as_the_tests_need(datastore):
    assert 20 < len(datastore.chunks) < bm25._BLOCK and datastore.chunks.chunk_size == M
