"""Retrievers answer as plain loops over all chunks do, say what they order by, leave out what they must."""

import dataclasses
import itertools
import threading

import numpy as np
import pytest
from conftest import SENTENCES
from fakes import HashingEmbedder
from serving import serving
from shelves import TEXTS, M, best, make, plain_bm25, texts_of
from tiny_models import tiny_model

from indexing.bm25 import words
from indexing.build import append
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.errors import InputError, MismatchError, ServiceError
from indexing.neighbours import (
    GIVEN,
    MIXED,
    NO_CHUNK,
    PASTED,
    Neighbours,
    longest_common_runs,
)
from indexing.ranking import Dense, fuse
from indexing.retokenised import RetokenisedDatastore
from indexing.retrievers import (
    RETRIEVERS,
    Cached,
    Filtered,
    Fixed,
    Lookup,
    Off,
    look_up_text,
    open_retriever,
)
from indexing.tokenizer import train_byte_level_bpe
from indexing.upkeep import delete
from retro_core.config import GenerationConfig
from retro_core.generation import Finished, Retrieved, generate

K = 5
LOCAL = ("dense", "first-chunk", "bm25", "hybrid-rrf", "hybrid-rerank", "random:7")
PLAIN = ("dense", "bm25", "random:7")  # whose order does not depend on how far they look


@pytest.fixture(scope="module")
def datastore(tokenizer, tmp_path_factory) -> Datastore:
    return make(tokenizer, HashingEmbedder(), tmp_path_factory.mktemp("shelves") / "shelf")


@pytest.fixture
def asked(tokenizer) -> np.ndarray:
    """(7, M): pieces of texts that are on the shelf, of one that is not, and nothing at all."""
    text = "A volcano erupted while the river Nile flowed north, and honey bees told each other. "
    text += " ".join(SENTENCES[1:3])
    chunks = tokenizer.encode(text)[: 6 * M].reshape(6, M)
    return np.concatenate([chunks, np.zeros((1, M), dtype=np.int64)])


def everything(datastore: Datastore, form: str, asked: np.ndarray) -> Neighbours:
    """The whole order for each chunk."""
    return open_retriever(form, datastore).retrieve(asked, len(datastore.chunks))


def plain_run(a: list[int], b: list[int]) -> int:
    """Tokens in the longest common run, by trying all; 0 is padding."""
    lengths = [0]
    for i, j in itertools.product(range(len(a)), range(len(b))):
        size = 0
        while i + size < len(a) and j + size < len(b) and a[i + size] == b[j + size] != 0:
            size += 1
        lengths.append(size)
    return max(lengths)


# ------------------------------------------------------------------------------------------ the orders


def test_dense_is_the_datastore_itself(datastore, asked):
    own = datastore.chunks.chunk2seq[[0, 9, 3, 3, 3, 17, 0]]
    for options in ({}, {"exclude_documents": own}):
        mine = open_retriever("dense", datastore).retrieve(asked.reshape(7, 1, M), K, **without_axis(options))
        theirs = datastore.retrieve(asked.reshape(7, 1, M), K, **without_axis(options))
        assert mine.measure == theirs.measure == "squared L2" and mine.scores is None
        for field in ("ids", "distances", "tokens"):
            assert np.array_equal(getattr(mine, field), getattr(theirs, field))


def without_axis(options: dict) -> dict:
    return {name: value[:, None] for name, value in options.items()}


def test_bm25_is_the_formulas_order(datastore, asked):
    chunks = [words(text) for text in texts_of(datastore)]
    found = open_retriever("bm25", datastore).retrieve(asked, K)
    assert found.measure == "BM25" and np.isinf(found.distances).all()
    for row, chunk in enumerate(asked):
        scores = plain_bm25(chunks, words(datastore.tokenizer.decode(chunk)))
        present = found.ids[row] != NO_CHUNK
        expected = best(np.float32(scores).tolist(), K, [score > 0 for score in scores])
        assert np.allclose(found.scores[row][present], [scores[i] for i in expected], rtol=1e-5)
        assert np.allclose(
            [scores[i] for i in found.ids[row][present]], [scores[i] for i in expected], rtol=1e-5
        )
        assert np.isneginf(found.scores[row][~present]).all() and present.sum() == len(expected)
        assert (np.diff(found.scores[row][present]) <= 0).all()
    assert (found.ids[:6] != NO_CHUNK).all() and (found.ids[6] == NO_CHUNK).all()
    assert np.array_equal(found.tokens, datastore.chunks.retrieved_tokens(found.ids))


