"""Indexes that are trained and built by faiss, measured, and kept in one file that is never trusted.

    index.faiss    what faiss writes | JSON about it | sha256 of all before | bytes of the JSON (8) | RETROIDX

faiss reads damaged files without noticing, so the checksum comes first; faiss ignores what follows its own.
The file appears by one rename, is mapped into memory read-only, and is replaced but never rewritten: who has
the former one open keeps it. It can be made again from the vectors at any time.
"""

import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from indexing import files
from indexing.advisor import (
    TRAINING_PER_LIST,
    TRAINING_ROUNDS,
    IndexSettings,
    advice_for,
    check_factory,
    said_by_faiss,
)
from indexing.errors import ConfigError
from indexing.exact import as_float32, nearest_of, scan
from indexing.neighbours import NO_CHUNK

INDEX_FILE = "index.faiss"
Parts = Sequence[tuple[str, int]]

_MAGIC = b"RETROIDX"
_FORMAT = 1
_TAIL_BYTES = 32 + 8 + len(_MAGIC)
_LONGEST_JSON = 1 << 20
_ROWS_AT_ONCE = 1 << 16
_ROTATION_ROWS = 1 << 14  # an OPQ trains its quantiser again in every round
_SAMPLED_QUERIES = 400
_ABANDONED_SECONDS = 3600
_LEAST_CANDIDATES = 32
_MOST_CANDIDATES = 160  # per neighbour, when looking for enough recall
_MARGIN = 0.02  # of the missing recall
_MOST_STEPS = 10  # towards enough recall
_NEAR, _NEAR_STEP, _FAR_STEP = 0.015, 1.06, 1.5  # nprobe is raised by less where little is missing
_RECALLED = 10  # recall is measured among so many neighbours

_verified: set[tuple] = set()  # (device, inode, time of change, size) of files whose checksum was right
_faiss_limits = threading.Lock()  # they belong to the process


@dataclass(frozen=True)
class IndexEvent:
    """`done` of `total` steps of a stage: training, adding, measuring, saving or done."""

    stage: str
    done: int
    total: int
    message: str = ""


@dataclass(frozen=True)
class About:
    """What is known of a built index. Recall is the share of the true nearest that a search finds, on average
    over sampled rows that ask for neighbours outside their own document."""

    factory: str
    rows: int
    dim: int
    parts: list
    build_key: list
    nprobe: int
    candidates: int
    recall_at_2: float
    recall_at_10: float
    queries: int
    search_ms: float
    build_seconds: float
    ram_bytes: int
    expected: dict
    faiss: str

    def covers(self, parts: Parts) -> bool:
        """Whether the rows of one are the first rows of the other."""
        return all(list(a) == list(b) for a, b in zip(self.parts, parts, strict=False))


class BuiltIndex:
    """A faiss index over the rows 0 … n-1 of some vectors, which proposes candidates."""

    def __init__(self, index: Any, about: About):
        import faiss

        self._index, self.about = index, about
        inner = index
        self._transformed = isinstance(faiss.downcast_index(inner), faiss.IndexPreTransform)
        if self._transformed:
            inner = faiss.downcast_index(faiss.downcast_index(inner).index)
        inner = faiss.downcast_index(inner)
        self._kind = "other"
        if isinstance(inner, faiss.IndexIVF):
            self._kind = "ivf"
        elif isinstance(inner, faiss.IndexHNSW):
            self._kind = "hnsw"
        self._inner = inner
        self.most_nprobe = {"ivf": getattr(inner, "nlist", 1), "hnsw": 4096}.get(self._kind, 1)

    def propose(self, queries: np.ndarray, depth: int, nprobe: int) -> np.ndarray:
        """rows (n, depth) int64, roughly nearest first, -1 where there are fewer."""
        return self._index.search(queries, depth, params=self._parameters(depth, nprobe))[1]

    def _parameters(self, depth: int, nprobe: int) -> Any:
        import faiss

        nprobe = max(1, min(nprobe, self.most_nprobe))
        if self._kind == "hnsw":
            chosen = faiss.SearchParametersHNSW(efSearch=max(nprobe, depth))
        elif self._kind == "ivf":
            kind = (
                faiss.IVFRaBitQSearchParameters
                if isinstance(self._inner, faiss.IndexIVFRaBitQ)
                else faiss.SearchParametersIVF
            )
            chosen = kind(nprobe=nprobe)
        else:
            return None
        return faiss.SearchParametersPreTransform(index_params=chosen) if self._transformed else chosen


