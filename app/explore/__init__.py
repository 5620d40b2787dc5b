"""What Explore has besides the lens: the first example, recorded ones, the ways a result leaves the page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.parts import Drawn
from app.scripts import script

_HERE = Path(__file__).parent
STYLE = _HERE / "explore.css"
# Scripts that events of the page run.
SAVE = _HERE / "save.js"  # {"name", "type", "text"} to a file
PICTURE = _HERE / "picture.js"  # the lens, to a file
LINK = _HERE / "link.js"  # the address of what is seen, to the clipboard; see `address`


class FactSwap(Drawn):
    """Two texts side by side, each of which opens its trace in the lens; see `fact_swap.view`."""

    def __init__(self, value: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(
            value=value,
            html_template='<div class="fact-swap"></div>',
            js_on_load=script(_HERE / "fact_swap.js"),
            apply_default_css=False,
            **kwargs,
        )


class Recorded(Drawn):
    """The label before the buttons of the recorded examples, and what these put into the lens.

    first  {id: what the lens draws, as JSON text} of those that the page carries
    fetch  asked by the page for all of them, once it has come up; returns the same
    """

    def __init__(self, first: dict[str, str], *, fetch: Callable[[], dict[str, str]], **kwargs: Any):
        def recorded(asked: Any) -> dict[str, Any]:  # the name under which the script calls it
            return {"views": fetch()}

        super().__init__(
            value={"first": first},
            html_template="<span>Recorded examples</span>",
            js_on_load=script(_HERE / "recorded.js"),
            apply_default_css=False,
            server_functions=[recorded],
            **kwargs,
        )
