"""`python -m indexing index`: advice, what was built, expected beside measured; answers stay the same."""

import json

import numpy as np
import pytest
from conftest import SENTENCES

from indexing.build import build
from indexing.cli import main
from indexing.corpus import Document
from indexing.datastore import Datastore


@pytest.fixture
def notes(tokenizer, embedder):
    documents = [
        Document(str(i), str(i), f"{SENTENCES[i % 6]} {i} {SENTENCES[i % 5]}", "x") for i in range(31)
    ]
    list(build("notes", documents, tokenizer, embedder, chunk_size=8))
    return "notes"


def said(capsys, *arguments: str) -> str:
    assert main(["index", *arguments]) == 0
    return capsys.readouterr().out


def test_expected_beside_measured(notes, embedder, capsys):
    datastore = Datastore.open(notes, embedder=embedder)
    n, chunks = len(datastore.chunks), np.asarray(datastore.chunks.tokens[:17])
    exact = datastore.retrieve(chunks, 3)
    assert "every search is exact" in said(capsys, notes)
    assert f"SQ8 over {n:,} chunks" in said(capsys, notes)
    assert "IVF5,SQ8. Asked for." in said(capsys, notes, "--factory", "IVF5,SQ8", "--advise")
    assert not (datastore.path / "index" / "index.faiss").exists(), "advice builds nothing"

    text = said(capsys, notes, "--factory", "IVF5,SQ8", "--recall", "1")
    assert "expected:" in text and "measured:" in text and "recall@10" in text and "nprobe" in text
    shown = json.loads(said(capsys, notes, "--json"))
    assert shown["measured"]["factory"] == shown["advice"]["factory"] == "IVF5,SQ8"
    assert shown["rows"] == n and shown["measured"]["recall_at_10"] == 1.0
    built = Datastore.open(notes, embedder=embedder).retrieve(chunks, 3)
    assert np.array_equal(built.ids, exact.ids) and np.array_equal(built.distances, exact.distances)

    assert "searches use nprobe 2 and 7 candidates" in said(
        capsys, notes, "--nprobe", "2", "--candidates", "7"
    )
    assert "every search is exact" in said(capsys, notes, "--factory", "")


def test_what_cannot_be_built_leaves_what_there_is(notes, capsys):
    said(capsys, notes, "--factory", "IVF5,SQ8")
    assert main(["index", notes, "--factory", "IVF500,SQ8"]) == 2
    assert "39 vectors for each of the 500 lists" in capsys.readouterr().err
    assert "IVF5,SQ8 over" in said(capsys, notes)


def test_what_ships_with_the_product_is_left_alone(capsys):
    assert main(["index", "factbook", "--factory", "IVF16,SQ8"]) == 2
    assert "python -m indexing copy factbook NEW-NAME" in capsys.readouterr().err