def test_reciprocal_ranks_by_hand():
    ids, sums = fuse([np.array([5, 3, 8]), np.array([3, 9])])
    assert ids.tolist() == [3, 5, 8, 9]
    assert np.allclose(sums, [1 / 62 + 1 / 61, 1 / 61, 1 / 63, 1 / 62])
    ids, sums = fuse([np.array([4]), np.zeros(0, dtype=np.int64)])
    assert ids.tolist() == [4] and np.allclose(sums, [1 / 61])


def test_hybrids_are_made_of_the_two_orders(datastore, asked):
    near, alike = (everything(datastore, form, asked) for form in ("dense", "bm25"))
    fused, reranked = (
        open_retriever(form, datastore).retrieve(asked, K) for form in ("hybrid-rrf", "hybrid-rerank")
    )
    assert (fused.measure, reranked.measure) == ("reciprocal ranks", "BM25")
    assert len(datastore.chunks) < 100, "both hybrids look at everything here"
    for row in range(6):
        first, second = (order.ids[row][order.ids[row] >= 0].tolist() for order in (near, alike))
        distance = dict(zip(near.ids[row].tolist(), near.distances[row].tolist(), strict=True))
        score = dict(zip(alike.ids[row].tolist(), alike.scores[row].tolist(), strict=True))
        sums = {
            i: sum(1 / (60 + order.index(i) + 1) for order in (first, second) if i in order)
            for i in {*first, *second}
        }
        expected = sorted(sums, key=lambda i: (-sums[i], distance[i], i))[:K]
        assert fused.ids[row].tolist() == expected
        assert np.allclose(fused.scores[row], [sums[i] for i in expected])
        assert np.allclose(fused.distances[row], [distance[i] for i in expected], atol=1e-5)
        expected = sorted(first, key=lambda i: (-score.get(i, 0.0), first.index(i)))[:K]
        assert reranked.ids[row].tolist() == expected
        assert np.allclose(reranked.scores[row], [score.get(i, 0.0) for i in expected])
        assert np.allclose(reranked.distances[row], [distance[i] for i in expected], atol=1e-5)
    assert (fused.ids[6] == NO_CHUNK).all() and (reranked.ids[6] == NO_CHUNK).all()
    assert not np.array_equal(fused.ids, near.ids[:, :K]) and not np.array_equal(fused.ids, alike.ids[:, :K])


def test_a_chunk_is_answered_alone_as_in_company_and_always_alike(datastore, asked):
    for form in LOCAL:
        together = open_retriever(form, datastore).retrieve(asked, K)
        again = open_retriever(form, datastore)
        for row, chunk in enumerate(asked):
            assert np.array_equal(again.retrieve(chunk, K).ids, together.ids[row]), form
        fewer = again.retrieve(asked, 2)
        assert np.array_equal(fewer.ids, together.ids[:, :2]), form


@pytest.mark.parametrize("seed", range(5))
def test_random_is_a_fair_draw_of_its_own_for_each_text_and_seed(datastore, asked, seed):
    found = everything(datastore, f"random:{seed}", asked)
    assert found.measure == "drawn at random" and found.scores is None and np.isinf(found.distances).all()
    tokens = np.asarray(datastore.chunks.tokens)
    speaks = ~np.isin(tokens, [datastore.tokenizer.pad_id, datastore.tokenizer.end_id]).all(axis=1)
    for row in range(6):
        drawn = found.ids[row][found.ids[row] >= 0]
        assert sorted(drawn.tolist()) == np.flatnonzero(speaks).tolist(), "everything, once"
    orders = {tuple(row) for row in found.ids[:6].tolist()}
    other = everything(datastore, f"random:{seed + 5}", asked)
    assert len(orders | {tuple(row) for row in other.ids[:6].tolist()}) == 12
    assert (everything(datastore, "random", asked).ids == everything(datastore, "random:0", asked).ids).all()


