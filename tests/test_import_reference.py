"""A checkpoint of the reference implementation becomes a model that every command opens."""

import json
from pathlib import Path

import pytest
from other_tokenizers import unigram, word_piece

from indexing.build import build
from indexing.corpus import read_text
from indexing.tokenizer import Tokenizer, train_byte_level_bpe
from retro_core.checkpoint import fingerprint, load_model, load_reference
from retro_core.cli import main

TINY = Path(__file__).parent / "data" / "reference" / "tiny"  # 53 tokens, padded with 0, chunks of 4
TEXTS = ["a ship sails on", "two ships sail", "a sail tears"] * 3


def words(folder: Path, inner) -> Tokenizer:
    folder.mkdir()
    tokenizer = Tokenizer(inner, folder.name)
    tokenizer.save(folder)
    return tokenizer


@pytest.mark.parametrize("make", [unigram, word_piece])
@pytest.mark.parametrize("file", ["lightning.ckpt", "model.safetensors"])
def test_every_command_opens_it(tmp_path, capsys, monkeypatch, embedder, make, file):
    tokenizer = words(tmp_path / "words", make(TEXTS, 40))
    line = ["import-reference", str(TINY / file), str(TINY / "config.json"), "old"]
    assert main([*line, "--tokenizer", str(tmp_path / "words")]) == 0
    assert "models/old: 24,420 parameters" in capsys.readouterr().out
    loaded = load_model("old")
    assert loaded.fingerprint == fingerprint(load_reference(TINY / file, TINY / "config.json"))
    assert loaded.config.mode == "reference" and loaded.tokenizer.fingerprint == tokenizer.fingerprint

    documents = [read_text(f"{text}. {text}.", text) for text in TEXTS[:3]]
    list(build("ships", documents, loaded.tokenizer, embedder, chunk_size=4))
    monkeypatch.setattr("indexing.datastore.open_embedder", lambda name: embedder)
    settings = ["--model", "old", "--datastore", "ships"]
    assert main(["generate", "a ship sails", *settings, "--max-new-tokens", "9", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["chunks"][0]["neighbours"] and len(told["text"]) > 0
    assert main(["score", "two ships sail on", *settings, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["on"] > 0 and "".join(token["text"] for token in told["tokens"]) == "two ships sail on"


def test_it_says_what_the_tokenizer_must_be(tmp_path, capsys):
    line = ["import-reference", str(TINY / "lightning.ckpt"), str(TINY / "config.json"), "old", "--tokenizer"]
    words(
        tmp_path / "large", unigram(TEXTS + ["0123456789 äöüßéèñç ABCDEFGHIJKLMNOPQRSTUVWXYZ bdgjkqvxyz"], 90)
    )
    train_byte_level_bpe(TEXTS, 300, "bytes").save(tmp_path)
    for folder, sentence in [
        (tmp_path / "large", "knows 53 tokens (num_embeddings), but its tokenizer has "),
        (tmp_path, "Use the tokenizer the model was trained with."),
        (tmp_path / "absent", "There is no model at"),
    ]:
        assert main([*line, str(folder)]) == 2
        captured = capsys.readouterr()
        assert sentence in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_nothing_is_replaced(tmp_path, capsys):
    words(tmp_path / "words", word_piece(TEXTS, 40))
    line = ["import-reference", str(TINY / "lightning.ckpt"), str(TINY / "config.json")]
    line += [str(tmp_path / "new"), "--tokenizer", str(tmp_path / "words"), "--half"]
    assert main(line) == 0
    assert main(line) == 2
    assert "exists already. Choose another name" in capsys.readouterr().err
