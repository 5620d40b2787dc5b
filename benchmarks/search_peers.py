"""hnswlib, usearch and what autofaiss would choose, in a Python of their own, told what to do by JSON.

    PEER-PYTHON -m benchmarks.search_peers        (from the root; see benchmarks/search.py)

The first line is {"vectors", "n", "queries", "truth", "threads", "cache"}; it is answered by which peers
there are. {"do": "build", "peer"} builds one and looks for the setting at which it finds enough; {"do":
"search", "peer", "start", "count", "k"} answers with the milliseconds of each single query. The end of the
input ends the process.
"""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

LINKS, EFFORT = 32, 100  # M and ef while building: what faiss' HNSW32 and most comparisons use
ENOUGH = 0.95
ROWS_AT_ONCE = 1 << 16
K = 10


class Hnswlib:
    package = "hnswlib"

    def __init__(self, dim: int, n: int, threads: int):
        import hnswlib

        self.index = hnswlib.Index("l2", dim)
        self.n, self.threads = n, threads

    def build(self, vectors: np.ndarray) -> None:
        self.index.init_index(self.n, ef_construction=EFFORT, M=LINKS, random_seed=0)
        for start in range(0, self.n, ROWS_AT_ONCE):
            block = vectors[start : start + ROWS_AT_ONCE].astype(np.float32)
            self.index.add_items(block, np.arange(start, start + len(block)), num_threads=self.threads)

    def save(self, path: Path) -> None:
        self.index.save_index(str(path))

    def load(self, path: Path) -> None:
        self.index.load_index(str(path), max_elements=self.n)

    def set(self, effort: int) -> None:
        self.index.set_ef(max(K, effort))

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.index.knn_query(queries, k=k, num_threads=1)[0].astype(np.int64)


class Usearch:
    package = "usearch"
    dtype = "f16"

    def __init__(self, dim: int, n: int, threads: int):
        from usearch.index import Index

        self.index = Index(
            ndim=dim, metric="l2sq", dtype=self.dtype, connectivity=LINKS, expansion_add=EFFORT
        )
        self.n, self.threads = n, threads

    def build(self, vectors: np.ndarray) -> None:
        for start in range(0, self.n, ROWS_AT_ONCE):
            block = vectors[start : start + ROWS_AT_ONCE].astype(np.float32)
            self.index.add(np.arange(start, start + len(block)), block, threads=self.threads)

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path) -> None:
        self.index.load(str(path))

    def set(self, effort: int) -> None:
        self.index.expansion_search = max(K, effort)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.index.search(queries, k, threads=1).keys.reshape(len(queries), -1).astype(np.int64)


class UsearchInt8(Usearch):
    dtype = "i8"


class Autofaiss:
    """The index that autofaiss names for so many vectors and 4 GB, trained and filled by faiss."""

    package = "autofaiss"

    def __init__(self, dim: int, n: int, threads: int):
        import faiss
        from autofaiss.external.optimize import get_optimal_index_keys_v2

        (self.key, *_) = get_optimal_index_keys_v2(n, dim, "4GB", make_direct_map=False)
        self.index = faiss.index_factory(dim, self.key)
        self.faiss, self.n, self.threads = faiss, n, threads

    def build(self, vectors: np.ndarray) -> None:
        self.faiss.omp_set_num_threads(self.threads)
        if not self.index.is_trained:
            self.index.train(vectors[: 1 << 18].astype(np.float32))
        for start in range(0, self.n, ROWS_AT_ONCE):
            self.index.add(vectors[start : start + ROWS_AT_ONCE].astype(np.float32))

    def save(self, path: Path) -> None:
        self.faiss.write_index(self.index, str(path))

    def load(self, path: Path) -> None:
        self.index = self.faiss.read_index(str(path))

    def set(self, effort: int) -> None:
        self.faiss.omp_set_num_threads(1)
        name = "efSearch" if "HNSW" in self.key and "IVF" not in self.key else "nprobe"
        self.faiss.ParameterSpace().set_index_parameter(self.index, name, effort)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.index.search(queries, k)[1]


PEERS = {"hnswlib": Hnswlib, "usearch f16": Usearch, "usearch i8": UsearchInt8, "autofaiss": Autofaiss}


def build(name: str, task: dict, vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> tuple:
    peer = PEERS[name](vectors.shape[1], len(vectors), task["threads"])
    folder = Path(task["cache"])
    path = folder / f"{name.replace(' ', '-')}-{len(vectors)}.index"
    kept = path.with_suffix(".seconds")
    if kept.is_file():
        peer.load(path)
        seconds = float(kept.read_text())
    else:
        since = time.perf_counter()
        peer.build(vectors)
        seconds = time.perf_counter() - since
        peer.save(path)
        kept.write_text(str(seconds))
    effort, recall = 8, 0.0
    while recall < ENOUGH and effort < 2048:
        effort *= 2
        peer.set(effort)
        found = peer.search(queries, K)
        recall = float((found[:, None] == truth[:, :K, None]).any(axis=2).mean())
    about = {
        "build_seconds": seconds,
        "bytes_per_vector": path.stat().st_size / len(vectors),
        "recall_at_10": recall,
        "setting": f"{getattr(peer, 'key', 'HNSW')} ef {effort}",
    }
    return peer, about


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    task = json.loads(sys.stdin.readline())
    vectors = np.load(task["vectors"], mmap_mode="r")[: task["n"]]
    queries, truth = np.load(task["queries"]), np.load(task["truth"])
    there = [name for name, peer in PEERS.items() if importlib.util.find_spec(peer.package)]
    print(json.dumps(there), file=answers)
    peers = {}
    for line in sys.stdin:
        command = json.loads(line)
        name = command["peer"]
        if command["do"] == "build":
            peers[name], answer = build(name, task, vectors, queries, truth)
        else:
            taken = []
            for row in range(command["start"], command["start"] + command["count"]):
                since = time.perf_counter()
                peers[name].search(queries[row : row + 1], command["k"])
                taken.append(1e3 * (time.perf_counter() - since))
            answer = {"ms": taken}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
