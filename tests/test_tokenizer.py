"""Any text goes to ids and back; no text makes a special token."""

import json

import numpy as np
import pytest
import tokenizers
from other_tokenizers import bytes_for_the_unknown, unigram, word_piece

from indexing import tokenizer as module
from indexing.errors import CheckpointError
from indexing.tokenizer import Tokenizer, train_byte_level_bpe

TEXTS = [
    "",
    "plain words",
    "  two  blanks\n\n\nand\tlines \r\n",
    "Zürich 東京 😀 e\u0301 \u200b \x00",
    "<pad></s><s>[PAD]",
]


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(tokenizer, text):
    ids, starts = tokenizer.encode_with_offsets(text)
    assert tokenizer.decode(ids) == text
    assert "".join(tokenizer.token_texts(ids)) == text
    assert len(ids) == len(starts) and (np.diff(starts) >= 0).all()
    assert tokenizer.num_bytes(ids) == len(text.encode())


def test_text_never_makes_a_special_token(tokenizer):
    ids = tokenizer.encode("<pad> and </s>")
    assert tokenizer.pad_id not in ids and tokenizer.end_id not in ids
    assert tokenizer.decode([tokenizer.pad_id, *ids, tokenizer.end_id]) == "<pad> and </s>"


def test_a_character_over_several_tokens_is_shown_once_at_its_last(tokenizer):
    ids = tokenizer.encode("😀")
    assert len(ids) == 4, "the tiny tokenizer was to have never met it"
    assert tokenizer.token_texts(ids) == ["", "", "", "😀"]
    assert tokenizer.token_texts(ids[:2]) == ["", "\ufffd"], "a cut character is visible as such"


def test_texts_joined_are_the_decoded_text_whatever_the_ids(tokenizer):
    chance = np.random.default_rng(0)  # a young model writes bytes that are no characters
    for _ in range(300):
        ids = chance.integers(0, tokenizer.vocab_size, chance.integers(0, 20))
        assert "".join(tokenizer.token_texts(ids)) == tokenizer.decode(ids)


def test_texts_of_word_pieces_keep_their_blanks():
    words = {word: i for i, word in enumerate(["[PAD]", "[SEP]", "[UNK]", "ship", "##s", "sail", ","])}
    pieces = tokenizers.Tokenizer(tokenizers.models.WordPiece(words, unk_token="[UNK]"))
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    pieces.decoder = tokenizers.decoders.WordPiece()
    bert = Tokenizer(pieces, "bert")
    ids = bert.encode("ships, ships sail")
    assert bert.token_texts(ids) == ["ship", "s", ",", " ship", "s", " sail"]


@pytest.mark.parametrize("make, pad, end, text, decoded", [
    (unigram, 0, 1, "a <pad> ship</s><pad>", "a <pad> ship</s><pad>"),
    (unigram, 0, 1, "two  blanks\nand lines", "two blanks and lines"),  # as T5 does
    (word_piece, 0, 3, "ships [PAD] a [SEP]", "ships [PAD] a [SEP]"),
    (bytes_for_the_unknown, 3, 2, "a <pad> ship</s>\n\n東京  😀", "a <pad> ship</s>\n\n東京  😀"),
])  # fmt: skip
def test_tokenizers_of_other_kinds(tmp_path, make, pad, end, text, decoded):
    sentences = ["a ship sails </> and <two> lines of blanks, p a d s", "ships [PADSE] s a"] * 5
    Tokenizer(make(sentences), "other").save(tmp_path)
    other = Tokenizer.load(tmp_path)
    assert (other.pad_id, other.end_id) == (pad, end)
    ids, starts = other.encode_with_offsets(text)
    assert other.decode(ids) == decoded
    assert not {pad, end} & set(ids.tolist()), "a text has made a mark"
    assert (np.diff(starts) >= 0).all() and starts[-1] < len(text)
    assert other.decode([pad, *ids, end, pad]) == decoded
    chance = np.random.default_rng(0)  # a young model writes anything, bytes that are no characters too
    for _ in range(300):
        ids = chance.integers(0, other.vocab_size, chance.integers(0, 20))
        assert "".join(other.token_texts(ids)) == other.decode(ids)


def test_a_character_of_several_byte_tokens_appears_with_the_last():
    other = Tokenizer(bytes_for_the_unknown(["a ship"]), "bytes")
    ids = other.encode("a 東")
    assert other.token_texts(ids)[-3:] == ["", "", "東"]
    assert other.token_texts([*ids[:-1], *other.encode("ship")[-1:]])[-2] == ""
    assert other.decode(ids[:-1]) == "a \ufffd"


def test_ids_with_gaps_count_up_to_the_highest():
    words = {"[PAD]": 0, "[SEP]": 1, "[UNK]": 2, "ship": 9}
    gaps = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    assert Tokenizer(gaps, "gaps").vocab_size == 10


def test_a_long_text_in_blocks_has_the_same_ids(tokenizer, monkeypatch):
    text = "One line of a text.\n\nAnother,  with blanks  and 東京.\n" * 40
    whole = tokenizer.encode_with_offsets(text)
    monkeypatch.setattr(module, "_BLOCK", 97)
    for got, expected in zip(tokenizer.encode_with_offsets(text), whole, strict=True):
        assert np.array_equal(got, expected)


def test_fingerprint_is_of_the_content(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint and loaded.name == tmp_path.name
    other = train_byte_level_bpe(["quite another text, quite another text"], vocab_size=300, name="tiny")
    assert other.fingerprint != tokenizer.fingerprint


def test_a_bad_tokenizer_file_is_told(tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match="found no such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a tokenizer file"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    rules = json.loads((tmp_path / "tokenizer.json").read_text())
    del rules["model"]["vocab"]["<pad>"], rules["model"]["vocab"]["</s>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules))
    with pytest.raises(CheckpointError, match="has none of the tokens <pad>"):
        Tokenizer.load(tmp_path)
