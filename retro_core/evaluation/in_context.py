"""In-context retrieval (Ram et al. 2023, arXiv 2302.00083) on the same neighbours: what was retrieved stands
before the text, and a plain language model goes on from there.

The nearest neighbours of the last complete chunk are prepended, the nearest one last, beside the text; only
the tokens of the following chunk are scored in that context, then the next chunk asks (a retrieval stride of
one chunk). As in that work, what does not fit into the model's length is cut off at the beginning of the
text. The first chunk is scored without any context, as nothing was asked yet.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from indexing.errors import InputError
from retro_core.evaluation.held_out import Window
from retro_core.evaluation.losses import TOKENS_AT_ONCE, in_batches
from retro_core.functions import IGNORED_LABEL
from retro_core.model import Retro


@dataclass(frozen=True)
class Context:
    """Token ids (n,), retrieved ones first, of which the last `scored` are to be predicted: they are the
    tokens `first` ... `first + scored - 1` of the document."""

    ids: np.ndarray
    first: int
    scored: int


def contexts(
    text: np.ndarray,
    neighbours: np.ndarray,
    window: Window,
    chunk_size: int,
    pad_id: int,
    longest: int,
    num_neighbours: int = 1,
    continuation: bool = True,
) -> Iterator[Context]:
    """A document (n,), what its chunks retrieved (l, k, r) -> one context for the scored tokens of each
    chunk in the window; the text in it does not reach back beyond the window. Of each neighbour N, or with
    its continuation N + F.

    longest  tokens that the model reads at once

    Raises InputError if these do not hold what is retrieved and a chunk.
    """
    m, length = chunk_size, neighbours.shape[-1] if continuation else chunk_size
    if num_neighbours * length + m > longest:
        raise InputError(
            f"A context of {longest} tokens does not hold {num_neighbours} neighbours of {length} tokens and "
            f"a chunk of {m}. Read fewer neighbours, N only, or allow longer contexts."
        )
    first = window.first
    while first <= window.last:
        chunk = first // m
        last = min(window.last, (chunk + 1) * m - 1)
        read = text[:0]
        if chunk:  # nothing was asked before the first one was complete
            read = neighbours[chunk - 1, :num_neighbours, :length][::-1].reshape(-1)
            read = read[read != pad_id]
        # The last token is only predicted, so the model reads one less.
        begin = max(window.start, last + len(read) - longest)
        yield Context(np.concatenate([read, text[begin : last + 1]]), first, last + 1 - first)
        first = last + 1


@torch.inference_mode()
def context_losses(model: Retro, some: Sequence[Context]) -> Iterator[tuple[int, np.ndarray]]:
    """Number of each context and nats (scored,) of its tokens under Retro[Off]; short contexts come first."""
    pad, device = model.config.pad_token_idx, model.device
    order = sorted(range(len(some)), key=lambda number: len(some[number].ids))
    for batch in in_batches(order, [len(some[number].ids) for number in order], TOKENS_AT_ONCE):
        width = max(len(some[number].ids) for number in batch) - 1
        ids = torch.full((len(batch), width), pad, dtype=torch.long)
        labels = torch.full_like(ids, IGNORED_LABEL)
        for row, number in enumerate(batch):
            # Padded on the left, so that all end together.
            tokens = torch.from_numpy(some[number].ids.astype(np.int64))
            ids[row, width + 1 - len(tokens) :] = tokens[:-1]
            labels[row, -some[number].scored :] = tokens[-some[number].scored :]
        out = model(ids.to(device), None, labels.to(device), loss_reduction="none", logits_to_keep=None)
        losses = out.loss.double().cpu().numpy()
        for row, number in enumerate(batch):
            yield number, losses[row, -some[number].scored :]
