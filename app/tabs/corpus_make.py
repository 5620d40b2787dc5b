"""The first part of Corpus: text -> chunks, drawn on it -> which index -> a new datastore, in four steps."""

import textwrap
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from app import services, settings, tasks, text
from app.errors import shows_errors
from app.parts import ChunkPreview, Facts, StatusLine
from indexing import paths
from indexing.advisor import Advice, IndexSettings, advice_for, advise, check_factory
from indexing.build import BuildEvent, check_free
from indexing.build import build as build_datastore
from indexing.bundle import SUFFIX, import_bundle
from indexing.chunking import CHUNK_SIZE
from indexing.chunks import tokenize
from indexing.corpus import SUFFIXES, Document, Report, read_files, read_text
from indexing.corpus.duplicates import noting_repeats
from indexing.datastore import Datastore
from indexing.errors import CorpusError, DatastoreError, InputError
from indexing.overview import overview
from indexing.writing import unfinished_vectors
from retro_core.config import GenerationConfig, bounds

_STAGES = {"reading": "Reading documents", "embedding": "Embedding chunks", "saving": "Saving"}
_DIM = 384  # of the embedder that the page builds with, said before it is loaded
_BYTES_A_CHUNK = 2 * _DIM + 2 * CHUNK_SIZE + 4 * CHUNK_SIZE + 40  # vector, tokens, text, where it stands
_CHUNKS_PER_SECOND = 60  # of all-MiniLM on two cores, until this server has measured its own
_OTHER_SIZES = (10_000, 1_000_000, 10_000_000)
_rates: list[float] = []  # chunks embedded a second by the last build here


@dataclass
class Made:
    """task: what is being built, in the browser's memory, so that a reload finds it again"""

    task: gr.BrowserState
    starts: list[Callable]  # events after which a datastore may have come
    attach: Callable[[gr.Blocks], Any]

    def events(self, page: gr.Blocks) -> list[Any]:
        return [*self.starts, self.attach(page)]


def build() -> Made:
    """Lay out the four steps and wire them."""
    task = gr.BrowserState(None, storage_key="retro-corpus-task", secret="retro-corpus")
    draft = gr.BrowserState("", storage_key="retro-corpus-draft", secret="retro-corpus")
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
                        label="or choose files: text, web pages, PDF, Word, tables, or a .zip of them",
                        file_count="multiple",
                        file_types=list(SUFFIXES),
                        height=140,
                        elem_id="files",
                    )
                    samples = gr.CheckboxGroup(
                        choices=text.SAMPLES,
                        label="or take some countries of the bundled World Factbook",
                        elem_id="samples",
                    )
            told = StatusLine(elem_id="text-told")
            to_chunks = gr.Button("Look at the chunks →", variant="primary", elem_id="to-chunks")
            fold = gr.Accordion(text.IMPORTING, open=False, elem_classes="fold", elem_id="import-fold")
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
                    info="Lower-case letters, digits, '.', '_' and '-'.",
                    placeholder="my-notes",
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
    to_chunks.click(expect_text, inputs=text_in, outputs=[steps, told], queue=False, **quiet)
    asked = [factory, ram_mb, deletes]
    gr.on(
        [pasted.change, files.change, samples.change],
        preview_texts,
        inputs=[pasted, files, name, samples, *asked],
        outputs=[preview, name, told, advice],
        trigger_mode="always_last",
        **quiet,
    )
    gr.on(
        [factory.change, ram_mb.change, deletes.change],
        advise_again,
        inputs=[preview, *asked],
        outputs=advice,
        trigger_mode="always_last",
        **quiet,
    )
    # What was pasted is kept by the browser alone, and comes back with the page.
    pasted.input(
        None,
        inputs=pasted,
        outputs=draft,
        js="(text) => (text || '').slice(0, 200000)",
        api_visibility="private",
    )
    watched = [task, progress, index_button, cancel_button]
    unlimited = {"concurrency_limit": None, **quiet}
    building = gr.on(
        [index_button.click, name.submit],
        index,
        inputs=[pasted, files, name, replace, samples, *asked],
        outputs=watched,
        **unlimited,
    )
    importing = bundle.upload(
        import_file, inputs=[bundle, bundle_name], outputs=[task, told, bundle], **unlimited
    )
    cancel_button.click(cancel, inputs=task, outputs=progress, queue=False, **quiet)

    def attach(page: gr.Blocks) -> Any:
        page.load(
            None,
            inputs=[draft, pasted],
            outputs=pasted,
            js="(draft, text) => text || draft || ''",
            api_visibility="private",
        )
        return page.load(reattach, inputs=task, outputs=[*watched, steps], **unlimited)

    return Made(task, [building, importing], attach)


