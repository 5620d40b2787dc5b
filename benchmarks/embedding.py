"""Chunks of text per second: sentence-transformers' default call, ours, with fewer digits, static vectors.

    python -m benchmarks.embedding [--quick]          (about 6 minutes on 2 cores)

Texts are chunks of the bundled Factbook. Turns alternate: each round lets everyone embed the same texts, so
what the machine does besides touches all alike; ratios are medians over rounds. sentence-transformers is
called as its users do: `model.encode(texts)`, all settings its own. All have the same threads, and are warm.

Agreement has a sample of its own: the share of a query's ten nearest chunks by sentence-transformers that are
among the ten nearest by the other one, which embeds base and queries both, stored in float16 as a datastore
does.

The floor is what the network's matrix products cost at the rate of a large product on this machine, for the
tokens there are, without padding; nobody who computes in float32 can be faster.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.machine import opened, table
from indexing import paths
from indexing.bert import BertEmbedder
from indexing.datastore import Datastore
from indexing.embedder import (
    BF16_EMBEDDER,
    DEFAULT_EMBEDDER,
    EMBEDDERS,
    INT8_EMBEDDER,
    STATIC_EMBEDDER,
    SentenceTransformerEmbedder,
    open_embedder,
)

LIBRARY = "sentence-transformers"
NEIGHBOURS = 10
LABELS = {
    LIBRARY: "sentence-transformers, default call",
    DEFAULT_EMBEDDER: "ours",
    BF16_EMBEDDER: "ours in bfloat16 (opt-in)",
    INT8_EMBEDDER: "ours in whole numbers (opt-in)",
    STATIC_EMBEDDER: "static: a different retriever",
}
# At least this many times as fast, with at least this agreement.
BARS = {
    DEFAULT_EMBEDDER: (1.15, 0.99),
    INT8_EMBEDDER: (1.6, None),
    STATIC_EMBEDDER: (100.0, None),
}


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    machine = opened(options.threads, options.quick)
    texts = chunk_texts(options.quick)
    timed = texts[: 24 if options.quick else options.texts]
    sample = texts[: 60 if options.quick else options.base + options.queries]
    ours = {name: open_embedder(name) for name in EMBEDDERS}
    library = SentenceTransformerEmbedder()._model  # the same weights, loaded by sentence-transformers
    embed: dict[str, Callable[[Sequence[str]], np.ndarray]] = {LIBRARY: library.encode}
    embed |= {name: embedder.embed for name, embedder in ours.items()}

    tokens = ours[DEFAULT_EMBEDDER].count_tokens(timed)
    floor = len(timed) / (flops(ours[DEFAULT_EMBEDDER], tokens) / (machine["matmul_gflops"] * 1e9))
    taken = rounds(embed, timed, 1 if options.quick else options.rounds)
    queries = len(sample) // 5 if options.quick else options.queries
    vectors = {name: call(sample) for name, call in embed.items()}
    nearest = {name: neighbours(found[queries:], found[:queries]) for name, found in vectors.items()}
    results = {}
    for name, spent in taken.items():
        pairs = list(zip(taken[LIBRARY], spent, strict=True))
        rate = len(timed) / statistics.median(seconds for seconds, _ in spent)
        results[name] = {
            "chunks_per_s": rate,
            "times_as_fast": statistics.median(theirs[0] / mine[0] for theirs, mine in pairs),
            "times_less_cpu": statistics.median(theirs[1] / mine[1] for theirs, mine in pairs),
            "of_floor": rate / floor,
            "agreement": agreement(nearest[LIBRARY], nearest[name]),
            "cosine": None if name == STATIC_EMBEDDER else cosine(vectors[LIBRARY], vectors[name]),
            "seconds": [round(seconds, 4) for seconds, _ in spent],
        }
    print(report(results))
    print(
        f"{len(timed)} chunks of {np.mean(tokens):.0f} tokens on the mean; agreement: {queries} queries, "
        f"{len(sample) - queries} in the base. Floor: {floor:.0f} chunks/s, "
        f"{floor / results[LIBRARY]['chunks_per_s']:.2f} times the library.\n"
    )
    facts = {"texts": len(timed), "tokens": int(tokens.sum()), "floor_chunks_per_s": floor}
    sizes = {"queries": queries, "base": len(sample) - queries, "neighbours": NEIGHBOURS}
    print(json.dumps({"benchmark": "embedding", "machine": machine, **facts, **sizes, "results": results}))


def chunk_texts(quick: bool) -> list[str]:
    """All chunks of the bundled datastore as text, in an order that is random and always the same."""
    datastore = Datastore.open(paths.ASSETS / "datastores" / paths.DEMO_DATASTORE)
    order = np.random.default_rng(0).permutation(len(datastore.chunks))[: 60 if quick else None]
    found = (datastore.tokenizer.decode(datastore.chunks.tokens[chunk]) for chunk in order)
    return [text for text in found if text.strip()]


def rounds(
    embed: dict[str, Callable[[Sequence[str]], np.ndarray]], texts: list[str], count: int
) -> dict[str, list[tuple[float, float]]]:
    """(Seconds, CPU seconds) of each one's turns, after a turn that does not count. Whoever is quick repeats
    its work, so that a turn is long enough to be measured."""
    repeats = {}
    for name, call in embed.items():
        since = time.perf_counter()
        call(texts)
        repeats[name] = max(1, round(0.5 / (time.perf_counter() - since)))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in embed}
    for turn in range(count):
        names = list(embed)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            since, busy = time.perf_counter(), time.process_time()
            for _ in range(repeats[name]):
                embed[name](texts)
            spent = time.perf_counter() - since, time.process_time() - busy
            taken[name].append((spent[0] / repeats[name], spent[1] / repeats[name]))
    return taken


def flops(embedder: BertEmbedder, lengths: np.ndarray) -> int:
    """Operations of the matrix products for texts of these lengths in tokens."""
    width, layers = embedder.encoder.width, embedder.encoder.layers
    dense = 12 * width**2  # queries, keys, values, output: 4; a feed-forward of four times the width: 8
    attention = 2 * width * lengths  # of a token, over its text: scores and sums
    return int(2 * layers * (lengths * (dense + attention)).sum())


def neighbours(base: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(q, 10): the nearest rows of the base, stored in float16."""
    stored = base.astype(np.float16).astype(np.float32)
    k = min(NEIGHBOURS, len(base))
    return np.argpartition(-(queries @ stored.T), k - 1, axis=1)[:, :k]


