"""A probe of random tokens with a datastore of random vectors, small enough for loops in plain Python."""

import numpy as np
from tiny_models import SIZES, M

from indexing.chunking import split
from indexing.chunks import ChunkStore
from indexing.neighbours import Neighbours
from retro_core.evaluation.held_out import HeldOut, HeldOutDocument
from retro_core.evaluation.searching import Searchable

VOCABULARY, WIDTH, K = SIZES["num_embeddings"], 17, 2
LENGTHS = (13, 7, 2, 19, 11)  # tokens of the held-out documents
WINDOW, STRIDE = 3 * M, 2 * M
DELETED, SILENT = 11, 91  # the latter is of a document that sweeps draw


def texts(seed: int = 0, lengths: tuple[int, ...] = LENGTHS, words: int = VOCABULARY) -> list[np.ndarray]:
    """Token ids from 1; few `words` make them repeat each other."""
    rng = np.random.default_rng(seed)
    return [rng.integers(1, words, length) for length in lengths]


def store_of(documents: list[np.ndarray]) -> ChunkStore:
    rows = [split(tokens, 0, M) for tokens in documents]
    counts = [len(row) for row in rows]
    return ChunkStore(
        tokens=np.concatenate(rows),
        chunk2seq=np.repeat(np.arange(len(rows)), counts),
        seq2chunk=np.cumsum([0, *counts[:-1]]),
        starts=np.zeros(sum(counts), dtype=np.int64),
    )


def searchable_of(documents: list[np.ndarray], seed: int = 1) -> Searchable:
    """Chunks with embeddings that tell nothing; an asking chunk's embedding depends on its tokens alone.
    Document `DELETED`, if there are so many, is deleted, and chunk `SILENT` says nothing."""
    store = store_of(documents)
    vectors = np.random.default_rng(seed).normal(size=(len(store), WIDTH)).astype(np.float16)
    directions = np.random.default_rng(seed + 1).normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    return Searchable(
        vectors,
        store.chunk2seq,
        (store.chunk2seq != DELETED) & (np.arange(len(store)) != SILENT),
        store.num_documents,
        store.retrieved_tokens,
        lambda number: documents[number],
        lambda chunks: directions[chunks].sum(axis=1),
    )


def probe_of(documents: list[np.ndarray], seed: int = 2, k: int = K, own: tuple[int, ...] = ()) -> HeldOut:
    """Every chunk has neighbours of random tokens, some of them cut short or missing."""
    numbers = own or (-1,) * len(documents)

    def neighbours(document: int, num_neighbours: int = k) -> Neighbours:
        rng = np.random.default_rng([seed, document])
        count = -(-len(documents[document]) // M)
        tokens = rng.integers(1, VOCABULARY, (count, k, 2 * M))
        tokens[rng.random((count, k)) < 0.2, M + 1 :] = 0
        missing = rng.random(count) < 0.2
        tokens[missing, -1] = 0
        ids = np.where((tokens == 0).all(axis=-1), -1, 0)
        return Neighbours(ids, np.zeros(ids.shape, dtype=np.float32), tokens).first(num_neighbours)

    return HeldOut(
        "small",
        [
            HeldOutDocument(str(n), tokens, own)
            for n, (tokens, own) in enumerate(zip(documents, numbers, strict=True))
        ],
        neighbours,
        chunk_size=M,
        pad_id=0,
        num_neighbours=k,
        window=WINDOW,
        stride=STRIDE,
    )


def last_of(generator):
    """What a generator of events returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value
