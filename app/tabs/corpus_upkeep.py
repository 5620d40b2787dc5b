"""Looking after a datastore: documents come and go, it is checked, tidied, copied, exported, removed."""

import shutil
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from app import owners, policy, services, settings, tasks, text
from app.errors import shows_errors
from app.policy import Action, Visitor, permit
from app.tabs import corpus_make
from app.tabs.corpus_index import duration, size
from app.tabs.corpus_text import documents_of
from indexing import paths, upkeep
from indexing.build import append, repair
from indexing.bundle import SUFFIX, export
from indexing.corpus import Document, Report
from indexing.errors import DatastoreError, InputError
from indexing.overview import overview
from indexing.upkeep import UpkeepEvent

_DOING = {"copying": "Copying chunks", "checking": "Checking every value"}
_CHARACTERS_A_TOKEN = 4  # about, to tell how large a datastore is without reading it


@shows_errors
def ask_to_delete(name: str | None, ids: list[str] | None) -> tuple[Any, Any]:
    """(the row with the question, the question)."""
    if not name or not ids:
        raise InputError("No document is ticked. Tick those that shall leave the datastore.")
    count = len(ids)
    what = "this document" if count == 1 else f"these {count} documents"
    return gr.Row(visible=True), f"Delete {what} from {name}? No search finds them afterwards."


@shows_errors
def delete(
    name: str | None, ids: list[str] | None, known: Any, request: gr.Request | None = None
) -> tuple[Any, Any]:
    """(the row with the question, progress)."""
    who = permit(Action.CHANGE_DATASTORE, request)
    _expect_free(known, who)
    if not ids:
        raise InputError("No document is ticked. Tick those that shall leave the datastore.")
    version = upkeep.delete(expect_own(name, who), ids)
    count = len(ids)
    told = f"Deleted {count} document{'' if count == 1 else 's'}; {name} is at version {version}."
    return gr.Row(visible=False), {"text": told, "tone": "good"}


