"""The trace: one text, what was read while it was written, and what that changed. No torch, no model.

A `.retro.json` file is the whole trace; the page draws `view()`, the same without the weights of single
heads, which it asks for one map at a time. The fields are described in docs/formats.md. Files come from
anywhere, so `Trace.from_json` rebuilds every value it knows, checks it, and drops the rest.
"""

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np

from indexing.errors import TraceError
from indexing.neighbours import NO_CHUNK, Neighbours
from indexing.tokenizer import Tokenizer

FORMAT, VERSION = "retro-trace", 1
MIN_COPY = 3  # shorter common runs are everyday phrases
_MAX_TOKENS, _MAX_NEIGHBOURS, _MAX_TEXT = 16_384, 64, 100_000


@dataclass(frozen=True)
class Trace:
    """A checked trace. Make one with `retro_core.explain.explain` or `Trace.from_json`."""

    data: dict[str, Any]

    @classmethod
    def from_json(cls, value: Any) -> "Trace":
        """Raises TraceError that names the first field that is not as expected."""
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise TraceError(
                f"This is not a trace: expected a JSON object with format {FORMAT!r}. "
                "Choose a file that RETRO Explorer saved."
            )
        if value.get("version") != VERSION:
            raise TraceError(
                f"This trace has version {value.get('version')!r}, this program reads version {VERSION}. "
                "Make the trace again."
            )
        return cls(_trace(value))

    def to_json(self) -> dict[str, Any]:
        return self.data

    def view(self) -> dict[str, Any]:
        """The trace without the weights of single heads."""
        chunks = [{k: v for k, v in c.items() if k != "attention_heads"} for c in self.data["chunks"]]
        return {**self.data, "chunks": chunks}

    def attention_map(
        self, chunk: int | None, layer: int | None = None, head: int | None = None
    ) -> dict[str, Any]:
        """{"rows", "cols", "scale", "data"} of one CCA layer and head, None for the mean over them.

        Raises TraceError if the trace has no such map.
        """
        chunks = self.data["chunks"]
        heads = chunks[chunk]["attention_heads"] if chunk is not None and 0 <= chunk < len(chunks) else None
        if heads is None:
            raise TraceError(f"This trace has no attention weights for chunk {chunk}. Choose another chunk.")
        if not (layer is None or 0 <= layer < heads["layers"]) or not (
            head is None or 0 <= head < heads["heads"]
        ):
            raise TraceError(
                f"Expected a layer below {heads['layers']} and a head below {heads['heads']}, "
                f"got layer {layer}, head {head}."
            )
        shape = (heads["layers"], heads["heads"], heads["rows"], heads["cols"])
        weights = np.frombuffer(base64.b64decode(heads["data"]), dtype=np.uint8).reshape(shape)
        scales = np.asarray(heads["scales"], dtype=np.float32).reshape(shape[:2])
        chosen = weights * scales[..., None, None] / 255
        chosen = chosen.mean(axis=0) if layer is None else chosen[layer]
        return pack_map(chosen.mean(axis=0) if head is None else chosen[head])


# ------------------------------------------------------------------------------------- making one


class Origins(Protocol):
    """Where chunks come from: a `Datastore`."""

    def provenance(self, chunk_id: int) -> Any: ...


def pack_map(weights: np.ndarray) -> dict[str, Any]:
    """(rows, cols) weights in [0, 1] -> bytes with one scale; about 3 digits are kept."""
    scale = float(weights.max()) if weights.size else 0.0
    data = np.rint(weights / scale * 255).astype(np.uint8) if scale > 0 else np.zeros(weights.shape, np.uint8)
    rows, cols = weights.shape
    return {"rows": rows, "cols": cols, "scale": scale, "data": base64.b64encode(data.tobytes()).decode()}


def pack_heads(weights: np.ndarray) -> dict[str, Any]:
    """(layers, heads, rows, cols) -> bytes with one scale for each head."""
    layers, heads, rows, cols = weights.shape
    scales = weights.max(axis=(2, 3), initial=0.0)
    data = np.rint(weights / np.maximum(scales, 1e-12)[..., None, None] * 255).astype(np.uint8)
    return {
        "layers": layers, "heads": heads, "rows": rows, "cols": cols,
        "scales": [float(s) for s in scales.ravel()], "data": base64.b64encode(data.tobytes()).decode(),
    }  # fmt: skip


