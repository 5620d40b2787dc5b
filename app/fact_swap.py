"""The first example: the same prompt, written on from two datastores, as the value that `FactSwap` draws.

{"lead": text, "sides": [{"id", "edition", "given", "written": parts, "source", "read": parts}]}

parts: [[text, marks]] as in `side_by_side`.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from app import text
from app.side_by_side import Parts, answer, parts
from retro_core.trace import Trace


def view(traces: Mapping[str, Trace]) -> dict[str, Any] | None:
    """The first two of `traces` with one prompt and two datastores, by the datastores' names; None if there
    are none."""
    for pair in combinations(traces.items(), 2):
        stores = {trace.data["datastore"]["name"] for _, trace in pair if trace.data["datastore"]}
        if len(stores) == 2 and len({_given(trace) for _, trace in pair}) == 1:
            pair = sorted(pair, key=lambda item: item[1].data["datastore"]["name"])
            return {"lead": text.SWAP_LEAD, "sides": [_side(*item) for item in pair]}
    return None


def _given(trace: Trace) -> str:
    return "".join(token["text"] for token in trace.data["tokens"][: trace.data["prompt_tokens"]])


def _side(trace_id: str, trace: Trace) -> dict[str, Any]:
    data, start = trace.data, trace.data["prompt_tokens"]
    texts = [token["text"] for token in data["tokens"]]
    copied = np.zeros(len(texts), dtype=bool)
    said = answer("".join(texts[start:]))
    source, read = "", []
    for chunk in data["chunks"]:
        for card in chunk["neighbours"]:
            for first, stop in card["copy_read"]:
                copied[chunk["read"][0] + first : chunk["read"][0] + stop] = True
            if not source and said and said in "".join(card["tokens"]):
                source, read = card["title"], _read(card, said)
    name = data["datastore"]["name"]
    return {
        "id": trace_id,
        "edition": text.EDITIONS.get(name, name),
        "given": _given(trace),
        "written": parts(texts[start:], copied[start:], said),
        "source": source,
        "read": read,
    }


def _read(card: dict[str, Any], said: str) -> Parts:
    copied = np.zeros(len(card["tokens"]), dtype=bool)
    for first, stop in card["copy_neighbour"]:
        copied[first:stop] = True
    return parts(card["tokens"], copied, said)
