"""The chunks that would have been best to read, chosen by somebody who knows what comes next."""

from functools import cached_property
from typing import Any

import numpy as np

from indexing.neighbours import Neighbours, longest_common_runs
from indexing.retokenised import RetokenisedDatastore
from indexing.retrievers import stored
from retro_core.evaluation.held_out import Searched

MEASURE = "shared tokens"
_CANDIDATES = 64  # whose longest common runs are measured
_ROWS_AT_ONCE = 1 << 14


class SharedTokens:
    """Finds the chunks whose retrieved tokens (N and F) hold most of some given tokens.

    Counted are different tokens, each once, without padding and end marks. Among the 64 that share most, the
    longest run of tokens in common decides between equal counts; then the number of the chunk. Takes 8 bytes
    for each different token of each chunk.
    """

    def __init__(self, searched: Searched):
        self._searched, self._store, self._tokenizer = searched, stored(searched), searched.tokenizer

    def retrieve(self, tokens: np.ndarray, num_neighbours: int, own: int = -1) -> Neighbours:
        """tokens (l, m), padded: each row is what is to be predicted -> the best chunks for it, leading axis
        (l,), missing where nothing is shared. own: a document that none is taken from; -1 for none."""
        pad = self._tokenizer.pad_id
        asked = np.zeros((self._holds.shape[1], len(tokens)), dtype=np.float32)
        known = tokens < len(asked)  # other tokens are in no chunk
        asked[tokens[known], np.nonzero(known)[0]] = 1
        shared = (self._holds @ asked).T  # (l, N)
        shared[:, ~self._store.alive] = 0
        if own >= 0:
            shared[:, np.asarray(self._store.chunks.chunk2seq) == own] = 0
        # Less than 1 apart, so that equal counts are in the order of the chunks' numbers.
        keys = np.arange(shared.shape[1]) / shared.shape[1] - shared.astype(np.float64)
        count = min(max(num_neighbours, _CANDIDATES), shared.shape[1])
        ids = np.argpartition(keys, count - 1, axis=1)[:, :count]
        shared, found = np.take_along_axis(shared, ids, 1), self._read(ids)
        order = np.lexsort((ids, -longest_common_runs(tokens, found, pad), -shared), axis=1)
        order = order[:, :num_neighbours]
        ids, shared = np.take_along_axis(ids, order, 1), np.take_along_axis(shared, order, 1)
        found = np.take_along_axis(found, order[..., None], 1)
        scores = np.where(shared > 0, shared, -np.inf).astype(np.float32)
        distances = np.full(ids.shape, np.inf, dtype=np.float32)
        return Neighbours(ids, distances, found, pad, MEASURE, scores).only(shared > 0, num_neighbours)

    def _read(self, ids: np.ndarray) -> np.ndarray:
        """(..., k) -> (..., k, r) in the model's tokens"""
        if isinstance(self._searched, RetokenisedDatastore):
            return self._searched.retrieved_tokens(ids)
        return self._store.chunks.retrieved_tokens(ids, self._store.num_continuations)

    @cached_property
    def _holds(self) -> Any:
        """Sparse (N, v): 1 where a chunk or its continuation has a token, marks left out"""
        from scipy.sparse import csr_array, vstack

        marks = (self._tokenizer.pad_id, self._tokenizer.end_id)
        width, total = self._tokenizer.vocab_size, len(self._store.chunks)
        parts = []
        for start in range(0, total, _ROWS_AT_ONCE):
            read = self._read(np.arange(start, min(start + _ROWS_AT_ONCE, total)))
            rows, places = np.nonzero(~np.isin(read, marks))
            cells = np.unique(rows * width + read[rows, places])
            part = (np.ones(len(cells), dtype=np.float32), (cells // width, cells % width))
            parts.append(csr_array(part, shape=(len(read), width)))
        return vstack(parts, format="csr")