def _named(name: str, label: str) -> dict[str, Any]:
    """Default and help text of a setting, for its control."""
    _, _, default, help_text = bounds(IndexSettings, name)
    return {"value": default, "label": label, "info": help_text, "elem_id": f"index-{name}", "min_width": 180}


# ---------------------------------------------------------------------------------------------- text


def documents_of(
    pasted: str | None, files: list[str] | None, samples: list[str] | None, report: Report
) -> Iterator[Document]:
    """What was pasted, uploaded, and taken of what is bundled. Raises CorpusError if there is none of it, or
    too much."""
    if not (pasted and pasted.strip()) and not files and not samples:
        raise CorpusError("There is no text yet. Paste some, choose files, or take some of the Factbook.")
    total = 0
    names = [Path(file).name for file in files or ()]
    sources: list[Iterable[Document]] = [
        [read_text(pasted, title=_title(pasted))] if pasted and pasted.strip() else [],
        read_files(files, names=names, report=report) if files else [],
        (document for country in samples or () for document in _sample(country)),
    ]
    for source in sources:
        for document in source:
            total += document.characters
            if total > settings.MAX_CORPUS_CHARACTERS:
                raise CorpusError(
                    f"The corpus has more than {settings.MAX_CORPUS_CHARACTERS:,} characters, the most that "
                    "is indexed here. Leave some out, or use the command line: "
                    "python -m indexing build NAME FILE…"
                )
            yield document


@lru_cache(maxsize=8)
def _sample(country: str) -> tuple[Document, ...]:
    """A country's pages of the bundled Factbook."""
    if country not in text.SAMPLES:
        raise InputError(f"There is no {country!r} among the samples. Choose some of the list.")
    bundled = Datastore.open(paths.ASSETS / "datastores" / paths.DEMO_DATASTORE)
    numbers = [n for n, label in enumerate(bundled.labels()) if label.title.startswith(f"{country} — ")]
    return tuple(bundled.documents[n] for n in numbers)


def _title(pasted: str) -> str:
    """The text's first words."""
    return textwrap.shorten(next(line for line in pasted.splitlines() if line.strip()), 48, placeholder="…")


def _suggestion(title: str) -> str:
    """A valid name made of the title's first words: 'Notes on Ferns.md' -> 'notes-on-ferns'."""
    stem = title.rsplit(".", 1)[0] if title.endswith(SUFFIXES) else title
    name = paths.slug("-".join([word for word in stem.split() if any(map(str.isalnum, word))][:3]))
    return name.strip("-._") or "my-notes"


@shows_errors
def expect_text(
    pasted: str | None, files: list[str] | None, samples: list[str] | None
) -> tuple[Any, dict[str, Any] | str]:
    """(the next step, a line): only where there is a text to go on with."""
    if not (pasted and pasted.strip()) and not files and not samples:
        return gr.skip(), {
            "text": "There is no text yet. Paste some, choose files, or tick a country.",
            "tone": "bad",
        }
    return gr.Walkthrough(selected=2), ""


# -------------------------------------------------------------------------------------------- chunks