def neighbour_cards(
    neighbours: Neighbours, origins: Origins, tokenizer: Tokenizer, chunk_size: int
) -> list[dict]:
    """One chunk's neighbours (leading axes of size 1) as the trace describes them before anything is
    measured. Missing neighbours have no card; `rank` counts from 1."""
    ids, distances = np.ravel(neighbours.ids), np.ravel(neighbours.distances)
    tokens = neighbours.tokens.reshape(len(ids), -1)
    present = neighbours.mask.reshape(len(ids), -1)
    cards = []
    for rank, chunk_id in enumerate(ids.tolist()):
        if chunk_id == NO_CHUNK:
            continue
        origin, row = origins.provenance(chunk_id), tokens[rank].tolist()
        cards.append(
            {
                "rank": rank + 1,
                "chunk_id": chunk_id,
                "document_id": origin.document_id,
                "title": origin.title,
                "offset": origin.offset,
                "distance": float(distances[rank]),
                "closeness": 1 - float(distances[rank]) / 2,  # cosine, as embeddings have length 1
                "tokens": tokenizer.token_texts(row[:chunk_size]) + tokenizer.token_texts(row[chunk_size:]),
                "num_neighbour_tokens": chunk_size,
                "n_len": int(present[rank, :chunk_size].sum()),
                "f_len": int(present[rank, chunk_size:].sum()),
                "share": None,
                "copied": None,
                "copy_read": [],
                "copy_neighbour": [],
            }
        )
    return cards


