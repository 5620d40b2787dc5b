"""The trace: one text, what was read while it was written, and what that changed. No torch, no model.

A `.retro.json` file is the whole trace; the page draws `view()`, the same without the weights of single
heads, which it asks for one map at a time. The fields are described in docs/formats.md. Files come from
anywhere, so `Trace.from_json` rebuilds every value it knows, checks it, and drops the rest.
"""

import base64
import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, fields
from typing import Any, NoReturn, Protocol

import numpy as np

from indexing.errors import TraceError
from indexing.neighbours import NO_CHUNK, Neighbours
from indexing.tokenizer import Tokenizer
from retro_core.config import GenerationConfig

FORMAT, VERSION = "retro-trace", 1
MIN_COPY = 3  # shorter common runs are everyday phrases
_MAX_TOKENS, _MAX_NEIGHBOURS, _MAX_TEXT = 16_384, 64, 100_000
_MAX_INTEGER, _MAX_REAL = 2**53, 1e300  # what JavaScript counts exactly; what it can still add up


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
    """(rows, cols) weights in [0, 1] -> bytes with one scale; see `_bytes_of`."""
    scale = float(weights.max(initial=0.0))
    rows, cols = weights.shape
    return {"rows": rows, "cols": cols, "scale": scale, "data": _bytes_of(weights, np.asarray(scale))}


def pack_heads(weights: np.ndarray) -> dict[str, Any]:
    """(layers, heads, rows, cols) -> bytes with one scale for each head."""
    layers, heads, rows, cols = weights.shape
    scales = weights.max(axis=(2, 3), initial=0.0)
    return {
        "layers": layers, "heads": heads, "rows": rows, "cols": cols,
        "scales": [float(s) for s in scales.ravel()], "data": _bytes_of(weights, scales),
    }  # fmt: skip


def _bytes_of(weights: np.ndarray, scales: np.ndarray) -> str:
    """(..., rows, cols) in steps of scale / 255, base64.

    Rounded so that each row keeps its sum: many small weights, each rounded down, would be much in all.
    """
    steps = weights / np.maximum(scales, 1e-12)[..., None, None] * 255
    data = np.floor(steps)
    left = steps - data
    up = np.rint(left.sum(axis=-1, keepdims=True))  # so many of a row go up, those with most left first
    order = np.argsort(-left, axis=-1, kind="stable").argsort(axis=-1)
    return base64.b64encode((data + (order < up)).astype(np.uint8).tobytes()).decode()


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
    """Half-open spans of `read`, and of `neighbour`, whose tokens stand in a run of at least MIN_COPY tokens
    that both have."""
    mine, theirs = _grams(read, pad_id), _grams(neighbour, pad_id)
    shared = mine.keys() & theirs.keys()
    return _covered(mine, shared), _covered(theirs, shared)


def _grams(tokens: Sequence[int], pad_id: int) -> dict[tuple[int, ...], list[int]]:
    """Runs of MIN_COPY tokens without padding, and where they begin."""
    places: dict[tuple[int, ...], list[int]] = {}
    for start in range(len(tokens) - MIN_COPY + 1):
        gram = tuple(tokens[start : start + MIN_COPY])
        if pad_id not in gram:
            places.setdefault(gram, []).append(start)
    return places


def _covered(places: dict[tuple[int, ...], list[int]], shared: Set[tuple[int, ...]]) -> list[list[int]]:
    """Spans of what the shared runs cover; runs that overlap or touch make one span."""
    spans: list[list[int]] = []
    for start in sorted(start for gram in shared for start in places[gram]):
        if spans and start <= spans[-1][1]:
            spans[-1][1] = start + MIN_COPY
        else:
            spans.append([start, start + MIN_COPY])
    return spans


# ----------------------------------------------------------------------------------- checking one
#
# Each reader takes a parsed object, a key and where the object stands in the trace, for the message; it
# returns the value in the type that we promise, or raises TraceError.


