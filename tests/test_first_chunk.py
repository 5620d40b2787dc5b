"""Neighbours found with the first chunk of the text: as a plain loop finds them; and everything that looks
chunks of a text up says how the text began."""

import numpy as np
import pytest
from fakes import HashingEmbedder
from serving import serving
from shelves import TEXTS, M, make
from tiny_models import tiny_model

from indexing.beginnings import FIRST_CHUNK, FIRST_CHUNK_WEIGHT
from indexing.chunking import split
from indexing.client import RemoteRetriever, ServiceClient
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.neighbours import NO_CHUNK, Neighbours, for_text, retrieve_each
from indexing.precompute import precompute_neighbours
from indexing.retrievers import Cached, Filtered, Fixed, look_up_text, open_retriever
from retro_core.config import GenerationConfig
from retro_core.evaluation.answering import answer_nats, read_with, scoring, written
from retro_core.evaluation.held_out import HeldOut
from retro_core.generation import Retrieved, generate
from retro_core.hf import RetroForCausalLM

K = 5


@pytest.fixture(scope="module")
def datastore(tokenizer, tmp_path_factory) -> Datastore:
    return make(tokenizer, HashingEmbedder(), tmp_path_factory.mktemp("shelves") / "shelf")


def chunks_of(text: str, tokenizer) -> np.ndarray:
    return split(tokenizer.encode(text), tokenizer.pad_id, M)


def plain_order(datastore: Datastore, chunk: np.ndarray, first: np.ndarray) -> tuple[list[int], list[float]]:
    """All chunks with text, and their cosines, by a loop over them."""
    say = [datastore.tokenizer.decode(tokens) for tokens in np.asarray(datastore.chunks.tokens)]
    stored = np.asarray(datastore.embeddings[:], dtype=np.float64)
    starts = datastore.chunks.seq2chunk[datastore.chunks.chunk2seq]
    mine, beginning = datastore.embedder.embed([datastore.tokenizer.decode(c) for c in (chunk, first)])
    asked = mine + FIRST_CHUNK_WEIGHT * beginning
    scores = {}
    for row, text in enumerate(say):
        if text:
            both = stored[row] + FIRST_CHUNK_WEIGHT * stored[starts[row]] * bool(say[starts[row]])
            scores[row] = float(both @ asked / np.linalg.norm(both) / np.linalg.norm(asked))
    order = sorted(scores, key=lambda row: -scores[row])
    return order, [scores[row] for row in order]


@pytest.mark.parametrize("number", [0, 3, 6, 7])
def test_both_sides_are_taken_with_their_first_chunks(datastore, tokenizer, number):
    chunks = chunks_of(TEXTS[number], tokenizer)
    found = for_text(open_retriever(FIRST_CHUNK, datastore), chunks[0]).retrieve(chunks, K)
    assert found.measure == "similarity with first chunks" and len(chunks) > 2
    assert len(datastore.chunks) < 100, "all are candidates here"
    for row, chunk in enumerate(chunks):
        if not tokenizer.decode(chunk):
            assert (found.ids[row] == NO_CHUNK).all()
            continue
        order, scores = plain_order(datastore, chunk, chunks[0])
        assert np.allclose(found.scores[row], scores[:K], atol=2e-3)
        assert all(scores[order.index(i)] >= scores[K - 1] - 2e-3 for i in found.ids[row])
        vector = datastore.embedder.embed([tokenizer.decode(chunk)])[0]
        apart = ((np.asarray(datastore.embeddings[found.ids[row]], dtype=np.float32) - vector) ** 2).sum(-1)
        assert np.allclose(found.distances[row], apart, atol=1e-5), "distances are those of the chunks alone"
    dense = open_retriever("dense", datastore).retrieve(chunks, K)
    assert not np.array_equal(found.ids, dense.ids)


def test_it_finds_what_precomputed_neighbours_with_that_weight_are(datastore, tmp_path):
    shard = datastore.path
    list(precompute_neighbours([shard], [shard], K, tmp_path / "found", FIRST_CHUNK_WEIGHT))
    written_down = np.load(next((tmp_path / "found").glob("*.neighbours.npy")))
    retriever, same, there = open_retriever(FIRST_CHUNK, datastore), 0, 0
    firsts, tokens = datastore.chunks.seq2chunk, np.asarray(datastore.chunks.tokens)
    for document, first in enumerate(firsts):
        rows = np.flatnonzero(datastore.chunks.chunk2seq == document)
        asked = for_text(retriever, tokens[first])
        found = asked.retrieve(tokens[rows], K, exclude_documents=np.full(len(rows), document))
        same += int((found.ids == written_down[rows]).sum())
        there += int((written_down[rows] != NO_CHUNK).sum())
    assert there > 100 and same >= 0.98 * written_down.size  # 16 bits of a vector decide near ties


