"""What Compare draws: texts written side by side, and one text under several readings.

Like the lens: static templates, and scripts that write untrusted text with `textContent` only.
"""

from pathlib import Path
from typing import Any

from app import lens
from app.parts import Part
from app.scripts import script

_HERE = Path(__file__).parent
STYLE = _HERE / "compare.css"


class SideBySide(Part):
    """Shows `app.side_by_side.view`; None is an empty one."""

    def __init__(self, value: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(
            value=value,
            html_template='<div class="side-by-side"></div>',
            js_on_load=script(lens.VALUES, _HERE / "side_by_side.js"),
            apply_default_css=False,
            **kwargs,
        )


class SameText(Part):
    """Shows `app.same_text.view`; None is an empty one."""

    def __init__(self, value: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(
            value=value,
            html_template='<div class="same-text"></div>',
            js_on_load=script(lens.VALUES, _HERE / "same_text.js"),
            apply_default_css=False,
            **kwargs,
        )
