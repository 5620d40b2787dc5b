"""The trace: one text, what was read while it was written, and what that changed. No torch, no model.

A `.retro.json` file is the whole trace; the page draws `view()`, the same without the weights of single
heads, which it asks for one map at a time. The fields are described in docs/formats.md. Files come from
anywhere, so `Trace.from_json` rebuilds every value it knows, checks it, and drops the rest.
"""

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from statistics import fmean
from typing import Any, NoReturn, Protocol

import numpy as np

from indexing.errors import TraceError
from indexing.neighbours import NO_CHUNK, PASTED, Neighbours
from indexing.tokenizer import Tokenizer
from retro_core.config import GenerationConfig

FORMAT, VERSION = "retro-trace", 2
READABLE = (1, VERSION)  # what an older version lacks is null
MIN_COPY = 3  # shorter common runs are everyday phrases
PARTS = ("N", "F", "NF")  # where in a neighbour a run stands; the last begins in N and ends in F
CHANGES = ("muted", "edited", "pasted", "moved")  # what a person did to a neighbour
# What `Trace.scores` tells of a token, and of a neighbour.
_TOKEN_SCORES = ("id", "text", "lp_on", "lp_off")
_CARD_SCORES = (
    "rank", "chunk_id", "document_id", "title", "offset", "distance", "score", "share", "influence", "copied",
)  # fmt: skip
_SMALL = (14, 40)  # rows and columns of a head in small
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
        if value.get("version") not in READABLE:
            raise TraceError(
                f"This trace has version {value.get('version')!r}, this program reads versions "
                f"{READABLE[0]} to {VERSION}. Make the trace again."
            )
        return cls(_trace(value))

    def to_json(self) -> dict[str, Any]:
        return self.data

    def view(self) -> dict[str, Any]:
        """The trace without the weights of single heads."""
        chunks = [{k: v for k, v in c.items() if k != "attention_heads"} for c in self.data["chunks"]]
        return {**self.data, "chunks": chunks}

    def scores(self) -> dict[str, Any]:
        """The numbers alone, as `python -m retro_core score --json` prints them: nats per token with the
        neighbours (`on`) and without (`off`), of how many tokens; those of each token and neighbour."""
        tokens = [{name: token[name] for name in _TOKEN_SCORES} for token in self.data["tokens"]]
        chunks = [
            {name: chunk[name] for name in ("index", "read", "gain", "overlap")}
            | {"neighbours": [{name: card[name] for name in _CARD_SCORES} for card in chunk["neighbours"]]}
            for chunk in self.data["chunks"]
        ]
        scored = [token for token in tokens if token["lp_on"] is not None]
        on, off = (-fmean(token[lp] for token in scored) if scored else None for lp in ("lp_on", "lp_off"))
        return {"scored": len(scored), "on": on, "off": off, "tokens": tokens, "chunks": chunks}

    def without(self, chunk: int, rank: int) -> "Trace":
        """As it would be without one neighbour, by what was measured when it alone was left out: exact for
        the tokens that read it. What nobody measured then is not there: other likely tokens, write strength,
        the influence of the chunk's other neighbours. Attention stays what it was.

        Raises TraceError if there is no such neighbour, or its influence was not measured.
        """
        chunks = [*self.data["chunks"]]
        cards = [*chunks[chunk]["neighbours"]] if 0 <= chunk < len(chunks) else []
        card = cards[rank - 1] if 1 <= rank <= len(cards) else None
        if card is None or card["influence"] is None or card["changed"] == "muted":
            raise TraceError(
                f"This trace does not say what it would be without neighbour {rank} of chunk {chunk + 1}. "
                "Let the model read the text without it."
            )
        tokens, influence = [*self.data["tokens"]], card["influence"]
        for place, effect in enumerate(influence["tokens"], chunks[chunk]["read"][0]):
            token = tokens[place]
            if token["lp_on"] is not None:
                tokens[place] = {**token, "lp_on": token["lp_on"] - effect, "alts_on": [], "write": None}
        gone = {"share": None, "copied": None, "copy_read": [], "copy_neighbour": [], "copies": None}
        cards = [{**other, "influence": None} for other in cards]
        cards[rank - 1] |= {**gone, "changed": "muted"}
        gain = chunks[chunk]["gain"]
        gain = None if gain is None else gain - influence["own"]
        chunks[chunk] = {**chunks[chunk], "neighbours": cards, "overlap": None, "gain": gain}
        words = f"without #{rank} of chunk {chunk + 1}"
        title = f"{self.data['title']}, {words}" if self.data["title"] else words.capitalize()
        return Trace({**self.data, "title": title, "tokens": tokens, "chunks": chunks})

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

    def head_overview(self, chunk: int | None) -> dict[str, Any]:
        """All heads of a chunk's attention in small: {"layers", "heads", "rows", "cols", "data": bytes of
        (layers, heads, rows, cols) in base64, each head to its own maximum, "focus": (layers, heads)}.

        focus  1 less the mean entropy of the rows, of the largest that it can be: 1 where each token looks at
               one token alone, 0 where all are looked at alike

        Raises TraceError as `attention_map` does.
        """
        self.attention_map(chunk)
        found = self.data["chunks"][chunk]["attention_heads"]
        shape = (found["layers"], found["heads"], found["rows"], found["cols"])
        weights = np.frombuffer(base64.b64decode(found["data"]), dtype=np.uint8).reshape(shape)
        weights = weights.astype(np.float32)
        small = _reduced(_reduced(weights, 2, _SMALL[0]), 3, _SMALL[1])
        peak = small.max(axis=(2, 3), keepdims=True, initial=0)
        data = np.rint(small / np.maximum(peak, 1e-6) * 255).astype(np.uint8)
        rows = weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-6)
        entropy = -(rows * np.log(np.maximum(rows, 1e-12))).sum(axis=-1)
        looked = np.count_nonzero(weights.any(axis=(0, 1, 2)))  # padding is looked at by nobody
        focus = 1 - entropy.mean(axis=-1) / np.log(max(2, looked)) if shape[2] else np.zeros(shape[:2])
        return {
            "layers": shape[0], "heads": shape[1], "rows": data.shape[2], "cols": data.shape[3],
            "data": base64.b64encode(data.tobytes()).decode(),
            "focus": [[round(float(one), 3) for one in layer] for layer in np.clip(focus, 0, 1)],
        }  # fmt: skip


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
    measured. `rank` counts from 1. Missing neighbours, at the end, have no card; one that is missing before
    others has been muted, and its text is not known here. An infinite distance is unknown."""
    ids, distances = np.ravel(neighbours.ids), np.ravel(neighbours.distances)
    scores = np.full(len(ids), -np.inf) if neighbours.scores is None else np.ravel(neighbours.scores)
    tokens = neighbours.tokens.reshape(len(ids), -1)
    present = neighbours.mask.reshape(len(ids), -1)
    cards = []
    last = np.flatnonzero(ids != NO_CHUNK).max(initial=-1)
    for rank, chunk_id in enumerate(ids[: last + 1].tolist()):
        row, distance = tokens[rank].tolist(), float(distances[rank])
        known = math.isfinite(distance)
        origin = None if chunk_id in (NO_CHUNK, PASTED) else origins.provenance(chunk_id)
        cards.append(
            {
                "rank": rank + 1,
                "chunk_id": chunk_id if origin else None,
                "document_id": origin.document_id if origin else "",
                "title": origin.title if origin else "",
                "offset": origin.offset if origin else None,
                "distance": distance if known else None,
                "closeness": 1 - distance / 2 if known else None,  # cosine, as embeddings have length 1
                "score": float(scores[rank]) if math.isfinite(scores[rank]) else None,
                "tokens": tokenizer.token_texts(row[:chunk_size]) + tokenizer.token_texts(row[chunk_size:]),
                "num_neighbour_tokens": chunk_size,
                "n_len": int(present[rank, :chunk_size].sum()),
                "f_len": int(present[rank, chunk_size:].sum()),
                "share": None,
                "influence": None,
                "copied": None,
                "copy_read": [],
                "copy_neighbour": [],
                "copies": None,
                "changed": "muted" if chunk_id == NO_CHUNK else None,
            }
        )
    return cards


def common_runs(read: Sequence[int], neighbour: Sequence[int], pad_id: int) -> list[tuple[int, int, int]]:
    """(start in `read`, start in `neighbour`, length) of every run of tokens that both have and that cannot
    be made longer at either end, longest first; padding is in no run."""
    mine, theirs = np.asarray(read, dtype=np.int64), np.asarray(neighbour, dtype=np.int64)
    equal = (mine[:, None] == theirs) & (mine[:, None] != pad_id)
    # lengths[i + 1, j + 1]: of the run that ends with tokens i and j
    lengths = np.zeros((len(mine) + 2, len(theirs) + 2), dtype=np.int64)
    for i, row in enumerate(equal, start=1):
        lengths[i, 1:-1] = (lengths[i - 1, :-2] + 1) * row
    ends = (lengths[1:-1, 1:-1] > 0) & (lengths[2:, 2:] == 0)
    last = np.argwhere(ends) + 1
    size = lengths[last[:, 0], last[:, 1]]
    runs = np.column_stack([last - size[:, None], size]).tolist()
    return sorted((tuple(run) for run in runs), key=lambda run: (-run[2], run[0], run[1]))


def describe_copies(
    runs: Sequence[tuple[int, int, int]], num_read: int, length: int, split: int
) -> dict[str, Any]:
    """The fields `copied`, `copy_read`, `copy_neighbour` and `copies` of a neighbour.

    runs      of `common_runs`; those shorter than MIN_COPY do not count
    num_read  tokens in the read window, at least 1 · length  tokens of the neighbour
    split     how many of these are the neighbour's own (N); its continuation (F) is the rest
    """
    mine, theirs = np.zeros(num_read, dtype=bool), np.zeros(length, dtype=bool)
    copies = []
    for i, j, size in runs:
        if size < MIN_COPY:
            break
        if not mine[i : i + size].all():  # a token that stands in several runs belongs to the longest
            part = "N" if j + size <= split else "F" if j >= split else "NF"
            copies.append({"read": [i, i + size], "neighbour": [j, j + size], "part": part})
        mine[i : i + size] = theirs[j : j + size] = True
    return {
        "copied": float(mine.mean()),
        "copy_read": _spans_of(mine),
        "copy_neighbour": _spans_of(theirs),
        "copies": sorted(copies, key=lambda copy: copy["read"]),
    }


def _reduced(weights: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The largest of each of `size` stretches along an axis; the axis as it is if it is shorter."""
    length = weights.shape[axis]
    if length <= size:
        return weights
    return np.maximum.reduceat(weights, np.arange(size) * length // size, axis=axis)


def _spans_of(marked: np.ndarray) -> list[list[int]]:
    """(n,) bool -> half-open spans of what is True."""
    edges = np.flatnonzero(np.diff(marked, prepend=False, append=False))
    return edges.reshape(-1, 2).tolist()


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
        if spec.default is MISSING:  # a list of texts
            texts = _list(value, spec.name, "sampling", _MAX_NEIGHBOURS)
            found[spec.name] = [_string(text, f"sampling.{spec.name}") for text in texts]
        elif isinstance(spec.default, bool):
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
        "overlap": _optional(value, "overlap", where, _number),
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
        "chunk_id": _optional(value, "chunk_id", where, _count),
        "document_id": _text(value, "document_id", where),
        "title": _text(value, "title", where),
        "offset": _optional(value, "offset", where, _count),
        "distance": _optional(value, "distance", where, _number),
        "closeness": _optional(value, "closeness", where, _number),
        "score": _optional(value, "score", where, _number),
        "tokens": [_string(t, f"{where}.tokens") for t in tokens],
        "num_neighbour_tokens": split,
        "n_len": _integer(value, "n_len", where, 0, split),
        "f_len": _integer(value, "f_len", where, 0, length - split),
        "share": _optional(value, "share", where, _number),
        "influence": _influence(value, where, num_read),
        "copied": _optional(value, "copied", where, _number),
        "copy_read": [
            _span(s, f"{where}.copy_read", num_read) for s in _list(value, "copy_read", where, 4096)
        ],
        "copy_neighbour": [
            _span(s, f"{where}.copy_neighbour", length) for s in _list(value, "copy_neighbour", where, 4096)
        ],
        "copies": _copies(value, where, num_read, length),
        "changed": _optional(value, "changed", where, _change),
    }


