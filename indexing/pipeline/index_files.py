"""faiss indexes in files: trained on a spec's embeddings, filled with them, opened for retrieval.

What is written is what the reference writes, byte for byte: ids are places in the spec's shards laid end to
end, the metric is squared L2, and nprobe in the file stays 1, however an index is searched here.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from indexing import files
from indexing.errors import DatastoreError, InputError
from indexing.pipeline.specs import open_embeddings, read_index_spec
from indexing.pipeline.unfinished import Unfinished, sha256

_ROWS_AT_ONCE = 16384  # 25 MB at 384 dimensions
_ROWS_TO_SEARCH_AT_ONCE = 4096
_POINTS_A_LIST = 39  # training vectors a list of an IVF index needs, by faiss's own count
_EXACT_BELOW = 20_000  # vectors up to which a flat index is quicker to have than anything else
_SECONDS_BETWEEN_CHECKPOINTS = 300.0
NO_GPU = "This faiss has no GPU (faiss-cpu, or no device); going on with the processor."


@dataclass(frozen=True)
class IndexEvent:
    """One of the steps "loading", "training", "adding", "saving", with `done` of `total` vectors."""

    step: str
    done: int = 0
    total: int = 0
    note: str = ""


@dataclass(frozen=True)
class ShardAdded:
    """Shard `number` (from 1) is in the index, which now has `vectors`; its first vectors were looked for:
    the share that is found nearest to itself, and how many a second."""

    number: int
    vectors: int
    recall_at_1: float
    queries_per_second: float


def default_index_type(num_vectors: int) -> str:
    """A faiss factory string that suits so many vectors: exact while that is quick, then inverted lists of at
    least 39 vectors each, compressed from a million on."""
    if num_vectors < _EXACT_BELOW:
        return "Flat"
    lists = min(4 * num_vectors**0.5, num_vectors / _POINTS_A_LIST)
    lists = 1 << int(np.log2(lists))
    return f"IVF{lists},{'Flat' if num_vectors < 1_000_000 else 'PQ32'}"


def default_nprobe(num_lists: int) -> int:
    """Lists to search of so many: twice the square root. The reference searches 1, which on its own example
    data finds half to two thirds of the true neighbours."""
    return min(num_lists, max(1, round(2 * num_lists**0.5)))


def train_index(
    spec: Path,
    index_type: str | None,
    output: Path,
    max_training_vectors: int | None = None,
    gpus: bool = False,
) -> Iterator[IndexEvent]:
    """Train an empty index of faiss factory string `index_type` (None: `default_index_type`) on the
    embeddings of `spec`; write it to `output`.

    max_training_vectors  so many, spread evenly over all shards; None for all

    The vectors lie in a temporary file beside `output`, not in memory. Raises InputError (spec, type),
    DatastoreError (too few vectors, cannot be written).
    """
    import faiss

    shards = read_index_spec(spec)
    arrays = open_embeddings(shards, spec)
    total, width = sum(map(len, arrays)), arrays[0].shape[1]
    wanted = total if max_training_vectors is None else min(total, max_training_vectors)
    if wanted < 1:
        raise InputError(f"Expected at least 1 vector to train on, got {wanted}. Embed some chunks first.")
    note = ""
    if index_type is None:
        index_type = default_index_type(total)
        note = f"index type for {total:,} vectors: {index_type}"
    index = _factory(width, index_type)
    _check_lists(index, index_type, wanted)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=output.parent, prefix=files.UNFINISHED) as file:
        vectors = np.memmap(file, np.float32, "w+", shape=(wanted, width))
        done = 0
        for rows in _training_rows(arrays, total, wanted):
            yield IndexEvent("loading", done, wanted, note)
            vectors[done : done + len(rows)] = rows
            done += len(rows)
            note = ""
        index, on_gpus = to_gpus(index, gpus, shard_index=False)
        yield IndexEvent("training", wanted, wanted, NO_GPU if gpus and not on_gpus else "")
        try:
            index.train(vectors)
        except RuntimeError as error:
            raise DatastoreError(
                f"An index {index_type!r} cannot be trained on {wanted:,} vectors: {_reason(error)}. "
                f"Choose another type, for example {default_index_type(wanted)}."
            ) from error
    yield IndexEvent("saving", wanted, wanted)
    _write_index(faiss.index_gpu_to_cpu(index) if on_gpus else index, output)


def build_index(
    spec: Path,
    trained: Path,
    output: Path,
    num_queries: int = 100_000,
    nprobe: int | None = None,
    gpus: bool = False,
    shard_index: bool = False,
) -> Iterator[IndexEvent | ShardAdded]:
    """Add the embeddings of `spec`, shard by shard, to the index in `trained`; write it to `output`.

    num_queries  of each shard are looked for once it is added (fewer if it has fewer, 0 for none)
    nprobe       lists searched for that; None for `default_nprobe`. The file keeps the trained index's.

    Work of more than five minutes goes on after the last shard saved, if it is stopped and run again.
    Raises InputError (spec), DatastoreError (index, widths, cannot be written).
    """
    import faiss

    shards = read_index_spec(spec)
    arrays = open_embeddings(shards, spec)
    total = sum(map(len, arrays))
    check_there(trained)
    hashes = [sha256(shard["embeddings"]) for shard in shards]
    with Unfinished(output, {"embeddings": hashes, "trained": sha256(trained)}) as work:
        yield IndexEvent("loading")
        first = work.progress.get("shards", 0)
        index = read_index(work.path("index") if first else trained)
        _check_width(index, arrays[0].shape[1], trained, spec)
        if not first and index.ntotal:
            raise DatastoreError(
                f"Expected a trained index without vectors, but {trained} holds {index.ntotal:,}. "
                "Give the output of `train-faiss-index`."
            )
        index, on_gpus = to_gpus(index, gpus, shard_index)
        yield IndexEvent("adding", index.ntotal, total, NO_GPU if gpus and not on_gpus else "")
        saved_at = perf_counter()
        for number, vectors in enumerate(arrays):
            if number < first:
                continue
            before = index.ntotal
            for rows in _parts(len(vectors), _ROWS_AT_ONCE):
                index.add(_float32(vectors[rows]))
                yield IndexEvent("adding", index.ntotal, total)
            yield ShardAdded(
                number + 1, index.ntotal, *_self_recall(index, vectors[:num_queries], before, nprobe)
            )
            if perf_counter() - saved_at > _SECONDS_BETWEEN_CHECKPOINTS and number + 1 < len(arrays):
                _write_index(faiss.index_gpu_to_cpu(index) if on_gpus else index, work.path("index"))
                work.checkpoint({"shards": number + 1})
                saved_at = perf_counter()
        yield IndexEvent("saving", total, total)
        _write_index(faiss.index_gpu_to_cpu(index) if on_gpus else index, work.path("index"))
        work.publish({"index": output})


def read_index(path: Path) -> Any:
    """A faiss index from a file. Raises DatastoreError if it cannot be read or is not trained."""
    import faiss

    if not path.is_file():
        raise DatastoreError(
            f"There is no index {path}. Make it with `python -m indexing build-faiss-index`."
        )
    try:
        index = faiss.read_index(str(path))
    except (RuntimeError, OSError) as error:
        raise DatastoreError(f"Cannot read the index {path}: {_reason(error)}. Build it again.") from error
    if not index.is_trained:
        raise DatastoreError(
            f"The index {path} is not trained. Make it with `python -m indexing train-faiss-index`."
        )
    return index


def check_there(path: Path) -> None:
    """Raise DatastoreError if there is no file of an index."""
    if not path.is_file():
        raise DatastoreError(f"There is no index {path}. Make it with `train-` or `build-faiss-index`.")


def inverted_lists(index: Any) -> Any:
    """The part of an index that has inverted lists, or None."""
    import faiss

    ivf = faiss.try_extract_index_ivf(index)
    return ivf if ivf is not None and hasattr(ivf, "nprobe") else None


def set_nprobe(index: Any, nprobe: int | None) -> None:
    """How many lists to search: None for `default_nprobe`. An index without lists has none to choose."""
    ivf = inverted_lists(index)
    if ivf is not None:
        ivf.nprobe = min(ivf.nlist, default_nprobe(ivf.nlist) if nprobe is None else nprobe)


def to_gpus(index: Any, gpus: bool, shard_index: bool) -> tuple[Any, bool]:
    """The index on all GPUs, if they are wanted and there are any; and whether it is."""
    import faiss

    if not gpus or not hasattr(faiss, "index_cpu_to_all_gpus") or not faiss.get_num_gpus():
        return index, False
    options = faiss.GpuMultipleClonerOptions()
    options.shard = shard_index
    return faiss.index_cpu_to_all_gpus(index, options), True


def _factory(width: int, index_type: str) -> Any:
    import faiss

    try:
        return faiss.index_factory(width, index_type, faiss.METRIC_L2)
    except RuntimeError as error:
        raise InputError(
            f"{index_type!r} is not an index type for vectors of width {width}: {_reason(error)}. "
            "Give a faiss factory string such as Flat, IVF1024,Flat or IVF4096,PQ32."
        ) from error


def _check_lists(index: Any, index_type: str, num_vectors: int) -> None:
    ivf = inverted_lists(index)
    if ivf is not None and ivf.nlist > num_vectors:
        raise DatastoreError(
            f"{index_type} has {ivf.nlist:,} lists and needs at least as many training vectors (better "
            f"{_POINTS_A_LIST * ivf.nlist:,}), got {num_vectors:,}. Use {default_index_type(num_vectors)}, "
            f"or IVF{max(1, num_vectors // _POINTS_A_LIST)} instead of IVF{ivf.nlist}."
        )


def _check_width(index: Any, width: int, path: Path, spec: Path) -> None:
    if index.d != width:
        raise DatastoreError(
            f"The index {path} is of vectors of width {index.d}, but the embeddings of {spec} have {width}. "
            "Train an index on these embeddings."
        )


def check_filled(index: Any, arrays: Sequence[np.ndarray], path: Path, spec: Path) -> None:
    """Raise DatastoreError unless the index holds exactly the embeddings of the spec, by number and width."""
    _check_width(index, arrays[0].shape[1], path, spec)
    total = sum(map(len, arrays))
    if index.ntotal != total:
        raise DatastoreError(
            f"The index {path} holds {index.ntotal:,} vectors, but {spec} lists {total:,} embeddings. "
            "Name the spec that the index was built from, or build it again."
        )


def _training_rows(arrays: Sequence[np.ndarray], total: int, wanted: int) -> Iterator[np.ndarray]:
    """`wanted` of all rows, spread evenly, in batches."""
    begin = 0
    for vectors in arrays:
        # Rows number floor(i * total / wanted); those of this shard.
        first, last = -(-begin * wanted // total), -(-(begin + len(vectors)) * wanted // total)
        for part in _parts(last - first, _ROWS_AT_ONCE):
            chosen = np.arange(first + part.start, first + part.stop, dtype=np.int64) * total // wanted
            yield vectors[chosen - begin] if wanted < total else vectors[part]
        begin += len(vectors)


def _self_recall(index: Any, vectors: np.ndarray, first: int, nprobe: int | None) -> tuple[float, float]:
    """Of vectors with ids from `first` on: the share found nearest to themselves, and how many a second."""
    if not len(vectors):
        return float("nan"), 0.0
    ivf = inverted_lists(index)
    kept = None if ivf is None else ivf.nprobe
    set_nprobe(index, nprobe)
    right, seconds = 0, 0.0
    for rows in _parts(len(vectors), _ROWS_TO_SEARCH_AT_ONCE):
        queries = _float32(vectors[rows])
        begin = perf_counter()
        found = index.search(queries, 1)[1][:, 0]
        seconds += perf_counter() - begin
        right += int((found == np.arange(rows.start, rows.stop) + first).sum())
    if ivf is not None:
        ivf.nprobe = kept
    return right / len(vectors), len(vectors) / max(seconds, 1e-9)


def _parts(length: int, size: int) -> Iterator[slice]:
    """Slices of nearly equal length, none longer than `size`: a short one at the end would be computed by
    another formula in faiss, and round differently."""
    count = -(-length // size)
    for i in range(count):
        yield slice(i * length // count, (i + 1) * length // count)


def _write_index(index: Any, path: Path) -> None:
    import faiss

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{files.UNFINISHED}{path.name}")
    try:
        faiss.write_index(index, str(unfinished))
        files.sync(unfinished)
        unfinished.replace(path)
    except (RuntimeError, OSError) as error:
        unfinished.unlink(missing_ok=True)
        raise DatastoreError(
            f"Cannot write the index {path}: {_reason(error)}. Make room there, or choose another place."
        ) from error


def _float32(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _reason(error: Exception) -> str:
    """The last clause of what faiss says, without the place in its source."""
    text = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    return re.sub(r"^Error in .*? at .*?:\d+: ", "", text).removeprefix("Error: ").rstrip(".")
