"""What a model is measured on: texts it has never seen, a person's own, or documents of a datastore."""

import json
import textwrap
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np

from app import settings
from indexing import paths
from indexing.corpus import Document, Report, read_files, read_text
from indexing.datastore import Datastore
from indexing.errors import CorpusError, InputError

HELD_OUT, MINE, STORED = "held-out", "mine", "datastore"
_SEED = 0  # the same documents for everybody, so that measurements can be compared


def held_out(count: int) -> list[Document]:
    """Pages of the bundled Factbook about countries that the bundled model was not trained on."""
    bundled = Datastore.open(paths.ASSETS / "datastores" / paths.DEMO_DATASTORE)
    numbers = [
        number
        for number, label in enumerate(bundled.labels())
        if label.title.rpartition(" — ")[0] in _countries()
    ]
    return _drawn(bundled, numbers, count)


def stored(name: str, count: int) -> list[Document]:
    """Documents of a datastore, drawn at random."""
    datastore = Datastore.open(name)
    living = np.unique(np.asarray(datastore.chunks.chunk2seq)[np.asarray(datastore.alive)])
    return _drawn(datastore, living.tolist(), count)


def mine(pasted: str | None, files: list[str] | None) -> list[Document]:
    """What a person pasted or uploaded. Raises CorpusError if there is none of it, or too much."""
    texts = [read_text(pasted, title=_title(pasted))] if pasted and pasted.strip() else []
    uploaded = read_files(files, names=[Path(file).name for file in files], report=Report()) if files else ()
    found: list[Document] = []
    characters = 0
    for one in chain(texts, uploaded):
        characters += one.characters
        if characters > settings.MAX_MEASURED_CHARACTERS:
            raise CorpusError(
                f"The text has more than {settings.MAX_MEASURED_CHARACTERS:,} characters, the most that is "
                "measured here. Give less, or use the command line: python -m retro_core evaluate NAME=FILE."
            )
        found.append(Document(one.id, one.title, one.text, one.source))
    if not found:
        raise CorpusError(
            "There is no text to measure on yet. Paste one or upload files, or choose the bundled pages."
        )
    return found


def documents(
    source: str, datastore: str, pasted: str | None, files: list[str] | None, count: int
) -> list[Document]:
    """Raises InputError for a source that is none."""
    if source == HELD_OUT:
        return held_out(count)
    if source == STORED:
        return stored(datastore, count)
    if source == MINE:
        return mine(pasted, files)
    raise InputError(f"Expected text of {HELD_OUT}, {MINE} or {STORED}, got {source!r}. Choose one of them.")


def title(source: str, datastore: str, found: list[Document]) -> str:
    """What was measured on, for people."""
    count = f"{len(found):,} {'page' if source == HELD_OUT else 'text' if source == MINE else 'document'}"
    count += "s" if len(found) != 1 else ""
    if source == HELD_OUT:
        return f"{count} about countries held out of training"
    if source == STORED:
        return f"{count} of {datastore}, each without itself"
    return f"{count} of mine: {found[0].title}"


def _drawn(datastore: Datastore, numbers: list[int], count: int) -> list[Document]:
    """Those of more than a chunk: the first chunk of a document reads nothing."""
    starts = np.append(np.asarray(datastore.chunks.seq2chunk), len(datastore.chunks))
    longer = [number for number in numbers if starts[number + 1] - starts[number] > 1]
    if not longer:
        raise InputError(
            f"The documents of {datastore.name!r} are of one chunk each, and the first chunk of a document "
            "reads nothing. Choose another text to measure on; this datastore can still be read from."
        )
    found: list[Document] = []
    characters = 0
    for number in np.random.default_rng(_SEED).permutation(longer)[:count].tolist():
        document = datastore.documents[number]
        characters += document.characters
        if found and characters > settings.MAX_MEASURED_CHARACTERS:
            break
        found.append(document)
    return found


@lru_cache(maxsize=1)
def _countries() -> frozenset[str]:
    lines = (paths.ASSETS / "evaluation" / "fact-swap.jsonl").read_text(encoding="utf-8").splitlines()
    return frozenset(json.loads(line)["country"] for line in lines)


def _title(pasted: str) -> str:
    return textwrap.shorten(next(line for line in pasted.splitlines() if line.strip()), 48, placeholder="…")
