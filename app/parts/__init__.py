"""Small parts of the page that show untrusted text; like the lens, by `textContent` only."""

from pathlib import Path
from typing import Any

import gradio as gr

from app import owners, policy
from app.scripts import script

_HERE = Path(__file__).parent
STYLE = _HERE / "parts.css"


class Part(gr.HTML):
    """Where strangers share the server, names in it are shown without whose they are."""

    def postprocess(self, value: Any) -> Any:
        shared = policy.mode() is policy.Mode.PUBLIC
        return super().postprocess(owners.shown_in(value) if shared else value)


class StatusLine(Part):
    """A line: {"text": str, "fraction": 0..1 or None, "tone": "idle", "busy", "good" or "bad"}, or a text."""

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
