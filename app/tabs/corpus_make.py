"""The first part of Corpus: text -> chunks, drawn on it -> which index -> a new datastore, in four steps."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from app import policy, services, settings, tasks, text, typed
from app.errors import sentence, shows_errors
from app.parts import ChunkPreview, Facts, StatusLine
from app.policy import Action, Rule, Visitor, permit
from app.tabs.corpus_index import advised, duration, index_settings, other_sizes, paces
from app.tabs.corpus_text import ask_column, column_box, documents_of, preview, suggestion
from indexing import paths
from indexing.advisor import IndexSettings
from indexing.build import BuildEvent, check_free
from indexing.build import build as build_datastore
from indexing.bundle import SUFFIX, import_bundle
from indexing.corpus import SUFFIXES, Report
from indexing.corpus.duplicates import noting_repeats
from indexing.datastore import Datastore
from indexing.errors import CorpusError, DatastoreError, InputError
from indexing.overview import overview
from indexing.writing import unfinished_vectors
from retro_core.config import bounds

_STAGES = {"reading": "Reading documents", "embedding": "Embedding chunks", "saving": "Saving"}
# What was pasted is kept by the browser alone, and comes back with the page; a box that is empty because the
# page was just loaded does not count.
_KEEP_DRAFT = """(text) => {
  if (!text && !document.activeElement?.closest("#pasted")) return;
  try { localStorage.setItem("retro-corpus-draft", (text || "").slice(0, 200000)); } catch {}
}"""
_BRING_DRAFT = """(text) => {
  try { return text || localStorage.getItem("retro-corpus-draft") || ""; } catch { return text; }
}"""
_NAME = "my-notes"  # of a datastore, until there is a text to name it after
_STILL_READ = "Your text is still being read: a moment, then press again."
_RECENT = 12  # events over which the pace is measured: what an earlier try embedded passes in no time


@dataclass
class Made:
    """done: {"name", "line"} of what was built last, the server's own: what a browser holds may lag behind"""

    done: gr.State
    starts: list[Callable]  # events after which a datastore may have come
    attach: Callable[[gr.Blocks], Any]

    def events(self, page: gr.Blocks) -> list[Any]:
        return [*self.starts, self.attach(page)]


