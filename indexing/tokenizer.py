"""Text <-> token ids, over one `tokenizer.json`, without torch or transformers (0.04 s to import).

Special tokens can never come out of text: a document that contains the characters "<pad>" gets ordinary
tokens for them, because the special ids exist in the vocabulary only, not as added tokens.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers

from indexing.errors import CheckpointError

TOKENIZER_FILE = "tokenizer.json"
# A longer text is encoded piece by piece: one 50 MB string takes minutes and gigabytes.
_BLOCK = 200_000
_PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>")
_END_NAMES = ("</s>", "<|endoftext|>", "[SEP]", "<eos>")


class Tokenizer:
    """A `tokenizers.Tokenizer` with the few things RETRO needs of it.

    name         for messages
    fingerprint  sha256 of the vocabulary and rules: two tokenizers with the same one give the same ids
    pad_id, end_id
    """

    def __init__(self, inner: tokenizers.Tokenizer, name: str):
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        self._inner = inner
        self.name = name
        self.vocab_size: int = inner.get_vocab_size()
        self.pad_id = _first_id(inner, _PAD_NAMES, name)
        self.end_id = _first_id(inner, _END_NAMES, name)
        canonical = json.dumps(json.loads(inner.to_str()), sort_keys=True).encode()
        self.fingerprint = hashlib.sha256(canonical).hexdigest()

    @classmethod
    def load(cls, folder: Path | str) -> "Tokenizer":
        """Open `folder`/tokenizer.json. Raises CheckpointError if it is missing or unreadable."""
        path = Path(folder) / TOKENIZER_FILE
        if not path.is_file():
            raise CheckpointError(
                f"Expected a tokenizer at {path}, found no such file. "
                f"Put the model's {TOKENIZER_FILE} into that folder."
            )
        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for every kind of bad file
            raise CheckpointError(f"{path} is not a tokenizer file: {error}") from error
        return cls(inner, Path(folder).resolve().name)

    def save(self, folder: Path) -> None:
        self._inner.save(str(folder / TOKENIZER_FILE))

    def encode(self, text: str) -> np.ndarray:
        """Token ids (n,) int64, without special tokens."""
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (n,) and the character at which each token starts (n,), both int64."""
        ids: list[int] = []
        starts: list[int] = []
        base = 0
        for block in _blocks(text):
            encoding = self._inner.encode(block, add_special_tokens=False)
            ids.extend(encoding.ids)
            starts.extend(base + start for start, _ in encoding.offsets)
            base += len(block)
        return np.asarray(ids, dtype=np.int64), np.asarray(starts, dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; padding and end marks vanish."""
        return self._inner.decode(self._ordinary(ids), skip_special_tokens=False)

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """One string per id; joined they are the decoded text. A character whose bytes are spread over
        several tokens belongs to the last of them; padding and end marks have the empty string."""
        if not self._is_byte_level:
            return [self._inner.decode([int(i)]) if self._keeps(int(i)) else "" for i in ids]
        texts: list[str] = []
        pending = b""
        for token in ids:
            if self._keeps(int(token)):
                piece = self._inner.id_to_token(int(token)) or ""
                pending += bytes(_BYTE_OF[character] for character in piece)
            text, pending = _complete_characters(pending)
            texts.append(text)
        if pending and texts:
            texts[-1] += pending.decode("utf-8", errors="replace")
        return texts

    def num_bytes(self, ids: Iterable[int]) -> int:
        """UTF-8 bytes of the decoded ids, the denominator of bits per byte."""
        return len(self.decode(ids).encode("utf-8"))

    def _keeps(self, token: int) -> bool:
        return token not in (self.pad_id, self.end_id)

    def _ordinary(self, ids: Iterable[int]) -> list[int]:
        return [int(i) for i in ids if self._keeps(int(i))]

    @cached_property
    def _is_byte_level(self) -> bool:
        return isinstance(self._inner.decoder, tokenizers.decoders.ByteLevel)


def train_byte_level_bpe(texts: Iterable[str], vocab_size: int, name: str) -> Tokenizer:
    """Learn a cased byte-level BPE: any text can be encoded and decoded back exactly.

    Ids 0 and 1 are padding and end of document.
    """
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    # Keep the two ids in the vocabulary but not as added tokens, so that no text can produce them.
    rules = json.loads(inner.to_str())
    rules["added_tokens"] = []
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(rules)), name)


def _first_id(inner: tokenizers.Tokenizer, names: tuple[str, ...], tokenizer: str) -> int:
    for name in names:
        token = inner.token_to_id(name)
        if token is not None:
            return token
    raise CheckpointError(
        f"Tokenizer {tokenizer!r} has none of the tokens {', '.join(names)}, and RETRO needs one of them. "
        "Use a tokenizer that has one."
    )


def _blocks(text: str) -> Iterable[str]:
    """Cut a long text after single line ends (or, failing that, blanks) between two visible characters,
    where a byte-level tokenizer cuts too, so that the ids do not depend on the block size."""
    start = 0
    while len(text) - start > _BLOCK:
        end = start + _BLOCK
        for cut in (_last_single(text, "\n", start, end), _last_single(text, " ", start, end)):
            if cut > start:
                end = cut
                break
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _last_single(text: str, blank: str, start: int, end: int) -> int:
    """Last position in (start, end) of a lone `blank`; -1 if there is none."""
    at = text.rfind(blank, start + 1, end - 1)
    while at > start and (text[at - 1].isspace() or text[at + 1].isspace()):
        at = text.rfind(blank, start + 1, at)
    return at


def _complete_characters(data: bytes) -> tuple[str, bytes]:
    """Split bytes into the text of their complete UTF-8 characters and the started rest (< 4 bytes)."""
    for keep in range(min(3, len(data)) + 1):
        head, tail = data[: len(data) - keep], data[len(data) - keep :]
        try:
            return head.decode("utf-8"), tail
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", errors="replace"), b""


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte of the byte-level alphabet: printable Latin-1 bytes stand for themselves, the
    others for the characters from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in plain}
    extra = 256
    for byte in range(256):
        if byte not in plain:
            table[chr(extra)] = byte
            extra += 1
    return table


_BYTE_OF = _byte_alphabet()
