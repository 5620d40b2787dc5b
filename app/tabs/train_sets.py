"""What Train trains on: a set that ships, one made of a datastore, or of a text that somebody brings."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import owners, services, text
from app.policy import Rule, Visitor
from app.tabs import corpus_make
from app.tabs.corpus_text import documents_of
from indexing import paths
from indexing.build import build as build_datastore
from indexing.corpus import Report
from indexing.errors import InputError
from indexing.tokenizer import Tokenizer
from indexing.training_sets import TrainingSet, is_current, list_training_sets, make, training_set
from retro_core.bases import base_folder

OWN = "own"
TOY = "two-editions"
_SET, _STORE = "set:", "store:"  # how choices begin
_DOING = {"embedding": "Embedding chunks", "neighbours": "Finding each chunk's neighbours"}


@dataclass(frozen=True)
class Wanted:
    """Something to train on. made: what is there already, None if it has to be made first; then `name` is
    what it will be called and `datastore` what it is made of, OWN's not being there yet either."""

    made: TrainingSet | None
    name: str = ""
    datastore: str = ""
    chunks: int = 0


def choices(who: Visitor) -> list[tuple[str, str]]:
    """(label, value): what ships, the datastores, a text of one's own."""
    ready = [made for made in list_training_sets() if who.may_see(made.name)]
    found = [
        (text.TOY_SET if made.name == TOY else f"{owners.shown(made.name)} · ready", f"{_SET}{made.name}")
        for made in ready
        if made.bundled
    ]
    found += [
        (f"{owners.shown(info.name)} · {info.num_chunks:,} chunks", f"{_STORE}{info.name}")
        for info in services.datastores(who)
        if info.num_documents < info.num_chunks  # else no document has two chunks, so none reads
    ]
    return [*found, (text.TRAIN_ON_OWN_TEXT, OWN)]


def wanted(source: str, base: str, who: Visitor) -> Wanted:
    """What a choice stands for, for a model with its own tokens or, with a base, the base's.

    Raises InputError for something that is no choice.
    """
    if source == OWN:
        return Wanted(None)
    if source.startswith(_SET):
        made = training_set(source.removeprefix(_SET))
        if not who.may_see(made.name):
            raise InputError("There is no such training set here. Choose one of the list.")
        if base and made.fingerprint != _tokenizer(base).fingerprint:
            raise InputError(
                f"The set {owners.shown(made.name)} is in the tokens of the bundled model, and {base} has "
                "others. Choose a datastore to train on: its texts are cut anew."
            )
        return Wanted(made, made.name, chunks=made.chunks)
    if not source.startswith(_STORE):
        raise InputError("Expected something to train on. Choose one of the list.")
    name = source.removeprefix(_STORE)
    opened = services.snapshot(name, who)
    own = _name(name, base, opened.tokenizer.fingerprint)
    made = next((one for one in list_training_sets() if one.name == own), None)
    if made is not None and is_current(made, opened):
        return Wanted(made, own, name, made.chunks)
    return Wanted(None, own, name, len(opened.chunks))


def _name(datastore: str, base: str, fingerprint: str) -> str:
    """A set is called as its datastore, and as the base whose tokens it is in, where these are others."""
    if not base or _tokenizer(base).fingerprint == fingerprint:
        return datastore
    bare = owners.shown(datastore)
    return f"{bare[:24].rstrip('.-_')}-in-{paths.slug(base)[:12].strip('.-_')}{datastore[len(bare) :]}"


def _tokenizer(base: str) -> Tokenizer:
    return Tokenizer.load(base_folder(base))


def tokenizer_of(made: TrainingSet) -> str:
    """How a run names the tokenizer of a set."""
    if made.fingerprint == services.tokenizer().fingerprint:
        return paths.DEMO_MODEL
    return str(made.data_spec.parent)


def own_datastore(
    pasted: str | None, files: list[str] | None, name: str, rule: Rule
) -> Generator[dict[str, Any], None, None]:
    """Lines of progress of making a datastore of what somebody brought. name: on the disk · rule: how much"""
    report = Report()
    yield {"text": "Reading documents…", "tone": "busy"}
    documents = []
    for document in documents_of(pasted, files, [], report, rule):
        documents.append(document)
        yield {"text": f"Reading documents: {len(documents):,}", "tone": "busy"}
    yield from corpus_make.loading_embedder()
    events = build_datastore(name, documents, services.tokenizer(), services.embedder())
    yield from corpus_make.followed(events)


def making(asked: Wanted, base: str, who: Visitor) -> Iterator[dict[str, Any]]:
    """Lines of progress of making the set that is asked for."""
    yield {"text": _DOING["neighbours"], "tone": "busy"}
    tokenizer = _tokenizer(base) if base else None
    opened = services.snapshot(asked.datastore, who)
    embedder = None
    if tokenizer is not None and tokenizer.fingerprint != opened.tokenizer.fingerprint:
        yield from corpus_make.loading_embedder()
        embedder = services.embedder_of(asked.datastore)
    events = make(asked.name, opened, tokenizer, embedder)
    try:
        for event in events:
            if event.stage in _DOING and event.total:
                words = f"{_DOING[event.stage]}: {event.done:,} of {event.total:,}"
                yield {"text": words, "fraction": event.done / event.total, "tone": "busy"}
    finally:
        events.close()  # when it is cancelled: whatever is unfinished is removed


def shown(path: Path | str) -> str:
    """A file as a command names it that is typed in the program's folder, without this server's folders."""
    path = Path(path)
    usual = paths.home() == Path.home() / ".retro"
    for folder, word in ((paths.ASSETS.parent, ""), (paths.home(), "~/.retro/" if usual else "$RETRO_HOME/")):
        if path.is_relative_to(folder):
            return f"{word}{path.relative_to(folder)}"
    return path.name
