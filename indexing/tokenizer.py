"""Text <-> token ids, over one `tokenizer.json`, without torch or transformers (0.04 s to import).

Any kind of tokenizer that the `tokenizers` library reads: byte-level BPE, Unigram (T5), WordPiece (BERT), BPE
that spells unknown characters in bytes (Llama).

Padding and end of document can never come out of text: a document that contains the characters "<pad>" gets
ordinary tokens for them.
"""

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from indexing.errors import CheckpointError

TOKENIZER_FILE = "tokenizer.json"
# A longer text is encoded piece by piece: one 50 MB string takes minutes and gigabytes.
_BLOCK = 200_000
_END_NAMES = ("</s>", "<|endoftext|>", "[SEP]", "<eos>", "<|end_of_text|>")
# Language models of others may have no padding: then a mark that plain text does without, at last the end's.
_PAD_NAMES = (
    "<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>", "<|im_end|>", "<unk>",
    *_END_NAMES,
)  # fmt: skip


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
        ids = inner.get_vocab()
        self.vocab_size: int = max(ids.values(), default=-1) + 1  # ids may have gaps
        self.pad_id = _first_id(inner, _PAD_NAMES, name)
        self.end_id = _first_id(inner, _END_NAMES, name)
        rules = json.loads(inner.to_str())
        self.fingerprint = _fingerprint(rules)
        self._encoder = _without_marks(inner, rules, (self.pad_id, self.end_id))
        self._spells_bytes = "ByteLevel" in _kinds(rules["decoder"])
        self._byte_tokens: dict[int, bytes] = {}
        if rules["model"].get("byte_fallback"):
            spelled = {f"<0x{value:02X}>": bytes([value]) for value in range(256)}
            self._byte_tokens = {ids[token]: value for token, value in spelled.items() if token in ids}

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
        # Not by the library, which raises a bare Exception when the disk is full.
        (folder / TOKENIZER_FILE).write_bytes(self._inner.to_str(pretty=True).encode())

    def hugging_face_settings(self) -> dict[str, Any]:
        """What tokenizer_config.json holds: with it Hugging Face's AutoTokenizer opens tokenizer.json, gives
        the ids that this one gives, and pads on the left, as generating needs."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": self._inner.id_to_token(self.pad_id),
            "eos_token": self._inner.id_to_token(self.end_id),
            "padding_side": "left",
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
        }

    def encode(self, text: str) -> np.ndarray:
        """Token ids (n,) int64, without special tokens."""
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (n,) and the character at which each token starts (n,), both int64."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """`encode_with_offsets` of each text, on several cores."""
        cut = [list(blocks(text)) for text in texts]
        flat = [block for parts in cut for block in parts]
        if len(flat) == 1:  # no threads for one
            encodings = iter([self._encoder.encode(flat[0], add_special_tokens=False)])
        else:
            encodings = iter(self._encoder.encode_batch(flat, add_special_tokens=False))
        results = []
        for parts in cut:
            ids: list[int] = []
            starts: list[int] = []
            base = 0
            for block in parts:
                encoding = next(encodings)
                ids.extend(encoding.ids)
                starts.extend([base + start for start, _ in encoding.offsets])
                base += len(block)
            results.append((np.asarray(ids, dtype=np.int64), np.asarray(starts, dtype=np.int64)))
        return results

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; padding and end marks vanish."""
        if self._byte_tokens:
            spell, flush = self._spelling()
            return "".join(spell(token) for token in ids) + flush()
        return self._inner.decode(self._ordinary(ids), skip_special_tokens=False)

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """One string per id; joined they are the decoded text. A character whose bytes are spread over
        several tokens belongs to the last of them; padding and end marks have the empty string."""
        spell = self.speller()
        texts = [spell(token) for token in ids]
        if texts:
            texts[-1] += self.decode(ids)[len("".join(texts)) :]  # a character that the end cuts off
        return texts

    def speller(self) -> Callable[[int], str]:
        """A function for the ids of one text, in order, that returns what each adds to the text. While a
        character is not complete it returns nothing."""
        return self._spelling()[0]

    def _spelling(self) -> tuple[Callable[[int], str], Callable[[], str]]:
        """See `speller`, and a function that returns what an incomplete character leaves at the end."""
        stream = tokenizers.decoders.DecodeStream(skip_special_tokens=False)
        # Tokens that stand for single bytes are put together here: the library's stream stops with an error
        # at bytes that are no characters, which a young model writes.
        character = codecs.getincrementaldecoder("utf-8")(errors="replace")

        def flush() -> str:
            cut_off = character.decode(b"", final=True)
            character.reset()
            return cut_off

        def spell(token: int) -> str:
            token = int(token)
            if not self._keeps(token):
                return ""
            if token in self._byte_tokens:
                return character.decode(self._byte_tokens[token])
            return flush() + (stream.step(self._inner, token) or "")

        return spell, flush

    def num_bytes(self, ids: Iterable[int]) -> int:
        """UTF-8 bytes of the decoded ids, the denominator of bits per byte."""
        return len(self.decode(ids).encode("utf-8"))

    def byte_counts(self, ids: Sequence[int]) -> np.ndarray:
        """(n,) int64: how many bytes of a text, in UTF-8, each token of it stands for; 0 for padding and end
        marks. A byte-level tokenizer may cut a character, and each part has its own bytes. For others a
        character in several tokens counts at the last of them. The sum is the bytes of the decoded text."""
        if not self._spells_bytes:
            return np.array([len(text.encode("utf-8")) for text in self.token_texts(ids)], dtype=np.int64)
        return self._token_lengths[np.asarray(ids, dtype=np.int64)]

    @cached_property
    def _token_lengths(self) -> np.ndarray:
        """(v,) int64: bytes of each token of a byte-level tokenizer."""
        single = set(tokenizers.pre_tokenizers.ByteLevel.alphabet())  # a character for each byte
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token, number in self._inner.get_vocab().items():
            if self._keeps(number):
                lengths[number] = len(token) if set(token) <= single else len(token.encode("utf-8"))
        return lengths

    def _keeps(self, token: int) -> bool:
        return token not in (self.pad_id, self.end_id)

    def _ordinary(self, ids: Iterable[int]) -> list[int]:
        if isinstance(ids, np.ndarray):  # millions of chunks are decoded to be embedded
            return ids[(ids != self.pad_id) & (ids != self.end_id)].tolist()
        return [int(i) for i in ids if self._keeps(int(i))]


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


