"""The lens: shows a trace as film strip, text, neighbours and attention, linked by hovering.

Text of a trace comes from corpora, prompts and models. `gr.HTML` would run it as code if it passed through
a template, so the template here is static and the script writes text with `textContent` only.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from app import scripts

_HERE = Path(__file__).parent
STYLE = _HERE / "lens.css"
VALUES = _HERE / "js" / "1-values.js"  # functions that other components use too


class RetroLens(gr.HTML):
    """Shows `Trace.view()`, or the partial views of a running generation. None is an empty lens.

    A view has an `id`; views with the same id are states of one text and are drawn into each other.

    fetch_map  asked by the page for one layer's or head's map with {"trace", "chunk", "layer", "head"},
               which may be anything; returns {"rows", "cols", "scale", "data"} or {"error": sentence}
    """

    def __init__(
        self, value: dict[str, Any] | None = None, *, fetch_map: Callable[[Any], dict], **kwargs: Any
    ):
        def attention_map(request: Any) -> dict:  # the name under which the script calls it
            return fetch_map(request)

        super().__init__(
            value=value,
            html_template=(_HERE / "lens.html").read_text(encoding="utf-8"),
            js_on_load=script(),
            apply_default_css=False,
            server_functions=[attention_map],
            **kwargs,
        )


def script() -> str:
    """The parts of js/ in the order of their numbers."""
    return scripts.script(*sorted((_HERE / "js").glob("*.js")))