def build(task: gr.BrowserState) -> Made:
    """Lay out the four steps and wire them.

    task  what is being built, in the browser's memory, so that a reload finds it again
    """
    archives = policy.of_strangers() is None  # only from those who are trusted
    with gr.Walkthrough(selected=1, elem_id="steps") as steps:
        with gr.Step("Text", id=1):
            with gr.Row(elem_classes="corpus-row"):
                with gr.Column(scale=6, min_width=300):
                    pasted = gr.Textbox(
                        label="Paste a text",
                        placeholder="Anything you would like the model to look things up in.",
                        lines=9,
                        max_lines=16,
                        elem_id="pasted",
                    )
                with gr.Column(scale=5, min_width=300):
                    files = gr.File(
                        label=text.FILES if archives else text.FILES_OF_STRANGERS,
                        file_count="multiple",
                        file_types=[suffix for suffix in SUFFIXES if archives or suffix != ".zip"],
                        height=180,
                        elem_id="files",
                    )
                    column = column_box("column")
                    samples = gr.CheckboxGroup(
                        choices=text.SAMPLES,
                        label="or take some countries of the bundled World Factbook",
                        elem_id="samples",
                    )
            told = StatusLine(elem_id="text-told")
            to_chunks = gr.Button("Look at the chunks →", variant="primary", elem_id="to-chunks")
            fold = gr.Accordion(
                text.IMPORTING, open=False, visible=archives, elem_classes="fold", elem_id="import-fold"
            )
            with fold, gr.Row(elem_classes="step-row"):
                bundle_name = gr.Textbox(
                    label="Name it gets",
                    placeholder="as the file is called",
                    max_lines=1,
                    elem_id="bundle-name",
                )
                bundle = gr.UploadButton(
                    f"Choose a {SUFFIX}", file_types=[".zip"], size="md", elem_id="import"
                )
        with gr.Step("Chunks", id=2):
            preview = ChunkPreview(elem_id="preview")
            with gr.Row(elem_classes="step-row"):
                back_to_text = gr.Button("← Text", size="md", min_width=90)
                to_index = gr.Button(
                    "What will search them →", variant="primary", size="md", elem_id="to-index"
                )
        with gr.Step("Index", id=3):
            advice = Facts(advised(0), elem_id="advice")
            with gr.Accordion("Ask for another index", open=False, elem_classes="fold"):
                gr.Markdown(text.INDEX_CHOICES)
                with gr.Row():
                    factory = gr.Textbox(**_named("factory", "Factory string"), max_lines=1)
                    ram_mb = gr.Number(**_named("ram_mb", "Memory (MB)"), precision=0)
                    deletes = gr.Checkbox(**_named("deletes", "Documents may be deleted"))
                gr.Dataframe(
                    value=other_sizes(),
                    headers=["chunks", "index", "memory", "to build", "recall@10"],
                    datatype="str",
                    interactive=False,
                    label="What the advisor would build for",
                    elem_id="sizes",
                )
            with gr.Row(elem_classes="step-row"):
                back_to_chunks = gr.Button("← Chunks", size="md", min_width=90)
                to_build = gr.Button("Name it and build →", variant="primary", size="md", elem_id="to-build")
        with gr.Step("Build", id=4):
            with gr.Row(elem_classes="corpus-row"):
                name = gr.Textbox(
                    label="Name of the datastore",
                    info="Lower-case letters, digits, '.', '_' and '-'. Left empty: the name in grey.",
                    placeholder=_NAME,
                    max_lines=1,
                    elem_id="corpus-name",
                )
                replace = gr.Checkbox(
                    False,
                    label="Replace the datastore of this name",
                    info="Otherwise a name that is taken is refused.",
                    elem_id="replace",
                )
            with gr.Row(elem_classes="step-row"):
                back_to_index = gr.Button("← Index", size="md", min_width=90)
                index_button = gr.Button("Build", variant="primary", size="md", elem_id="index", min_width=90)
                cancel_button = gr.Button(
                    "Cancel", interactive=False, size="md", elem_id="cancel", min_width=70
                )
            progress = StatusLine(elem_id="index-progress")
    suggested, done, counted = gr.State(_NAME), gr.State(), gr.State(0)

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    for button, step in (
        (back_to_text, 1),
        (back_to_chunks, 2),
        (to_index, 3),
        (back_to_index, 3),
        (to_build, 4),
    ):
        button.click(lambda step=step: gr.Walkthrough(selected=step), outputs=steps, queue=False, **quiet)
    text_in = [pasted, files, samples]
    to_chunks.click(
        expect_text, inputs=[*text_in, counted, told], outputs=[steps, told], queue=False, **quiet
    )
    asked = [factory, ram_mb, deletes]
    typed.keep([pasted, column, bundle_name, factory, ram_mb, name])
    files.change(ask_column, inputs=files, outputs=column, queue=False, **quiet)
    gr.on(
        [pasted.change, files.change, samples.change, column.change],
        preview_texts,
        inputs=[pasted, files, samples, *asked, column],
        outputs=[preview, name, suggested, told, advice, counted],
        trigger_mode="always_last",
        **quiet,
    )
    gr.on(
        [factory.change, ram_mb.change, deletes.change],
        advise_again,
        inputs=[counted, *asked],
        outputs=advice,
        trigger_mode="always_last",
        **quiet,
    )
    pasted.change(None, inputs=pasted, js=_KEEP_DRAFT, api_visibility="private")
    watched = [task, done, progress, index_button, cancel_button]
    unlimited = {"concurrency_limit": None, **quiet}
    building = gr.on(
        [index_button.click, name.submit],
        index,
        inputs=[pasted, files, name, suggested, replace, samples, *asked, column],
        outputs=watched,
        **unlimited,
    )
    importing = bundle.upload(
        import_file, inputs=[bundle, bundle_name], outputs=[task, done, told, bundle], **unlimited
    )
    cancel_button.click(cancel, inputs=task, outputs=progress, queue=False, **quiet)

    def attach(page: gr.Blocks) -> Any:
        page.load(None, inputs=pasted, outputs=pasted, js=_BRING_DRAFT, api_visibility="private")
        return page.load(reattach, inputs=task, outputs=[*watched, steps], **unlimited)

    return Made(done, [building, importing], attach)