def copy_spans(
    read: Sequence[int], neighbour: Sequence[int], pad_id: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Half-open spans of `read` that occur in `neighbour` as runs of at least MIN_COPY tokens, longest first
    choice from the left, and the spans of the neighbour that they match."""
    mine: list[list[int]] = []
    theirs: list[list[int]] = []
    position = 0
    while position < len(read):
        best, at = 0, -1
        for start in range(len(neighbour)):
            length = 0
            while (
                position + length < len(read)
                and start + length < len(neighbour)
                and read[position + length] == neighbour[start + length] != pad_id
            ):
                length += 1
            if length > best:
                best, at = length, start
        if best >= MIN_COPY:
            mine.append([position, position + best])
            if [at, at + best] not in theirs:
                theirs.append([at, at + best])
            position += best
        else:
            position += 1
    return mine, theirs


# ----------------------------------------------------------------------------------- checking one


def _trace(value: dict[str, Any]) -> dict[str, Any]:
    model, count = value.get("model"), _integer
    if not isinstance(model, dict):
        _fail("model", "an object")
    tokens = _list(value, "tokens", _MAX_TOKENS)
    chunk_size = count(model, "chunk_size", 1, 4096)
    length = count(model, "neighbour_len", 1, 65_536)
    datastore = value.get("datastore")
    if datastore is not None and not isinstance(datastore, dict):
        _fail("datastore", "an object or null")
    sampling = value.get("sampling")
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": _text(value, "title", optional=True),
        "created": _text(value, "created", optional=True),
        "model": {
            "name": _text(model, "name"),
            "fingerprint": _text(model, "fingerprint", optional=True),
            "parameters": count(model, "parameters", 0, 10**13),
            "cca_layers": [
                _whole(x, "model.cca_layers", 0, 10_000) for x in _list(model, "cca_layers", 1000)
            ],
            "heads": count(model, "heads", 1, 10_000),
            "chunk_size": chunk_size,
            "num_neighbours": count(model, "num_neighbours", 0, _MAX_NEIGHBOURS),
            "neighbour_len": length,
        },
        "datastore": datastore
        and {
            "name": _text(datastore, "name"),
            "fingerprint": _text(datastore, "fingerprint", optional=True),
            "embedder": _text(datastore, "embedder", optional=True),
            "metric": _text(datastore, "metric", optional=True),
            "num_chunks": count(datastore, "num_chunks", 0, 10**12),
            "num_documents": count(datastore, "num_documents", 0, 10**12),
        },
        "retrieval": value.get("retrieval") is True,
        "sampling": {
            str(k)[:100]: v
            for k, v in (sampling if isinstance(sampling, dict) else {}).items()
            if isinstance(v, (bool, int)) or (isinstance(v, float) and math.isfinite(v))
        },
        "pad": count(value, "pad", 0, len(tokens)),
        "prompt_tokens": count(value, "prompt_tokens", 0, len(tokens)),
        "tokens": [_token(t, f"tokens[{i}]") for i, t in enumerate(tokens)],
        "chunks": [
            _chunk(c, i, f"chunks[{i}]", len(tokens), length)
            for i, c in enumerate(_list(value, "chunks", _MAX_TOKENS))
        ],
    }


def _token(value: Any, where: str) -> dict[str, Any]:
    value = _object(value, where)
    alternatives = {}
    for key in ("alts_on", "alts_off"):
        alternatives[key] = [
            [_string(pair[0], where), _real(pair[1], where)]
            for pair in _list(value, key, 100, where)
            if isinstance(pair, list) and len(pair) == 2
        ]
    write = value.get("write")
    return {
        "id": _integer(value, "id", 0, 2**31, where),
        "text": _text(value, "text", where),
        "lp_on": _number(value, "lp_on", where),
        "lp_off": _number(value, "lp_off", where),
        **alternatives,
        "write": None
        if write is None
        else [_real(x, f"{where}.write") for x in _list(value, "write", 1000, where)],
    }


def _chunk(value: Any, index: int, where: str, num_tokens: int, length: int) -> dict[str, Any]:
    value = _object(value, where)
    seconds = value.get("seconds")
    neighbours = _list(value, "neighbours", _MAX_NEIGHBOURS, where)
    ask, read = (_span(value.get(key), f"{where}.{key}", num_tokens) for key in ("ask", "read"))
    return {
        "index": index,
        "ask": ask,
        "read": read,
        "query": _text(value, "query", where),
        "gain": _number(value, "gain", where),
        "seconds": None
        if not isinstance(seconds, dict)
        else {key: _number(seconds, key, where) for key in ("retrieve", "read")},
        "neighbours": [
            _card(n, f"{where}.neighbours[{i}]", length, read[1] - read[0]) for i, n in enumerate(neighbours)
        ],
        "attention": _map(value.get("attention"), f"{where}.attention"),
        "attention_heads": _heads(value.get("attention_heads"), f"{where}.attention_heads"),
    }


def _card(value: Any, where: str, length: int, num_read: int) -> dict[str, Any]:
    value = _object(value, where)
    tokens = _list(value, "tokens", length, where)
    if len(tokens) != length:
        _fail(f"{where}.tokens", f"{length} texts")
    split = _integer(value, "num_neighbour_tokens", 0, length, where)
    return {
        "rank": _integer(value, "rank", 1, _MAX_NEIGHBOURS, where),
        "chunk_id": _integer(value, "chunk_id", 0, 2**62, where),
        "document_id": _text(value, "document_id", where),
        "title": _text(value, "title", where),
        "offset": _integer(value, "offset", 0, 2**62, where),
        "distance": _number(value, "distance", where),
        "closeness": _number(value, "closeness", where),
        "tokens": [_string(t, f"{where}.tokens") for t in tokens],
        "num_neighbour_tokens": split,
        "n_len": _integer(value, "n_len", 0, split, where),
        "f_len": _integer(value, "f_len", 0, length - split, where),
        "share": _number(value, "share", where),
        "copied": _number(value, "copied", where),
        "copy_read": [
            _span(s, f"{where}.copy_read", num_read) for s in _list(value, "copy_read", 4096, where)
        ],
        "copy_neighbour": [
            _span(s, f"{where}.copy_neighbour", length) for s in _list(value, "copy_neighbour", 4096, where)
        ],
    }


def _map(value: Any, where: str) -> dict[str, Any] | None:
    if value is None:
        return None
    value = _object(value, where)
    rows, cols = _integer(value, "rows", 0, 4096, where), _integer(value, "cols", 0, 1 << 20, where)
    scale = _real(value.get("scale"), f"{where}.scale")
    return {"rows": rows, "cols": cols, "scale": scale, "data": _bytes(value, where, rows * cols)}


def _heads(value: Any, where: str) -> dict[str, Any] | None:
    if value is None:
        return None
    value = _object(value, where)
    sizes = {key: _integer(value, key, 0, 1 << 20, where) for key in ("layers", "heads", "rows", "cols")}
    scales = [_real(x, f"{where}.scales") for x in _list(value, "scales", 100_000, where)]
    if len(scales) != sizes["layers"] * sizes["heads"]:
        _fail(f"{where}.scales", "one number for each layer and head")
    return {**sizes, "scales": scales, "data": _bytes(value, where, math.prod(sizes.values()))}


def _bytes(value: dict[str, Any], where: str, count: int) -> str:
    data = value.get("data")
    try:
        found = len(base64.b64decode(data, validate=True)) if isinstance(data, str) else -1
    except (binascii.Error, ValueError):
        found = -1
    if found != count:
        _fail(f"{where}.data", f"{count} bytes in base64")
    return data  # type: ignore[return-value]


def _span(value: Any, where: str, limit: int) -> list[int]:
    if not isinstance(value, list) or len(value) != 2:
        _fail(where, "two whole numbers")
    start, stop = (_whole(x, where, 0, limit) for x in value)
    if start > stop:
        _fail(where, "a start before its end")
    return [start, stop]


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _fail(where, "an object")
    return value


def _list(value: dict[str, Any], key: str, limit: int, where: str = "") -> list[Any]:
    found = value.get(key)
    if not isinstance(found, list) or len(found) > limit:
        _fail(f"{where}.{key}" if where else key, f"a list of at most {limit}")
    return found


def _text(value: dict[str, Any], key: str, where: str = "", optional: bool = False) -> str:
    found = value.get(key)
    if found is None and optional:
        return ""
    return _string(found, f"{where}.{key}" if where else key)


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        _fail(where, "text")
    # Half of a surrogate pair cannot be sent or saved.
    return value.encode("utf-8", errors="replace").decode("utf-8")


def _integer(value: dict[str, Any], key: str, low: int, high: int, where: str = "") -> int:
    return _whole(value.get(key), f"{where}.{key}" if where else key, low, high)


def _whole(value: Any, where: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        _fail(where, f"a whole number from {low} to {high}")
    return value


def _number(value: dict[str, Any], key: str, where: str) -> float | None:
    found = value.get(key)
    return None if found is None else _real(found, f"{where}.{key}")


def _real(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        _fail(where, "a number")
    return float(value)


def _fail(where: str, expected: str) -> NoReturn:
    raise TraceError(f"This trace is damaged: {where} must be {expected}. Make the trace again.")
