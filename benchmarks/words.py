"""BM25: what indexing the words of 10^5 and 10^6 chunks takes, and a query; beside bm25s on its own.

    python -m benchmarks.words [--quick]          some five minutes

Chunks of 45 words drawn by Zipf's law out of five million, so that the vocabulary grows with the corpus.
Every case is a process of its own; its memory is what it held beyond what it started with. The library is
given the same words as lists, all at once, as its `index` wants them; it is left out at 10^6, where these
lists alone take gigabytes. Its index is in memory; ours is on the disk, mapped, and its sha256 is checked
when it is opened.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.machine import facts, table
from benchmarks.memory import peak_memory_gb
from benchmarks.processes import ROOT
from indexing.ranking import Words

LENGTH, DISTINCT, QUERIES, K = 45, 5_000_000, 50, 10


class Chunks:
    """The tokens of so many chunks, made when they are looked at: the corpus takes no memory."""

    chunk_size, pad_id = LENGTH, 0

    def __init__(self, count: int):
        self.count, self.tokens = count, self

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.stack([self.chunk(row) for row in range(*rows.indices(self.count))])

    def chunk(self, row: int) -> np.ndarray:
        """By inversion: the share of the words up to rank r is about log r / log DISTINCT."""
        return (DISTINCT ** np.random.default_rng(row).random(LENGTH)).astype(np.int64)


def word(rank: int) -> str:
    return f"w{rank:x}"


def ours(count: int) -> dict[str, float]:
    chunks, folder = Chunks(count), Path(tempfile.mkdtemp(prefix="words-"))
    tokenizer = SimpleNamespace(decode=lambda ids: " ".join(map(word, ids)))
    shelf = SimpleNamespace(
        name="benchmark", path=folder, fingerprint="0" * 64, chunks=chunks, tokenizer=tokenizer,
        alive=np.ones(count, dtype=bool),
        state=SimpleNamespace(segments=[SimpleNamespace(fingerprint="0" * 64, num_chunks=count)]),
    )  # fmt: skip
    try:
        before, since = peak_memory_gb(), time.perf_counter()
        for _ in Words(shelf).prepare():
            pass
        built, memory = time.perf_counter() - since, peak_memory_gb() - before
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        ranker, since = Words(shelf), time.perf_counter()
        for _ in ranker.prepare():
            pass
        opened = time.perf_counter() - since
        texts = [tokenizer.decode(chunks.chunk(count + row)) for row in range(QUERIES)]
        ranker.rank(texts[:3], K)
        taken = []
        for text in texts:
            since = time.perf_counter()
            ranker.rank([text], K)
            taken.append(time.perf_counter() - since)
    finally:
        shutil.rmtree(folder)
    return {
        "build_seconds": built, "memory_mb": memory * 1000, "disk_mb": size / 1e6,
        "open_seconds": opened, "query_ms": statistics.median(taken) * 1000,
    }  # fmt: skip


def library(count: int) -> dict[str, float]:
    import bm25s

    chunks = Chunks(count)
    before, since = peak_memory_gb(), time.perf_counter()
    words = [[word(rank) for rank in chunks.chunk(row)] for row in range(count)]
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    built, memory = time.perf_counter() - since, peak_memory_gb() - before
    queries = [[word(rank) for rank in chunks.chunk(count + row)] for row in range(QUERIES)]
    taken = []
    for query in queries:
        since = time.perf_counter()
        index.retrieve([query], k=K, show_progress=False)
        taken.append(time.perf_counter() - since)
    size = sum(array.nbytes for array in index.scores.values() if isinstance(array, np.ndarray))
    return {
        "build_seconds": built, "memory_mb": memory * 1000, "disk_mb": size / 1e6,
        "open_seconds": 0.0, "query_ms": statistics.median(taken) * 1000,
    }  # fmt: skip


CASES = {"ours": ours, "bm25s": library}


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.case:
        print(json.dumps(CASES[options.case](options.chunks)))
        return
    machine = facts(quick=options.quick)
    sizes = [("ours", 2000), ("bm25s", 2000)] if options.quick else [
        ("ours", 100_000), ("bm25s", 100_000), ("ours", 1_000_000),
    ]  # fmt: skip
    found = [{"case": case, "chunks": count, **measured(case, count)} for case, count in sizes]
    header = ("", "chunks", "build s", "memory MB", "index MB", "open s", "query ms")
    print(table(header, [list(entry.values()) for entry in found]), "\n")
    print(json.dumps({"benchmark": "words", "machine": machine, "results": found}))


def measured(case: str, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.words", "--case", case, "--chunks", str(count)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--quick", action="store_true", help="2,000 chunks: does it run?")
    result.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    result.add_argument("--chunks", type=int, help=argparse.SUPPRESS)
    return result


if __name__ == "__main__":
    main()
