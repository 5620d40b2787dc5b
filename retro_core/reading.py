"""The neighbours that one forward pass reads: taken in where its first layer with CCA is reached, then read
by each of these layers. Shared by all models that read, with a cache and without."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from indexing.errors import InputError
from retro_core.cache import DecodingCache, Fresh

# (x (b, n, d), input_mask (b, n) or None, ids (b, l, k, r), mask (b, l, k, r) or None, first chunk)
# -> states after the embeddings and after each layer, each (b, l, k, r, d_enc)
Encode = Callable[[Tensor, Tensor | None, Tensor, Tensor | None, int], list[Tensor]]


class Reader(Protocol):
    """A CCA layer; see `retro_core.model.ChunkedCrossAttention`."""

    def chunk_keys_and_values(self, encoded: Tensor) -> tuple[Tensor, Tensor]: ...

    def window_bias(self, num_neighbours: int, length: int) -> Tensor: ...

    def __call__(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        bias: Tensor,
        past: int,
        capture: bool,
    ) -> tuple[Tensor, Tensor | None]: ...


class Reading:
    """
    past, n  tokens in the cache, and new ones
    states   encoder states of what was encoded here
    encoded  (b, l, k, r, d_enc) of all chunks from the text's beginning, None where a cache has the first
    """

    def __init__(
        self, encode: Encode, pad_id: int, chunk_size: int, cache: DecodingCache | None, past: int, n: int
    ):
        self.encode, self.pad_id, self.chunk_size = encode, pad_id, chunk_size
        self.cache, self.past = cache, past
        self.first = past // chunk_size  # the first chunk that the new tokens may complete
        self.complete = (past + n) // chunk_size
        self.prepared = False
        self.states: list[Tensor] | None = None
        self.encoded: Tensor | None = None
        self._new: Tensor | None = None  # (b, l', k, r, d_enc) of the chunks from `first` on
        self._missing = 0  # so many chunks before those, or in their place, have no neighbours
        self._mask: Tensor | None = None  # (b, l, k*r) of all complete chunks, None where nothing is hidden
        self._fresh: Tensor | None = None  # (b, 1, k, r, d_enc)
        self._shape: tuple[int, int] | None = None  # (k, r)

    @property
    def num_neighbours(self) -> int:
        """k"""
        return (self._shape or self.cache.neighbour_shape)[0]

    def prepare(
        self,
        x: Tensor,
        input_mask: Tensor | None,
        ids: Tensor | None,
        mask: Tensor | None,
        encoded: Tensor | None,
        fresh_ids: Tensor | None = None,
    ) -> None:
        """x (b, n, d): the new tokens' states at the first layer with CCA, before it reads; input_mask
        (b, past + n) or None; the rest as the model was given it."""
        self.prepared = True
        if ids is not None:
            mask = (ids != self.pad_id) if mask is None else mask.bool()
        if self.cache is None:
            if ids is not None:
                self._encode(x, input_mask, ids, mask, encoded, 0, ids.shape[1])
            if self.encoded is not None:
                # The neighbours of an incomplete chunk are encoded, and handed out, but nothing reads them.
                self._new = self.encoded[:, : self.complete]
                mask = mask[:, : self.complete].flatten(2)
                self._mask = mask if hides(mask) else None
            return
        x = self.cache.hidden.append(x)
        if self.first < self.complete and ids is not None:
            self._join(x, input_mask, ids, mask, encoded)
        elif self.cache.chunks_read:
            self._pass_over(self.complete - self.cache.chunks_read)
        if self.cache.reading_padded:
            self._mask = self.cache.reading_mask.view()
        self._renew(x, input_mask, fresh_ids)

    def read(self, index: int, cca: Reader, x: Tensor, capture: bool) -> tuple[Tensor | None, Tensor | None]:
        """What the CCA of decoder layer `index` adds to x (b, n, d), None if there is nothing to read; with
        `capture` its weights (b, l', h, m, k*r), see ChunkedCrossAttention."""
        keys, values = self._keys_and_values(index, cca)
        if self.cache is not None and self.cache.fresh is not None:
            return self._read_fresh(index, cca, x, capture)
        if keys is None or not self.complete:
            return None, None
        return cca(x, keys, values, self._mask, self._window(index, cca), self.past, capture)

    def _encode(
        self,
        x: Tensor,
        input_mask: Tensor | None,
        ids: Tensor,
        mask: Tensor,
        encoded: Tensor | None,
        first: int,
        last: int,
    ) -> None:
        """Set `encoded` to that of the chunks first ... last - 1, computing what is not known of it."""
        known = first if encoded is None else max(first, min(encoded.shape[1], last))
        parts = [] if encoded is None else [encoded[:, first:known]]
        if known < last:
            new_mask = mask[:, known:last]
            new_mask = new_mask if hides(new_mask) else None
            self.states = self.encode(x, input_mask, ids[:, known:last], new_mask, known)
            parts.append(self.states[-1])
        if parts:
            self.encoded = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            self._shape = tuple(ids.shape[2:])

    def _join(
        self, x: Tensor, input_mask: Tensor | None, ids: Tensor, mask: Tensor, encoded: Tensor | None
    ) -> None:
        """Encode the neighbours of the chunks that the new tokens complete, for the cache to keep."""
        cache = self.cache
        self._keep_shape(ids)
        self._encode(x, input_mask, ids, mask, encoded, self.first, self.complete)
        self._new, self._missing = self.encoded, self.first - cache.chunks_read
        if self.first:
            self.encoded = None
        mask = F.pad(mask[:, self.first : self.complete].flatten(2), (0, 0, self._missing, 0))
        cache.reading_padded = cache.reading_padded or hides(mask)
        cache.reading_mask.append(mask)

    def _keep_shape(self, ids: Tensor) -> None:
        """ids (..., k, r): the first ones say how many neighbours a text's chunks have, and how long."""
        held, shape = self.cache.neighbour_shape, tuple(ids.shape[-2:])
        if held not in (None, shape):
            raise InputError(
                f"The cache holds {held[0]} neighbours of {held[1]} tokens for each chunk, got {shape[0]} of "
                f"{shape[1]}. Give every chunk as many, and of one length."
            )
        self.cache.neighbour_shape = shape

    def _pass_over(self, count: int) -> None:
        """Chunks that were completed without neighbours, in a cache that has some of others."""
        self._missing = count
        if count:
            b, _, length = self.cache.reading_mask.shape
            self.cache.reading_mask.append(self.cache.reading_mask.view().new_zeros(b, count, length))
            self.cache.reading_padded = True

    def _keys_and_values(self, index: int, cca: Reader) -> tuple[Tensor | None, Tensor | None]:
        """(b, l, h, k*r, d) of all complete chunks"""
        if self.cache is None:
            return (None, None) if self._new is None else cca.chunk_keys_and_values(self._new)
        store = self.cache.neighbours(index)
        if self._new is not None:
            keys, values = cca.chunk_keys_and_values(self._new)
            gap = (0, 0, 0, 0, 0, 0, self._missing, 0)
            return store.append(F.pad(keys, gap), F.pad(values, gap))
        if self._missing:
            b, _, h, length, d = store.keys.shape
            nothing = store.keys.view().new_zeros(b, self._missing, h, length, d)
            return store.append(nothing, nothing)
        return (store.keys.view(), store.values.view()) if store.keys.length else (None, None)

    def _window(self, index: int, cca: Reader) -> Tensor:
        """(h, m, k*r)"""
        if self.cache is None:
            return cca.window_bias(*self._shape)
        store = self.cache.neighbours(index)
        if store.table is None:
            store.table = cca.window_bias(*self.cache.neighbour_shape)
        return store.table

    # Neighbours looked up between two borders

    def _renew(self, x: Tensor, input_mask: Tensor | None, ids: Tensor | None) -> None:
        """Take in fresh neighbours, and drop earlier ones where a chunk's own are newer."""
        cache, m = self.cache, self.chunk_size
        if cache.fresh is not None and self.first < self.complete:
            cache.fresh = None
        if ids is None:
            return
        self._keep_shape(ids)
        mask = ids != self.pad_id
        mask = mask if hides(mask) else None
        window = None if input_mask is None else input_mask[:, -m:]
        self._fresh = self.encode(
            x[:, -m:], window, ids[:, None], None if mask is None else mask[:, None], 0
        )[-1]
        cache.fresh = Fresh(self.past, {}, None if mask is None else mask.flatten(1))

    def _read_fresh(self, index: int, cca: Reader, x: Tensor, capture: bool) -> tuple[Tensor, Tensor | None]:
        fresh = self.cache.fresh
        if self._fresh is not None:
            fresh.keys_values[index] = cca.chunk_keys_and_values(self._fresh)
        keys, values = fresh.keys_values[index]  # (b, 1, h, k*r, d)
        # As if the text had begun where the query did: its one chunk is complete at the position `start`.
        past = self.chunk_size - 1 + self.past - fresh.start
        mask = None if fresh.mask is None else fresh.mask[:, None]
        return cca(x, keys, values, mask, self._window(index, cca), past, capture)


def by_neighbour(weights: Tensor, num_neighbours: int) -> Tensor:
    """(..., k*r) -> (..., k, r)"""
    return rearrange(weights, "... (k r) -> ... k r", k=num_neighbours)


def hides(mask: Tensor) -> bool:
    """Something is hidden, or may be: on an accelerator looking would make the host wait."""
    return mask.device.type != "cpu" or torch.compiler.is_compiling() or not bool(mask.all())