@shows_errors
def preview_texts(
    pasted: str | None,
    files: list[str] | None,
    name: str | None,
    samples: list[str] | None = None,
    factory: str = "",
    ram_mb: float | None = 0,
    deletes: bool = True,
) -> tuple[Any, Any, Any, Any]:
    """(value of the preview, a suggested name if none is given, progress line, facts about the index)."""
    if not (pasted and pasted.strip()) and not files and not samples:
        return None, gr.skip(), "", advised(0)
    report = Report()
    documents = list(noting_repeats(documents_of(pasted, files, samples, report), report))
    suggestion = gr.skip()
    if not (name or "").strip():
        suggestion = _suggestion(documents[0].title)
    value = {**preview(documents), "notes": report.sentences(settings.NOTES_SHOWN)}
    told = {"text": f"{value['summary']}.".replace("..", "."), "tone": "good"}
    return value, suggestion, told, advise_again(value, factory, ram_mb, deletes)


def preview(documents: list[Document]) -> dict[str, Any]:
    """{"summary", "chunks", "lengths": [[label, documents]],
    "documents": [{"title", "note", "chunks": [{"text", "tokens", "number"}]}], "rest"}.

    `preview_texts` adds "notes": sentences on what was left out of the files or repeats.
    The first chunks are cut exactly as indexing cuts them; the number of those that follow is estimated.
    """
    tokenizer = services.tokenizer()
    shown, number, tokens, characters = [], 0, 0, 0
    for document in documents:
        if number >= settings.PREVIEW_CHUNKS:
            break
        # Of a long document, only as much as can be drawn; 8 characters a token is more than any text has.
        room = (settings.PREVIEW_CHUNKS - number) * CHUNK_SIZE * 8
        begin = next(document.pieces(), "")[:room]
        ids, starts = tokenize(tokenizer, begin)
        whole = len(begin) == document.characters
        cuts = [*starts[::CHUNK_SIZE].tolist(), len(begin)]
        chunks = []
        for i in range(len(cuts) - 1):
            if number >= settings.PREVIEW_CHUNKS:
                break
            number += 1
            length = min(CHUNK_SIZE, len(ids) - i * CHUNK_SIZE)
            chunks.append({"text": begin[cuts[i] : cuts[i + 1]], "tokens": length, "number": number})
        tokens += len(ids)
        characters += len(begin)
        note = (
            f"{len(ids):,} tokens · {len(cuts) - 1:,} chunk{'' if len(cuts) == 2 else 's'}"
            if whole
            else f"{document.characters:,} characters"
        )
        shown.append({"title": document.title, "note": note, "chunks": chunks})
    total = sum(document.characters for document in documents)
    exact = characters == total and number < settings.PREVIEW_CHUNKS
    per_token = max(1, characters) / max(1, tokens)
    count = number if exact else round(total / max(1, characters) * max(number, tokens / CHUNK_SIZE))
    token_count = f"{tokens:,}" if characters == total else f"about {round(total / per_token):,}"
    documents_word = "document" if len(documents) == 1 else "documents"
    summary = (
        f"{len(documents):,} {documents_word} · {token_count} tokens · {'' if exact else 'about '}{count:,} "
        f"chunk{'' if count == 1 else 's'} of {CHUNK_SIZE} tokens"
    )
    if exact:
        wanted = bounds(GenerationConfig, "num_neighbours")[2]
        if number <= wanted:
            summary += f". Fewer than {wanted + 1} chunks: there is hardly anything to choose from"
    rest = "" if exact else f"The first {number} chunks are drawn; the others are cut the same way."
    return {
        "summary": summary,
        "chunks": count,
        "lengths": lengths([document.characters for document in documents], per_token),
        "documents": shown,
        "rest": rest,
    }


