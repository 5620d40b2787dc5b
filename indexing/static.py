"""Text -> vector without a network: every word piece has a vector, and a text is the sum of its own.

The table is distilled from a sentence encoder once, as model2vec does it: each word piece is embedded alone,
the mean is taken off, and frequent pieces weigh less. It lies in the user's folder; another machine distils
the same. It is a retriever of its own, not a faster way to the encoder's neighbours: it knows words, not
sentences.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexing import files, paths
from indexing.bert import TOKENIZER_FILE, BertEmbedder
from indexing.errors import DatastoreError

TABLE_FILE = "table.npy"
FACTS_FILE = "static.json"
# Part of the fingerprint: whoever changes how a table is made counts it up.
_RECIPE = 1
# A WordPiece vocabulary is ordered by frequency, so a piece's rank tells how frequent it is (Zipf's law). One
# this frequent weighs half as much as a rare one.
_HALF_WEIGHT = 1e-4
_PIECES_AT_ONCE = 512
_WORDS_REMEMBERED = 1 << 18


@dataclass(frozen=True)
class DistilEvent:
    """Progress in word pieces."""

    done: int
    total: int
    stage: str = "distilling"
    message: str = ""


class StaticEmbedder:
    """An `Embedder`; made by `open_embedder`. Safe to use from several threads."""

    def __init__(self, name: str, table: np.ndarray, fingerprint: str, tokenizer_file: Path):
        """table (V, dim) float32, a row for each word piece of the tokenizer."""
        from tokenizers import Tokenizer

        self.name, self.dim, self.fingerprint = name, table.shape[1], fingerprint
        self._table = table
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._unknown = self._tokenizer.token_to_id("[UNK]")
        self._pieces: dict[str, list[int]] = {}

    @classmethod
    def open(cls, name: str, teacher: Path) -> "StaticEmbedder":
        """The embedder that `distil` made of the model in the folder `teacher`.

        Raises DatastoreError if there is none, or it is damaged.
        """
        table = _read(name, teacher)
        if table is None:
            raise DatastoreError(
                f"The embedder {name!r} is not there: expected {TABLE_FILE} and {FACTS_FILE} in "
                f"{_folder(name)}. Open it again, which distils it anew."
            )
        return cls(name, table, _fingerprint(teacher), teacher / TOKENIZER_FILE)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """n texts -> (n, dim) float32, each row of length 1; a text is read to its end, however long."""
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            pieces = self._tokenize(text) or [self._unknown]
            np.add.reduce(self._table[pieces], axis=0, out=vectors[row])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, lengths, out=vectors, where=lengths > 0)

    def _tokenize(self, text: str) -> list[int]:
        """Pieces never reach over a blank, so a word is taken apart only the first time it is met: that is
        several times as fast as the tokenizer."""
        known, pieces = self._pieces, []
        for word in text.split():
            found = known.get(word)
            if found is None:
                found = self._tokenizer.encode(word, add_special_tokens=False).ids
                if len(known) >= _WORDS_REMEMBERED:
                    known = self._pieces = {}
                known[word] = found
            pieces += found
        return pieces


def distil(name: str, teacher: Path, open_teacher: Callable[[], BertEmbedder]) -> Iterator[DistilEvent]:
    """Make the embedder `name` of the model in the folder `teacher`, unless it is there and whole.

    Raises DatastoreError if it cannot be written.
    """
    if _read(name, teacher) is not None:
        return
    encoder = open_teacher()
    rows = []
    total = encoder.num_pieces
    for start in range(0, total, _PIECES_AT_ONCE):
        yield DistilEvent(start, total)
        rows.append(encoder.embed_pieces(range(start, min(start + _PIECES_AT_ONCE, total))))
    table = weighted(np.concatenate(rows))
    try:
        with files.new_folder(_folder(name), replace=True) as folder:
            files.save_array(folder / TABLE_FILE, table.astype(np.float16))
            facts = {"fingerprint": _fingerprint(teacher), "sha256": files.sha256(folder / TABLE_FILE)}
            files.write_json(folder / FACTS_FILE, facts)
    except OSError as error:
        raise DatastoreError(
            f"Cannot write the embedder {name!r} to {_folder(name)}: {error.strerror}. Make room there, or "
            "point RETRO_HOME at another folder."
        ) from error
    yield DistilEvent(total, total)


def weighted(vectors: np.ndarray) -> np.ndarray:
    """What the encoder says of each word piece alone (V, dim), most frequent first -> the table (V, dim)."""
    ranks = np.arange(1, len(vectors) + 1)
    frequencies = 1 / (ranks * (math.log(len(vectors)) + 1))
    weights = _HALF_WEIGHT / (_HALF_WEIGHT + frequencies)
    return (vectors - vectors.mean(axis=0)) * weights[:, None]


def _folder(name: str) -> Path:
    return paths.embedders_dir() / name.lower()


def _read(name: str, teacher: Path) -> np.ndarray | None:
    """The table as float32, or None if it is missing, damaged or of another model."""
    folder = _folder(name)
    try:
        facts = json.loads((folder / FACTS_FILE).read_bytes())
        if facts["fingerprint"] != _fingerprint(teacher) or facts["sha256"] != files.sha256(
            folder / TABLE_FILE
        ):
            return None
        return np.load(folder / TABLE_FILE, allow_pickle=False).astype(np.float32)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fingerprint(teacher: Path) -> str:
    """Of what the table is made from and how, not of its bytes, whose last bits differ between processors."""
    digest = hashlib.sha256(f"static {_RECIPE}\n".encode())
    for file in sorted(path for path in teacher.rglob("*.json") if path.is_file()):
        digest.update(file.read_bytes())
    for file in sorted(teacher.glob("*.safetensors")):
        digest.update(files.sha256(file).encode())
    return digest.hexdigest()