def agreement(truth: np.ndarray, found: np.ndarray) -> float:
    rows = zip(truth.tolist(), found.tolist(), strict=True)
    return statistics.mean(len(set(a) & set(b)) / len(a) for a, b in rows)


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float((left * right).sum(axis=1).mean())


def report(results: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, found in results.items():
        fast, same = BARS.get(name, (None, None))
        met = None
        if fast is not None:
            met = "yes" if found["times_as_fast"] >= fast and found["agreement"] >= (same or 0) else "no"
        rows.append([
            LABELS[name], found["chunks_per_s"], found["times_as_fast"], fast, found["times_less_cpu"],
            found["of_floor"], found["agreement"], same, found["cosine"], met,
        ])  # fmt: skip
    header = (
        "",
        "chunks/s",
        "times as fast",
        "bar",
        "CPU ratio",
        "of floor",
        "agreement",
        "bar",
        "cosine",
        "met",
    )
    return table(header, rows)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--quick", action="store_true", help="a few texts, one round: does it run?")
    result.add_argument("--texts", type=int, default=512, help="chunks in a turn (default 512)")
    result.add_argument("--rounds", type=int, default=7, help="turns of each (default 7)")
    result.add_argument("--base", type=int, default=4000, help="chunks that are searched (default 4000)")
    result.add_argument("--queries", type=int, default=2000, help="chunks that ask (default 2000)")
    result.add_argument("--threads", type=int, default=0, help="0 for torch's own choice")
    return result


if __name__ == "__main__":
    main()
