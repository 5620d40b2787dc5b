"""A full trace, exact leave-one-out included, of the bundled model: 8 chunks read, 2 neighbours each.

    python -m benchmarks.trace [--quick] [--threads N] [--rounds N]

The text has 576 tokens out of the bundled datastore, so 8 chunks have a window that reads; their neighbours
are looked up before the clock starts (that time is told too). Beside it: the same trace without leaving
anything out; leaving out alone, and what it stands for, one pass over the whole text for each neighbour; and
scoring again after a neighbour of the first or the last chunk was muted or its text changed.
"""

import argparse
import json
import time
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.machine import median_seconds, opened, table
from indexing import paths
from indexing.datastore import Datastore
from indexing.neighbours import Neighbours
from retro_core.checkpoint import LoadedModel, load_model
from retro_core.config import GenerationConfig
from retro_core.counterfactual import (
    Edit,
    Mute,
    Scored,
    all_chunks,
    leave_one_out,
    log_probs_of,
    read,
    rescore,
)
from retro_core.explain import explain
from retro_core.model import neighbour_tensor

CHUNKS, K = 8, 2


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    machine = opened(options.threads, options.quick)
    loaded = load_model(paths.DEMO_MODEL)
    datastore = Datastore.open(paths.DEMO_DATASTORE, tokenizer=loaded.tokenizer)
    chunks = 2 if options.quick else CHUNKS
    ids, neighbours, lookup = text_and_neighbours(loaded, datastore, chunks)
    found = measure(loaded, datastore, ids, neighbours, 1 if options.quick else options.rounds)
    print(table(("what", "seconds"), list(found.items())), "\n")
    print(
        json.dumps(
            {
                "benchmark": "trace",
                "machine": machine,
                "tokens": len(ids),
                "chunks": chunks,
                "neighbours": K,
                "lookup_seconds": lookup,
                "seconds": found,
            }
        )
    )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trace",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a short text, once: does it run?")
    parser.add_argument("--threads", type=int, default=0, help="0 for torch's own choice")
    parser.add_argument("--rounds", type=int, default=7, help="times each, of which the median counts")
    return parser


def text_and_neighbours(
    loaded: LoadedModel, datastore: Datastore, chunks: int
) -> tuple[list[int], list[Neighbours], float]:
    """Tokens of the text, neighbours of its first `chunks` chunks, and the seconds that one lookup of these
    takes once the embedder is there."""
    m = loaded.config.chunk_size
    rows = datastore.chunks.tokens[: 8 * (chunks + 1)].ravel()
    ids = rows[rows != loaded.tokenizer.pad_id][: (chunks + 1) * m].astype(np.int64)
    asking = ids[: chunks * m].reshape(chunks, m)
    datastore.retrieve(asking, K)
    since = time.perf_counter()
    found = datastore.retrieve(asking, K)
    return ids.tolist(), [found.chunks(u, u + 1) for u in range(chunks)], time.perf_counter() - since


def measure(
    loaded: LoadedModel, datastore: Datastore, ids: list[int], neighbours: list[Neighbours], rounds: int
) -> dict[str, float]:
    model = loaded.model
    known = all_chunks(neighbours, len(ids) // loaded.config.chunk_size)
    scored = read(model, ids, known)
    last = len(neighbours) - 1
    text = known.tokens[0, 0, :50].tolist()
    trace = partial(explain, loaded, ids, neighbours, datastore, GenerationConfig(num_neighbours=K))
    actions = {
        "full trace": lambda: trace(influence=True),
        "trace without influence": lambda: trace(influence=False),
        "reading the text": lambda: read(model, ids, known),
        "leaving each out": lambda: leave_one_out(scored),
        "whole passes instead": lambda: whole_passes(scored),
        "muted in the first chunk": lambda: rescore(scored, [Mute(0, 1)]),
        "muted in the last chunk": lambda: rescore(scored, [Mute(last, 1)]),
        "edited in the first chunk": lambda: rescore(scored, [Edit(0, 2, text)]),
        "edited in the last chunk": lambda: rescore(scored, [Edit(last, 2, text)]),
    }
    return {name: median_seconds(action, rounds) for name, action in actions.items()}


@torch.inference_mode()
def whole_passes(scored: Scored) -> list[Any]:
    """Each neighbour muted alone, everything computed anew."""
    given = neighbour_tensor(scored.neighbours, scored.model.device)
    found = []
    for u, j in np.argwhere(scored.neighbours.mask.any(axis=-1)):
        mask = given != scored.neighbours.pad_id
        mask[:, u, j] = False
        found.append(log_probs_of(scored.model(scored.ids, given, neighbour_mask=mask).logits, scored.ids))
    return found


if __name__ == "__main__":
    main()