def test_a_beginning_that_says_nothing_weighs_nothing(datastore, tokenizer):
    chunk = chunks_of(TEXTS[0], tokenizer)[1]
    retriever = open_retriever(FIRST_CHUNK, datastore)
    told = for_text(retriever, np.full(M, tokenizer.pad_id)).retrieve(chunk[None], K)
    alone = retriever.retrieve(chunk[None], K)
    assert np.array_equal(told.ids, alone.ids) and np.array_equal(told.scores, alone.scores)


def test_a_chunk_alone_is_its_own_beginning(datastore, tokenizer):
    first = chunks_of(TEXTS[0], tokenizer)[0]
    retriever = open_retriever(FIRST_CHUNK, datastore)
    alone, told = retriever.retrieve(first[None], K), for_text(retriever, first).retrieve(first[None], K)
    assert np.array_equal(alone.ids, told.ids) and np.allclose(alone.scores, told.scores, atol=1e-6)
    hits = retriever.search(tokenizer.decode(first), K)
    assert [hit.chunk_id for hit in hits] == alone.ids[0].tolist()


def test_others_are_not_disturbed_by_being_told(datastore, tokenizer):
    first = chunks_of(TEXTS[0], tokenizer)[0]
    for form in ("dense", "bm25", "hybrid-rrf", "random:7"):
        for retriever in (
            open_retriever(form, datastore),
            open_retriever(form, datastore, exclude=["doc-2"]),
            Cached(open_retriever(form, datastore)),
            Fixed(M, tokenizer, of_chunks={}, otherwise=open_retriever(form, datastore)),
        ):
            assert for_text(retriever, first) is retriever
    assert for_text(datastore, first) is datastore


def test_the_beginning_is_passed_on_by_what_stands_before(datastore, tokenizer):
    texts = [chunks_of(TEXTS[number], tokenizer) for number in (0, 6)]
    chunk = texts[0][2]
    plain = open_retriever(FIRST_CHUNK, datastore)
    expected = [for_text(plain, text[0]).retrieve(chunk[None], K) for text in texts]
    assert not np.array_equal(expected[0].ids, expected[1].ids), "the beginning matters"
    cached, given = Cached(plain), {tuple(texts[1][1].tolist()): ["Mine."]}
    with serving(datastore, retrievers=("dense", FIRST_CHUNK)) as address:
        for retriever in (
            cached,
            cached,  # and what is remembered of one text is not told of the other
            Filtered(plain, datastore),
            Fixed(M, tokenizer, of_chunks=given, otherwise=plain),
            open_retriever(f"{address}#shelf/{FIRST_CHUNK}", None, tokenizer=tokenizer),
        ):
            for text, theirs in zip(texts, expected, strict=True):
                found = for_text(retriever, text[0]).retrieve(chunk[None], K)
                assert np.array_equal(found.ids, theirs.ids) and np.allclose(found.scores, theirs.scores)
        told = RemoteRetriever(ServiceClient(address), "shelf", tokenizer)
        assert for_text(told, texts[0][0]) is told, "the service's first retriever is another one"
    assert (cached.hits, cached.misses) == (2, 2)
    with serving(datastore, retrievers=(FIRST_CHUNK,)) as address:
        first = for_text(RemoteRetriever(ServiceClient(address)), texts[1][0])
        found = first.retrieve(chunk[None], K)
        assert np.array_equal(found.ids, expected[1].ids)
        assert first.provenance(int(found.ids[0, 0])) == datastore.provenance(int(found.ids[0, 0]))
    less = for_text(open_retriever(FIRST_CHUNK, datastore, exclude=["doc-0"]), texts[0][0])
    ids = less.retrieve(chunk[None], K).ids
    assert (ids >= 0).all() and not (datastore.chunks.chunk2seq[ids] == 0).any()


def test_a_service_takes_a_first_chunk_that_is_one(datastore, tokenizer):
    import httpx

    chunks = chunks_of(TEXTS[0], tokenizer).tolist()
    with serving(datastore, retrievers=(FIRST_CHUNK,)) as address:
        for first, more, code in (([1, 2], {"chunks": chunks}, 400), (chunks[0], {"texts": ["x"]}, 422)):
            answer = httpx.post(f"{address}/v1/retrieve", json={"first_chunk": first, **more})
            assert answer.status_code == code
            assert (
                "chunks of 13 token ids" if code == 400 else "first_chunk goes with chunks"
            ) in answer.text


# ------------------------------------------------------------------------------------- everything that asks


class Listening:
    """Notes of which text each chunk was said to be; finds a chunk of the datastore for all."""

    def __init__(self, datastore: Datastore, told: list | None = None, first: tuple | None = None):
        self.datastore, self.told, self.first = datastore, [] if told is None else told, first

    def for_text(self, first_chunk):
        return Listening(self.datastore, self.told, tuple(np.asarray(first_chunk).tolist()))

    def retrieve(self, chunks, num_neighbours) -> Neighbours:
        self.told += [(self.first, tuple(chunk)) for chunk in chunks.reshape(-1, M).tolist()]
        ids = np.full((len(chunks), num_neighbours), 7)
        return Neighbours(ids, np.ones(ids.shape), self.datastore.chunks.retrieved_tokens(ids))


