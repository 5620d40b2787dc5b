"""A trace as tables for a spreadsheet. Texts are untrusted: none of them becomes a formula."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from retro_core.evaluation.tables import guarded
from retro_core.trace import Trace


def to_csv(rows: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    csv.writer(file).writerows([_cell(value) for value in row] for row in rows)
    return file.getvalue()


def tokens(trace: Trace) -> list[list[Any]]:
    """A row for each token, below a row of names."""
    data = trace.data
    layers = data["model"]["cca_layers"]
    ranks = range(1, 1 + max((len(chunk["neighbours"]) for chunk in data["chunks"]), default=0))
    likeliest = max((len(token["alts_on"]) for token in data["tokens"]), default=0)
    rows = [
        [
            "position", "id", "text", "part", "reads neighbours of chunk", "probability on",
            "probability off", "log-probability on", "log-probability off", "gain (nats)",
            *(f"write strength, layer {layer}" for layer in layers),
            *(f"influence of #{rank} (nats)" for rank in ranks),
            *(f"likeliest {i + 1} {way}" for way in ("on", "off") for i in range(likeliest)),
        ]
    ]  # fmt: skip
    for place, token in enumerate(data["tokens"]):
        on, off = token["lp_on"], token["lp_off"]
        chunk = next((c for c in data["chunks"] if c["read"][0] <= place < c["read"][1]), None)
        part = "padding" if place < data["pad"] else "given" if place < data["prompt_tokens"] else "written"
        rows.append(
            [
                place, token["id"], token["text"], part, chunk and chunk["index"] + 1,
                _probability(on), _probability(off), on, off,
                None if on is None or off is None else on - off,
                *_filled(token["write"] or [], len(layers)),
                *_filled(_influences(chunk, place), len(ranks)),
                *_filled([_likely(*one) for one in token["alts_on"]], likeliest),
                *_filled([_likely(*one) for one in token["alts_off"]], likeliest),
            ]
        )  # fmt: skip
    return rows


def neighbours(trace: Trace) -> list[list[Any]]:
    """A row for each neighbour of each chunk, below a row of names."""
    rows = [
        [
            "chunk", "rank", "datastore", "document", "title", "offset", "chunk in datastore",
            "distance (squared L2)", "closeness (cosine)", "score", "measure", "attention share",
            "influence (nats per token)", "influence later (nats per token)", "copied", "changed",
            "chunk's gain (nats per token)", "asked with", "neighbour", "continuation",
        ]
    ]  # fmt: skip
    store = trace.data["datastore"] or {}
    for chunk in trace.data["chunks"]:
        for card in chunk["neighbours"]:
            influence, split = card["influence"] or {}, card["num_neighbour_tokens"]
            rows.append(
                [
                    chunk["index"] + 1, card["rank"], store.get("name"), card["document_id"], card["title"],
                    card["offset"], card["chunk_id"], card["distance"], card["closeness"], card["score"],
                    store.get("metric"), card["share"], influence.get("own"), influence.get("downstream"),
                    card["copied"], card["changed"], chunk["gain"], chunk["query"],
                    "".join(card["tokens"][:split]), "".join(card["tokens"][split:]),
                ]
            )  # fmt: skip
    return rows


def _cell(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else guarded(value)


def _filled(values: Sequence[Any], length: int) -> list[Any]:
    return [*values[:length], *[None] * (length - len(values))]


def _probability(logprob: float | None) -> float | None:
    return None if logprob is None else math.exp(logprob)


def _likely(text: str, logprob: float) -> str:
    return f"“{text}” {math.exp(logprob):.4f}"


def _influences(chunk: dict[str, Any] | None, place: int) -> list[float | None]:
    if chunk is None:
        return []
    row = place - chunk["read"][0]
    measured = [(card["influence"] or {}).get("tokens", []) for card in chunk["neighbours"]]
    return [values[row] if row < len(values) else None for values in measured]
