"""Any text goes to ids and back; no text makes a special token."""

import json

import numpy as np
import pytest
import tokenizers

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
    del rules["model"]["vocab"]["<pad>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules))
    with pytest.raises(CheckpointError, match="has none of the tokens <pad>"):
        Tokenizer.load(tmp_path)
