"""Documents -> a folder ready for training: every step of the pipeline, each done once.

    tokenizer.json  chunks.npy  seq2chunk.npy  chunk2seq.npy  chunks.embeddings.npy
    trained.index  data.index  chunks.neighbours.npy  index.spec.json  data.spec.json
    prepare.json    what each step's files were made from, and their hashes

Run again, a step whose inputs, settings and files are as they were is passed over; the others are done, from
where they were stopped.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexing import corpus, files
from indexing.chunking import CHUNK_SIZE
from indexing.embedder import Embedder
from indexing.pipeline.chunk_files import ChunkFiles, write_chunks
from indexing.pipeline.embedding_files import embed_chunks
from indexing.pipeline.index_files import build_index, default_index_type, train_index
from indexing.pipeline.neighbour_files import retrieve_neighbours
from indexing.pipeline.specs import open_array, write_data_spec, write_index_spec
from indexing.pipeline.tokens import MarkedTokenizer, keep_tokenizer
from indexing.pipeline.unfinished import sha256

RECORD = "prepare.json"
DATA_SPEC, INDEX_SPEC = "data.spec.json", "index.spec.json"


@dataclass(frozen=True)
class Step:
    """`event` is the step's own, None where it was done before and is passed over."""

    name: str
    event: Any


@dataclass(frozen=True)
class Settings:
    chunk_size: int = CHUNK_SIZE
    index_type: str | None = None  # None: what suits the number of chunks
    max_training_vectors: int | None = None
    num_neighbours: int = 2
    margin: int | None = None
    nprobe: int | None = None
    batch_size: int = 64


def prepare(
    documents: Sequence[Path],
    read: Callable[[], Iterable[corpus.Document | corpus.StreamedDocument]],
    out: Path,
    tokenizer: MarkedTokenizer,
    embedder: Callable[[], Embedder],
    settings: Settings = Settings(),
) -> Iterator[Step]:
    """Make a training set of `documents` (files and folders of them) in the folder `out`; `read` reads them.

    Every chunk may be a neighbour of every other document's. The specs are written last, so that a folder
    with data.spec.json is complete. Raises what the steps raise.
    """
    paths = {
        name: out / name
        for name in (
            "chunks.npy", "seq2chunk.npy", "chunk2seq.npy", "chunks.embeddings.npy", "trained.index",
            "data.index", "chunks.neighbours.npy", INDEX_SPEC, DATA_SPEC,
        )
    }  # fmt: skip
    chunks, embeddings = paths["chunks.npy"], paths["chunks.embeddings.npy"]
    hashed = _hashed(documents)
    out.mkdir(parents=True, exist_ok=True)
    keep_tokenizer(tokenizer, out)
    record = _Record(out)

    made_from: dict[str, Any] = {
        "documents": hashed,
        "tokenizer": tokenizer.fingerprint,
        "marks": tokenizer.marks,
        "chunk_size": settings.chunk_size,
    }
    outputs = ("chunks.npy", "seq2chunk.npy", "chunk2seq.npy")
    yield from record.do(
        "chunks",
        made_from,
        outputs,
        lambda: write_chunks(
            lambda: (document.pieces() for document in read()),
            tokenizer,
            ChunkFiles(*(paths[name] for name in outputs)),
            settings.chunk_size,
        ),
    )
    encoder = embedder()
    made_from = {
        "chunks": record.hash("chunks", "chunks.npy"),
        "tokenizer": tokenizer.fingerprint,
        "embedder": encoder.fingerprint,
    }
    yield from record.do(
        "embeddings",
        made_from,
        (embeddings.name,),
        lambda: embed_chunks(chunks, embeddings, tokenizer, encoder, settings.batch_size),
    )
    shard = {
        "chunks": chunks,
        "seq2chunk": paths["seq2chunk.npy"],
        "chunk2seq": paths["chunk2seq.npy"],
        "embeddings": embeddings,
        "neighbours": paths["chunks.neighbours.npy"],
    }
    write_index_spec(paths[INDEX_SPEC], [shard])
    index_type = settings.index_type or default_index_type(len(open_array(chunks, 2)))
    made_from = {
        "embeddings": record.hash("embeddings", embeddings.name),
        "index_type": index_type,
        "max_training_vectors": settings.max_training_vectors,
    }
    yield from record.do(
        "trained index",
        made_from,
        ("trained.index",),
        lambda: train_index(
            paths[INDEX_SPEC], index_type, paths["trained.index"], settings.max_training_vectors
        ),
    )
    yield from record.do(
        "index",
        {**made_from, "trained": record.hash("trained index", "trained.index")},
        ("data.index",),
        lambda: build_index(
            paths[INDEX_SPEC], paths["trained.index"], paths["data.index"], nprobe=settings.nprobe
        ),
    )
    made_from = {
        "index": record.hash("index", "data.index"),
        "chunk2seq": record.hash("chunks", "chunk2seq.npy"),
        "num_neighbours": settings.num_neighbours,
        "margin": settings.margin,
        "nprobe": settings.nprobe,
    }
    yield from record.do(
        "neighbours",
        made_from,
        ("chunks.neighbours.npy",),
        lambda: retrieve_neighbours(
            [embeddings],
            [shard["chunk2seq"]],
            [shard["neighbours"]],
            paths["data.index"],
            paths[INDEX_SPEC],
            settings.num_neighbours,
            settings.margin,
            settings.nprobe,
        ),
    )
    write_data_spec(paths[DATA_SPEC], [shard], paths[INDEX_SPEC], paths["data.index"])


class _Record:
    """prepare.json: {step: {"made_from", "files": {name: sha256}}}."""

    def __init__(self, folder: Path):
        self._folder = folder
        try:
            steps = json.loads((folder / RECORD).read_bytes())["steps"]
        except (OSError, ValueError, KeyError, TypeError):
            steps = {}
        self._steps: dict[str, Any] = steps if isinstance(steps, dict) else {}

    def hash(self, step: str, name: str) -> str:
        return self._steps[step]["files"][name]

    def do(
        self,
        step: str,
        made_from: Mapping[str, Any],
        outputs: Sequence[str],
        work: Callable[[], Iterator[Any]],
    ) -> Iterator[Step]:
        """The events of `work`, unless its outputs are there and were made from the same."""
        if self._is_done(step, made_from, outputs):
            yield Step(step, None)
            return
        (self._folder / DATA_SPEC).unlink(missing_ok=True)
        for event in work():
            yield Step(step, event)
        hashes = {name: sha256(self._folder / name) for name in outputs}
        self._steps[step] = {"made_from": made_from, "files": hashes}
        files.write_json(self._folder / RECORD, {"steps": self._steps})

    def _is_done(self, step: str, made_from: Mapping[str, Any], outputs: Sequence[str]) -> bool:
        known = self._steps.get(step)
        if not isinstance(known, dict) or known.get("made_from") != made_from:
            return False
        paths = [self._folder / name for name in outputs]
        hashes = known.get("files", {})
        return all(path.is_file() and sha256(path) == hashes.get(path.name) for path in paths)


def _hashed(documents: Sequence[Path]) -> list[list[str]]:
    """[name, sha256] of each file, and of every file below each folder."""
    found: list[tuple[str, Path]] = []
    for path in documents:
        below = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        found += [(str(file.relative_to(path.parent)), file) for file in below]
    return [[name, sha256(file)] for name, file in found]
