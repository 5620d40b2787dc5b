"""Learn: lessons to try, the glossary, and how to do the same without the page."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import arguments, documents, learn, lessons, policy, services, text
from app.errors import sentence, shows_errors
from indexing.errors import InputError, RetroError

# Gradio's own list, behind a button of its footer, which the page does not show. The address `?view=api` does
# not open it (gradio 6.31).
_OPEN_ENDPOINTS = "() => { document.querySelector('footer .show-api')?.click(); }"


@dataclass
class Learn:
    """What the rest of the page connects to: `lessons.see` leads to another tab."""

    lessons: learn.Lessons


def build() -> Learn:
    """Lay out the tab, inside a `gr.Tab`."""
    gr.Markdown(text.LEARN, elem_id="learn-intro")
    shown = learn.Lessons(fetch_lessons=all_lessons, fetch_tokens=tokens, elem_id="lessons")
    gr.Markdown(text.LEARN_SNIPPETS)
    endpoints = gr.Button(text.ENDPOINTS, size="sm", min_width=0, elem_id="endpoints")
    endpoints.click(None, js=_OPEN_ENDPOINTS, api_visibility="private")
    learn.Snippets(fetch_snippets=snippets, elem_id="snippets")
    gr.Markdown(text.LEARN_GLOSSARY)
    learn.Glossary(fetch_words=words, elem_id="glossary")
    gr.Markdown(text.LEARN_CREDITS, elem_id="learn-credits")
    return Learn(shown)


def all_lessons(wanted: Any = None, request: gr.Request | None = None) -> dict[str, Any]:
    """All that the lessons draw, the first one's text cut into tokens already."""
    found = _lessons()
    for lesson in found:
        if lesson["lens"] == "chunks":
            cut = services.tokenizer().encode(lesson["data"]["text"]).tolist()
            lesson["data"] |= {
                "tokens": services.tokenizer().token_texts(cut),
                "longest": lessons.LONGEST_CUT,
            }
    return {"lessons": found}


def tokens(wanted: Any, request: gr.Request | None = None) -> dict[str, Any]:
    """{"tokens": [text]} of {"text"}, which may be anything."""
    try:
        given = wanted.get("text") if isinstance(wanted, dict) else None
        if not isinstance(given, str) or len(given) > lessons.LONGEST_CUT:
            raise InputError(f"Expected a text of up to {lessons.LONGEST_CUT:,} characters.")
        ids = services.tokenizer().encode(arguments.whole(given))
        return {"tokens": services.tokenizer().token_texts(ids.tolist())}
    except RetroError as error:
        return {"error": sentence(error)}


def words(wanted: Any = None, request: gr.Request | None = None) -> dict[str, Any]:
    return {"words": documents.glossary()}


def snippets(wanted: Any = None, request: gr.Request | None = None) -> dict[str, Any]:
    return {"snippets": documents.snippets()}


@shows_errors
def see(event: gr.EventData, request: gr.Request | None = None) -> tuple[Any, Any, Any, Any]:
    """(tabs, lens, progress, id of the trace in it): where more of a lesson is to be seen."""
    asked = getattr(event, "_data", None)
    number = asked.get("number") if isinstance(asked, dict) else None
    found = next((one for one in _lessons() if one["number"] == number), None)
    if found is None:
        raise InputError("There is no such lesson. Choose one of the list.")
    where = found["see"]
    if where["example"] is None:
        return gr.Tabs(selected=where["tab"]), gr.skip(), gr.skip(), gr.skip()
    trace_id, chunk = where["example"]
    view = services.view(trace_id, policy.visitor(request)) | {"opened_at": chunk}
    return gr.Tabs(selected=where["tab"]), view, "", trace_id


def _lessons() -> list[dict[str, Any]]:
    return lessons.all_lessons({name: services.trace(name) for name in services.recorded()})