def lengths(characters: list[int], per_token: float) -> list[list[Any]]:
    """[label, documents] by how many chunks documents fill, about: 1, 2, 3–4, 5–8 …; nothing for one."""
    if len(characters) < 2:
        return []
    bins: list[int] = []
    for length in characters:
        chunks = max(1, -(-int(length / per_token + 1) // CHUNK_SIZE))
        place = (chunks - 1).bit_length()
        bins += [0] * (place + 1 - len(bins))
        bins[place] += 1
    labels = [
        "1 chunk", "2 chunks", *(f"{2 ** (i - 1) + 1:,}–{2**i:,} chunks" for i in range(2, len(bins)))
    ]  # fmt: skip
    shortest = next(place for place, count in enumerate(bins) if count)
    return [[label, count] for label, count in zip(labels, bins, strict=False)][shortest:]


# --------------------------------------------------------------------------------------------- index


@shows_errors
def advise_again(
    shown: dict[str, Any] | None, factory: str, ram_mb: float | None, deletes: bool
) -> dict[str, Any]:
    """Facts about the index for the chunks of the preview."""
    count = shown.get("chunks") if isinstance(shown, dict) else None
    if not isinstance(count, int) or not 0 < count <= settings.MAX_CORPUS_CHARACTERS:
        return advised(0)
    return advised(count, _index_settings(factory, ram_mb, deletes))


def _index_settings(factory: str, ram_mb: float | None, deletes: bool) -> IndexSettings:
    """Raises ConfigError where a number is out of bounds."""
    return IndexSettings(
        factory=(factory or "").strip(),
        ram_mb=int(ram_mb or 0),
        deletes=True if deletes is None else bool(deletes),
    )


def advised(count: int, asked: IndexSettings | None = None) -> dict[str, Any]:
    """The value of `Facts`: what would search so many chunks, what it needs, and why. Raises ConfigError if
    what was asked for cannot be made of so many."""
    if not count:
        return {"notes": [text.NO_INDEX_YET]}
    advice = advice_for(asked or IndexSettings(), count, _DIM)
    if not advice.exact:
        check_factory(advice.factory, count, _DIM)
    rate = _rates[-1] if _rates else _CHUNKS_PER_SECOND
    told = "as the last build here" if _rates else "on two cores; the first build here measures it"
    return {
        "title": index_in_words(advice),
        "facts": [
            ["Chunks", f"{count:,}"],
            ["Time to embed them", f"about {duration(count / rate)} ({rate:,.0f} chunks/s {told})"],
            [
                "Time to build the index",
                "none" if advice.exact else f"about {duration(advice.build_seconds)}",
            ],
            ["Memory while searching", size(advice.ram_bytes)],
            ["On disk", f"about {size(count * _BYTES_A_CHUNK)}"],
            ["Recall of the true 10 nearest", recall(advice)],
        ],
        "notes": [advice.reason, text.RECALL],
    }


def index_in_words(advice: Advice) -> str:
    if advice.exact:
        return "Exact search: every chunk is compared (SQ8)"
    kinds = {"IVF": "lists, of which a search reads some", "HNSW": "a graph that a search walks"}
    kind = next((words for word, words in kinds.items() if word in advice.factory), "built by faiss")
    return f"{advice.factory}: {kind}"


def other_sizes() -> list[list[str]]:
    """Rows of the table of what the advisor says for other sizes."""
    rows = []
    for count in _OTHER_SIZES:
        advice = advise(count, _DIM)
        build = "nothing to build" if advice.exact else f"about {duration(advice.build_seconds)}"
        rows.append([f"{count:,}", advice.factory, size(advice.ram_bytes), build, recall(advice)])
    return rows


def recall(advice: Advice) -> str:
    return "all of them, exactly" if advice.exact else f"about {advice.recall:.0%}; measured when it is built"


def size(count: float) -> str:
    if count >= 1e9:
        return f"{count / 1e9:,.1f} GB"
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{max(1, round(count / 1e3)):,} kB"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# --------------------------------------------------------------------------------------------- build


@shows_errors
def index(
    pasted: str | None,
    files: list[str] | None,
    name: str,
    replace: bool,
    samples: list[str] | None = None,
    factory: str = "",
    ram_mb: float | None = 0,
    deletes: bool = True,
) -> Iterator[tuple[Any, ...]]:
    """Begin to build, then yield (task, progress, button to build, button to cancel) until it has ended. When
    the page goes away the building goes on; see `reattach`."""
    name = (name or "").strip()
    if not name:
        raise InputError("The datastore has no name yet. Type one, for example 'my-notes'.")
    paths.check_name(name)
    if not replace:
        check_free(name)
    asked = _index_settings(factory, ram_mb, deletes)
    task = tasks.start("build", name, lambda: _building(pasted, files, samples, name, bool(replace), asked))
    yield from _watched(task)


def _building(
    pasted: str | None,
    files: list[str] | None,
    samples: list[str] | None,
    name: str,
    replace: bool,
    asked: IndexSettings,
) -> Generator[dict[str, Any], None, str]:
    report = Report()
    yield {"text": "Reading documents…", "tone": "busy"}
    documents = []
    for document in documents_of(pasted, files, samples, report):
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
    begun, told = time.monotonic(), ""
    try:
        for event in events:
            if event.stage == "embedding" and not event.done:
                begun = time.monotonic()
            if event.stage == "done":
                told = event.message
            else:
                yield progress_of(event, time.monotonic() - begun)
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


def progress_of(event: BuildEvent, seconds: float) -> dict[str, Any]:
    """The line of one event, `seconds` after embedding began."""
    words = _STAGES[event.stage]
    if not event.total:
        return {"text": f"{words}: {event.done:,}", "tone": "busy"}
    words = f"{words}: {event.done:,} of {event.total:,}"
    if event.stage == "embedding" and event.done:
        rate = event.done / max(seconds, 1e-3)
        _rates[:] = [rate]
        words += f" · {rate:.0f} chunks/s · {duration((event.total - event.done) / rate)} left"
    return {"text": words, "fraction": event.done / event.total, "tone": "busy"}


@shows_errors
def import_file(path: str, name: str | None) -> Iterator[tuple[Any, ...]]:
    """Yield (task, progress, button to import) until a bundle has become a datastore."""
    name = (name or "").strip() or _suggestion(Path(path).name.removesuffix(SUFFIX).removesuffix(".zip"))
    paths.check_name(name)
    check_free(name)

    def work() -> Generator[dict[str, Any], None, str]:
        told = ""
        for event in import_bundle(Path(path), name):
            told = event.message or told
            fraction = event.done / event.total if event.total else None
            yield {"text": f"Checking and copying {Path(path).name}", "fraction": fraction, "tone": "busy"}
        yield {"text": told, "tone": "good"}
        return name

    for shown in _watched(tasks.start("import", name, work)):
        yield shown[:3]


def _watched(task: tasks.Task) -> Iterator[tuple[Any, ...]]:
    """(what the browser remembers, progress, button to start, button to cancel) until the task has ended."""
    for now in tasks.watch(task):
        known = {"task": task.id, "name": task.subject, "kind": task.kind} if now.active else None
        if now.state == tasks.DONE:
            known = {"done": task.subject, "line": now.line}
        yield known, now.line, gr.update(interactive=not now.active), gr.Button(interactive=now.active)
        if now.state == tasks.FAILED:
            raise InputError(now.line["text"])


@shows_errors
def reattach(known: dict[str, Any] | None) -> Iterator[tuple[Any, ...]]:
    """(as `index`, and the step): what was begun before the page was loaded anew."""
    name = known.get("name") if isinstance(known, dict) else None
    if not isinstance(name, str) or not isinstance(known.get("task"), str):
        yield None, *(gr.skip(),) * 4
        return
    task = tasks.find(known["task"])
    if task is None:
        yield None, {"text": lost(name), "tone": "bad"}, gr.skip(), gr.skip(), gr.Walkthrough(selected=4)
        return
    for shown in _watched(task):
        yield *shown, gr.Walkthrough(selected=4)


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
def cancel(known: dict[str, Any] | None) -> dict[str, Any]:
    tasks.cancel(known.get("task") if isinstance(known, dict) else None)
    return {"text": "Cancelling…", "tone": "busy"}


def look_at(known: dict[str, Any] | None) -> tuple[Any, Any, Any]:
    """(the part of the tab, the choice of datastore, its line), once a datastore has come."""
    name = known.get("done") if isinstance(known, dict) else None
    names = [info.name for info in services.datastores()]
    if name not in names:
        return gr.skip(), gr.skip(), gr.skip()
    return gr.Tabs(selected="look"), gr.Dropdown(choices=names, value=name), known.get("line") or ""