def test_random_goes_on_where_its_first_draws_do_not_do(datastore, asked, monkeypatch):
    whole = everything(datastore, "random:7", asked[:1]).ids[0]
    monkeypatch.setattr("indexing.ranking._DRAWS", 3)
    few = everything(datastore, "random:7", asked[:1]).ids[0]
    assert sorted(few.tolist()) == sorted(whole.tolist()) and few.tolist() != whole.tolist()


# ------------------------------------------------------------------------------------------ leaving out


@pytest.mark.parametrize("form", LOCAL)
def test_own_documents_and_lists_are_left_out_and_the_others_move_up(datastore, asked, form):
    documents = np.asarray(datastore.chunks.chunk2seq)
    whole = everything(datastore, form, asked)
    own = np.array([0, 1, 2, -1, 6, 7, 0])
    for only, exclude in (((), ()), (("doc-0", "doc-6", "doc-7"), ()), ((), ("doc-1", "doc-6"))):
        retriever = open_retriever(form, datastore, only=only, exclude=exclude)
        retriever = retriever if only or exclude else Filtered(retriever, datastore)
        found = retriever.retrieve(asked, K, exclude_documents=own)
        some = 0
        for row in range(len(asked)):
            expected = [
                i for i in whole.ids[row].tolist()
                if i >= 0 and documents[i] != own[row]
                and (not only or f"doc-{documents[i]}" in only) and f"doc-{documents[i]}" not in exclude
            ]  # fmt: skip
            got = found.ids[row][found.ids[row] >= 0].tolist()
            assert len(got) == min(K, len(expected)), "k of them, whenever k exist"
            if form in PLAIN:
                assert got == expected[:K]
            else:
                assert set(got) <= set(expected)
            some += len(got)
        assert some > 10


@pytest.mark.parametrize("form", PLAIN)
@pytest.mark.parametrize("limit", [0.0, 0.125, 0.4, 1.0])
def test_what_would_give_the_answer_away_is_left_out(datastore, form, limit):
    ids = np.concatenate([datastore.tokenizer.encode(text) for text in (TEXTS[0], "And now: " + TEXTS[3])])
    ids = ids[: len(ids) - len(ids) % M + 4]
    count, pad = len(ids) // M, datastore.tokenizer.pad_id
    retriever = open_retriever(form, datastore, leakage=limit)
    found = look_up_text(retriever, ids, M, K, pad)
    chunks = ids[: count * M].reshape(count, M)
    whole = everything(datastore, form, chunks)
    dropped = 0
    for row in range(count):
        later = ids[(row + 1) * M : (row + 2) * M].tolist()
        expected = []
        for chunk_id, tokens in zip(whole.ids[row].tolist(), whole.tokens[row].tolist(), strict=True):
            if chunk_id >= 0:
                leaks = plain_run(later, tokens) > limit * len(later)
                dropped += leaks
                expected += [] if leaks else [chunk_id]
        assert found.ids[row][found.ids[row] >= 0].tolist() == expected[:K]
        assert (found.ids[row] >= 0).sum() == min(K, len(expected))
    assert (dropped > 0) == (limit < 1)
    # What is not written yet cannot leak.
    assert np.array_equal(retriever.retrieve(chunks, K).ids, whole.ids[:, :K])


def test_longest_common_runs_against_all_ways_to_lay_them(tokenizer):
    rng = np.random.default_rng(3)
    for _ in range(40):
        a, b = rng.integers(0, 4, rng.integers(1, 9)), rng.integers(0, 4, (2, 3, rng.integers(1, 14)))
        runs = longest_common_runs(a, b, 0)
        expected = [[plain_run(a.tolist(), row.tolist()) for row in rows] for rows in b]
        assert runs.tolist() == expected
    assert longest_common_runs(np.array([7, 0, 7]), np.array([[7, 0, 7]]), 0).tolist() == [1]


