"""A datastore made into something to train on: its documents and those held out, with their neighbours.

    training-set.json   what it was made of, see `TrainingSet`
    train/, held-out/   a shard each: chunks, embeddings, neighbours, tokenizer and data.spec.json

Neighbours of both are chunks of train/, so nothing that is held out is ever read while training. A set is a
copy: its datastore may change or go, and a run on the set goes on. Where there are hardly any documents, long
ones are cut into parts that count as documents, as a chunk never reads its own document.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from indexing import files, paths
from indexing.build import build
from indexing.chunks import CHUNK2SEQ_FILE, CHUNKS_FILE, SEQ2CHUNK_FILE
from indexing.datastore import Datastore
from indexing.embedder import Embedder
from indexing.errors import InputError
from indexing.precompute import DATA_SPEC, precompute_neighbours
from indexing.segment import EMBEDDINGS_FILE
from indexing.tokenizer import Tokenizer

FACTS_FILE = "training-set.json"
TRAIN, HELD_OUT = "train", "held-out"
NEIGHBOURS = 4  # kept of each chunk; a run may read fewer
_HELD_OUT_SHARE, _MOST_HELD_OUT = 0.05, 60  # documents
_FEW_DOCUMENTS, _PART = 20, 16  # where there are fewer, longer ones are cut into parts of so many chunks
_FEWEST_CHUNKS = 32


@dataclass(frozen=True)
class TrainingSet:
    """source: the datastore it was made of, and which version of it (`identity`) · train_* and held_out_*:
    how much · tokenizer: its name, and its fingerprint · bundled: ships with the program"""

    name: str
    folder: Path
    source: str
    identity: str
    documents: int
    chunks: int
    held_out_documents: int
    held_out_chunks: int
    tokenizer: str
    fingerprint: str
    bundled: bool

    @property
    def data_spec(self) -> Path:
        return self.folder / TRAIN / DATA_SPEC

    @property
    def validation(self) -> Path:
        return self.folder / HELD_OUT / DATA_SPEC


@dataclass(frozen=True)
class MakingEvent:
    """`done` of `total` chunks; total is 0 while it is not known."""

    stage: Literal["embedding", "neighbours", "done"]
    done: int
    total: int


def list_training_sets() -> list[TrainingSet]:
    """The bundled ones first; of a name that both have, the user's."""
    found = {}
    for parent in (paths.ASSETS / "training-sets", paths.training_sets_dir()):
        for path in sorted(parent.iterdir()) if parent.is_dir() else ():
            opened = _read(path)
            if opened is not None:
                found[opened.name] = opened
    return list(found.values())


def training_set(name: str) -> TrainingSet:
    """Raises InputError if there is none of that name."""
    opened = _read(paths.training_set_dir(name))
    if opened is None:
        raise InputError(
            f"There is no training set {name!r}. Make one of a datastore with "
            f"`python -m indexing training-set {name} DATASTORE`."
        )
    return opened


