"""Nats of every scored token of held-out documents, in as many readings as are asked for, in one pass.

A reading is a way to fill in what each chunk reads; the model and the text are the same in all of them. What
a chunk reads shows first in the tokens of the next chunk: the loss of a token of chunk u depends on what the
chunks before u have read.

    held_out = HeldOut.from_spec("held-out", spec, loaded.config, loaded.tokenizer)
    readings = [on(held_out, 2), off(), fewer(on(held_out, 2), 1)]
    for event in token_losses(loaded.model, held_out, readings): ...   # event.done of event.total tokens
    losses = collect(held_out, events)                                 # TokenLosses
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from indexing.errors import InputError
from retro_core.evaluation.held_out import HeldOut, Window
from retro_core.model import Retro

TOKENS_AT_ONCE = 4096  # in a batch, padding included; a single window may be longer

# Number of a document -> what its chunks read, (ceil(n / m), K, r) int64, padding where there is nothing.
Source = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Reading:
    """One way to read; see `readings` for those that have names.

    name            "on", "off", "random", "k=1" …
    source          what chunks read; None for nothing at all, which is Retro[Off]
    num_neighbours  k: so many of what the source gives, the first ones. Readings with the same source (the
                    very same object) share the work of encoding it.
    """

    name: str
    source: Source | None
    num_neighbours: int = 0


@dataclass(frozen=True)
class WindowLosses:
    """The scored tokens of one window. An event: `done` of `total` scored tokens of the probe are known.

    positions (t,)  their numbers within the document · nats  name of a reading -> (t,) float64
    """

    window: Window
    positions: np.ndarray
    nats: dict[str, np.ndarray]
    done: int
    total: int


@dataclass(frozen=True)
class TokenLosses:
    """All T scored tokens of a probe, in the order of the documents and within them.

    name        of the probe
    titles      of all D documents, also of those without a scored token
    chunk_size
    document    (T,) int64, number of each token's document
    position    (T,) int64, number of each token within its document, from 1
    num_bytes   (T,) int64, UTF-8 bytes of each token's text; 0 for an end mark, and all 0 without a tokenizer
    nats        name of a reading -> (T,) float64, -ln p of each token
    """

    name: str
    titles: tuple[str, ...]
    chunk_size: int
    document: np.ndarray
    position: np.ndarray
    num_bytes: np.ndarray
    nats: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.document)

    @property
    def chunk(self) -> np.ndarray:
        """(T,) number of each token's chunk within its document; the tokens of chunk u are predicted with
        what chunk u - 1 read."""
        return self.position // self.chunk_size

    @property
    def documents(self) -> np.ndarray:
        """(D',) numbers of the documents that have a scored token, ascending."""
        return np.unique(self.document)

    def summed(self, values: np.ndarray) -> np.ndarray:
        """values (T,) of each token -> (D',) sums over each of `documents`."""
        place = np.searchsorted(self.documents, self.document)
        return np.bincount(place, values, len(self.documents))

    def with_reading(self, name: str, nats: np.ndarray) -> "TokenLosses":
        """The same tokens with one reading more, or another one of that name: -ln p (T,) of each token, by
        whatever means. Raises InputError for another number of tokens."""
        if np.shape(nats) != self.document.shape:
            raise InputError(
                f"The reading {name!r} must have one number for each of {len(self):,} tokens, got shape "
                f"{list(np.shape(nats))}. Score the same tokens."
            )
        return replace(self, nats={**self.nats, name: np.asarray(nats, dtype=np.float64)})


@torch.inference_mode()
def token_losses(
    model: Retro, held_out: HeldOut, readings: Sequence[Reading], tokens_at_once: int = TOKENS_AT_ONCE
) -> Iterator[WindowLosses]:
    """Score every window in every reading; events in the order of the windows' lengths, longest first, so
    that what does not fit into memory shows at once.

    Windows of about the same length are read together, with padding on the right, which changes nothing but
    the last bits of a number. The neighbours of one source are encoded once.

    Raises InputError for two readings of one name, or if the model cannot read the texts.
    """
    names = [reading.name for reading in readings]
    if len(set(names)) < len(names) or not names:
        raise InputError(f"Expected readings of different names, at least one, got {names}. Rename one.")
    total, done = held_out.num_tokens, 0
    order = sorted(held_out.windows, key=lambda w: (w.start - w.stop, w.document, w.start))
    for batch in in_batches(order, [window.stop - window.start for window in order], tokens_at_once):
        found = _batch_losses(model, held_out, batch, readings)
        for row, window in enumerate(batch):
            positions = np.arange(window.first, window.last + 1)
            done += len(positions)
            nats = {name: losses[row, positions - 1 - window.start] for name, losses in found.items()}
            yield WindowLosses(window, positions, nats, done, total)


def collect(held_out: HeldOut, events: Iterable[WindowLosses]) -> TokenLosses:
    """The events of `token_losses`, all of them or of some windows, as one table.

    Raises InputError if there is none.
    """
    ordered = sorted(events, key=lambda event: (event.window.document, event.window.first))
    if not ordered:
        raise InputError("No window was scored. Score at least one.")
    numbers = {event.window.document for event in ordered}
    counts = {document: held_out.num_bytes(document) for document in numbers}
    return TokenLosses(
        name=held_out.name,
        titles=tuple(held_out.titles),
        chunk_size=held_out.chunk_size,
        document=np.concatenate([np.full(len(e.positions), e.window.document) for e in ordered]),
        position=np.concatenate([event.positions for event in ordered]),
        num_bytes=np.concatenate([counts[e.window.document][e.positions] for e in ordered]),
        nats={name: np.concatenate([e.nats[name] for e in ordered]) for name in ordered[0].nats},
    )


def in_batches(items: Sequence, lengths: Sequence[int], most: int) -> Iterator[list]:
    """Consecutive items, as many at once as take at most `most` tokens padded to the longest; at least
    one."""
    start = 0
    while start < len(items):
        stop, longest = start + 1, lengths[start]
        while stop < len(items) and max(longest, lengths[stop]) * (stop + 1 - start) <= most:
            longest = max(longest, lengths[stop])
            stop += 1
        yield list(items[start:stop])
        start = stop


def _batch_losses(
    model: Retro, held_out: HeldOut, windows: Sequence[Window], readings: Sequence[Reading]
) -> dict[str, np.ndarray]:
    """name -> (b, n) float64: -ln p of the token after each position, 0 where none is scored"""
    inputs, labels = _inputs_and_labels(held_out, windows)
    inputs, labels = inputs.to(model.device), labels.to(model.device)
    found: dict[str, np.ndarray] = {}

    def losses(read: Tensor | None, encoded: Tensor | None = None) -> tuple[np.ndarray, Tensor | None]:
        out = model(inputs, read, labels, encoded=encoded, loss_reduction="none", logits_to_keep=None)
        return out.loss.double().cpu().numpy(), out.encoded

    for source in dict.fromkeys(reading.source for reading in readings):  # each once, in order
        mine = [reading for reading in readings if reading.source is source]
        most = max(reading.num_neighbours for reading in mine)
        read = None
        if source is not None and most:
            read = _neighbour_ids(held_out, source, windows, most, inputs.shape[1]).to(model.device)
        encoded = None
        for reading in sorted(mine, key=lambda reading: -reading.num_neighbours):
            k = reading.num_neighbours
            if read is None or not k:
                found[reading.name] = losses(None)[0]
            elif encoded is None:
                found[reading.name], encoded = losses(read)
            else:
                found[reading.name] = losses(read[:, :, :k], encoded[:, :, :k])[0]
    return {reading.name: found[reading.name] for reading in readings}


def _inputs_and_labels(held_out: HeldOut, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
    """(b, n) each: the tokens of the windows, padded on the right, and the token to score at each position"""
    longest = max(window.stop - window.start for window in windows)
    inputs = np.full((len(windows), longest), held_out.pad_id, dtype=np.int64)
    labels = np.full(inputs.shape, -100, dtype=np.int64)
    for row, window in enumerate(windows):
        tokens = held_out.tokens(window.document)
        inputs[row, : window.stop - window.start] = tokens[window.start : window.stop]
        positions = slice(window.first - 1 - window.start, window.last - window.start)
        labels[row, positions] = tokens[window.first : window.last + 1]
    return torch.from_numpy(inputs), torch.from_numpy(labels)


def _neighbour_ids(
    held_out: HeldOut, source: Source, windows: Sequence[Window], num_neighbours: int, longest: int
) -> Tensor:
    """(b, l, k, r) for the complete chunks of the longest window"""
    m = held_out.chunk_size
    read = None
    for row, window in enumerate(windows):
        tokens = source(window.document)
        if read is None:
            shape = (len(windows), longest // m, num_neighbours, tokens.shape[-1])
            read = np.full(shape, held_out.pad_id, dtype=np.int64)
        first = window.start // m
        mine = tokens[first : first + (window.stop - window.start) // m, :num_neighbours]
        read[row, : len(mine), : mine.shape[1]] = mine
    return torch.from_numpy(read)