def search_built(
    built: BuiltIndex,
    vectors: np.ndarray,
    documents: np.ndarray,
    queries: np.ndarray,
    k: int,
    exclude: np.ndarray,
    allowed: np.ndarray | None,
    share: float,
    nprobe: int,
    candidates: int,
) -> tuple[np.ndarray, np.ndarray]:
    """rows (n, k) and exact squared distances (n, k) of the best of the proposed candidates; -1 and inf where
    there are too few, which does not mean that there are no more rows.

    allowed  (N,) bool or None; `share` of the rows are allowed, so that as many more have to be looked at
    """
    found = np.full((len(queries), k), NO_CHUNK, dtype=np.int64)
    distances = np.full((len(queries), k), np.inf, dtype=np.float32)
    most = built.about.rows
    wanted = max(_LEAST_CANDIDATES, k * candidates)
    depth, probed = int(wanted / share) + 1, int(nprobe * min(4.0, 1 / share))
    unsettled = np.arange(len(queries))
    for _ in range(2):
        depth = min(depth, most)
        again = []
        for mine in np.array_split(unsettled, -(-len(unsettled) * depth // _ROWS_AT_ONCE) or 1):
            rows = built.propose(queries[mine], depth, probed)
            rows[rows >= len(vectors)] = NO_CHUNK  # of a later version than these vectors
            found[mine], distances[mine] = nearest_of(
                vectors, documents, queries[mine], rows, k, exclude[mine], allowed
            )
            own = (rows != NO_CHUNK) & (documents[np.maximum(rows, 0)] == exclude[mine, None])
            crowded = np.count_nonzero(own, axis=1) > depth // 2
            again.append(mine[(found[mine, -1] == NO_CHUNK) | crowded])
        unsettled = np.concatenate(again)
        if not len(unsettled) or (depth == most and probed >= built.most_nprobe):
            break
        depth, probed = depth * 4, probed * 2
    return found, distances


def build(
    vectors: np.ndarray,
    documents: np.ndarray,
    alive: np.ndarray,
    parts: Parts,
    settings: IndexSettings,
    folder: Path | None,
) -> Iterator[IndexEvent]:
    """Train, fill, measure, and keep in `folder` if there is one; the generator returns the BuiltIndex.

    Raises ConfigError if the settings do not fit to the vectors. A folder that cannot be written to is done
    without: the last event says so.
    """
    import faiss

    since = time.perf_counter()
    n, dim = vectors.shape
    advice = advice_for(settings, n, dim)
    check_factory(advice.factory, n, dim)
    index = faiss.index_factory(dim, advice.factory, faiss.METRIC_L2)
    yield from _train(index, vectors, alive, advice.factory, settings.use_gpus)
    for start in range(0, n, _ROWS_AT_ONCE):
        yield IndexEvent("adding", start, n)
        index.add(as_float32(vectors[start : start + _ROWS_AT_ONCE]))
    yield IndexEvent("adding", n, n)
    seconds = time.perf_counter() - since
    about = About(
        factory=advice.factory, rows=n, dim=dim, parts=[list(part) for part in parts],
        build_key=settings.build_key, nprobe=settings.nprobe or advice.nprobe,
        candidates=settings.candidates or advice.candidates, recall_at_2=0.0, recall_at_10=0.0, queries=0,
        search_ms=0.0, build_seconds=seconds, ram_bytes=size_of(index), expected=asdict(advice),
        faiss=faiss.__version__,
    )  # fmt: skip
    built = BuiltIndex(index, about)
    about = yield from _measure(built, vectors, documents, alive, settings)
    built.about = about = replace(about, build_seconds=round(seconds, 2))
    message = ""
    if folder is not None:
        yield IndexEvent("saving", 0, 1)
        try:
            save(folder, index, about)
            built = load(folder, parts, dim) or built
        except OSError as error:
            message = f"The index could not be kept ({error.strerror}); it will be built again next time. "
    yield IndexEvent(
        "done", 1, 1, f"{message}{about.factory} finds {about.recall_at_10:.1%} of the nearest 10."
    )
    return built


def _train(
    index: Any, vectors: np.ndarray, alive: np.ndarray, factory: str, use_gpus: bool
) -> Iterator[IndexEvent]:
    import faiss

    gpus = faiss.get_num_gpus() if use_gpus else 0
    if use_gpus:
        message = f"Training on {gpus} GPUs."
        if not gpus:
            message = (
                f"faiss {faiss.__version__} sees no GPU here: the index is trained on the processor. A faiss "
                "that was built for CUDA would use one."
            )
        yield IndexEvent("training", 0, TRAINING_ROUNDS, message)
    if index.is_trained:
        return
    chance = np.random.default_rng(0)
    rows = np.flatnonzero(alive) if np.any(alive) else np.arange(len(vectors))
    ivf = faiss.try_extract_index_ivf(index)
    enough = max(_ROWS_AT_ONCE, TRAINING_PER_LIST * ivf.nlist if ivf else 0)
    if len(rows) > enough:
        rows = np.sort(chance.choice(rows, enough, replace=False))
    sample = np.concatenate([as_float32(vectors[part]) for part in np.array_split(rows, 64)])
    plain = ivf is not None and isinstance(faiss.downcast_index(index), faiss.IndexIVF)
    for part in (faiss.downcast_index(index), ivf and faiss.downcast_index(ivf)):
        if hasattr(part, "pq"):
            part.pq.cp.min_points_per_centroid = 1  # was checked, in a sentence
    if ivf is not None:
        ivf.cp.niter, ivf.cp.max_points_per_centroid = TRAINING_ROUNDS, TRAINING_PER_LIST
        ivf.cp.min_points_per_centroid = 1
        if gpus:
            ivf.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatL2(ivf.d))
    if isinstance(faiss.downcast_index(index), faiss.IndexPreTransform):
        rotation = faiss.downcast_VectorTransform(index.chain.at(0))
        if isinstance(rotation, faiss.OPQMatrix):
            rotation.niter, rotation.max_train_points = TRAINING_ROUNDS, _ROTATION_ROWS
    if plain and not gpus and isinstance(faiss.downcast_index(ivf.quantizer), faiss.IndexFlat):
        picked = sample[np.sort(chance.permutation(len(sample))[: TRAINING_PER_LIST * ivf.nlist])]
        centroids = picked[chance.permutation(len(picked))[: ivf.nlist]].copy()
        for done in range(TRAINING_ROUNDS):
            yield IndexEvent("training", done, TRAINING_ROUNDS)
            centroids = _refined(centroids, picked, chance)
        ivf.quantizer.add(centroids)
        sample = sample[chance.permutation(len(sample))[:_ROWS_AT_ONCE]]
    yield IndexEvent("training", TRAINING_ROUNDS, TRAINING_ROUNDS)
    try:
        index.train(sample)
    except RuntimeError as error:
        raise ConfigError(
            f"faiss could not train {factory!r} with {len(sample):,} vectors: {said_by_faiss(error)}. "
            "Choose a smaller index, or let the advisor choose."
        ) from error


def _refined(centroids: np.ndarray, sample: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """One round of k-means. numpy multiplies several times as fast as faiss' wheel does here."""
    sums = np.zeros_like(centroids, dtype=np.float64)
    counts = np.zeros(len(centroids), dtype=np.int64)
    half = np.einsum("nd,nd->n", centroids, centroids) / 2
    step = max(1, (1 << 24) // len(centroids))
    for start in range(0, len(sample), step):
        block = sample[start : start + step]
        table = block @ centroids.T
        table -= half
        nearest = table.argmax(axis=1)
        order = np.argsort(nearest, kind="stable")
        present, firsts = np.unique(nearest[order], return_index=True)
        sums[present] += np.add.reduceat(block[order], firsts, axis=0)
        counts += np.bincount(nearest, minlength=len(centroids))
    empty = counts == 0
    sums[empty] = sample[chance.integers(len(sample), size=int(empty.sum()))]
    return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)


def size_of(index: Any) -> int:
    """Bytes that a faiss index takes in memory, as many as in its file."""
    import faiss

    count = 0

    def counted(data: bytes) -> int:
        nonlocal count
        count += len(data)
        return len(data)

    writer = faiss.PyCallbackIOWriter(counted)
    faiss.write_index(index, writer)
    del writer
    return count


def _measure(
    built: BuiltIndex,
    vectors: np.ndarray,
    documents: np.ndarray,
    alive: np.ndarray,
    settings: IndexSettings,
) -> Iterator[IndexEvent]:
    """Recall with the settings at hand; where they leave a choice, they are raised until it is enough."""
    about = built.about
    rows = np.flatnonzero(alive)
    rows = np.sort(np.random.default_rng(1).permutation(rows)[:_SAMPLED_QUERIES])
    if not len(rows):
        return about
    yield IndexEvent("measuring", 0, 1)
    queries = np.array(vectors[rows], dtype=np.float32)
    own = np.asarray(documents[rows])
    allowed = None if np.all(alive) else alive
    truth = scan(vectors, documents, queries, _RECALLED, own, allowed)[1]
    share = len(np.flatnonzero(alive)) / len(alive)

    def recall(nprobe: int, candidates: int) -> tuple[float, float, float]:
        since = time.perf_counter()
        _, distances = search_built(
            built, vectors, documents, queries, _RECALLED, own, allowed, share, nprobe, candidates
        )
        taken = time.perf_counter() - since
        ms = taken * 1e3 / len(queries)
        return recall_of(distances, truth, 2), recall_of(distances, truth, _RECALLED), ms

    nprobe, candidates = about.nprobe, about.candidates
    at = recall(nprobe, candidates)
    # A little more than asked for: the sample is small.
    enough = settings.recall + _MARGIN * (1 - settings.recall)
    for _ in range(_MOST_STEPS):
        options = []
        if not settings.nprobe and nprobe < built.most_nprobe:
            more = math.ceil(nprobe * (_FAR_STEP if at[1] < enough - _NEAR else _NEAR_STEP))
            options.append((min(built.most_nprobe, more), candidates))
        if not settings.candidates and candidates < _MOST_CANDIDATES:
            options.append((nprobe, candidates * 2))
        if at[1] >= enough or not options:
            break
        yield IndexEvent("measuring", 0, 1, f"recall@10 is {at[1]:.3f} with nprobe {nprobe}")
        measured = [recall(*option) for option in options]
        best = max(range(len(options)), key=lambda i: measured[i][1])
        (nprobe, candidates), at = options[best], measured[best]
    return replace(
        about,
        nprobe=nprobe,
        candidates=candidates,
        recall_at_2=round(at[0], 4),
        recall_at_10=round(at[1], 4),
        queries=len(rows),
        search_ms=round(at[2], 3),
    )


def recall_of(found: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Share of the true k nearest that were found, by distances (n, >= k), so that any of those that are
    equally near will do; 1.0 where there are none."""
    there = np.isfinite(truth[:, :k])
    furthest = np.where(there, truth[:, :k], 0).max(axis=1, keepdims=True)
    hits = np.isfinite(found[:, :k]) & (found[:, :k] <= furthest * (1 + 1e-5) + 1e-6)
    return float(hits.sum() / there.sum()) if there.any() else 1.0


def save(folder: Path, index: Any, about: About) -> None:
    """Put the index into the place of a former one, in one step."""
    import faiss

    sweep(folder)
    with files.new_file(folder / INDEX_FILE) as path:
        try:
            faiss.write_index(index, str(path))
        except RuntimeError as error:
            raise OSError(None, f"faiss could not write it: {said_by_faiss(error)}") from error
        described = json.dumps({"format": _FORMAT, **asdict(about)}).encode()
        digest = hashlib.sha256()
        with open(path, "r+b") as file:
            while block := file.read(1 << 20):
                digest.update(block)
            digest.update(described)
            file.write(described + digest.digest() + len(described).to_bytes(8, "little") + _MAGIC)


def sweep(folder: Path) -> None:
    """Remove what builders left that were killed; writing takes seconds."""
    for path in folder.glob(f"{files.UNFINISHED}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


def load(folder: Path, parts: Parts, dim: int) -> BuiltIndex | None:
    """The index in `folder` if it is whole and of these vectors, mapped into memory; else None."""
    import faiss

    path = folder / INDEX_FILE
    for _ in range(3):  # it may be replaced between reading and opening
        try:
            before = path.stat()
            about = read_about(path)
            if about is None or about.dim != dim or not about.covers(parts):
                return None
            with _faiss_limits:
                usual = faiss.get_deserialization_vector_byte_limit()  # of the process: others read too
                faiss.set_deserialization_vector_byte_limit(before.st_size)
                try:
                    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
                finally:
                    faiss.set_deserialization_vector_byte_limit(usual)
            after = path.stat()
        except (OSError, RuntimeError, MemoryError):
            return None
        if _same(before) == _same(after):
            fits = index.ntotal == about.rows and index.d == dim and index.metric_type == faiss.METRIC_L2
            return BuiltIndex(index, about) if fits else None
    return None


def read_about(path: Path) -> About | None:
    """What a whole file says about itself; None if it is damaged, unfinished or not ours."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            if size < _TAIL_BYTES:
                return None
            file.seek(size - _TAIL_BYTES)
            tail = file.read(_TAIL_BYTES)
            length = int.from_bytes(tail[32:40], "little")
            if tail[40:] != _MAGIC or length > min(_LONGEST_JSON, size - _TAIL_BYTES):
                return None
            if _same(status) not in _verified:
                file.seek(0)
                digest, left = hashlib.sha256(), size - _TAIL_BYTES
                while left and (block := file.read(min(left, 1 << 20))):
                    digest.update(block)
                    left -= len(block)
                if left or digest.digest() != tail[:32]:
                    return None
                _verified.add(_same(status))
            file.seek(size - _TAIL_BYTES - length)
            described = json.loads(file.read(length))
        if described.pop("format") != _FORMAT:
            return None
        return About(**described)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _same(status: os.stat_result) -> tuple:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