def test_filters_work_on_any_retriever_alike(datastore, asked):
    own = np.array([0, 1, 2, -1, 6, 7, 0])
    later = np.roll(asked, -1, axis=0)
    for form in PLAIN:
        options = {"exclude": ("doc-4",), "leakage": 0.3}
        pushed_down = open_retriever(form, datastore, **options)
        asking_deeper = Filtered(Cached(open_retriever(form, datastore)), datastore, **options)
        mine, theirs = (
            retriever.retrieve(asked, K, exclude_documents=own, continuations=later)
            for retriever in (pushed_down, asking_deeper)
        )
        assert np.array_equal(mine.ids, theirs.ids) and np.array_equal(mine.tokens, theirs.tokens)
        assert mine.measure == theirs.measure and (mine.ids[:6] != NO_CHUNK).any()
        if mine.scores is not None:
            assert np.array_equal(mine.scores, theirs.scores)
    given = Fixed(M, datastore.tokenizer, everywhere=["The river Nile", "Honey bees"])
    kept = Filtered(given, datastore, exclude=["doc-0"], leakage=0.1)
    leaking = datastore.tokenizer.encode("so The river Nile flows")[None, :M]
    found = kept.retrieve(asked[:1], 2, continuations=leaking)
    assert found.ids.tolist() == [[PASTED, NO_CHUNK]]
    assert datastore.tokenizer.decode(found.tokens[0, 0]) == "Honey bees"


def test_what_cannot_be_left_out_is_said(datastore):
    with pytest.raises(InputError, match="'shelf' has no document 'doc-77'"):
        open_retriever("bm25", datastore, exclude=["doc-77"])
    with pytest.raises(InputError, match="share of 0 to 1 that may leak, got 1.5"):
        open_retriever("dense", datastore, leakage=1.5)
    with pytest.raises(MismatchError, match=f"chunks of {M} tokens, but was asked with chunks of 3"):
        open_retriever("bm25", datastore).retrieve(np.ones((2, 3), dtype=np.int64), 1)


def test_deleted_documents_are_never_found_and_appended_ones_are(tokenizer, embedder, asked):
    datastore = make(tokenizer, embedder)
    gone = {form: everything(datastore, form, asked).ids for form in LOCAL}
    documents = np.asarray(datastore.chunks.chunk2seq)
    delete("shelf", ["doc-0", "doc-6"])
    extra = Document("new", "New", "A volcano erupted while honey bees told each other of it.", "s")
    for _ in append("shelf", [extra], embedder):
        pass
    after = datastore.current()
    new = np.flatnonzero(np.asarray(after.chunks.chunk2seq) == 9)
    for form in LOCAL:
        assert np.isin(documents[gone[form][gone[form] >= 0]], [0, 6]).any()
        found = everything(after, form, asked).ids
        alive = found[found >= 0]
        assert not np.isin(np.asarray(after.chunks.chunk2seq)[alive], [0, 6]).any(), form
        assert np.isin(new[:-1], alive).all(), form
        assert new[0] in found[0, :3] or form == "random:7", form


# ---------------------------------------------------------------------------------- given, none, cached


def test_off_is_no_neighbour(datastore, asked):
    found = open_retriever("off", datastore).retrieve(asked.reshape(7, 1, M), K)
    assert found.ids.shape == (7, 1, K) and found.tokens.shape == (7, 1, K, 2 * M)
    assert (found.ids == NO_CHUNK).all() and not found.mask.any()


def test_given_texts_stand_where_neighbours_would(datastore, asked, tokenizer):
    long = tokenizer.encode(SENTENCES[1])[: M + 3].tolist()
    edited = Fixed(
        M,
        tokenizer,
        of_chunks={tuple(asked[1].tolist()): ["Honey", long], tuple(asked[4].tolist()): []},
        otherwise=open_retriever("bm25", datastore),
    )
    found = edited.retrieve(asked.reshape(7, 1, M), 3).reshape(7)
    assert found.ids[1].tolist() == [PASTED, PASTED, NO_CHUNK] and found.measure == MIXED
    assert tokenizer.decode(found.tokens[1, 0]) == "Honey" and np.isinf(found.distances[1]).all()
    assert found.tokens[1, 1].tolist() == long + [0] * (M - 3)
    assert (found.ids[4] == NO_CHUNK).all()
    others = [0, 2, 3, 5, 6]
    assert np.array_equal(found.ids[others], open_retriever("bm25", datastore).retrieve(asked[others], 3).ids)
    same = Fixed(M, tokenizer, everywhere=["Honey", "bees"]).retrieve(asked[:2], 1)
    assert same.ids.tolist() == [[PASTED], [PASTED]] and same.measure == GIVEN
    for texts, sentence in (
        (["x " * 99], f"up to {2 * M} fit"),
        ([""], "is empty"),
        ([[5, 0]], "is padding"),
    ):
        with pytest.raises(InputError, match=sentence):
            Fixed(M, tokenizer, everywhere=texts)