def _named(name: str, label: str) -> dict[str, Any]:
    """Default and help text of a setting, for its control."""
    _, _, default, help_text = bounds(IndexSettings, name)
    return {"value": default, "label": label, "info": help_text, "elem_id": f"index-{name}", "min_width": 180}


# ---------------------------------------------------------------------------------------------- text


@shows_errors
def expect_text(
    pasted: str | None, files: list[str] | None, samples: list[str] | None, count: int, told: Any
) -> tuple[Any, Any]:
    """(the next step, a line): only where there is a text to go on with.

    count, told  chunks of the preview, and the line that says what is wrong with the text
    """
    if not (pasted and pasted.strip()) and not files and not samples:
        return gr.skip(), {
            "text": "There is no text yet. Paste some, choose files, or tick a country.",
            "tone": "bad",
        }
    if not count:
        refused = isinstance(told, dict) and told.get("tone") == "bad" and told.get("text") != _STILL_READ
        return gr.skip(), gr.skip() if refused else {"text": _STILL_READ, "tone": "busy"}
    return gr.Walkthrough(selected=2), gr.skip()


# -------------------------------------------------------------------------------------------- chunks


@shows_errors
def preview_texts(
    pasted: str | None,
    files: list[str] | None,
    samples: list[str] | None = None,
    factory: str = "",
    ram_mb: float | None = 0,
    deletes: bool = True,
    column: str | None = None,
    request: gr.Request | None = None,
) -> tuple[Any, ...]:
    """(value of the preview, the box of the name, a suggested name, progress line, facts about the index,
    chunks).

    The suggestion is shown in the empty box and never written into it: it may come after a name was typed.
    """
    if not (pasted and pasted.strip()) and not files and not samples:
        return None, gr.Textbox(placeholder=_NAME), _NAME, "", advised(0), 0
    who = permit(Action.PREVIEW, request)
    report = Report()
    given = documents_of(pasted, files, samples, report, who.rule, column=column)
    try:
        documents = list(noting_repeats(given, report))
    except CorpusError as error:  # said where it can be mended, and there until it is
        told = {"text": sentence(error), "tone": "bad"}
        return None, gr.Textbox(placeholder=_NAME), _NAME, told, advised(0), 0
    suggested = suggestion(documents[0].title)
    value = {**preview(documents), "notes": report.sentences(settings.NOTES_SHOWN)}
    told = {"text": f"{value['summary']}.".replace("..", "."), "tone": "good"}
    left_out = report.files_skipped
    if left_out.count:
        more = f" And {left_out.count - 2:,} more." if left_out.count > 2 else ""
        told = {"text": f"{told['text']} Left out: {' '.join(left_out.first[:2])}{more}", "tone": "bad"}
    advice = advise_again(value["chunks"], factory, ram_mb, deletes)
    return value, gr.Textbox(placeholder=suggested), suggested, told, advice, value["chunks"]


# --------------------------------------------------------------------------------------------- index


@shows_errors
def advise_again(count: int, factory: str, ram_mb: float | None, deletes: bool) -> dict[str, Any]:
    """Facts about the index for so many chunks."""
    if not 0 < count <= settings.MAX_CORPUS_CHARACTERS:
        return advised(0)
    return advised(count, index_settings(factory, ram_mb, deletes))


# --------------------------------------------------------------------------------------------- build


