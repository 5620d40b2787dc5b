"""What a datastore is, and looking after it: documents come and go, it is checked, copied, exported."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import owners, policy, services, settings, text, typed
from app.errors import sentence, shows_errors
from app.parts import Facts, StatusLine
from app.policy import Action, Visitor, permit
from app.tabs import corpus_make
from app.tabs import corpus_upkeep as upkeep
from app.tabs.corpus_index import index_in_words, recall, size
from app.tabs.corpus_text import ask_column, column_box
from indexing.corpus import SUFFIXES
from indexing.datastore import Datastore
from indexing.errors import DatastoreError, RetroError
from indexing.overview import Overview, documents, overview

_LIST_COLUMNS = ["name", "chunks", "documents", "made"]
_DOING = {"copying": "Copying chunks", "checking": "Checking every value"}
_LONGEST_TITLE = 90


@dataclass
class Choice:
    """Which datastore is looked into, and how far work on it is."""

    chosen: gr.Dropdown
    use: gr.Button
    progress: StatusLine
    cancel: gr.Button


@dataclass
class Card:
    """shown: what `show` fills, in its order · changes: events after which the chosen datastore is another"""

    task: gr.BrowserState
    shown: list[gr.components.Component]
    watched: list[gr.components.Component]
    changes: list[Any]


def build_listing() -> gr.Dataframe:
    """All datastores; a click on one chooses it."""
    return gr.Dataframe(
        value=list_rows(),
        headers=_LIST_COLUMNS,
        datatype="str",
        interactive=False,
        label="All datastores; click one to look into it",
        elem_id="listing",
    )


def build_choice() -> Choice:
    with gr.Row(elem_classes="step-row"):
        chosen = gr.Dropdown(
            choices=services.datastore_choices(),
            value=services.default_datastore(),
            label="Datastore",
            elem_id="chosen",
            scale=4,
        )
        use = gr.Button("Use in Explore", size="md", elem_id="use", min_width=130)
    with gr.Row(elem_classes="step-row"):
        progress = StatusLine(elem_id="store-progress")
        cancel_button = gr.Button(
            "Cancel", interactive=False, visible=False, size="sm", elem_id="store-cancel", min_width=70
        )
    return Choice(chosen, use, progress, cancel_button)


def build(choice: Choice, listing: gr.Dataframe, task: gr.BrowserState) -> Card:
    """Lay out the card of the chosen datastore and what can be done with it, and wire these."""
    chosen, progress, cancel_button = choice.chosen, choice.progress, choice.cancel
    first = gr.State(0)  # of the documents that are listed
    facts = Facts(None, elem_id="card")
    repair_button = gr.Button("Repair it", variant="primary", visible=False, elem_id="repair")
    with gr.Column(elem_classes="folds"):
        with gr.Accordion("Documents", open=False, elem_classes="fold", elem_id="documents-fold"):
            words = gr.Textbox(
                label="Find documents", placeholder="words of a title or source", max_lines=1, elem_id="find"
            )
            listed = gr.CheckboxGroup(choices=[], label="Documents", elem_id="documents")
            with gr.Row(elem_classes="step-row"):
                back = gr.Button("← Before", size="sm", interactive=False, min_width=80, elem_id="page-back")
                on = gr.Button("More →", size="sm", interactive=False, min_width=80, elem_id="page-on")
                delete_button = gr.Button("Delete the ticked", size="sm", min_width=130, elem_id="delete")
            with gr.Row(visible=False, elem_classes="step-row") as sure:
                question = StatusLine(elem_id="delete-question")
                yes = gr.Button("Yes, delete", variant="stop", size="sm", min_width=100, elem_id="delete-yes")
                no = gr.Button("Keep them", size="sm", min_width=100, elem_id="delete-no")
        with gr.Accordion("Add documents", open=False, elem_classes="fold", elem_id="append-fold"):
            pasted = gr.Textbox(label="Paste a text", lines=4, max_lines=10, elem_id="append-text")
            files = gr.File(
                label="or choose files",
                file_count="multiple",
                file_types=list(SUFFIXES),
                height=120,
                elem_id="append-files",
            )
            column = column_box("append-column")
            add_button = gr.Button("Add", variant="primary", size="md", elem_id="append")
        with gr.Accordion("Check and tidy", open=False, elem_classes="fold", elem_id="check-fold"):
            gr.Markdown(text.CHECKING)
            with gr.Row(elem_classes="step-row"):
                verify_button = gr.Button("Verify every byte", size="md", elem_id="verify")
                compact_button = gr.Button("Compact", size="md", elem_id="compact")
        with gr.Accordion("Copy, rename, export", open=False, elem_classes="fold", elem_id="copy-fold"):
            new_name = gr.Textbox(
                label="New name",
                info="Lower-case letters, digits, '.', '_' and '-'.",
                max_lines=1,
                elem_id="new-name",
            )
            with gr.Row(elem_classes="step-row"):
                copy_button = gr.Button("Copy under this name", size="md", elem_id="copy")
                rename_button = gr.Button("Rename", size="md", elem_id="rename")
            with gr.Row(elem_classes="step-row"):
                export_button = gr.Button("Export as one file", size="md", elem_id="export")
                download = gr.DownloadButton("Download", visible=False, size="md", elem_id="download")
        with gr.Accordion("Remove it", open=False, elem_classes="fold", elem_id="remove-fold"):
            retyped = gr.Textbox(
                label="Type the datastore's name to remove it",
                info="Everything in it is removed, and cannot be got back.",
                max_lines=1,
                elem_id="remove-name",
            )
            remove_button = gr.Button("Remove", variant="stop", size="md", elem_id="remove")

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    unlimited = {"concurrency_limit": None, **quiet}
    page = [listed, back, on, first]
    typed.keep([words, pasted, column, new_name, retyped])
    for event, step in ((back.click, -settings.DOCUMENTS_A_PAGE), (on.click, settings.DOCUMENTS_A_PAGE)):
        event(turn(step), inputs=[chosen, words, first], outputs=page, **quiet)
    files.change(ask_column, inputs=files, outputs=column, queue=False, **quiet)
    words.change(turn(None), inputs=[chosen, words, first], outputs=page, trigger_mode="always_last", **quiet)
    delete_button.click(upkeep.ask_to_delete, inputs=[chosen, listed], outputs=[sure, question], **quiet)
    no.click(lambda: gr.Row(visible=False), outputs=sure, queue=False, **quiet)
    listing.select(choose_row, outputs=chosen, **quiet)
    watched = [task, progress, cancel_button, download, chosen]
    deleted = yes.click(upkeep.delete, inputs=[chosen, listed, task], outputs=[sure, progress], **quiet)
    changes = [
        add_button.click(
            upkeep.add,
            inputs=[chosen, pasted, files, task, column],
            outputs=[*watched, pasted, files],
            **unlimited,
        ),
        verify_button.click(upkeep.verify, inputs=[chosen, task], outputs=watched, **unlimited),
        compact_button.click(upkeep.compact, inputs=[chosen, task], outputs=watched, **unlimited),
        repair_button.click(upkeep.mend, inputs=[chosen, task], outputs=watched, **unlimited),
        copy_button.click(upkeep.copy, inputs=[chosen, new_name, task], outputs=watched, **unlimited),
        export_button.click(upkeep.pack, inputs=[chosen, task], outputs=watched, **unlimited),
        deleted,
    ]
    for button, handler, name in (
        (rename_button, upkeep.rename, new_name),
        (remove_button, upkeep.remove, retyped),
    ):
        changes.append(
            button.click(handler, inputs=[chosen, name, task], outputs=[chosen, progress, name], **quiet)
        )
    cancel_button.click(corpus_make.cancel, inputs=task, outputs=progress, queue=False, **quiet)
    changing = [delete_button, add_button, compact_button, rename_button, remove_button]
    shown = [facts, repair_button, sure, *page, *changing, new_name, listing]
    return Card(task, shown, watched, changes)


def attach(card: Card, page: gr.Blocks) -> None:
    """After a reload: what was going on is watched again."""
    page.load(
        upkeep.reattach,
        inputs=card.task,
        outputs=card.watched,
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
    )


# ---------------------------------------------------------------------------------------------- look


@shows_errors
def show(name: str | None, request: gr.Request | None = None) -> tuple[Any, ...]:
    """Everything about the chosen datastore, in the order of `Card.shown`."""
    who = policy.visitor(request)
    try:
        facts = overview(upkeep.expect(name, who))
    except RetroError as error:  # its description itself cannot be read, or it was removed meanwhile
        gone, hidden = {"title": name or "", "notes": [sentence(error)]}, gr.update(visible=False)
        nothing = gr.Button(interactive=False)
        return gone, hidden, hidden, *_nothing_listed(), *(nothing,) * 5, gr.skip(), list_rows(request)
    wrong = ""
    try:
        page = listed_documents(services.snapshot(name, who), "", 0)
    except DatastoreError as error:
        wrong, page = sentence(error), _nothing_listed()
    changeable = not facts.bundled and who.may_change(name)
    own = gr.Button(interactive=changeable)
    usable = gr.Button(interactive=changeable and not wrong)
    return (
        described(facts, wrong, who),
        gr.Button(visible=bool(wrong) and changeable),
        gr.Row(visible=False),
        *page,
        *(usable,) * 3,
        own,
        own,
        f"my-{owners.shown(name)}"[: 64 - owners.MARK_LENGTH],
        list_rows(request),
    )


def described(facts: Overview, wrong: str = "", who: Visitor | None = None) -> dict[str, Any]:
    """The value of `Facts`."""
    who = who or policy.visitor()
    index = index_in_words(facts.advice)
    found = recall(facts.advice)
    if facts.measured is not None:
        index = facts.measured.factory
        found = f"{facts.measured.recall_at_10:.1%}, measured with {facts.measured.queries:,} queries"
    elif not facts.advice.exact:
        index += "; the first search builds it"
    deleted = f" and {facts.deleted:,} deleted ones until it is compacted" if facts.deleted else ""
    notes = [wrong] if wrong else []
    if facts.bundled and policy.of_strangers() is None:
        notes.append(text.BUNDLED)
    elif owners.mark_of(facts.name):
        kept = policy.in_minutes(policy.keep_minutes(facts.name))
        notes.append(text.PRIVATE.format(kept=kept))
    elif not who.may_change(facts.name):
        notes.append(text.EVERYBODYS)
    return {
        "title": facts.name,
        "facts": [
            ["Documents", f"{facts.documents:,}{deleted}"],
            ["Chunks", f"{facts.chunks:,} of {facts.chunk_size} tokens"],
            ["Tokens", f"{facts.tokens:,}"],
            ["Tokenizer", facts.tokenizer],
            ["Embedder", f"{facts.embedder}, {facts.dim} numbers"],
            ["Index", index],
            ["Recall of the true 10 nearest", found],
            ["On disk", size(facts.bytes)],
            ["Made", f"{_time(facts.created)} UTC"],
            ["Version", f"{facts.version}, in {facts.segments} segment{'' if facts.segments == 1 else 's'}"],
            ["Fingerprint", facts.fingerprint[:16]],
        ],
        "notes": notes,
        "commands": []
        if owners.mark_of(facts.name)
        else [f'python -m indexing search {facts.name} "your text"'],
    }


def listed_documents(datastore: Datastore, words: str, first: int) -> tuple[Any, Any, Any, int]:
    """(the list, buttons to the page before and after, its first document's place)."""
    first = max(0, first)
    found, more = documents(datastore, words, first, settings.DOCUMENTS_A_PAGE)
    choices = [(_named(listed.label.title, listed.chunks), listed.label.id) for listed in found]
    what = f"with “{words.strip()}”" if words.strip() else f"of {datastore.num_documents:,}"
    label = f"Documents {first + 1:,}–{first + len(found):,} {what}" if found else f"No document {what}"
    return (
        gr.CheckboxGroup(choices=choices, value=[], label=label),
        gr.Button(interactive=first > 0),
        gr.Button(interactive=more),
        first,
    )


def _named(title: str, chunks: int) -> str:
    title = title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…"
    return f"{title} · {chunks:,} chunk{'' if chunks == 1 else 's'}"


def _nothing_listed() -> tuple[Any, Any, Any, int]:
    nothing = gr.Button(interactive=False)
    return gr.CheckboxGroup(choices=[], value=[], label="Documents"), nothing, nothing, 0


def turn(step: int | None) -> Callable[..., Any]:
    """The handler that goes `step` documents on, or (None) to the first page."""

    @shows_errors
    def handler(
        name: str | None, words: str | None, first: int, request: gr.Request | None = None
    ) -> tuple[Any, ...]:
        if not name:
            return _nothing_listed()
        first = 0 if step is None or not isinstance(first, int) else first + step
        who = permit(Action.LOOK_UP, request)
        return listed_documents(services.snapshot(name, who), (words or "")[:200], first)

    return handler


def list_rows(request: gr.Request | None = None) -> list[list[str]]:
    """Rows of the table of datastores."""
    return [
        [
            owners.shown(info.name),
            f"{info.num_chunks:,}",
            f"{info.num_documents:,}",
            "bundled" if info.bundled else _time(info.created),
        ]
        for info in services.datastores(policy.visitor(request))
    ]


@shows_errors
def choose_row(chosen: gr.SelectData, request: gr.Request | None = None) -> Any:
    row = chosen.row_value
    choices = services.datastore_choices(policy.visitor(request))
    named = {shown: name for shown, name in choices}
    name = named.get(row[0]) if isinstance(row, list) and row and isinstance(row[0], str) else None
    return gr.Dropdown(choices=choices, value=name) if name else gr.skip()


def _time(created: str) -> str:
    return created.replace("T", " ").rstrip("Z")
