"""What a model remembers of the tokens it has read, so that the next token costs only itself.

A cache holds, for one batch of texts:
- keys and values of every decoder self-attention
- the decoder's states at the first layer with CCA: a chunk's neighbours are encoded when its last token has
  come, and their encoder reads the states of the whole chunk
- keys and values of every CCA, for each complete chunk; the neighbours' encodings are not needed after that

Buffers grow by doubling, so a long text is not copied again for each of its tokens; where it is known how
long it can become (`reserve`), they have room for all of it from the first on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from indexing.errors import InputError

_FIRST_CAPACITY = 128


class Growing:
    """A tensor that grows along one axis (negative axes count from the last). expected: how long it may
    become, 0 where that is not known"""

    def __init__(self, axis: int, expected: int = 0):
        self.axis, self.expected = axis, expected
        self.length = 0
        self._data: Tensor | None = None

    def append(self, new: Tensor) -> Tensor:
        """Everything so far, `new` last: a view, valid until the next change."""
        end = self.length + new.shape[self.axis]
        if self._data is None or end > self._data.shape[self.axis]:
            self._grow(new, end)
        self._data.narrow(self.axis, self.length, new.shape[self.axis]).copy_(new)
        self.length = end
        return self.view()

    def view(self) -> Tensor:
        return self._data.narrow(self.axis, 0, self.length)

    @property
    def shape(self) -> torch.Size | None:
        return None if self._data is None else self.view().shape

    def crop(self, length: int) -> None:
        self.length = min(length, self.length)

    def select(self, rows: Tensor) -> None:
        if self._data is not None:
            self._data = self.view().index_select(0, rows)

    def copy(self) -> "Growing":
        twin = Growing(self.axis, self.expected)
        twin.length = self.length
        twin._data = None if self._data is None else self.view().clone()
        return twin

    def _grow(self, new: Tensor, needed: int) -> None:
        shape = list(new.shape)
        capacity = 0 if self._data is None else self._data.shape[self.axis]
        first = self.expected or min(_FIRST_CAPACITY, 2 * needed)
        shape[self.axis] = max(needed, 2 * capacity, first)
        grown = new.new_empty(shape)
        if self.length:
            grown.narrow(self.axis, 0, self.length).copy_(self.view())
        self._data = grown


class KeysValues:
    """Keys and values of one attention, growing along `axis` of (…, d); and `table`, its scores by relative
    position, kept for the next token."""

    def __init__(self, axis: int, expected: int = 0):
        self.keys, self.values = Growing(axis, expected), Growing(axis, expected)
        self.table: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return self.keys.append(keys), self.values.append(values)

    def crop(self, length: int) -> None:
        self.keys.crop(length)
        self.values.crop(length)

    def copy(self) -> "KeysValues":
        twin = KeysValues(self.keys.axis)
        twin.keys, twin.values, twin.table = self.keys.copy(), self.values.copy(), self.table
        return twin

    def line(self, needed: int, make: Callable[[int], Tensor]) -> Tensor:
        """The last `needed` columns of a table (h, size), which `make(size)` makes larger when it must be."""
        if self.table is None or self.table.shape[-1] < needed:
            self.table = make(max(_FIRST_CAPACITY, 2 * needed))
        return self.table[:, -needed:]


@dataclass
class Fresh:
    """Neighbours that were looked up between two chunk borders, read from position `start` on.

    keys_values  of each CCA layer: keys and values (b, 1, h, k*r, d)
    mask         (b, k*r), None where nothing is hidden
    """

    start: int
    keys_values: dict[int, tuple[Tensor, Tensor]]
    mask: Tensor | None


class DecodingCache:
    """See the module. Made by `model.new_cache()`, filled by calling the model with it."""

    def __init__(self, chunk_size: int):
        self.chunk_size = chunk_size
        self.length = 0
        self.expected = 0  # tokens
        self.padded = False  # some token is hidden
        self.reading_padded = False  # something of the neighbours is hidden
        self.neighbour_shape: tuple[int, int] | None = None  # (k, r)
        self.mask = Growing(1)  # (b, n)
        self.hidden = Growing(1)  # (b, n, d) at the first layer with CCA
        self.attention: dict[int, KeysValues] = {}  # by decoder layer: (b, h, n, d)
        self.reading: dict[int, KeysValues] = {}  # by decoder layer: (b, l, h, k*r, d)
        self.reading_mask = Growing(1)  # (b, l, k*r)
        self.fresh: Fresh | None = None

    def reserve(self, tokens: int) -> None:
        """Tell an empty cache how long the text may become."""
        self.expected = self.mask.expected = self.hidden.expected = tokens
        self.reading_mask.expected = tokens // self.chunk_size

    def layer(self, index: int) -> KeysValues:
        """Of the self-attention of one decoder layer."""
        return self.attention.setdefault(index, KeysValues(-2, self.expected))

    def neighbours(self, index: int) -> KeysValues:
        """Of the CCA of one decoder layer."""
        return self.reading.setdefault(index, KeysValues(1, self.expected // self.chunk_size))

    def present(self, new: Tensor, hidden: bool) -> Tensor | None:
        """Take in which of the new tokens (b, n) are there -> those of all so far, None where all are.

        hidden  some of the new ones are not there, or may not be
        """
        everything = self.mask.append(new)
        self.padded = self.padded or hidden
        return everything if self.padded else None

    @property
    def chunks_read(self) -> int:
        """How many chunks' neighbours are here; fewer than are complete after a call without neighbours."""
        return self.reading_mask.length

    def crop(self, length: int) -> None:
        """Forget the tokens from `length` on, and the neighbours of chunks that are then incomplete."""
        if length < 0:
            raise InputError(f"A cache cannot be cut to {length} tokens. Give 0 or more.")
        self.length = min(length, self.length)
        complete = self.length // self.chunk_size
        for part in self.attention.values():
            part.crop(self.length)
        for part in self.reading.values():
            part.crop(complete)
        self.reading_mask.crop(complete)
        self.mask.crop(self.length)
        self.hidden.crop(self.length)
        if self.fresh is not None and self.fresh.start >= self.length:
            self.fresh = None

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may come several times. rows (b',) int64"""
        for part in self._parts():
            part.select(rows)
        if self.fresh is not None:
            self.fresh = Fresh(
                self.fresh.start,
                {
                    i: (keys.index_select(0, rows), values.index_select(0, rows))
                    for i, (keys, values) in self.fresh.keys_values.items()
                },
                None if self.fresh.mask is None else self.fresh.mask.index_select(0, rows),
            )

    def copy(self) -> "DecodingCache":
        """An independent cache with the same content."""
        twin = DecodingCache(self.chunk_size)
        for name in ("length", "expected", "padded", "reading_padded", "neighbour_shape", "fresh"):
            setattr(twin, name, getattr(self, name))
        twin.mask, twin.hidden, twin.reading_mask = (
            part.copy() for part in (self.mask, self.hidden, self.reading_mask)
        )
        twin.attention = {index: part.copy() for index, part in self.attention.items()}
        twin.reading = {index: part.copy() for index, part in self.reading.items()}
        return twin

    def _parts(self) -> list[Growing]:
        both = [*self.attention.values(), *self.reading.values()]
        found = [part for pair in both for part in (pair.keys, pair.values)]
        return [*found, self.mask, self.hidden, self.reading_mask]