def _trace(value: dict[str, Any]) -> dict[str, Any]:
    model = _object(value, "model")
    datastore = _optional(value, "datastore", "", _object)
    tokens = _list(value, "tokens", "", _MAX_TOKENS)
    length = _integer(model, "neighbour_len", "model", 1, 65_536)
    layers = _list(model, "cca_layers", "model", 1000)
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": _optional(value, "title", "", _text) or "",
        "created": _optional(value, "created", "", _text) or "",
        "model": {
            "name": _text(model, "name", "model"),
            "fingerprint": _optional(model, "fingerprint", "model", _text) or "",
            "parameters": _integer(model, "parameters", "model", 0, 10**13),
            "cca_layers": [_whole(x, "model.cca_layers", 0, 10_000) for x in layers],
            "heads": _integer(model, "heads", "model", 1, 10_000),
            "chunk_size": _integer(model, "chunk_size", "model", 1, 4096),
            "num_neighbours": _integer(model, "num_neighbours", "model", 0, _MAX_NEIGHBOURS),
            "neighbour_len": length,
        },
        "datastore": None
        if datastore is None
        else {
            "name": _text(datastore, "name", "datastore"),
            "fingerprint": _optional(datastore, "fingerprint", "datastore", _text) or "",
            "embedder": _optional(datastore, "embedder", "datastore", _text) or "",
            "metric": _optional(datastore, "metric", "datastore", _text) or "",
            "num_chunks": _integer(datastore, "num_chunks", "datastore", 0, 10**12),
            "num_documents": _integer(datastore, "num_documents", "datastore", 0, 10**12),
        },
        "retrieval": _flag(value, "retrieval", ""),
        "sampling": _sampling(_optional(value, "sampling", "", _object) or {}),
        "pad": _integer(value, "pad", "", 0, len(tokens)),
        "prompt_tokens": _integer(value, "prompt_tokens", "", 0, len(tokens)),
        "tokens": [_token(t, f"tokens[{i}]") for i, t in enumerate(tokens)],
        "chunks": [
            _chunk(c, i, f"chunks[{i}]", len(tokens), length)
            for i, c in enumerate(_list(value, "chunks", "", _MAX_TOKENS))
        ],
    }


