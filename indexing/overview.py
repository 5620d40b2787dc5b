"""What a datastore is and which documents it holds, for people to look at; nothing is hashed, embedded or
built for it, so that it can be asked for at any time."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexing import built, paths
from indexing.advisor import Advice, IndexSettings, advice_for
from indexing.built import About
from indexing.datastore import Datastore, find
from indexing.index import remembered_settings
from indexing.manifest import INDEX_FOLDER, fingerprint, read_manifest
from indexing.segment import Label


@dataclass(frozen=True)
class Overview:
    """`chunks` and `tokens` count those of the `deleted` documents too, until it is compacted. bytes: on the
    disk, with what makes searching faster · advice: the index that so many chunks want, or that was asked for
    · measured: what is known of the index that was built, None where there is none (yet)"""

    name: str
    bundled: bool
    version: int
    created: str
    documents: int
    deleted: int
    segments: int
    chunks: int
    tokens: int
    chunk_size: int
    tokenizer: str
    embedder: str
    dim: int
    bytes: int
    fingerprint: str
    advice: Advice
    measured: About | None


@dataclass(frozen=True)
class Listed:
    """A document in a list, and how many chunks it has."""

    label: Label
    chunks: int


def overview(name_or_path: str | Path) -> Overview:
    """Raises InputError (a name), DatastoreError (there is none, or what describes it is damaged)."""
    path = find(name_or_path)
    manifest = read_manifest(path)
    state = manifest.get("state")
    num_chunks, dim = manifest["num_chunks"], manifest["embedder"]["dim"]
    settings = remembered_settings(path / INDEX_FOLDER) or IndexSettings()
    return Overview(
        name=path.name,
        bundled=paths.is_bundled(path),
        version=state.version if state else 1,
        created=manifest["created"],
        documents=manifest["num_documents"],
        deleted=sum(map(len, state.deleted.values())) if state else 0,
        segments=len(state.segments) if state else 1,
        chunks=num_chunks,
        tokens=manifest["num_tokens"],
        chunk_size=manifest["chunk_size"],
        tokenizer=manifest["tokenizer"]["name"],
        embedder=manifest["embedder"]["name"],
        dim=dim,
        bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        fingerprint=fingerprint(manifest),
        advice=advice_for(settings, num_chunks, dim),
        measured=built.read_about(path / INDEX_FOLDER / built.INDEX_FILE),
    )


def documents(datastore: Datastore, words: str, first: int, count: int) -> tuple[list[Listed], bool]:
    """(`count` of the documents, in order, from the `first` on; whether more follow): of those whose title,
    id or source contains all `words`, whatever their case; of all, if there are none."""
    wanted = words.casefold().split()
    sizes = np.diff(np.append(datastore.chunks.seq2chunk, len(datastore.chunks)))
    numbers = np.flatnonzero(~datastore.deleted)
    if not wanted:  # whatever comes before need not be read
        chosen = numbers[first : first + count]
        found = [Listed(datastore.label(int(n)), int(sizes[n])) for n in chosen]
        return found, first + count < len(numbers)
    found, passed = [], 0
    for number, label in zip(numbers.tolist(), datastore.labels(), strict=True):
        named = f"{label.title}\n{label.id}\n{label.source}".casefold()
        if all(word in named for word in wanted):
            passed += 1
            if len(found) == count:
                return found, True
            if passed > first:
                found.append(Listed(label, int(sizes[number])))
    return found, False
