"""A trace view made of plain sentences and a seeded generator, for tests of the page; never shipped."""

import base64
import re
from typing import Any

import numpy as np

CHUNK, LENGTH = 64, 128
LAYERS, HEADS = [1, 3], 4

SOURCE = (
    "Skerryvore is a lighthouse on a reef twelve miles off the Isle of Tiree. It was designed by Alan "
    "Stevenson and completed in 1844 after six years of work. The granite tower is forty-eight metres tall, "
    "the tallest in Scotland, and its light was first lit on the first of February of that year. Stores "
    "came by boat from Hynish, where a pier, cottages and a signal tower still stand. A fire gutted the "
    "tower in 1954 and it was rebuilt in five years.\nBell Rock, off the coast of Angus, was engineered by "
    "Robert Stevenson and John Rennie between 1807 and 1810. The sandstone reef is covered at every tide, "
    "so work was only possible for two hours at a stretch. The Bell Rock tower is the oldest surviving "
    "sea-washed lighthouse; its lamps were tended by keepers until 1988. Muckle Flugga stands on the most "
    "northerly rock of Shetland and was built by Thomas and David Stevenson in 1854 to guide the navy."
)


def words(text: str) -> list[str]:
    return re.findall(r"\s?\w{1,7}|\s?[^\w\s]|\s", text)


def synthetic_view(
    num_chunks: int = 3, num_neighbours: int = 2, seed: int = 0, pad: int = 9, payload: str = ""
) -> dict[str, Any]:
    """A complete view as `Trace.view` gives it. `payload` is put into every text of the trace."""
    random = np.random.default_rng(seed)
    pieces = words(SOURCE)
    total = CHUNK * (num_chunks + 1) - 20
    texts = [""] * pad + [pieces[i % len(pieces)] for i in range(total - pad)]
    if payload:
        texts[pad + 3] = texts[CHUNK + 5] = payload
    tokens = [_token(i, text, pad, random) for i, text in enumerate(texts)]
    chunks = []
    for index in range(num_chunks):
        start, stop = (index + 1) * CHUNK, min((index + 2) * CHUNK, total)
        chunks.append(
            {
                "index": index,
                "ask": [index * CHUNK, start],
                "read": [start, stop],
                "query": payload + "".join(texts[index * CHUNK : start]),
                "gain": float(np.mean([t["lp_on"] - t["lp_off"] for t in tokens[start:stop]])),
                "overlap": min(8, stop - start) / (stop - start),
                "seconds": {"retrieve": 0.021, "read": 0.054},
                "neighbours": [
                    _neighbour(j, num_neighbours, texts[start:stop], pieces, random, payload)
                    for j in range(num_neighbours)
                ],
                "attention": pack(_attention(stop - start, num_neighbours, random)),
            }
        )
    return {
        "format": "retro-trace",
        "version": 2,
        "title": f"Recorded example: lighthouses{payload}",
        "created": "2026-11-21T22:00:00Z",
        "model": {
            "name": "demo",
            "fingerprint": "0" * 64,
            "parameters": 6_200_000,
            "cca_layers": LAYERS,
            "heads": HEADS,
            "chunk_size": CHUNK,
            "num_neighbours": num_neighbours,
            "neighbour_len": LENGTH,
        },
        "datastore": {
            "name": "factbook",
            "fingerprint": "1" * 64,
            "embedder": "all-MiniLM-L6-v2",
            "metric": "squared L2",
            "num_chunks": 9001,
            "num_documents": 1245,
        },
        "retrieval": True,
        "sampling": {"max_new_tokens": total - CHUNK, "seed": 0},
        "pad": pad,
        "prompt_tokens": CHUNK,
        "tokens": tokens,
        "chunks": chunks,
    }