def _influence(value: dict[str, Any], where: str, num_read: int) -> dict[str, Any] | None:
    found, where = _optional(value, "influence", where, _object), f"{where}.influence"
    if found is None:
        return None
    tokens = _numbers(found, "tokens", where)
    if len(tokens) != num_read:
        _fail(f"{where}.tokens", f"{num_read} numbers, one for each token that is read")
    own, later = _number(found, "own", where), _optional(found, "downstream", where, _number)
    return {"own": own, "downstream": later, "tokens": tokens}


def _copies(value: dict[str, Any], where: str, num_read: int, length: int) -> list[dict[str, Any]] | None:
    if value.get("copies") is None:
        return None
    found = []
    for i, copy in enumerate(_list(value, "copies", where, 4096)):
        at = f"{where}.copies[{i}]"
        _check_object(copy, at)
        read, there = _span(copy.get("read"), f"{at}.read", num_read), copy.get("neighbour")
        there = _span(there, f"{at}.neighbour", length)
        if there[1] - there[0] != read[1] - read[0]:
            _fail(f"{at}.neighbour", "as many tokens as read")
        found.append({"read": read, "neighbour": there, "part": _one_of(copy, "part", at, PARTS)})
    return found


def _change(value: dict[str, Any], key: str, where: str) -> str:
    return _one_of(value, key, where, CHANGES)


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


def _count(value: dict[str, Any], key: str, where: str) -> int:
    return _integer(value, key, where, 0, _MAX_INTEGER)


def _one_of(value: dict[str, Any], key: str, where: str, choices: Sequence[str]) -> str:
    found = value.get(key)
    if found not in choices:
        _fail(_at(where, key), "one of " + ", ".join(choices))
    return found


def _number(value: dict[str, Any], key: str, where: str) -> float:
    return _real(value.get(key), _at(where, key))


def _numbers(value: dict[str, Any], key: str, where: str) -> list[float]:
    return [_real(x, _at(where, key)) for x in _list(value, key, where, 4096)]


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