@shows_errors
def add(
    name: str | None,
    pasted: str | None,
    files: list[str] | None,
    known: Any,
    column: str | None = None,
    request: gr.Request | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Yield as `_followed`, then the emptied box and files."""
    who = permit(Action.CHANGE_DATASTORE, request)
    name = expect_own(name, who)

    def work() -> Generator[dict[str, Any], None, None]:
        report = Report()
        yield {"text": "Reading documents…", "tone": "busy"}
        added: list[Document] = []
        there = overview(name).tokens * _CHARACTERS_A_TOKEN
        for document in documents_of(pasted, files, None, report, who.rule, there, column):
            added.append(document)
            yield {"text": f"Reading documents: {len(added):,}", "tone": "busy"}
        yield from corpus_make.loading_embedder()
        told = yield from corpus_make.followed(append(name, added, services.embedder_of(name)))
        yield from corpus_make.make_searchable(name, None)
        yield {"text": " ".join([told, *report.sentences(examples=2)]), "tone": "good"}

    for shown, now in _followed(known, "append", name, work, who):
        done = now.state == tasks.DONE
        yield *shown, "" if done else gr.skip(), None if done else gr.skip()


@shows_errors
def verify(name: str | None, known: Any, request: gr.Request | None = None) -> Iterator[tuple[Any, ...]]:
    who = permit(Action.CHANGE_DATASTORE, request)
    name = expect(name, who)
    for shown, _ in _followed(known, "verify", name, lambda: _lines(upkeep.verify(name)), who):
        yield shown


@shows_errors
def compact(name: str | None, known: Any, request: gr.Request | None = None) -> Iterator[tuple[Any, ...]]:
    who = permit(Action.CHANGE_DATASTORE, request)
    name = expect_own(name, who)
    for shown, _ in _followed(known, "compact", name, lambda: _lines(upkeep.compact(name)), who):
        yield shown


@shows_errors
def mend(name: str | None, known: Any, request: gr.Request | None = None) -> Iterator[tuple[Any, ...]]:
    who = permit(Action.CHANGE_DATASTORE, request)
    name = expect_own(name, who)

    def work() -> Generator[dict[str, Any], None, None]:
        yield from corpus_make.loading_embedder()
        told = yield from corpus_make.followed(repair(name, services.embedder_of(name)))
        yield {"text": told, "tone": "good"}

    for shown, _ in _followed(known, "repair", name, work, who):
        yield shown


@shows_errors
def copy(
    name: str | None, new_name: str | None, known: Any, request: gr.Request | None = None
) -> Iterator[tuple[Any, ...]]:
    who = permit(Action.MAKE_DATASTORE, request)
    name = expect(name, who)
    _expect_small(name, who)
    new_name = corpus_make.new_name((new_name or "").strip(), who)

    def work() -> Generator[dict[str, Any], None, str]:
        yield {"text": f"Copying {name}…", "tone": "busy"}
        upkeep.copy(name, new_name)
        yield {"text": f"Copied {name} to {new_name}, which is yours to change.", "tone": "good"}
        return new_name

    for shown, _ in _followed(known, "copy", name, work, who):
        yield shown


@shows_errors
def pack(name: str | None, known: Any, request: gr.Request | None = None) -> Iterator[tuple[Any, ...]]:
    """Export: the last event brings the file to be downloaded."""
    who = permit(Action.EXPORT_DATASTORE, request)
    name = expect(name, who)

    def work() -> Generator[dict[str, Any], None, Path]:
        file = _place_for_exports() / f"{owners.shown(name)}{SUFFIX}"
        try:
            yield from _lines(export(name, file))
        except GeneratorExit:
            shutil.rmtree(file.parent, ignore_errors=True)
            raise
        return file

    for shown, _ in _followed(known, "export", name, work, who):
        yield shown


def _place_for_exports() -> Path:
    """A new folder; those of an hour ago are removed, as they were downloaded or forgotten."""
    with suppress(OSError):
        for old in Path(tempfile.gettempdir()).glob("retro-export-*"):
            if time.time() - old.stat().st_mtime > settings.EXPORTS_KEPT:
                shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="retro-export-"))


@shows_errors
def rename(
    name: str | None, new_name: str | None, known: Any, request: gr.Request | None = None
) -> tuple[Any, Any, Any]:
    """(choice of datastore, progress, name)."""
    who = permit(Action.CHANGE_DATASTORE, request)
    _expect_free(known, who)
    name, new_name = expect_own(name, who), who.names(paths.check_name((new_name or "").strip()))
    upkeep.rename(name, new_name)
    return choices(new_name, who), {"text": f"{name} is {new_name} now.", "tone": "good"}, ""


@shows_errors
def remove(
    name: str | None, typed: str | None, known: Any, request: gr.Request | None = None
) -> tuple[Any, Any, Any]:
    """(choice of datastore, progress, what was typed)."""
    who = permit(Action.CHANGE_DATASTORE, request)
    _expect_free(known, who)
    name = expect_own(name, who)
    if (typed or "").strip() != owners.shown(name):
        raise InputError(f"To remove {name!r}, type exactly its name; got {(typed or '').strip()!r}.")
    upkeep.remove(name)
    return choices(services.default_datastore(), who), {"text": f"Removed {name}.", "tone": "good"}, ""


def choices(name: str | None, who: Visitor) -> gr.Dropdown:
    return gr.Dropdown(choices=services.datastore_choices(who), value=name)


def _lines(events: Iterator[UpkeepEvent]) -> Iterator[dict[str, Any]]:
    """Lines of progress, with the time that is left."""
    begun = time.monotonic()
    try:
        for event in events:
            if event.stage == "done":
                yield {"text": event.message, "tone": "good"}
                continue
            words, fraction = _DOING[event.stage], event.done / event.total if event.total else None
            if fraction:
                left = (time.monotonic() - begun) * (1 - fraction) / fraction
                words += f": {event.done:,} of {event.total:,} · {duration(left)} left"
            yield {"text": words, "fraction": fraction, "tone": "busy"}
    finally:
        events.close()  # when it is cancelled


def _followed(
    known: Any, kind: str, name: str, work: tasks.Work, who: Visitor
) -> Iterator[tuple[tuple[Any, ...], tasks.Task]]:
    """Begin a task, then yield ((what the browser remembers, progress, button to cancel, download, choice of
    datastore), the task) until it has ended."""
    _expect_free(known, who)
    yield from _watched(tasks.start(kind, name, work, who), who)


def _watched(task: tasks.Task, who: Visitor) -> Iterator[tuple[tuple[Any, ...], tasks.Task]]:
    for now in tasks.watch(task):
        known = tasks.memory(task, now.active)
        download = gr.DownloadButton(visible=False)
        choice = gr.skip()
        if now.state == tasks.DONE and task.kind == "export":
            label = f"Download {task.result.name} ({size(task.result.stat().st_size)})"
            download = gr.DownloadButton(label=label, value=str(task.result), visible=True)
        if now.state == tasks.DONE and task.kind == "copy":
            choice = choices(task.result, who)
        button = gr.Button(visible=now.active, interactive=now.active)
        yield (known, now.line, button, download, choice), now
        if now.state == tasks.FAILED:
            raise InputError(now.line["text"])


@shows_errors
def reattach(known: Any, request: gr.Request | None = None) -> Iterator[tuple[Any, ...]]:
    """What was begun before the page was loaded anew."""
    task, line = corpus_make.found_again(known, request)
    if task is None:
        yield tasks.NOTHING, line or gr.skip(), *(gr.skip(),) * 3
        return
    for shown, _ in _watched(task, policy.visitor(request)):
        yield shown


def expect_own(name: str | None, who: Visitor) -> str:
    """What ships with the program, or is not this visitor's, is refused before it waits in line."""
    name = services.changeable(expect(name, who), who)
    if paths.is_bundled(paths.datastore_dir(name)):
        raise DatastoreError(f"{name} ships with the program and is not changed. {text.COPY_IT}")
    return name


def _expect_small(name: str, who: Visitor) -> None:
    """Raises InputError if a visitor could not have made a datastore of this size."""
    most, there = who.rule.characters, overview(name).tokens * _CHARACTERS_A_TOKEN
    if most and there > most:
        raise InputError(
            f"{name} has about {there:,} characters; a datastore of a visitor has up to {most:,}. Paste or "
            "upload the part you want as a datastore of your own."
        )


def _expect_free(known: Any, who: Visitor) -> None:
    """One thing at a time on a page."""
    task = tasks.find(known.get("task"), who) if isinstance(known, dict) else None
    if task is not None and task.active:
        raise InputError(
            f"Work on {task.subject!r} is still going on. Wait until it has finished, or cancel it."
        )


def expect(name: str | None, who: Visitor) -> str:
    """The name of a datastore that this visitor may read. Raises what `services.open_to` does."""
    if not name:
        raise InputError(text.NO_DATASTORE)
    return services.open_to(name, who)
