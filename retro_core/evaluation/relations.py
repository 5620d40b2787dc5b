"""Where does retrieval help? The gain of chunks against what their tokens share with what was read for them.

An item is a chunk u and what chunk u - 1 read: the neighbours that the chunk was predicted with. Its gain is
the nats that On saves, a token. Against this stand

    overlap   longest run of tokens that the chunk shares with one of the neighbours / tokens of the chunk
    jaccard   different tokens that chunk and neighbours both have / different tokens that either has
    distance  squared L2 of the nearest neighbour, between the embeddings of asking chunk and neighbour

Chunks that nothing was read for are left out: the first of a document, and the first of a window that does
not overlap with the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexing.errors import InputError
from indexing.neighbours import Neighbours, overlap
from retro_core.evaluation.held_out import HeldOut
from retro_core.evaluation.losses import TokenLosses
from retro_core.evaluation.statistics import Bin, Interval, binned, interval, pearson, spearman

_EIGHTHS = tuple(eighths / 8 for eighths in range(9))
_DRAWS = 200  # of documents, for the intervals of correlations: ranking is slower than adding


@dataclass(frozen=True)
class ChunkGain:
    """A chunk that was predicted with neighbours. gain: nats that On saves, over all its scored tokens ·
    distance: inf where nobody measured it"""

    document: int
    chunk: int
    tokens: int
    gain: float
    overlap: float
    jaccard: float
    distance: float


@dataclass(frozen=True)
class Relation:
    """Gain in nats a token against one property. bins: means with intervals, `weight` is tokens, `items` are
    chunks; overlap in eighths, the others in bins of about equally many chunks · correlations over single
    chunks, with 95 % intervals by document; None where a property does not vary"""

    chunks: int
    bins: list[Bin]
    spearman: float | None
    spearman_ci95: Interval | None
    pearson: float | None
    pearson_ci95: Interval | None


def chunk_gains(losses: TokenLosses, held_out: HeldOut, num_neighbours: int | None = None) -> list[ChunkGain]:
    """Every chunk of these documents that was predicted with neighbours, in order.

    num_neighbours  how many On read; all that are known by default

    Raises InputError without the readings On and Off.
    """
    if not {"on", "off"} <= losses.nats.keys():
        raise InputError(f"A gain is Off less On, got the readings {', '.join(losses.nats)}. Score both.")
    k = held_out.num_neighbours if num_neighbours is None else num_neighbours
    m = held_out.chunk_size
    alone = {(w.document, w.start // m) for w in held_out.windows if w.first < w.start + m}
    keys = losses.document * (1 + losses.chunk.max(initial=0)) + losses.chunk
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    gains = np.bincount(place, losses.nats["off"] - losses.nats["on"])
    counts = np.bincount(place)
    found = []
    document, properties = -1, {}
    for row, start in enumerate(first.tolist()):
        chunk = int(losses.chunk[start])
        if (int(losses.document[start]), chunk) in alone:
            continue
        if losses.document[start] != document:
            document = int(losses.document[start])
            properties = _properties(held_out.chunks(document), held_out.neighbours(document, k))
        mine = {name: float(values[chunk - 1]) for name, values in properties.items()}
        found.append(ChunkGain(document, chunk, int(counts[row]), float(gains[row]), **mine))
    return found


def relations(chunks: Sequence[ChunkGain], seed: int = 0) -> dict[str, Relation]:
    """ "overlap", "jaccard" and "distance" -> what the gain has to do with it; without distances not the
    last."""
    named = {
        name: np.array([getattr(c, name) for c in chunks]) for name in ("overlap", "jaccard", "distance")
    }
    measured = np.isfinite(named["distance"])
    found = {"overlap": _relation(chunks, named["overlap"], _EIGHTHS, seed)}
    found["jaccard"] = _relation(chunks, named["jaccard"], _even(named["jaccard"]), seed)
    if measured.any():
        some = [chunk for chunk, known in zip(chunks, measured, strict=True) if known]
        distances = named["distance"][measured]
        found["distance"] = _relation(some, distances, _even(distances), seed)
    return found


def jaccard(tokens: np.ndarray, others: np.ndarray, pad_id: int) -> float:
    """Different tokens in both over different tokens in either; padding is none. 0 for nothing at all."""
    mine = set(np.ravel(tokens).tolist()) - {pad_id}
    theirs = set(np.ravel(others).tolist()) - {pad_id}
    return len(mine & theirs) / max(1, len(mine | theirs))


def _properties(chunks: np.ndarray, asked: Neighbours) -> dict[str, np.ndarray]:
    """chunks (l, m) of a document and what each asked for -> of all but the first, with what the chunk before
    it read: name -> (l - 1,)"""
    predicted, read, pad = chunks[1:], asked.tokens[:-1], asked.pad_id
    return {
        "overlap": overlap(predicted, read, pad),
        "jaccard": np.array([jaccard(*pair, pad) for pair in zip(predicted, read, strict=True)]),
        "distance": asked.distances[:-1].min(axis=-1, initial=np.inf),
    }


def _relation(chunks: Sequence[ChunkGain], x: np.ndarray, edges: Sequence[float], seed: int) -> Relation:
    documents = np.array([chunk.document for chunk in chunks], dtype=np.int64)
    tokens = np.array([chunk.tokens for chunk in chunks], dtype=np.float64)
    gains = np.array([chunk.gain for chunk in chunks])
    mean = gains / np.maximum(tokens, 1)
    names, place = np.unique(documents, return_inverse=True)
    rows = [np.flatnonzero(place == number) for number in range(len(names))]
    ranks, lines = [], []
    rng = np.random.default_rng(seed)
    for _ in range(_DRAWS if len(names) > 1 else 0):
        drawn = np.concatenate([rows[number] for number in rng.integers(0, len(names), len(names))])
        ranks.append(spearman(x[drawn], mean[drawn]))
        lines.append(pearson(x[drawn], mean[drawn]))
    return Relation(
        chunks=len(chunks),
        bins=binned(x, gains, tokens, documents, edges, seed),
        spearman=spearman(x, mean),
        spearman_ci95=interval(np.array(ranks, dtype=np.float64)),
        pearson=pearson(x, mean),
        pearson_ci95=interval(np.array(lines, dtype=np.float64)),
    )


def _even(values: np.ndarray) -> list[float]:
    """Edges of up to 8 bins with about equally many of the values."""
    if not len(values):
        return [0.0, 1.0]
    edges = np.unique(np.quantile(values, _EIGHTHS)).tolist()
    return edges if len(edges) > 1 else [edges[0], edges[0] + 1.0]
