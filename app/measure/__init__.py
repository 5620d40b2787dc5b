"""What Measure draws: one measurement with its pictures, or several beside each other.

Like the lens: a static template, and scripts that write untrusted text with `textContent` only.
"""

from pathlib import Path
from typing import Any

from app import lens
from app.parts import Part
from app.scripts import script

_HERE = Path(__file__).parent
STYLE = _HERE / "measure.css"


class MeasureView(Part):
    """{"shown": what `app.tabs.measure_view.view` makes, "beside": what its `beside` makes}, each or None."""

    def __init__(self, value: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(
            value=value,
            html_template='<div class="measure"></div>',
            js_on_load=script(lens.VALUES, _HERE / "charts.js", _HERE / "measure.js"),
            apply_default_css=False,
            **kwargs,
        )
