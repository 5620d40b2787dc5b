"""What Explore has besides the lens: the first example, and how a result leaves the page."""

from pathlib import Path
from typing import Any

import gradio as gr

from app.scripts import script

_HERE = Path(__file__).parent
STYLE = _HERE / "explore.css"
# Scripts that events of the page run.
SAVE = _HERE / "save.js"  # {"name", "type", "text"} to a file
PICTURE = _HERE / "picture.js"  # the lens, to a file
LINK = _HERE / "link.js"  # the address of what is seen, to the clipboard; see `address`


class FactSwap(gr.HTML):
    """Two texts side by side, each of which opens its trace in the lens; see `fact_swap.view`."""

    def __init__(self, value: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(
            value=value,
            html_template='<div class="fact-swap"></div>',
            js_on_load=script(_HERE / "fact_swap.js"),
            apply_default_css=False,
            **kwargs,
        )
