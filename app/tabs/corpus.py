"""Corpus: a text of one's own -> chunks, seen first -> a datastore that Explore can read."""

import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from app import services, settings, text, work
from app.errors import shows_errors
from app.parts import ChunkPreview, StatusLine
from indexing import paths
from indexing.build import BuildEvent
from indexing.build import build as build_datastore
from indexing.chunking import CHUNK_SIZE
from indexing.chunks import tokenize
from indexing.corpus import SUFFIXES, Document, Report, read_files, read_text
from indexing.corpus.duplicates import noting_repeats
from indexing.errors import CorpusError, InputError
from retro_core.config import GenerationConfig, bounds

_STAGES = {
    "reading": "Reading documents",
    "embedding": "Embedding chunks",
    "saving": "Saving",
}
_CANCELLED = "Cancelled; nothing was written."
_RESULT_COLUMNS = ["#", "document", "L2", "chunk", "continues"]
_LIST_COLUMNS = ["name", "chunks", "documents", "made"]


@dataclass
class Corpus:
    """What other tabs connect to. `use` means: take the datastore `chosen` to Explore."""

    chosen: gr.Dropdown
    use: gr.Button


def build() -> Corpus:
    """Lay out the tab, inside a `gr.Tab`, and wire it."""
    with gr.Row(elem_classes="corpus-row"):
        with gr.Column(scale=5, min_width=300):
            gr.Markdown("### 1 · Add text")
            pasted = gr.Textbox(
                label="Paste a text",
                placeholder="Anything you would like the model to look things up in.",
                lines=7,
                max_lines=14,
                elem_id="pasted",
            )
            files = gr.File(
                label="or choose files: text, web pages, PDF, Word, tables, or a .zip of them",
                file_count="multiple",
                file_types=list(SUFFIXES),
                height=130,
                elem_id="files",
            )
            gr.Markdown("### 2 · Look at the chunks, then index")
            with gr.Group():
                name = gr.Textbox(
                    label="Name of the datastore",
                    info="Lower-case letters, digits, '.', '_' and '-'.",
                    placeholder="my-notes",
                    max_lines=1,
                    elem_id="corpus-name",
                )
                replace = gr.Checkbox(False, label="Replace the datastore of this name", elem_id="replace")
            with gr.Row(elem_classes="run-row"):
                index_button = gr.Button("Index", variant="primary", elem_id="index", min_width=90)
                cancel_button = gr.Button("Cancel", interactive=False, elem_id="cancel", min_width=70)
            progress = StatusLine(elem_id="index-progress")
        with gr.Column(scale=6, min_width=300):
            gr.Markdown("### Preview")
            preview = ChunkPreview(elem_id="preview")
    gr.Markdown("### 3 · Try it")
    with gr.Row(elem_classes="corpus-row"):
        with gr.Column(scale=5, min_width=300):
            chosen = gr.Dropdown(
                choices=[info.name for info in services.datastores()],
                value=services.default_datastore(),
                label="Datastore",
                elem_id="chosen",
            )
            use = gr.Button("Use in Explore", elem_id="use")
            listing = gr.Dataframe(
                value=list_rows,
                headers=_LIST_COLUMNS,
                datatype="str",
                interactive=False,
                label="All datastores",
                elem_id="listing",
            )
        with gr.Column(scale=6, min_width=300):
            query = gr.Textbox(
                label="Test the retrieval",
                placeholder="What would this text retrieve?",
                max_lines=3,
                elem_id="query",
            )
            search_button = gr.Button("Search", elem_id="search")
            results = gr.Dataframe(
                headers=_RESULT_COLUMNS,
                datatype="str",
                interactive=False,
                wrap=True,
                label="Nearest chunks",
                elem_id="results",
                column_widths=["6%", "21%", "11%", "34%", "28%"],
            )

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    for change in (pasted.change, files.change):
        change(
            preview_texts,
            inputs=[pasted, files, name],
            outputs=[preview, name, progress],
            trigger_mode="always_last",
            **quiet,
        )
    work.wire(
        [index_button.click, name.submit],
        index,
        inputs=[pasted, files, name, replace],
        outputs=[progress, chosen, listing],
        buttons=[index_button, cancel_button],
        progress=progress,
        queue="index",
        session=_session,
        waiting="Waiting for the indexer…",
    )
    cancel_button.click(cancel, outputs=progress, queue=False, **quiet)
    gr.on([search_button.click, query.submit], search, inputs=[query, chosen], outputs=results, **quiet)
    return Corpus(chosen, use)


def _session(request: gr.Request | None) -> str:
    """Under which stopping is asked for; apart from a run of the model by the same visitor."""
    return f"index {(request.session_hash if request else None) or ''}"


def _documents(pasted: str | None, files: list[str] | None, report: Report) -> Iterator[Document]:
    """What was pasted, then what was uploaded. Raises CorpusError if there is neither, or too much."""
    total = 0
    if pasted and pasted.strip():
        yield read_text(pasted, title=_title(pasted))
        total += len(pasted)
    elif not files:
        raise CorpusError("There is no text yet. Paste some, or choose files.")
    names = [Path(file).name for file in files or ()]
    for document in read_files(files, names=names, report=report) if files else ():
        total += document.characters
        if total > settings.MAX_CORPUS_CHARACTERS:
            raise CorpusError(
                f"The corpus has more than {settings.MAX_CORPUS_CHARACTERS:,} characters, the most that is "
                "indexed here. Leave some out, or use the command line: python -m indexing build NAME FILE…"
            )
        yield document


