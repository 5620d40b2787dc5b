"""What Learn draws: lessons with something to move in each, a glossary to filter, snippets to copy.

Like the lens: static templates, and scripts that write text with `textContent` only. All of it is asked for
when the tab is opened, so that the page itself carries nothing of it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from app import lens
from app.parts import Part
from app.scripts import script

_HERE = Path(__file__).parent
STYLE = _HERE / "learn.css"

Answer = Callable[[Any, gr.Request | None], dict[str, Any]]


class Lessons(Part):
    """Draws what `fetch_lessons` gives, see `app.lessons`. Each lesson's mini-lens is a file in lenses/.

    What the page asks with may be anything; what cannot be answered is {"error": sentence}.

    fetch_tokens  a text in tokens, asked with {"text"}: {"tokens": [text]}

    Event: `see` leads to where more of a lesson is to be seen: {"number"}.
    """

    def __init__(self, *, fetch_lessons: Answer, fetch_tokens: Answer, **kwargs: Any):
        # The script calls them by these names.
        def lessons(wanted: Any, request: gr.Request | None = None) -> dict:
            return fetch_lessons(wanted, request)

        def tokens(wanted: Any, request: gr.Request | None = None) -> dict:
            return fetch_tokens(wanted, request)

        super().__init__(
            html_template='<div class="lessons" aria-busy="true"></div>',
            js_on_load=script(
                lens.VALUES,
                _HERE / "controls.js",
                *sorted((_HERE / "lenses").glob("*.js")),
                _HERE / "lessons.js",
            ),
            apply_default_css=False,
            server_functions=[lessons, tokens],
            **kwargs,
        )


class Glossary(Part):
    """Draws {"words": [[word, meaning, what it is not called]]}, with a box that filters."""

    def __init__(self, *, fetch_words: Answer, **kwargs: Any):
        def words(wanted: Any, request: gr.Request | None = None) -> dict:
            return fetch_words(wanted, request)

        super().__init__(
            html_template='<div class="glossary"></div>',
            js_on_load=script(_HERE / "glossary.js"),
            apply_default_css=False,
            server_functions=[words],
            **kwargs,
        )


class Snippets(Part):
    """Draws {"snippets": [{"title", "language", "code"}]}, each with a button that copies it. The address in
    them becomes the one of this page."""

    def __init__(self, *, fetch_snippets: Answer, **kwargs: Any):
        def snippets(wanted: Any, request: gr.Request | None = None) -> dict:
            return fetch_snippets(wanted, request)

        super().__init__(
            html_template='<div class="snippets"></div>',
            js_on_load=script(_HERE / "snippets.js"),
            apply_default_css=False,
            server_functions=[snippets],
            **kwargs,
        )
