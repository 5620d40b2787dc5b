"""The lens: shows a trace as film strip, text, neighbours and attention, linked by hovering.

Text of a trace comes from corpora, prompts and models. `gr.HTML` would run it as code if it passed through
a template, so the template here is static and the script writes text with `textContent` only.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from app import scripts
from app.parts import Part

_HERE = Path(__file__).parent
STYLE = _HERE / "lens.css"
VALUES = _HERE / "js" / "values.js"  # functions that other components use too
# In the order in which they are run: each uses those before it, and the last one starts the lens.
PARTS = (
    "values", "page", "strip", "text", "inspector", "cards", "map", "heads", "raw", "writes", "change",
    "forms", "lens",
)  # fmt: skip

Answer = Callable[[Any, gr.Request | None], dict[str, Any]]
_NOTHING = {"error": "This page cannot tell."}


class RetroLens(Part):
    """Shows `Trace.view()`, or the partial views of a running generation. None is an empty lens.

    A view has an `id`; views with the same id are states of one text and are drawn into each other.

    What the page asks with may be anything; what cannot be answered is {"error": sentence}.

    fetch_map       one layer's or head's map, asked with {"trace", "chunk", "layer", "head"}:
                    {"rows", "cols", "scale", "data"}
    fetch_heads     all heads of a chunk in small, see `Trace.head_overview`, asked with {"trace", "chunk"}
    fetch_standing  what of a trace can be had here, asked with {"trace"}: see `explore_change_here.standing`
    fetch_source    a neighbour in its document, asked with {"trace", "chunk", "rank"}

    Events: `wish` is a change that somebody wants, see `explore_change.wish_of`; `restore` leads back to the
    trace {"trace"}; `place` asks where a neighbour {"trace", "chunk", "rank"} stands on the map. A value
    {"refused": sentence} answers a wish and leaves what is shown as it is.
    """

    def __init__(
        self,
        value: dict[str, Any] | None = None,
        *,
        fetch_map: Answer,
        fetch_heads: Answer = lambda *asked: _NOTHING,
        fetch_standing: Answer = lambda *asked: _NOTHING,
        fetch_source: Answer = lambda *asked: _NOTHING,
        **kwargs: Any,
    ):
        # The script calls them by these names.
        def attention_map(wanted: Any, request: gr.Request | None = None) -> dict:
            return fetch_map(wanted, request)

        def heads(wanted: Any, request: gr.Request | None = None) -> dict:
            return fetch_heads(wanted, request)

        def standing(wanted: Any, request: gr.Request | None = None) -> dict:
            return fetch_standing(wanted, request)

        def source(wanted: Any, request: gr.Request | None = None) -> dict:
            return fetch_source(wanted, request)

        super().__init__(
            value=value,
            html_template=(_HERE / "lens.html").read_text(encoding="utf-8"),
            js_on_load=script(),
            apply_default_css=False,
            server_functions=[attention_map, heads, standing, source],
            **kwargs,
        )


def script() -> str:
    return scripts.script(*(_HERE / "js" / f"{part}.js" for part in PARTS))