def make(
    name: str,
    datastore: Datastore,
    tokenizer: Tokenizer | None = None,
    embedder: Embedder | None = None,
    num_neighbours: int = NEIGHBOURS,
    seed: int = 0,
    first_chunk_weight: float = 0.0,
) -> Iterator[MakingEvent]:
    """Make the training set `name`, or make it anew; it appears whole or not at all.

    tokenizer  of the model to be trained, if not the datastore's own: then all chunks are cut and embedded
               anew, with `embedder` or the datastore's own
    first_chunk_weight  see `precompute`

    Raises InputError if the datastore holds too little to train on, or somebody else makes this set.
    """
    target = paths.training_sets_dir() / paths.check_name(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with files.lock(target), files.new_folder(target, replace=True) as work:
            work = work.resolve()
            cut = datastore
            if tokenizer is not None and tokenizer.fingerprint != datastore.tokenizer.fingerprint:
                cut = yield from _cut_anew(work / "again" / datastore.name, datastore, tokenizer, embedder)
            facts = yield from _write(work, cut, num_neighbours, seed, first_chunk_weight)
            if cut is not datastore:
                shutil.rmtree(work / "again")
            facts |= {"name": name, "source": datastore.name, "identity": datastore.identity}
            files.write_json(work / FACTS_FILE, facts)
    except TimeoutError as error:
        raise InputError(
            f"The training set {name!r} is being made at this moment. Wait until it is there."
        ) from error
    yield MakingEvent("done", facts["chunks"], facts["chunks"])


def is_current(made: TrainingSet, datastore: Datastore) -> bool:
    """Whether a set is of this datastore as it is now."""
    return (made.source, made.identity) == (datastore.name, datastore.identity)


def _read(path: Path) -> TrainingSet | None:
    try:
        facts = json.loads((path / FACTS_FILE).read_text(encoding="utf-8"))
        facts = {key: facts[key] for key in _KINDS}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # unfinished, or not ours
    if not all(isinstance(facts[key], kind) for key, kind in _KINDS.items()):
        return None
    return TrainingSet(**{**facts, "name": path.name}, folder=path, bundled=paths.is_bundled(path))


_KINDS = {
    field.name: int if field.type is int else str
    for field in dataclasses.fields(TrainingSet)
    if field.name not in ("folder", "bundled")
}


def _cut_anew(
    folder: Path, datastore: Datastore, tokenizer: Tokenizer, embedder: Embedder | None
) -> Iterator[MakingEvent]:
    documents = (datastore.documents[number] for number in np.flatnonzero(~datastore.deleted).tolist())
    embedder = embedder or datastore.embedder
    size = datastore.chunks.chunk_size
    for event in build(folder, documents, tokenizer, embedder, chunk_size=size):
        if event.stage == "embedding":
            yield MakingEvent("embedding", event.done, event.total)
    return Datastore.open(folder, embedder=embedder)


def _write(
    work: Path, cut: Datastore, num_neighbours: int, seed: int, first_chunk_weight: float
) -> Iterator[MakingEvent]:
    texts = _texts(cut)
    count = int(sum(stop - start for start, stop in texts))
    long = [number for number, (start, stop) in enumerate(texts) if stop - start > 1]
    if count < _FEWEST_CHUNKS or len(long) < 2:
        raise InputError(
            f"Expected at least {_FEWEST_CHUNKS} chunks of {cut.chunks.chunk_size} tokens, and two documents "
            f"of two chunks or more, to train on; {cut.name!r} has {count:,} chunks in {len(texts):,} "
            f"documents, {len(long):,} of them longer than one chunk. Add some text to it."
        )
    held = max(1, min(_MOST_HELD_OUT, round(_HELD_OUT_SHARE * len(long))))
    chosen = set(np.random.default_rng(seed).permutation(long)[:held].tolist())
    parts = {
        TRAIN: [text for number, text in enumerate(texts) if number not in chosen],
        HELD_OUT: [texts[number] for number in sorted(chosen)],
    }
    for part, rows in parts.items():
        _write_shard(work / part, cut, rows)
    total = count
    done = 0
    for part in parts:
        events = precompute_neighbours(
            [work / part], [work / TRAIN], num_neighbours, work / part, first_chunk_weight
        )
        for event in events:
            yield MakingEvent("neighbours", done + event.done, total)
        done += sum(stop - start for start, stop in parts[part])
    chunks = {part: int(sum(stop - start for start, stop in rows)) for part, rows in parts.items()}
    return {
        "documents": len(parts[TRAIN]),
        "chunks": chunks[TRAIN],
        "held_out_documents": len(parts[HELD_OUT]),
        "held_out_chunks": chunks[HELD_OUT],
        "tokenizer": cut.tokenizer.name,
        "fingerprint": cut.tokenizer.fingerprint,
    }


def _texts(cut: Datastore) -> list[tuple[int, int]]:
    """Rows [start, stop) of each document, or of its parts."""
    starts = np.asarray(cut.chunks.seq2chunk)
    stops = np.append(starts[1:], len(cut.chunks))
    whole = [
        (int(start), int(stop))
        for start, stop, gone in zip(starts, stops, cut.deleted, strict=True)
        if not gone and stop > start
    ]
    if len(whole) >= _FEW_DOCUMENTS:
        return whole
    return [(first, min(first + _PART, stop)) for start, stop in whole for first in range(start, stop, _PART)]


def _write_shard(folder: Path, cut: Datastore, texts: list[tuple[int, int]]) -> None:
    folder.mkdir()
    lengths = np.array([stop - start for start, stop in texts])
    rows = np.concatenate([np.arange(start, stop) for start, stop in texts])
    files.save_array(folder / CHUNKS_FILE, np.asarray(cut.chunks.tokens[rows]))
    files.save_array(folder / CHUNK2SEQ_FILE, np.repeat(np.arange(len(texts), dtype=np.int32), lengths))
    files.save_array(folder / SEQ2CHUNK_FILE, np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64))
    files.save_array(folder / EMBEDDINGS_FILE, np.asarray(cut.embeddings[rows]))
    cut.tokenizer.save(folder)