class Counting:
    """Counts the chunks that reach the datastore."""

    def __init__(self, retriever):
        self.retriever, self.calls = retriever, []

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        self.calls.append(len(chunks))
        return self.retriever.retrieve(chunks, num_neighbours)


@pytest.mark.parametrize("form", ("dense", "bm25"))
def test_each_chunk_is_looked_up_once_also_twice_in_a_batch(datastore, asked, form):
    counting = Counting(open_retriever(form, datastore))
    cached = Cached(counting, capacity=4)
    twice = asked[[0, 1, 0, 1, 2]]
    expected = open_retriever(form, datastore).retrieve(twice, K)
    for turn in range(3):
        found = cached.retrieve(twice.reshape(5, 1, M).astype(np.int32 if turn else np.int64), K).reshape(5)
        for field in dataclasses.fields(Neighbours):
            ours, theirs = getattr(found, field.name), getattr(expected, field.name)
            assert np.array_equal(ours, theirs) if isinstance(theirs, np.ndarray) else ours == theirs
    assert counting.calls == [3] and (cached.hits, cached.misses) == (12, 3)
    fewer = cached.retrieve(asked[0], 2)
    assert fewer.ids.shape == (2,) and np.array_equal(fewer.ids, expected.ids[0, :2])
    assert counting.calls == [3]
    cached.retrieve(asked[:1], K + 1)
    assert counting.calls == [3, 1], "more were asked for than are known"
    cached.retrieve(asked[3:6], K)  # room for four: chunks 1 and 2 are the oldest
    cached.retrieve(asked[[0, 3]], K)
    assert counting.calls == [3, 1, 3]
    cached.retrieve(asked[[1]], K)
    assert counting.calls == [3, 1, 3, 1]


def test_what_was_asked_for_last_is_remembered_longest(datastore, asked):
    counting = Counting(open_retriever("bm25", datastore))
    cached = Cached(counting, capacity=2)
    for row in (0, 1, 0, 2, 0):
        cached.retrieve(asked[row], K)
    assert counting.calls == [1, 1, 1], "chunk 2 took the place of chunk 1"
    cached.retrieve(asked[1], K)
    assert counting.calls == [1] * 4
    with pytest.raises(InputError, match="at least 1 chunk, got 0"):
        Cached(counting, capacity=0)


def test_a_cache_is_shared_by_threads(datastore, asked):
    cached, wrong = Cached(open_retriever("dense", datastore), capacity=3), []
    expected = cached.retriever.retrieve(asked, K).ids

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(25):
            rows, k = rng.integers(0, 7, 3), int(rng.integers(1, K + 1))
            if not np.array_equal(cached.retrieve(asked[rows], k).ids, expected[rows, :k]):
                wrong.append((rows, k))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and cached.hits + cached.misses == 4 * 25 * 3 and cached.hits


# ----------------------------------------------------------------------------------- forms, and who asks


@pytest.mark.parametrize(
    "form", ["", "Dense", "faiss", "random:x", "random:-1", "random:", "bm25:3", "off:1"]
)
def test_a_form_that_is_none_is_named_with_all_that_are(datastore, form):
    with pytest.raises(InputError) as caught:
        open_retriever(form, datastore)
    said = str(caught.value)
    assert said.startswith(f"There is no retriever {form!r}. Choose one of dense, first-chunk, bm25, ")
    assert all(name in said for name in RETRIEVERS)


def test_a_form_needs_a_datastore_unless_it_is_a_service():
    with pytest.raises(InputError, match="'bm25' looks things up in a datastore"):
        open_retriever("bm25", None)
    with pytest.raises(ServiceError):
        open_retriever("http://127.0.0.1:9", None)


