"""Small parts of the page that show untrusted text; like the lens, by `textContent` only."""

from pathlib import Path
from typing import Any

import gradio as gr
import orjson

from app import owners, policy
from app.scripts import script

_HERE = Path(__file__).parent
STYLE = _HERE / "parts.css"


class Drawn(gr.HTML):
    """A component that a script of ours draws. Its value travels as one JSON text, which the script parses:
    `given()` in elements.js.

    Of a value that is no text, Gradio's front end watches, copies and compares every single number, several
    times for each event of the page: a trace of a few hundred kilobytes took most of a second to be drawn.
    """

    def postprocess(self, value: Any) -> str | None:
        return None if value is None else self.text(value)

    @staticmethod
    def text(value: Any) -> str:
        return orjson.dumps(value).decode()


class Part(Drawn):
    """Where strangers share the server, names in it are shown without whose they are."""

    def postprocess(self, value: Any) -> Any:
        return super().postprocess(_shown(value))


def _shown(value: Any) -> Any:
    return owners.shown_in(value) if policy.mode() is policy.Mode.PUBLIC else value


class StatusLine(Part):
    """A line: {"text": str, "fraction": 0..1 or None, "tone": "idle", "busy", "good" or "bad"}, or a text.

    It is small, and scripts of the page set it too: it travels as it is.
    """

    def postprocess(self, value: Any) -> Any:
        return _shown(value)

    def __init__(self, value: dict[str, Any] | str = "", **kwargs: Any):
        super().__init__(
            value=value,
            html_template='<div class="status-line" role="status"><span></span><div><i></i></div></div>',
            js_on_load=(_HERE / "status.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            **kwargs,
        )


class ChunkPreview(Part):
    """Documents with the borders of their chunks drawn into the text; see `corpus.preview` for the value."""

    def __init__(self, value: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(
            value=value,
            html_template='<div class="chunk-preview"></div>',
            js_on_load=script(_HERE / "preview.js"),
            apply_default_css=False,
            **kwargs,
        )


class Findings(Part):
    """What a search found, each in its place: see `corpus_search.search` for the value."""

    def __init__(self, value: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(
            value=value,
            html_template='<div class="findings" aria-live="polite"></div>',
            js_on_load=script(_HERE / "findings.js"),
            apply_default_css=False,
            **kwargs,
        )


class Legend(Part):
    """What colours mean: {"badge": text, "items": [{"colour", "name", "count"}], "notes": [text]}."""

    def __init__(self, value: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(
            value=value,
            html_template='<div class="legend"></div>',
            js_on_load=script(_HERE / "legend.js"),
            apply_default_css=False,
            **kwargs,
        )


class Facts(Part):
    """What is known of one thing: {"title", "facts": [[name, text]], "notes": [text], "commands": [text]}."""

    def __init__(self, value: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(
            value=value,
            html_template='<div class="facts" aria-live="polite"></div>',
            js_on_load=script(_HERE / "facts.js"),
            apply_default_css=False,
            **kwargs,
        )
