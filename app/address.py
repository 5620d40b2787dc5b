"""What a link to the page, or the browser's memory, may ask for: each value checked like a control's.

    ?example=3-ghana&chunk=2            a recorded example, opened at a chunk
    ?prompt=…&datastore=…&seed=7        a prompt and all settings that are not the default
    ?tab=compare

Values have the names of Explore's controls. Whatever is not possible is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app import services, settings, text
from app.policy import Visitor
from retro_core.bases import list_models
from retro_core.config import GenerationConfig, bounds

TABS = ("explore", "compare", "corpus", "train", "measure", "learn")
NUMBERS = (
    "max_new_tokens", "num_neighbours", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
    "seed",
)  # fmt: skip
SWITCHES = ("retrieval", "int8")
NAMES = ("prompt", "task", "model", "retrieval", "datastore", "retriever", *NUMBERS, "stop_strings", "int8")
_ON, _OFF = ("1", "true", "on"), ("0", "false", "off")


@dataclass(frozen=True)
class Address:
    """tab: None for none · example: id of a recorded trace · chunk: from 0 · values: of controls, by name
    refused: what was asked for and is not possible"""

    tab: str | None = None
    example: str | None = None
    chunk: int | None = None
    values: dict[str, Any] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


def example_name(trace_id: str) -> str:
    """How a link names a recorded trace."""
    return trace_id.removeprefix("recorded-")


def of_query(query: Mapping[str, Any], who: Visitor) -> Address:
    """Other parameters, as Gradio's own, do not count."""
    wanted = {name: value for name, value in query.items() if isinstance(value, str) and value}
    refused = []
    tab = wanted.get("tab")
    if tab is not None and tab not in TABS:
        refused.append("tab")
    example, chunk = wanted.get("example"), None
    if example is not None:
        example = next((one for one in services.recorded() if example_name(one) == example), None)
        if example is None:
            refused.append("example")
        else:
            chunk = _chunk(wanted.get("chunk"), example)
    values, strange = _checked({name: wanted[name] for name in NAMES if name in wanted}, who, from_text=True)
    return Address(tab if tab in TABS else None, example, chunk, values, (*refused, *strange))


def of_memory(remembered: Any, who: Visitor) -> dict[str, Any]:
    """Values of controls that a browser remembers."""
    if not isinstance(remembered, dict):
        return {}
    return _checked({name: remembered[name] for name in NAMES if name in remembered}, who, from_text=False)[0]


def _chunk(asked: str | None, example: str) -> int | None:
    chunks = len(services.trace(example).data["chunks"])
    if asked is None or not asked.isdecimal() or not 1 <= int(asked[:6]) <= chunks:
        return None
    return int(asked[:6]) - 1


def _checked(
    asked: Mapping[str, Any], who: Visitor, *, from_text: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(what is possible, names of what is not)"""
    values = {}
    for name, value in asked.items():
        if from_text and name in SWITCHES:
            value = True if value in _ON else False if value in _OFF else None
        elif from_text and name in NUMBERS:
            value = _parsed(value)
        elif from_text and name == "datastore":
            value = services.datastore_called(value, who)  # an address does not say whose it is
        if _possible(name, value, who):
            values[name] = value
    return values, tuple(name for name in asked if name not in values)


def _parsed(value: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(value[:40])
        except ValueError:
            continue
    return None


def _possible(name: str, value: Any, who: Visitor) -> bool:
    if name in NUMBERS:
        low, high, default, _ = bounds(GenerationConfig, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        whole = isinstance(value, int) or not isinstance(default, int)
        return whole and (low is None or value >= low) and (high is None or value <= high)
    if name in SWITCHES:
        return isinstance(value, bool)
    if not isinstance(value, str):
        return False
    choices = {
        "task": lambda: text.TASKS,
        "retriever": lambda: text.LOOKED_INTO,
        "model": lambda: [info.name for info in list_models()],
        "datastore": lambda: [info.name for info in services.datastores(who)],
    }
    if name in choices:
        return value in choices[name]()
    return len(value) <= settings.MAX_PROMPT_CHARACTERS