def test_a_service_is_a_retriever_like_the_others(datastore, asked, tokenizer):
    later = np.roll(asked, -1, axis=0)
    with serving(datastore) as address:
        for options in ({}, {"exclude": ("doc-4",), "leakage": 0.3}, {"only": ("doc-1", "doc-7")}):
            here = open_retriever("dense", datastore, **options)
            there = open_retriever(f"{address}#shelf", None, tokenizer=tokenizer, **options)
            asking = {"continuations": later} if options else {}
            mine, theirs = (retriever.retrieve(asked, K, **asking) for retriever in (here, there))
            assert (theirs.ids[:6] != NO_CHUNK).any() and theirs.measure == mine.measure
            assert np.array_equal(mine.ids, theirs.ids) and np.array_equal(mine.tokens, theirs.tokens)
            assert np.allclose(mine.distances, theirs.distances)


@pytest.mark.parametrize("form", (*LOCAL, "off"))
def test_generation_takes_any_of_them(datastore, tokenizer, form):
    model = tiny_model(num_embeddings=tokenizer.vocab_size, chunk_size=M)
    config = GenerationConfig(max_new_tokens=2 * M, num_neighbours=2, ignore_end=True, seed=3)
    written = []
    for retriever in (open_retriever(form, datastore), Cached(open_retriever(form, datastore))):
        *events, last = generate(model, tokenizer, TEXTS[0][:60], retriever, config)
        assert isinstance(last, Finished)
        written.append(last.tokens)
        found = [event.neighbours for event in events if isinstance(event, Retrieved)]
        assert len(found) >= 2 and (found[0].ids >= 0).any() == (form != "off")
    assert written[0] == written[1]
    if form == "off":
        *_, off = generate(model, tokenizer, TEXTS[0][:60], None, config)
        assert off.tokens == written[0]


def test_a_model_with_another_tokenizer_reads_the_same_neighbours(datastore):
    other = train_byte_level_bpe(SENTENCES * 9, vocab_size=900, name="other")
    retokenised = RetokenisedDatastore(datastore, other, 7)
    chunks = other.encode(TEXTS[0])[:14].reshape(2, 7)
    texts = [other.decode(chunk) for chunk in chunks]
    for form in LOCAL:
        found = open_retriever(form, retokenised, exclude=["doc-2"]).retrieve(chunks, K)
        straight = open_retriever(form, datastore)
        allowed = np.asarray(datastore.chunks.chunk2seq) != 2
        for row, text in enumerate(texts):
            hits = straight.search(text, K, allowed)
            assert found.ids[row].tolist() == [hit.chunk_id for hit in hits], form
            for tokens, hit in zip(found.tokens[row], hits, strict=True):
                assert tokens[:7][tokens[:7] != other.pad_id].tolist() == other.encode(hit.text)[:7].tolist()
    off = open_retriever("off", retokenised).retrieve(chunks, 2)
    assert off.tokens.shape == (2, 2, 14) and off.pad_id == other.pad_id


def test_search_says_what_it_ordered_by(datastore):
    for form in LOCAL:
        hits = open_retriever(form, datastore).search("the river Nile flows north", 3)
        assert len(hits) == 3 and isinstance(open_retriever(form, datastore), Lookup)
        for hit in hits:
            origin = datastore.provenance(hit.chunk_id)
            assert (hit.document_id, hit.title, hit.source, hit.offset) == (
                origin.document_id, origin.title, origin.source, origin.offset,
            )  # fmt: skip
            assert hit.text == datastore.text(hit.chunk_id)
            assert (hit.score is None) == (hit.measure in ("squared L2", "drawn at random"))
            assert (hit.distance is None) == (form in ("bm25", "random:7"))
    with pytest.raises(InputError, match="empty"):
        Lookup(datastore, Dense(datastore)).search(" ", 1)


def test_neighbours_of_different_orders_are_mixed_and_lose_their_scores(datastore, asked):
    alike, near = (open_retriever(form, datastore).retrieve(asked[:2], K) for form in ("bm25", "dense"))
    none = Off(2 * M).retrieve(asked[:1], K)
    both = alike.followed_by(alike)
    assert both.measure == "BM25" and np.array_equal(both.scores, np.concatenate([alike.scores] * 2))
    shorter = none.followed_by(alike)
    assert shorter.measure == "BM25" and np.isneginf(shorter.scores[0]).all()
    assert np.array_equal(shorter.scores[1:], alike.scores)
    mixed = alike.followed_by(near)
    assert mixed.measure == "mixed" and mixed.scores is None
    assert np.array_equal(mixed.distances, np.concatenate([alike.distances, near.distances]))