def synthetic_file(**options: Any) -> dict[str, Any]:
    """The same trace as `synthetic_view(**options)`, in the form in which it is saved."""
    trace = synthetic_view(**options)
    random = np.random.default_rng(1)
    for chunk in trace["chunks"]:
        rows, cols = chunk["attention"]["rows"], chunk["attention"]["cols"]
        maps = [_attention(rows, cols // LENGTH, random) for _ in range(len(LAYERS) * HEADS)]
        packed = [pack(weights) for weights in maps]
        data = b"".join(base64.b64decode(item["data"]) for item in packed)
        chunk["attention_heads"] = {
            "layers": len(LAYERS),
            "heads": HEADS,
            "rows": rows,
            "cols": cols,
            "scales": [item["scale"] for item in packed],
            "data": base64.b64encode(data).decode(),
        }
    return trace


def pack(weights: np.ndarray) -> dict[str, Any]:
    """Rows x columns of weights as the view carries them: uint8 in base64 with one scale."""
    scale = float(weights.max()) or 1.0
    data = np.round(weights / scale * 255).astype(np.uint8)
    rows, cols = weights.shape
    return {"rows": rows, "cols": cols, "scale": scale, "data": base64.b64encode(data.tobytes()).decode()}


def _token(position: int, text: str, pad: int, random: np.random.Generator) -> dict[str, Any]:
    if position <= pad:
        return {
            "id": 0,
            "text": text,
            "lp_on": None,
            "lp_off": None,
            "alts_on": [],
            "alts_off": [],
            "write": None,
        }
    off = -float(random.gamma(1.5, 1.4)) - 0.02
    gain = float(random.normal(0.5, 0.9)) if position >= CHUNK else 0.0
    on = min(-0.01, off + gain)
    alternatives = [[text, on], [" the", on - 0.7], [" a", on - 1.6], [" tower", on - 2.2], ["\n", on - 3.0]]
    return {
        "id": 100 + position,
        "text": text,
        "lp_on": on,
        "lp_off": off,
        "alts_on": alternatives,
        "alts_off": [[" of", off + 0.01], *alternatives[1:]],
        "write": [0.31, 0.12] if position >= CHUNK else None,
    }


def _neighbour(
    j: int, count: int, reading: list[str], pieces: list[str], random: np.random.Generator, payload: str
) -> dict[str, Any]:
    start = int(random.integers(0, len(pieces) - 1))
    texts = [pieces[(start + i) % len(pieces)] for i in range(LENGTH)]
    if payload:
        texts[4] = texts[CHUNK + 4] = payload
    rest = LENGTH - CHUNK if j else LENGTH - CHUNK - 14
    texts[CHUNK + rest :] = [""] * (LENGTH - CHUNK - rest)
    copied = min(8, len(reading))
    texts[70 : 70 + copied] = reading[2 : 2 + copied]
    return {
        "rank": j + 1,
        "chunk_id": 812 + j,
        "document_id": f"doc-{j}",
        "title": f"{payload}{['Lighthouses of the north', 'The Stevensons'][j % 2]}",
        "offset": 1280 * (j + 1),
        "distance": 0.41 + 0.33 * j,
        "closeness": 1 - (0.41 + 0.33 * j) / 2,
        "score": None,
        "tokens": texts,
        "num_neighbour_tokens": CHUNK,
        "n_len": CHUNK,
        "f_len": rest,
        "share": [0.58, 0.42][j] if count == 2 else 1 / count,
        "influence": {
            "own": [0.04, 0.31][j % 2],
            "downstream": [-0.01, 0.06][j % 2],
            "tokens": random.normal([0.04, 0.31][j % 2], 0.4, len(reading)).tolist(),
        },
        "copied": 0.31 - 0.1 * j,
        "copy_read": [[2, 2 + copied]],
        "copy_neighbour": [[70, 70 + copied]],
        "copies": [{"read": [2, 2 + copied], "neighbour": [70, 70 + copied], "part": "F"}],
        "changed": None,
    }


def _attention(rows: int, num_neighbours: int, random: np.random.Generator) -> np.ndarray:
    weights = random.gamma(0.25, 1.0, size=(rows, num_neighbours * LENGTH)) ** 1.6
    for row in range(rows):
        weights[row, min(66 + row, LENGTH - 16)] += 6 * random.random()
        weights[row, (LENGTH * (num_neighbours - 1) + 20 + row) % weights.shape[1]] += 3 * random.random()
    weights[:, LENGTH - 14 : LENGTH] = 0
    return weights / weights.sum(axis=1, keepdims=True)