@shows_errors
def index(
    pasted: str | None,
    files: list[str] | None,
    name: str | None,
    suggested: str,
    replace: bool,
    samples: list[str] | None = None,
    factory: str = "",
    ram_mb: float | None = 0,
    deletes: bool = True,
    column: str | None = None,
    request: gr.Request | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Begin to build, then yield (task, done, progress, button to build, button to cancel) until it
    has ended. When the page goes away the building goes on; see `reattach`.

    suggested  the name where none was typed
    """
    who = permit(Action.MAKE_DATASTORE, request)
    name = new_name((name or "").strip() or suggested, who, bool(replace))
    asked = index_settings(factory, ram_mb, deletes)

    def work() -> Generator[dict[str, Any], None, str]:
        return _building(pasted, files, samples, name, bool(replace), asked, who.rule, column)

    yield from _watched(tasks.start("build", name, work, who))


def new_name(name: str, who: Visitor, replace: bool = False) -> str:
    """What a new datastore is called on the disk, if this visitor may have one more. Raises InputError (the
    name, or there are too many), DatastoreError (it is taken)."""
    own = who.names(paths.check_name(name))
    if own != name:
        check_free(name)  # everybody's of this name would look the same
    if not (replace and paths.datastore_dir(own).exists()):
        check_free(own)
        services.expect_room(who)
    return own


def _building(
    pasted: str | None,
    files: list[str] | None,
    samples: list[str] | None,
    name: str,
    replace: bool,
    asked: IndexSettings,
    rule: Rule,
    column: str | None,
) -> Generator[dict[str, Any], None, str]:
    report = Report()
    yield {"text": "Reading documents…", "tone": "busy"}
    documents = []
    for document in documents_of(pasted, files, samples, report, rule, column=column):
        documents.append(document)
        yield {"text": f"Reading documents: {len(documents):,}", "tone": "busy"}
    yield from loading_embedder()
    events = build_datastore(name, documents, services.tokenizer(), services.embedder(), replace=replace)
    told = yield from followed(events)
    yield from make_searchable(name, None if asked == IndexSettings() else asked)
    told = " ".join([told, *report.sentences(examples=0)])
    yield {"text": told, "tone": "good"}
    return name


def loading_embedder() -> Iterator[dict[str, Any]]:
    """Load it, as the first step of work that embeds."""
    if not services.embedder_is_loaded():
        yield {"text": text.LOADING_EMBEDDER, "tone": "busy"}
    services.embedder()


def followed(events: Iterator[BuildEvent]) -> Generator[dict[str, Any], None, str]:
    """Lines of progress of building or appending; what is said at its end."""
    recent: deque[tuple[float, int]] = deque(maxlen=_RECENT)
    told = ""
    try:
        for event in events:
            if event.stage == "embedding":
                recent.append((time.monotonic(), event.done))
            if event.stage == "done":
                told = event.message
            else:
                yield progress_of(event, recent)
    finally:
        events.close()  # when it is cancelled: whatever is unfinished is removed
    return told


def make_searchable(name: str, asked: IndexSettings | None) -> Iterator[dict[str, Any]]:
    """Build the index that many chunks want, so that the first search need not."""
    for event in Datastore.open(name).build_index(asked):
        fraction = event.done / event.total if event.total else None
        yield {
            "text": f"Building the index: {event.message or event.stage}",
            "fraction": fraction,
            "tone": "busy",
        }


def progress_of(event: BuildEvent, recent: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """The line of one event. recent: (seconds, chunks embedded by then) of the last events"""
    words = _STAGES[event.stage]
    if not event.total:
        return {"text": f"{words}: {event.done:,}", "tone": "busy"}
    words = f"{words}: {event.done:,} of {event.total:,}"
    if event.stage == "embedding" and event.done:
        seconds, done = (last - first for last, first in zip(recent[-1], recent[0], strict=True))
        rate = max(done, 1) / max(seconds, 1e-3)
        paces[:] = [rate]
        words += f" · {rate:,.0f} chunks/s · {duration((event.total - event.done) / rate)} left"
    return {"text": words, "fraction": event.done / event.total, "tone": "busy"}


@shows_errors
def import_file(path: str, name: str | None, request: gr.Request | None = None) -> Iterator[tuple[Any, ...]]:
    """Yield (task, done, progress, button to import) until a bundle has become a datastore."""
    who = permit(Action.IMPORT_DATASTORE, request)
    name = (name or "").strip() or suggestion(Path(path).name.removesuffix(SUFFIX).removesuffix(".zip"))
    name = new_name(name, who)

    def work() -> Generator[dict[str, Any], None, str]:
        told = ""
        for event in import_bundle(Path(path), name):
            told = event.message or told
            fraction = event.done / event.total if event.total else None
            yield {"text": f"Checking and copying {Path(path).name}", "fraction": fraction, "tone": "busy"}
        yield {"text": told, "tone": "good"}
        return name

    for shown in _watched(tasks.start("import", name, work, who)):
        yield shown[:4]


def _watched(task: tasks.Task) -> Iterator[tuple[Any, ...]]:
    """(what the browser remembers, what is done, progress, button to start, button to cancel) until the task
    has ended."""
    for now in tasks.watch(task):
        known = tasks.memory(task, now.active)
        done = {"name": task.subject, "line": now.line} if now.state == tasks.DONE else None
        yield known, done, now.line, gr.update(interactive=not now.active), gr.Button(interactive=now.active)
        if now.state == tasks.FAILED:
            raise InputError(now.line["text"])


@shows_errors
def reattach(known: Any, request: gr.Request | None = None) -> Iterator[tuple[Any, ...]]:
    """(as `index`, and the step): what was begun before the page was loaded anew."""
    task, line = found_again(known, request)
    if task is None:
        step = gr.Walkthrough(selected=4) if line else gr.skip()
        yield tasks.NOTHING, None, line or gr.skip(), gr.skip(), gr.skip(), step
        return
    for shown in _watched(task):
        yield *shown, gr.Walkthrough(selected=4)


def found_again(known: Any, request: gr.Request | None) -> tuple[tasks.Task | None, dict[str, Any] | None]:
    """(the task that a browser remembers, what became of it if this server knows it no longer)."""
    who = policy.visitor(request)
    name, task = tasks.remembered(known, who) or (None, None)
    if name is None or not who.may_see(name):
        return None, None
    return task, None if task else {"text": lost(name), "tone": "bad"}


def lost(name: str) -> str:
    """What became of work on a datastore that the server no longer knows of: it was started anew."""
    paths.check_name(name)
    begun = f"The server was started anew since work on {name!r} began."
    try:
        found = overview(name)
    except DatastoreError:
        folder = paths.datastores_dir() / name
        kept = any(folder.parent.glob(f"{unfinished_vectors(folder).name}*"))
        again = "What was embedded so far is kept: build again with the same text, and it goes on from there."
        return f"{begun} It was not finished. {again if kept else 'Nothing was written: build it again.'}"
    made = found.created.replace("T", " ").rstrip("Z")
    return (
        f"{begun} What is there under this name: {found.documents:,} documents, {found.chunks:,} chunks, "
        f"made {made} UTC, version {found.version}. If that is not what you expect, do it again."
    )


@shows_errors
def cancel(known: Any, request: gr.Request | None = None) -> dict[str, Any]:
    tasks.cancel(known.get("task") if isinstance(known, dict) else None, policy.visitor(request))
    return {"text": "Cancelling…", "tone": "busy"}


def look_at(done: dict[str, Any] | None, request: gr.Request | None = None) -> tuple[Any, Any, Any]:
    """(the part of the tab, the choice of datastore, its line), once a datastore has come."""
    choices = services.datastore_choices(policy.visitor(request))
    if done is None or done["name"] not in [name for _, name in choices]:
        return gr.skip(), gr.skip(), gr.skip()
    return gr.Tabs(selected="look"), gr.Dropdown(choices=choices, value=done["name"]), done["line"]
