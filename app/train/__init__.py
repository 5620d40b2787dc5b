"""What Train draws: the runs, their curves, what they wrote while they were trained.

Like the lens: static templates, and scripts that write untrusted text with `textContent` only.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app import lens
from app.parts import Drawn
from app.scripts import script

_HERE = Path(__file__).parent
STYLE = _HERE / "train.css"


class _Drawn(Drawn):
    """One holder, by its class, and the scripts that draw into it."""

    def __init__(self, value: dict[str, Any] | None, *, holder: str, scripts: Sequence[Path], **kwargs: Any):
        super().__init__(
            value=value,
            html_template=f'<div class="{holder}"></div>',
            js_on_load=script(*scripts),
            apply_default_css=False,
            **kwargs,
        )


class RunList(_Drawn):
    """Runs to choose from, and to compare: see `train_curves.listed` for the value.

    Its event `choose` brings {"name"}, `compare` {"names"}, both from the browser and so perhaps anything.
    """

    def __init__(self, value: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(value, holder="run-list", scripts=[_HERE / "run_list.js"], **kwargs)


class Curves(_Drawn):
    """Loss, gain, write strength and speed of some runs: see `train_curves.drawn` for the value. Smoothing,
    axis and zoom are the browser's, so that new numbers leave them as they are."""

    def __init__(self, value: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(value, holder="curves", scripts=[_HERE / "curves.js"], **kwargs)


class Samples(_Drawn):
    """The same held-out texts at each evaluation, behind a slider: {"run", "steps", "gains", "empty"}.

    Its event `see` brings {"run", "step", "number"} of one to be seen in the lens, or anything.

    fetch  asked by the page for one step with {"run", "step"}, which may be anything, and the request;
           returns {"samples"} or {"error": sentence}
    """

    def __init__(
        self,
        value: dict[str, Any] | None = None,
        *,
        fetch: Callable[[Any, gr.Request], dict[str, Any]],
        **kwargs: Any,
    ):
        def samples(asked: Any, request: gr.Request) -> dict:  # the name under which the script calls it
            return fetch(asked, request)

        scripts = [lens.VALUES, _HERE / "samples.js"]
        super().__init__(value, holder="samples", scripts=scripts, server_functions=[samples], **kwargs)
