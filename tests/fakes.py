"""Small stand-ins for slow parts, honest enough to test against."""

import re
import zlib
from collections.abc import Sequence

import numpy as np


class HashingEmbedder:
    """An Embedder without a model: texts that share words are near, in numpy and at once.

    Each word stands for a fixed pseudo-random direction; a text is the sum of its words' directions,
    scaled to length 1. A text without words gets a direction of its own.
    """

    def __init__(self, name: str = "hashing", dim: int = 48):
        self.name = name
        self.dim = dim
        self.fingerprint = f"{name}-{dim}"
        self.num_embedded = 0  # texts embedded so far, for tests that count
        self._directions: dict[str, np.ndarray] = {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.num_embedded += len(texts)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()) or ["<none>"]:
                vectors[row] += self._direction(word)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _direction(self, word: str) -> np.ndarray:
        if word not in self._directions:
            generator = np.random.default_rng(zlib.crc32(word.encode()))
            self._directions[word] = generator.normal(size=self.dim).astype(np.float32)
        return self._directions[word]
