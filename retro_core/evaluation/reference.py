"""The reference implementation's evaluation: its one number, made as it makes it.

The mean of -ln p in nats over all labels of all documents. A document is one sequence, cut off at max_len.
Labels are its tokens from the second on; padding has none. Tokens of the first chunk, which read nothing,
count like all others, and so does an end mark. Every token weighs the same, whatever its document or batch.

That differs from our own numbers: long documents are cut and not read in windows, and nothing says what the
model would have done without neighbours. Use it to compare with numbers of the reference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from indexing.errors import InputError
from indexing.neighbours import NO_CHUNK
from indexing.pipeline.examples import IGNORED, Example, Examples
from retro_core.model import Retro


@dataclass(frozen=True)
class ReferenceLosses:
    """After `done` of `total` documents: the sum of their nats, over so many tokens. Sums of several parts of
    a data set may be added."""

    done: int
    total: int
    nats: float
    tokens: int

    @property
    def mean(self) -> float:
        """nats per token. Raises InputError if no token was predicted."""
        if not self.tokens:
            raise InputError("The data set has no token to predict. Give documents of some words.")
        return self.nats / self.tokens


@torch.inference_mode()
def reference_losses(
    model: Retro,
    examples: Examples,
    batch_size: int,
    num_workers: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[ReferenceLosses]:
    """Sums over ever more documents, an event for each batch; the last one is about all.

    batch_size   documents at a time, in the order of the files, padded to the longest
    num_workers  processes that read ahead; 0 reads here
    part         (i, n): of the documents i, i + n, i + 2n … only, for several processes

    Raises InputError for a model that was made for other chunks, or an empty data set.
    """
    m = model.config.chunk_size
    if examples.chunk_size != m:
        raise InputError(
            f"The model's chunk_size is {m}, but the data set has chunks of {examples.chunk_size} tokens. "
            "Make them equal."
        )
    if batch_size < 1:
        raise InputError(f"Expected a batch of at least 1 document, got {batch_size}. Ask for 1 or more.")
    for rows in examples.neighbours:  # here, not in another process: errors of those come as tracebacks
        if len(rows) and not NO_CHUNK <= rows.min() <= rows.max() < len(examples.index):
            raise InputError(
                f"The neighbours are numbered {rows.min()} to {rows.max()}, but the index has "
                f"{len(examples.index):,} chunks. Retrieve the neighbours again."
            )
    number, count = part
    chosen = range(number, len(examples), count)
    loader = DataLoader(
        Subset(examples, chosen),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=partial(collated, pad_id=model.config.pad_token_idx),
    )
    done, nats, tokens = 0, 0.0, 0
    for input_ids, neighbour_ids, labels in loader:
        out = model(
            input_ids.to(model.device),
            neighbour_ids.to(model.device),
            labels.to(model.device),
            loss_reduction="none",
            logits_to_keep=None,
        )
        # Summed in 64 bits: the reference's mean of millions of 32-bit numbers is a little less exact.
        nats += float(out.loss.double().sum())
        tokens += int((labels != IGNORED).sum())
        done += len(input_ids)
        yield ReferenceLosses(done, len(chosen), nats, tokens)


def collated(documents: Sequence[Example], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Documents of any length -> input_ids (b, n), neighbour_ids (b, l, k, r), labels (b, n), int64, padded
    on the right."""
    longest = max(len(document.input_ids) for document in documents)
    most = max(len(document.neighbour_ids) for document in documents)
    shape = (len(documents), longest)
    inputs, labels = np.full(shape, pad_id, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
    read = np.full((len(documents), most, *documents[0].neighbour_ids.shape[1:]), pad_id, dtype=np.int64)
    for row, document in enumerate(documents):
        inputs[row, : len(document.input_ids)] = document.input_ids
        labels[row, : len(document.labels)] = document.labels
        read[row, : len(document.neighbour_ids)] = document.neighbour_ids
    return tuple(torch.from_numpy(array) for array in (inputs, read, labels))
