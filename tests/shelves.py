"""A small datastore to retrieve from, and what retrievers are compared with: plain loops over its chunks."""

import math
from pathlib import Path

import numpy as np
from conftest import SENTENCES

from indexing.build import build
from indexing.corpus import Document
from indexing.datastore import Datastore

M = 13
TEXTS = [
    *[" ".join(SENTENCES[i:] + SENTENCES[:i]) for i in range(5)],
    "Short.",
    "The Congo river flows west; the river Nile flows north. " * 3,
    "Zürich lies on a river. 東京は日本の首都です。 हिन्दी किताब। " + SENTENCES[3],
    "???",
]


def make(tokenizer, embedder, name: str | Path = "shelf") -> Datastore:
    documents = [Document(f"doc-{i}", f"Title {i}", text, f"line {i}") for i, text in enumerate(TEXTS)]
    for _ in build(name, documents, tokenizer, embedder, chunk_size=M):
        pass
    return Datastore.open(name, embedder=embedder)


def texts_of(datastore: Datastore) -> list[str]:
    """What each chunk says."""
    return [datastore.tokenizer.decode(chunk) for chunk in np.asarray(datastore.chunks.tokens)]


def plain_bm25(
    chunks: list[list[str]], query: list[str], counted: list[list[str]] | None = None
) -> list[float]:
    """Scores of chunks of words, written from the formula; `counted` are the chunks that statistics come
    from, all by default."""
    counted = chunks if counted is None else counted
    average = sum(map(len, counted)) / len(counted)
    scores = []
    for chunk in chunks:
        score = 0.0
        for word in query:
            frequency = chunk.count(word)
            having = sum(word in other for other in counted)
            idf = math.log(1 + (len(counted) - having + 0.5) / (having + 0.5))
            length = 1 - 0.75 + 0.75 * len(chunk) / average
            score += idf * frequency / (frequency + 1.5 * length)
        scores.append(score)
    return scores


def best(values: list[float], k: int, allowed: list[bool] | None = None) -> list[int]:
    """Rows of the k largest values, equal ones by row."""
    rows = [row for row in range(len(values)) if allowed is None or allowed[row]]
    return sorted(rows, key=lambda row: (-values[row], row))[:k]