def _sampling(value: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that we know, in our types; their bounds may be another version's."""
    found: dict[str, Any] = {}
    for spec in fields(GenerationConfig):
        if value.get(spec.name) is None:
            continue
        if isinstance(spec.default, bool):
            found[spec.name] = _flag(value, spec.name, "sampling")
        elif isinstance(spec.default, int):
            found[spec.name] = _integer(value, spec.name, "sampling", 0, _MAX_INTEGER)
        else:
            found[spec.name] = _number(value, spec.name, "sampling")
    return found


def _token(value: Any, where: str) -> dict[str, Any]:
    _check_object(value, where)
    return {
        "id": _integer(value, "id", where, 0, 2**31),
        "text": _text(value, "text", where),
        "lp_on": _optional(value, "lp_on", where, _number),
        "lp_off": _optional(value, "lp_off", where, _number),
        "alts_on": _alternatives(value, "alts_on", where),
        "alts_off": _alternatives(value, "alts_off", where),
        "write": _optional(value, "write", where, _numbers),
    }


def _alternatives(value: dict[str, Any], key: str, where: str) -> list[list[Any]]:
    found, where = _list(value, key, where, 100), f"{where}.{key}"
    for pair in found:
        if not isinstance(pair, list) or len(pair) != 2:
            _fail(where, "pairs of a text and a number")
    return [[_string(text, where), _real(number, where)] for text, number in found]


def _chunk(value: Any, index: int, where: str, num_tokens: int, length: int) -> dict[str, Any]:
    _check_object(value, where)
    if value.get("index") != index:
        _fail(f"{where}.index", f"{index}, its place in the list")
    ask, read = (_span(value.get(key), f"{where}.{key}", num_tokens) for key in ("ask", "read"))
    num_read = read[1] - read[0]
    seconds = _optional(value, "seconds", where, _object)
    neighbours = _list(value, "neighbours", where, _MAX_NEIGHBOURS)
    maps = {"attention": _map, "attention_heads": _heads}
    weights = {key: _optional(value, key, where, read_map) for key, read_map in maps.items()}
    for key, found in weights.items():
        if found and found["rows"] != num_read:
            _fail(f"{where}.{key}.rows", f"{num_read}, as many as tokens are read")
        if found and (found["cols"] % length or found["cols"] < length * len(neighbours)):
            _fail(f"{where}.{key}.cols", f"{length} for each neighbour")
    return {
        "index": index,
        "ask": ask,
        "read": read,
        "query": _text(value, "query", where),
        "gain": _optional(value, "gain", where, _number),
        "seconds": seconds
        and {key: _optional(seconds, key, f"{where}.seconds", _number) for key in ("retrieve", "read")},
        "neighbours": [
            _card(n, rank, f"{where}.neighbours[{rank - 1}]", length, num_read)
            for rank, n in enumerate(neighbours, start=1)
        ],
        **weights,
    }


def _card(value: Any, rank: int, where: str, length: int, num_read: int) -> dict[str, Any]:
    _check_object(value, where)
    if value.get("rank") != rank:  # columns of the maps are counted by place, titles by rank
        _fail(f"{where}.rank", f"{rank}, its place in the list")
    tokens = _list(value, "tokens", where, length)
    if len(tokens) != length:
        _fail(f"{where}.tokens", f"{length} texts")
    split = _integer(value, "num_neighbour_tokens", where, 0, length)
    return {
        "rank": rank,
        "chunk_id": _integer(value, "chunk_id", where, 0, _MAX_INTEGER),
        "document_id": _text(value, "document_id", where),
        "title": _text(value, "title", where),
        "offset": _integer(value, "offset", where, 0, _MAX_INTEGER),
        "distance": _optional(value, "distance", where, _number),
        "closeness": _optional(value, "closeness", where, _number),
        "tokens": [_string(t, f"{where}.tokens") for t in tokens],
        "num_neighbour_tokens": split,
        "n_len": _integer(value, "n_len", where, 0, split),
        "f_len": _integer(value, "f_len", where, 0, length - split),
        "share": _optional(value, "share", where, _number),
        "copied": _optional(value, "copied", where, _number),
        "copy_read": [
            _span(s, f"{where}.copy_read", num_read) for s in _list(value, "copy_read", where, 4096)
        ],
        "copy_neighbour": [
            _span(s, f"{where}.copy_neighbour", length) for s in _list(value, "copy_neighbour", where, 4096)
        ],
    }


def _map(value: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value, where = _object(value, key, where), f"{where}.{key}"
    sizes = {name: _integer(value, name, where, 0, 1 << 20) for name in ("rows", "cols")}
    scale = _weight(value.get("scale"), f"{where}.scale")
    return {**sizes, "scale": scale, "data": _bytes(value, where, math.prod(sizes.values()))}


def _heads(value: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value, where = _object(value, key, where), f"{where}.{key}"
    sizes = {name: _integer(value, name, where, 1, 10_000) for name in ("layers", "heads")}
    sizes |= {name: _integer(value, name, where, 0, 1 << 20) for name in ("rows", "cols")}
    scales = [_weight(x, f"{where}.scales") for x in _list(value, "scales", where, 100_000)]
    if len(scales) != sizes["layers"] * sizes["heads"]:
        _fail(f"{where}.scales", "one number for each layer and head")
    return {**sizes, "scales": scales, "data": _bytes(value, where, math.prod(sizes.values()))}


def _bytes(value: dict[str, Any], where: str, count: int) -> str:
    data = value.get("data")
    try:
        found = len(base64.b64decode(data, validate=True)) if isinstance(data, str) else -1
    except ValueError:
        found = -1
    if found != count:
        _fail(f"{where}.data", f"{count:,} bytes in base64")
    return data  # type: ignore[return-value]


def _optional(value: dict[str, Any], key: str, where: str, read: Callable[..., Any]) -> Any:
    """What `read` makes of the field; None where it is null or absent."""
    return None if value.get(key) is None else read(value, key, where)


def _object(value: dict[str, Any], key: str, where: str = "") -> dict[str, Any]:
    return _check_object(value.get(key), _at(where, key))


def _check_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _fail(where, "an object")
    return value


def _list(value: dict[str, Any], key: str, where: str, limit: int) -> list[Any]:
    found = value.get(key)
    if not isinstance(found, list) or len(found) > limit:
        _fail(_at(where, key), f"a list of at most {limit:,}")
    return found


def _flag(value: dict[str, Any], key: str, where: str) -> bool:
    found = value.get(key)
    if not isinstance(found, bool):
        _fail(_at(where, key), "true or false")
    return found


def _text(value: dict[str, Any], key: str, where: str) -> str:
    return _string(value.get(key), _at(where, key))


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        _fail(where, f"text of at most {_MAX_TEXT:,} characters")
    # Half of a surrogate pair cannot be sent or saved.
    return value.encode("utf-8", errors="replace").decode("utf-8")


def _integer(value: dict[str, Any], key: str, where: str, low: int, high: int) -> int:
    return _whole(value.get(key), _at(where, key), low, high)


def _whole(value: Any, where: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        _fail(where, f"a whole number from {low:,} to {high:,}")
    return value


def _number(value: dict[str, Any], key: str, where: str) -> float:
    return _real(value.get(key), _at(where, key))


def _numbers(value: dict[str, Any], key: str, where: str) -> list[float]:
    return [_real(x, _at(where, key)) for x in _list(value, key, where, 1000)]


def _real(value: Any, where: str) -> float:
    # The comparison is false for NaN too, and takes whole numbers that no float can hold.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not -_MAX_REAL <= value <= _MAX_REAL:
        _fail(where, "a number")
    return float(value)


def _weight(value: Any, where: str) -> float:
    """An attention weight; rounding may lift it a little above 1."""
    found = _real(value, where)
    if not 0 <= found <= 1.01:
        _fail(where, "a number from 0 to 1")
    return found


def _span(value: Any, where: str, limit: int) -> list[int]:
    if not isinstance(value, list) or len(value) != 2:
        _fail(where, "two whole numbers")
    start, stop = (_whole(x, where, 0, limit) for x in value)
    if start > stop:
        _fail(where, "a start before its end")
    return [start, stop]


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _fail(where: str, expected: str) -> NoReturn:
    raise TraceError(f"This trace is damaged: {where} must be {expected}. Make the trace again.")
