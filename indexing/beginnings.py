"""Chunks taken together with the first chunk of their text, to be looked up and found by both.

A chunk from the middle of a text seldom names what it is about, so what is near it may be about something
else of the same kind. The first chunk usually does: a title, a name. So each chunk, the one that asks and
those that may be found, stands for the direction of

    embedding of the chunk + weight * embedding of its text's first chunk

which is as causal as the chunk alone, since the first chunk is never later than it. Measured in
docs/experiments.md.
"""

import numpy as np

FIRST_CHUNK = "first-chunk"  # the written form of the retriever that does so
FIRST_CHUNK_WEIGHT = 0.5  # of those tried, 0, 1/2, 1 and 2, the best with the bundled model
MOST_WEIGHT = 10.0  # beyond it all chunks of a text are the same


def together(chunks: np.ndarray, first_chunks: np.ndarray, weight: np.ndarray | float) -> np.ndarray:
    """Embeddings (..., d) of chunks and of their texts' first chunks -> (..., d) float32 of length 1.

    weight  one, or (..., 1): of a first chunk that says nothing it is 0
    """
    both = chunks.astype(np.float32) + np.float32(weight) * first_chunks.astype(np.float32)
    return both / np.linalg.norm(both, axis=-1, keepdims=True).clip(min=1e-6)