def byte_level_bpe(
    tokens: Sequence[str], merges: Sequence[tuple[str, str]], single_digits: bool, name: str
) -> Tokenizer:
    """A byte-level BPE from its parts: tokens in the order of their ids, and merges in order of rank.

    single_digits  whether each digit is a token of its own, as in SmolLM
    """
    bpe = tokenizers.models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=list(merges))
    inner = tokenizers.Tokenizer(bpe)
    rules: list = [tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if single_digits:
        rules.insert(0, tokenizers.pre_tokenizers.Digits(individual_digits=True))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(rules)
    inner.decoder = tokenizers.decoders.ByteLevel()
    return Tokenizer(inner, name)


def _kinds(rule: dict[str, Any] | None) -> set[str]:
    """The types of a rule of tokenizer.json and of those it is a sequence of."""
    parts = (rule or {}).get("decoders", [])
    return {(rule or {}).get("type", "")}.union(*(_kinds(part) for part in parts))


def _fingerprint(rules: dict[str, Any]) -> str:
    """Of a parsed tokenizer.json, without what has no effect here: Hugging Face's `save_pretrained` repeats
    special tokens of the vocabulary as added ones, and writes down that nothing is put around a text."""
    vocabulary, processor = rules["model"]["vocab"], rules["post_processor"] or {}
    added = rules["added_tokens"]
    added = [token for token in added if not (token["special"] and token["content"] in vocabulary)]
    if processor.get("type") == "TemplateProcessing" and not processor["special_tokens"]:
        processor = {}
    canonical = {**rules, "added_tokens": added, "post_processor": processor or None}
    return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()


def _first_id(inner: tokenizers.Tokenizer, names: tuple[str, ...], tokenizer: str) -> int:
    for name in names:
        token = inner.token_to_id(name)
        if token is not None:
            return token
    raise CheckpointError(
        f"Tokenizer {tokenizer!r} has none of the tokens {', '.join(names)}, and RETRO needs one of them. "
        "Use a tokenizer that has one."
    )


def _without_marks(inner: tokenizers.Tokenizer, rules: dict, marks: tuple[int, ...]) -> tokenizers.Tokenizer:
    """A tokenizer with the same ids that never makes one of `marks` of a text.

    Tokenizers that look whole pieces up in their vocabulary would: there marks get names that no text has.
    """
    model = rules["model"]
    if model["type"] not in ("Unigram", "WordPiece", "WordLevel"):
        return inner
    never = {inner.id_to_token(mark): f"\U000f0000{mark}\U000f0000" for mark in marks}  # private characters
    if model["type"] == "Unigram":
        vocabulary: list | dict = [[never.get(piece, piece), score] for piece, score in model["vocab"]]
    else:
        vocabulary = {never.get(piece, piece): token for piece, token in model["vocab"].items()}
    kept = [added for added in rules["added_tokens"] if added["id"] not in marks]
    changed = {"model": {**model, "vocab": vocabulary}, "added_tokens": kept, "post_processor": None}
    encoder = tokenizers.Tokenizer.from_str(json.dumps({**rules, **changed}))
    encoder.encode_special_tokens = True
    return encoder


def blocks(text: str) -> Iterable[str]:
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
