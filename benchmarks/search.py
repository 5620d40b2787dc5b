"""Query -> neighbours: our indexes beside hnswlib, usearch and autofaiss' choice, taking turns.

    python -m benchmarks.search --vectors DIR [--n N ...] [--peer-python PATH] [--quick]

DIR is what benchmarks.text_vectors made of text. PATH is a Python in an environment of its own, since
autofaiss does not fit beside ours; without it, or where it lacks a package, a line says who is absent:

    python -m venv ../peer-search
    ../peer-search/bin/pip install autofaiss hnswlib usearch "pyarrow<20"

Everyone answers single queries on one core, 10 neighbours each, in turns of 50 queries; building takes all
cores. Peers get the least effort (ef, doubled from 16) at which they find 95 % of the true 10 nearest of the
1,000 queries; ours choose theirs when they are built, from their own vectors, without seeing the queries.
Recall is against exact search. Bytes a vector are those of the index, in memory as in its file; ours compares
candidates by the float16 vectors, which stay in their file and in what memory the system has to spare. With
100,000 and 1,000,000 vectors it takes some 10 minutes alone and an hour with peers, whose indexes are kept in
DIR/peers for the next time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import opened, table
from benchmarks.processes import ROOT, Competitor
from indexing.exact import scan
from indexing.index import Index, IndexSettings, advice_for, build_index

K = 10
QUERIES_IN_TURN = 50


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    machine = opened(options.threads, options.quick)
    if options.quick and not options.vectors:
        options.vectors = Path(tempfile.mkdtemp())
        toy(options.vectors)
    if not options.vectors:
        raise SystemExit("Expected --vectors DIR; make it with python -m benchmarks.text_vectors.")
    there = len(np.load(options.vectors / "base.npy", mmap_mode="r"))
    results = {}
    for n in [there] if options.quick else options.n:
        results[n] = compared(min(n, there), options)
        print(report(results[n], n))
    print(json.dumps({"benchmark": "search", "machine": machine, "sizes": results}))


def compared(n: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """{competitor: what was measured} for the first n vectors."""
    vectors = np.load(options.vectors / "base.npy", mmap_mode="r")[:n]
    documents = np.load(options.vectors / "documents.npy")[:n]
    queries = np.load(options.vectors / "queries.npy")
    truth, _ = scan(vectors, documents, queries, K, np.full(len(queries), -1))
    found = {}
    ours: dict[str, Index] = {}
    for name, settings in ours_for(n, vectors.shape[1]).items():
        ours[name], found[name] = built(vectors, documents, settings)
        ids = np.concatenate([ours[name].search(query[None], K)[0] for query in queries])
        found[name]["recall_at_10"] = shared(ids, truth, K)
        found[name]["recall_at_2"] = shared(ids, truth, 2)
    peers, process, there = started(options, n, truth)
    try:
        for name in there:
            found[name] = peers.ask({"do": "build", "peer": name})
        taken: dict[str, list[list[float]]] = {name: [] for name in found}
        rounds = max(1, min(options.rounds, len(queries) // QUERIES_IN_TURN))
        count = min(QUERIES_IN_TURN, len(queries))
        for turn in range(rounds):
            names = list(found)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                task = {"do": "search", "peer": name, "start": turn * count, "count": count, "k": K}
                ms = single(ours[name], queries, task) if name in ours else peers.ask(task)["ms"]
                taken[name].append(ms)
    finally:
        if process is not None:
            process.stdin.close()
            process.wait()
    first = next(iter(found))
    for name, measured in found.items():
        turns = [statistics.median(ms) for ms in taken[name]]
        measured["ms"] = statistics.median(turns)
        measured["ms_95th"] = float(np.percentile(np.concatenate(taken[name]), 95))
        base = [statistics.median(ms) for ms in taken[first]]
        measured["times_the_first"] = statistics.median(a / b for a, b in zip(turns, base, strict=True))
    return found


def ours_for(n: int, dim: int) -> dict[str, IndexSettings]:
    """What is advised, and for 80 bytes a vector; where that is exact search, two built indexes too."""
    advised, small = IndexSettings(), IndexSettings(ram_mb=max(1, 80 * n // 10**6))
    named = {f"ours, {advice_for(advised, n, dim).factory} (advised)": advised}
    if advice_for(advised, n, dim).exact:
        lists = max(1, min(1024, n // 39))
        for factory in (f"IVF{lists},SQ8", f"IVF{lists},PQ{dim // 4}x4fs"):
            named[f"ours, {factory}"] = IndexSettings(factory=factory)
    else:
        named[f"ours, {advice_for(small, n, dim).factory} (80 bytes)"] = small
    return named


def built(
    vectors: np.ndarray, documents: np.ndarray, settings: IndexSettings
) -> tuple[Index, dict[str, Any]]:
    n, dim = vectors.shape
    with tempfile.TemporaryDirectory() as folder:
        since = time.perf_counter()
        events = build_index(vectors, documents, np.ones(n, dtype=bool), [("all", n)], Path(folder), settings)
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                index = end.value
                break
            if event.message:
                print(f"  {event.message}", file=sys.stderr)
        index.search(np.zeros((1, dim), dtype=np.float32), 1)  # the exact one makes its copy now
        seconds = time.perf_counter() - since
    about, advice = index.about, index.advice
    bytes_taken = about.ram_bytes if about else advice.ram_bytes
    setting = f"nprobe {about.nprobe}, {about.candidates} candidates each" if about else "exact"
    return index, {
        "build_seconds": seconds,
        "bytes_per_vector": bytes_taken / n,
        "setting": setting,
        "expected_bytes_per_vector": advice.ram_bytes / n,
        "expected_build_seconds": advice.build_seconds,
        "own_recall_at_10": about.recall_at_10 if about else 1.0,
    }


def single(index: Index, queries: np.ndarray, task: dict[str, Any]) -> list[float]:
    """Milliseconds of each query, one at a time, on one core."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    taken = []
    for row in range(task["start"], task["start"] + task["count"]):
        since = time.perf_counter()
        index.search(queries[row : row + 1], task["k"])
        taken.append(1e3 * (time.perf_counter() - since))
    faiss.omp_set_num_threads(before)
    return taken


