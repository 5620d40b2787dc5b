"""Small parts of the page that show untrusted text; like the lens, by `textContent` only."""

from pathlib import Path
from typing import Any

import gradio as gr

_HERE = Path(__file__).parent
STYLE = _HERE / "parts.css"


class StatusLine(gr.HTML):
    """One line: {"text": str, "fraction": 0..1 or None, "tone": "idle", "busy" or "good"}, or just a text."""

    def __init__(self, value: dict[str, Any] | str = "", **kwargs: Any):
        super().__init__(
            value=value,
            html_template='<div class="status-line" role="status"><span></span><div><i></i></div></div>',
            js_on_load=(_HERE / "status.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            **kwargs,
        )


class ChunkPreview(gr.HTML):
    """Documents with the borders of their chunks drawn into the text; see `corpus.preview` for the value."""

    def __init__(self, value: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(
            value=value,
            html_template='<div class="chunk-preview"></div>',
            js_on_load=(_HERE / "preview.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            **kwargs,
        )


class Facts(gr.HTML):
    """What is known of one thing: {"title", "facts": [[name, text]], "notes": [text], "commands": [text]}."""

    def __init__(self, value: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(
            value=value,
            html_template='<div class="facts" aria-live="polite"></div>',
            js_on_load=(_HERE / "facts.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            **kwargs,
        )