def _title(pasted: str) -> str:
    """The text's first words."""
    return textwrap.shorten(next(line for line in pasted.splitlines() if line.strip()), 48, placeholder="…")


def _suggestion(title: str) -> str:
    """A valid name made of the title's first words: 'Notes on Ferns.md' -> 'notes-on-ferns'."""
    stem = title.rsplit(".", 1)[0] if title.endswith(SUFFIXES) else title
    name = paths.slug("-".join(stem.split()[:3]))
    return name.strip("-._") or "my-notes"


@shows_errors
def preview_texts(pasted: str | None, files: list[str] | None, name: str | None) -> tuple[Any, Any, Any]:
    """(value of the preview, a suggested name if none is given, progress line)."""
    if not (pasted and pasted.strip()) and not files:
        return None, gr.skip(), ""
    report = Report()
    documents = list(noting_repeats(_documents(pasted, files, report), report))
    suggestion = gr.skip()
    if not (name or "").strip():
        suggestion = _suggestion(documents[0].title)
    return {**preview(documents), "notes": report.sentences(settings.NOTES_SHOWN)}, suggestion, ""


def preview(documents: list[Document]) -> dict[str, Any]:
    """{"summary", "documents": [{"title", "note", "chunks": [{"text", "tokens", "number"}]}], "rest"}.

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
    count = (
        f"{number:,}"
        if exact
        else f"about {round(total / max(1, characters) * max(number, tokens / CHUNK_SIZE)):,}"
    )
    token_count = (
        f"{tokens:,}" if characters == total else f"about {round(tokens * total / max(1, characters)):,}"
    )
    documents_word = "document" if len(documents) == 1 else "documents"
    summary = (
        f"{len(documents):,} {documents_word} · {token_count} tokens · {count} chunks of {CHUNK_SIZE} tokens"
    )
    if exact:
        wanted = bounds(GenerationConfig, "num_neighbours")[2]
        if number <= wanted:
            summary += f". Fewer than {wanted + 1} chunks: there is hardly anything to choose from"
    rest = "" if exact else f"The first {number} chunks are drawn; the others are cut the same way."
    return {"summary": summary, "documents": shown, "rest": rest}


@shows_errors
def index(
    pasted: str | None, files: list[str] | None, name: str, replace: bool, request: gr.Request | None = None
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (progress, choice of datastore, list of datastores) until the datastore is there or cancelled."""
    session = _session(request)
    name = (name or "").strip()
    if not name:
        raise InputError("The datastore has no name yet. Type one, for example 'my-notes'.")
    paths.check_name(name)
    try:
        yield {"text": "Reading documents…", "tone": "busy"}, gr.skip(), gr.skip()
        report = Report()
        documents = []
        for document in _documents(pasted, files, report):
            documents.append(document)
            if services.stop_requested(session):
                yield _CANCELLED, gr.skip(), gr.skip()
                return
        if not services.embedder_is_loaded():
            yield {"text": text.LOADING_EMBEDDER, "tone": "busy"}, gr.skip(), gr.skip()
        embedder = services.embedder()
        begun = time.monotonic()
        events = build_datastore(name, documents, services.tokenizer(), embedder, replace=bool(replace))
        with closing(events):  # also when the page goes away: whatever is unfinished is removed
            for event in events:
                if event.stage == "done":
                    told = " ".join([event.message, *report.sentences(examples=0)])
                    yield {"text": told, "tone": "good"}, _choices(name), list_rows()
                    return
                if services.stop_requested(session):
                    yield _CANCELLED, gr.skip(), gr.skip()
                    return
                yield _progress(event, time.monotonic() - begun), gr.skip(), gr.skip()
    finally:
        services.forget_stop(session)


def _progress(event: BuildEvent, seconds: float) -> dict[str, Any]:
    words = _STAGES[event.stage]
    if not event.total:
        return {"text": f"{words}: {event.done:,}", "tone": "busy"}
    words = f"{words}: {event.done:,} of {event.total:,}"
    if event.stage == "embedding" and event.done:
        rate = event.done / max(seconds, 1e-3)
        left = (event.total - event.done) / rate
        words += f" · {rate:.0f} chunks/s · {_duration(left)} left"
    return {"text": words, "fraction": event.done / event.total, "tone": "busy"}


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _choices(value: str | None) -> gr.Dropdown:
    return gr.Dropdown(choices=[info.name for info in services.datastores()], value=value)


@shows_errors
def cancel(request: gr.Request | None = None) -> dict[str, Any]:
    services.request_stop(_session(request))
    return {"text": "Cancelling…", "tone": "busy"}


@shows_errors
def search(query: str, name: str | None) -> list[list[str]]:
    """Rows of the results table."""
    if not name:
        raise InputError("There is no datastore to search. Index a text first.")
    hits = services.datastore(name).search(query or "", settings.SEARCH_RESULTS)
    return [
        [
            str(rank),
            f"{hit.title} @ {hit.offset}",
            f"{hit.distance:.2f}",
            hit.text.strip(),
            hit.continuation.strip() or "– the document ends here",
        ]
        for rank, hit in enumerate(hits, start=1)
    ]


def list_rows() -> list[list[str]]:
    """Rows of the table of datastores."""
    return [
        [
            info.name,
            f"{info.num_chunks:,}",
            f"{info.num_documents:,}",
            "bundled" if info.bundled else info.created.replace("T", " ").rstrip("Z"),
        ]
        for info in services.datastores()
    ]
