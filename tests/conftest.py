"""Fixtures that many tests share. Every test has a RETRO_HOME of its own."""

import pytest
from fakes import HashingEmbedder

from indexing.tokenizer import Tokenizer, train_byte_level_bpe

SENTENCES = [
    "The river Nile flows north through eleven countries to the Mediterranean Sea.",
    "Mount Etna, on the east coast of Sicily, is one of the most active volcanoes in the world.",
    "A chunk is a run of consecutive tokens; its neighbours come from other documents.",
    "Honey bees tell each other where flowers are by dancing on the comb.",
    "The treaty was signed in 1648, after five years of negotiation in two cities.",
    "Zürich, São Paulo and Kraków are cities; 東京 is one too.",
]


@pytest.fixture(autouse=True)
def retro_home(tmp_path, monkeypatch):
    """An empty folder in the place of the user's own."""
    home = tmp_path / "retro-home"
    monkeypatch.setenv("RETRO_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE of 400 tokens: encodes anything, trained in milliseconds."""
    return train_byte_level_bpe(SENTENCES * 3, vocab_size=400, name="tiny")


@pytest.fixture
def embedder() -> HashingEmbedder:
    return HashingEmbedder()
