"""Documents -> datastore, as a generator of events: whoever drains it shows the progress, and closing it
stops the work with nothing left behind."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from indexing import datastore, files, paths
from indexing.chunking import CHUNK_SIZE
from indexing.chunks import ChunkStore, tokenize
from indexing.corpus import Document
from indexing.embedder import Embedder
from indexing.errors import CorpusError, DatastoreError, InputError
from indexing.manifest import MANIFEST_FILE
from indexing.tokenizer import Tokenizer

# Chunks embedded between two events: a second of MiniLM on two cores, the longest that a stop waits.
_EMBED_AT_ONCE = 64
_DOCUMENTS_AT_ONCE = 50


@dataclass(frozen=True)
class BuildEvent:
    """Progress of one stage, in documents (reading, chunking) or chunks (embedding, saving, done).

    `total` is 0 while it is not known; `message` is a sentence for the user, in the last event always.
    """

    stage: Literal["reading", "chunking", "embedding", "saving", "done"]
    done: int
    total: int
    message: str = ""


def build(
    name: str | Path,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    embedder: Embedder,
    chunk_size: int = CHUNK_SIZE,
    replace: bool = False,
) -> Iterator[BuildEvent]:
    """Make the datastore `name` (in the user's folder; or a folder elsewhere, given as a Path).

    It appears whole after the last event's stage "saving", or not at all: closing the generator, an error
    and SIGKILL leave what was there before. With `replace`, that may be a datastore of the same name.

    Raises InputError (the name), CorpusError (a document), DatastoreError (exists, cannot be written).
    """
    if chunk_size < 1:
        raise InputError(f"Expected chunks of at least 1 token, got {chunk_size}. The models' own is 64.")
    target = _target(name)
    if not replace:
        check_free(name)
    kept: list[Document] = []
    for document in documents:
        kept.append(document)
        if len(kept) % _DOCUMENTS_AT_ONCE == 0:
            yield BuildEvent("reading", len(kept), 0)
    if not kept:
        raise CorpusError("There are no documents to build from. Give at least one text.")
    yield BuildEvent("reading", len(kept), len(kept))

    tokenized = []
    for document in kept:
        tokenized.append(tokenize(tokenizer, document.text))
        if len(tokenized) % _DOCUMENTS_AT_ONCE == 0:
            yield BuildEvent("chunking", len(tokenized), len(kept))
    chunks = ChunkStore.from_tokens(tokenized, tokenizer, chunk_size)
    yield BuildEvent("chunking", len(kept), len(kept))

    embeddings = np.empty((len(chunks), embedder.dim), dtype=np.float16)
    for start in range(0, len(chunks), _EMBED_AT_ONCE):
        yield BuildEvent("embedding", start, len(chunks))
        rows = slice(start, start + _EMBED_AT_ONCE)
        embeddings[rows] = embedder.embed([tokenizer.decode(chunk) for chunk in chunks.tokens[rows]])
    yield BuildEvent("embedding", len(chunks), len(chunks))

    yield BuildEvent("saving", 0, len(chunks))
    try:
        with files.new_folder(target, replace=replace) as folder:
            datastore.save(folder, chunks, embeddings, _with_unique_ids(kept), tokenizer, embedder)
    except FileExistsError:
        check_free(name)
        raise
    except OSError as error:
        raise DatastoreError(
            f"Cannot write the datastore {target.name!r} to {target.parent}: {error.strerror}. "
            "Make room there, or point RETRO_HOME at another folder."
        ) from error
    yield BuildEvent("done", len(chunks), len(chunks), _summary(target.name, kept, len(chunks)))


def check_free(name: str | Path) -> None:
    """Raise InputError or DatastoreError if `build` could not make a new datastore of this name."""
    target = _target(name)
    found = target if isinstance(name, Path) else paths.datastore_dir(name)
    if (found / MANIFEST_FILE).exists():
        raise DatastoreError(
            f"A datastore {target.name!r} exists already. Choose another name, or ask to replace it."
        )
    if target.exists():
        raise DatastoreError(f"{target} exists and is not a datastore. Choose another name, or remove it.")


def _target(name: str | Path) -> Path:
    return name if isinstance(name, Path) else paths.datastores_dir() / paths.check_name(name)


def _with_unique_ids(documents: list[Document]) -> list[Document]:
    """The same documents; a repeated id gets a number, because an id must lead to one document."""
    taken: set[str] = set()
    repeats: Counter[str] = Counter()
    result = []
    for document in documents:
        name = document.id
        while name in taken:
            repeats[document.id] += 1
            name = f"{document.id}#{repeats[document.id] + 1}"
        taken.add(name)
        result.append(dataclasses.replace(document, id=name))
    return result


def _summary(name: str, documents: list[Document], num_chunks: int) -> str:
    def count(number: int, word: str) -> str:
        return f"{number:,} {word}{'' if number == 1 else 's'}"

    summary = f"Built {name!r}: {count(len(documents), 'document')}, {count(num_chunks, 'chunk')}."
    repeated = len(documents) - len({document.text for document in documents})
    if repeated:
        summary += f" {count(repeated, 'document')} with the same text as an earlier one; all were kept."
    return summary
