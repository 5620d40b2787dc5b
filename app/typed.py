"""What a person typed stays, whatever comes from the server or from Gradio meanwhile.

Gradio fills what a fold or a tab holds once more, a frame or two after it has opened, with the values that it
has noted of the fields; what was typed before that is not among them, and would be gone. And an answer that
sets a field does so however long ago it was asked for. So what is typed is noted at once (`keep`; the moment
until Gradio has done so is looked after in page.js), and an answer says which value it takes the place of
(`gr.JSON` of `offer`), which the page looks at (`take`).
"""

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

_NOTE = "(typed) => typed"
_TAKE = """(offered, ...now) => now.map((value, i) => {
  const [was, instead] = offered?.[i] ?? [];
  return instead !== undefined && was === value ? instead : { __type__: "update" };
})"""
_QUIET = {"show_progress": "hidden", "api_visibility": "private"}


def keep(fields: Sequence[Component]) -> None:
    """Call it where the fields are laid out."""
    for field in fields:
        # Gradio's Textbox calls key presses input, and neither what is pasted nor what is erased.
        event = field.change if isinstance(field, gr.Textbox) else field.input
        event(None, inputs=field, outputs=field, js=_NOTE, **_QUIET)


def offer(*changes: tuple[Any, Any] | None) -> list[list[Any] | None]:
    """What an answer says of the fields, one by one: (value when it was asked for, the one to have instead)
    or None for as it is."""
    return [list(change) if change else None for change in changes]


def take(answered: Dependency, offered: gr.JSON, fields: Sequence[Component]) -> Dependency:
    """After the answer, `offered` in `fields`: each where nobody has changed it meanwhile."""
    fields = list(fields)
    return answered.then(None, inputs=[offered, *fields], outputs=fields, js=_TAKE, **_QUIET)