@pytest.fixture
def listening(datastore) -> Listening:
    return Listening(datastore)


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(num_embeddings=tokenizer.vocab_size, chunk_size=M)


def pairs(ids) -> list[tuple[tuple, tuple]]:
    """(first chunk, chunk) of all complete chunks of a text."""
    chunks = [tuple(map(int, ids[start : start + M])) for start in range(0, len(ids) - M + 1, M)]
    return [(chunks[0], chunk) for chunk in chunks]


@pytest.mark.parametrize("step", [0, 5])
def test_generation_says_it(listening, model, tokenizer, step):
    config = GenerationConfig(max_new_tokens=2 * M + 3, ignore_end=True, retrieval_step=step)
    *events, last = generate(model, tokenizer, tokenizer.encode(TEXTS[0])[: M + 4], listening, config)
    expected = pairs(last.tokens)
    assert set(expected) <= set(listening.told) and {first for first, _ in listening.told} == {expected[0][0]}
    assert sum(isinstance(event, Retrieved) for event in events) == 3
    assert step or listening.told == expected


def test_scoring_says_it(listening, tokenizer):
    ids = tokenizer.encode(TEXTS[1])
    look_up_text(listening, ids, M, 2, tokenizer.pad_id)
    assert listening.told == pairs(ids) and len(listening.told) > 3
    assert len(look_up_text(listening, ids[:5], M, 2, tokenizer.pad_id).ids) == 0


def test_held_out_texts_say_it(listening, datastore, model, tokenizer):
    documents = [Document(str(n), str(n), TEXTS[n], "") for n in (0, 1, 5)]
    held_out = HeldOut.from_texts("live", documents, model.config, tokenizer, datastore, 2, listening)
    for number in range(3):
        held_out.neighbours(number, 2)
    asked = [held_out.chunks(number) for number in range(3)]
    assert listening.told == [(tuple(c[0].tolist()), tuple(x.tolist())) for c in asked for x in c]


def test_answering_says_it(listening, model, tokenizer):
    prompts = [tokenizer.encode(TEXTS[n])[: 2 * M] for n in (0, 1, 0)]
    found = list(read_with(listening, prompts, 2, M))
    assert sorted(listening.told) == sorted(pair for ids in prompts for pair in pairs(ids))
    assert [len(each.ids) for each in found] == [2, 2, 2]
    listening.told.clear()
    written(model, tokenizer, prompts, found, listening, M + 1)
    assert {first for first, _ in listening.told} <= {tuple(ids[:M].tolist()) for ids in prompts}
    listening.told.clear()
    text = scoring(tokenizer, TEXTS[1], " ", TEXTS[0], M)
    answer_nats(model, [text], [found[1].chunks(0, 1)], listening)
    assert listening.told == pairs(text.ids)[1:]


def test_hugging_faces_generate_says_it_of_each_row(listening, model, tokenizer):
    import torch

    long, short = tokenizer.encode(TEXTS[0])[: 2 * M], tokenizer.encode(TEXTS[6])[:M]
    ids = torch.full((2, 2 * M), tokenizer.pad_id)
    ids[0], ids[1, M:] = torch.tensor(long), torch.tensor(short)
    mask = (ids != tokenizer.pad_id).long()
    for cached in (True, False):
        listening.told.clear()
        wrapped = RetroForCausalLM.from_retro(model)
        wrapped.generation_config.pad_token_id = tokenizer.pad_id
        wrapped.generate(
            ids, attention_mask=mask, retriever=listening, num_neighbours=2, max_new_tokens=M + 1,
            min_new_tokens=M + 1, do_sample=False, use_cache=cached,
        )  # fmt: skip
        firsts = {chunk[:3]: first for first, chunk in listening.told if any(chunk)}
        assert firsts[tuple(long[M : M + 3].tolist())] == tuple(long[:M].tolist())
        assert firsts[tuple(short[:3].tolist())] == tuple(short.tolist())
        assert {first for first, chunk in listening.told if any(chunk)} == {
            tuple(long[:M].tolist()), tuple(short.tolist()),
        }  # fmt: skip


def test_chunks_of_several_texts_keep_their_places(datastore, tokenizer):
    texts = [chunks_of(TEXTS[number], tokenizer)[:4] for number in (0, 6, 1)]
    order = np.random.default_rng(3).permutation(12)
    chunks = np.concatenate(texts)[order]
    firsts = np.concatenate([np.tile(text[0], (4, 1)) for text in texts])[order]
    retriever = open_retriever(FIRST_CHUNK, datastore)
    found = retrieve_each(retriever, firsts, chunks, K)
    for row, (first, chunk) in enumerate(zip(firsts, chunks, strict=True)):
        assert np.array_equal(found.ids[row], for_text(retriever, first).retrieve(chunk, K).ids)