def shared(found: np.ndarray, truth: np.ndarray, k: int) -> float:
    return float((found[:, None, :k] == truth[:, :k, None]).any(axis=2).mean())


def started(options: argparse.Namespace, n: int, truth: np.ndarray) -> tuple[Any, Any, list[str]]:
    """The peers' process, if there is one; it says which of them are installed."""
    if not options.peer_python:
        print("  absent: hnswlib, usearch, autofaiss (no --peer-python)", file=sys.stderr)
        return None, None, []
    folder = options.vectors / "peers"
    folder.mkdir(exist_ok=True)
    np.save(folder / f"truth-{n}.npy", truth)
    process = subprocess.Popen(
        [options.peer_python, "-m", "benchmarks.search_peers"], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    peers = Competitor("peers", process)
    peers.tell({
        "vectors": str((options.vectors / "base.npy").resolve()), "n": n, "cache": str(folder.resolve()),
        "queries": str((options.vectors / "queries.npy").resolve()), "threads": os.cpu_count(),
        "truth": str((folder / f"truth-{n}.npy").resolve()),
    })  # fmt: skip
    wanted = set(options.peers)
    there = [name for name in peers.answer() if not wanted or wanted & {name, name.split()[0]}]
    print(f"  peers: {', '.join(there) or 'none is installed there'}", file=sys.stderr)
    return peers, process, there


def toy(folder: Path) -> None:
    """Clusters instead of text: does it run?"""
    chance = np.random.default_rng(0)
    centres = chance.normal(size=(50, 48))
    vectors = centres[chance.integers(0, 50, 4100)] + 0.5 * chance.normal(size=(4100, 48))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(folder / "base.npy", vectors[:4000].astype(np.float16))
    np.save(folder / "queries.npy", vectors[4000:].astype(np.float32))
    np.save(folder / "documents.npy", np.arange(4000) // 20)


def report(found: dict[str, dict[str, Any]], n: int) -> str:
    rows = [
        [
            f"{n:,} {name}", result["setting"], result["build_seconds"], result["bytes_per_vector"],
            result.get("recall_at_2"), f"{result['recall_at_10']:.3f}", result["ms"], result["ms_95th"],
            result["times_the_first"],
        ]
        for name, result in found.items()
    ]  # fmt: skip
    header = ("index", "setting", "build s", "B/vector", "R@2", "R@10", "ms", "95th", "x the first")
    return f"{table(header, rows)}\n"


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--vectors", type=Path, metavar="DIR", help="what benchmarks.text_vectors made")
    result.add_argument("--n", type=int, nargs="+", default=[100_000, 1_000_000], help="how many vectors")
    result.add_argument("--peer-python", default="", metavar="PATH", help="a Python that has the peers")
    result.add_argument(
        "--peers",
        nargs="+",
        default=[],
        help='only these: hnswlib usearch (or one kind, "usearch f16") autofaiss',
    )
    result.add_argument("--rounds", type=int, default=10, help="turns of 50 queries (default 10)")
    result.add_argument("--threads", type=int, default=0, help="of the machine's own facts")
    result.add_argument("--quick", action="store_true", help="a toy size, without text: does it run?")
    return result


if __name__ == "__main__":
    main()
