"""The held-out losses that are printed while a model is trained are what they claim to be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from tiny_models import M, tiny_config, tiny_model

from indexing.build import build
from indexing.corpus import Document
from indexing.errors import InputError
from indexing.precompute import precompute_neighbours
from retro_core.dataset import RetroDataset
from retro_core.evaluation.windows import WindowLoss, probe, window_losses
from retro_core.model import Retro

K = 2


@pytest.fixture(scope="module")
def model(tokenizer) -> Retro:
    return tiny_model(num_embeddings=tokenizer.vocab_size)


def held_out(texts: list[str], tokenizer, embedder, folder: Path, max_chunks: int = 4) -> RetroDataset:
    documents = [Document(str(i), str(i), text, "test") for i, text in enumerate(texts)]
    list(build(folder / "texts", documents, tokenizer, embedder, chunk_size=M))
    list(precompute_neighbours([folder / "texts"], [folder / "texts"], K, folder / "data"))
    config = tiny_config(num_embeddings=tokenizer.vocab_size)
    return RetroDataset(folder / "data" / "data.spec.json", config, K, max_chunks * M)


def nats(model: Retro, data: RetroDataset, window, read: np.ndarray | None) -> float:
    """Summed loss of one window, alone and token by token."""
    text = data.shards[0].tokens[window.start : window.stop].reshape(-1).astype(int).tolist()
    text = text[: text.index(0)] if 0 in text else text
    neighbours = None if read is None else torch.tensor(read)[None, : len(text) // M]
    logits = model(torch.tensor([text]), neighbours).logits[0]
    return -sum(float(logits[t - 1].log_softmax(-1)[text[t]]) for t in range(1, len(text)))


@torch.no_grad()
def test_losses_of_each_window_are_the_sums_over_its_tokens(model, tokenizer, embedder, tmp_path):
    texts = [SENTENCES[0][:30], SENTENCES[1][:40], SENTENCES[2][:20]]
    data = held_out(texts, tokenizer, embedder, tmp_path, max_chunks=2)
    losses = window_losses(model, data)
    windows = [w for w in data.windows if (data.tokens(w) != 0).sum() > 1]
    windows.sort(key=lambda w: w.stop - w.start)
    owners = data.documents()
    for loss, window in zip(losses, windows, strict=True):
        assert loss.document == window.document
        assert loss.tokens == (data.tokens(window) != 0).sum() - 1
        read = data.retrieved_tokens(data.neighbour_ids(window))
        assert loss.on == pytest.approx(nats(model, data, window, read), abs=1e-6)
        assert loss.off == pytest.approx(nats(model, data, window, None), abs=1e-6)
        # Random: the first chunk reads what some chunk of another document would have read; the second one
        # is read by nobody in so short a window.
        possible = []
        for row in np.flatnonzero(owners != window.document):
            read[0] = data.retrieved_tokens(data.neighbours[0][row])
            possible.append(nats(model, data, window, read))
        assert min(abs(loss.random - one) for one in possible) < 1e-6
    assert sum(loss.random != loss.on for loss in losses) > 5


def test_the_same_windows_for_the_same_seed(model, tokenizer, embedder, tmp_path):
    data = held_out(SENTENCES, tokenizer, embedder, tmp_path)
    few = window_losses(model, data, limit=5, seed=3)
    assert len(few) == 5 and few == window_losses(model, data, limit=5, seed=3, batch_size=4)
    assert few != window_losses(model, data, limit=5, seed=4)
    everything = window_losses(model, data)
    told = [window for window in data.windows if (data.tokens(window) != 0).sum() > 1]
    assert len(everything) == len(told) == len(window_losses(model, data, limit=10_000))
    assert {round(loss.on, 6) for loss in few} <= {round(loss.on, 6) for loss in everything}


def test_a_single_document_and_nothing_to_predict(model, tokenizer, embedder, tmp_path):
    data = held_out([SENTENCES[0]], tokenizer, embedder, tmp_path / "one")
    assert {loss.document for loss in window_losses(model, data)} == {0}
    empty = held_out(["", ""], tokenizer, embedder, tmp_path / "empty")
    with pytest.raises(InputError, match="no token to predict"):
        window_losses(model, empty)


def loss(document: int, tokens: int, on: float, off: float, random: float) -> WindowLoss:
    """Given nats per token."""
    return WindowLoss(document, tokens, on * tokens, off * tokens, random * tokens)


def test_means_are_over_tokens():
    found = probe([loss(7, 100, 1.0, 2.0, 2.5), loss(7, 300, 2.0, 2.0, 2.5), loss(3, 200, 0.5, 1.0, 1.0)])
    assert (found.documents, found.tokens) == (2, 600)
    assert (found.on, found.off, found.random) == pytest.approx((800 / 600, 1000 / 600, 1200 / 600))


def test_intervals_resample_documents_and_not_windows():
    # Every document has 50 windows that agree; what varies is documents, of which there are four.
    gains = {0: -0.4, 1: -0.2, 2: 0.0, 3: 0.2}
    windows = [loss(d, 10, 2 + gain, 2.0, 2.3) for d, gain in gains.items() for _ in range(50)]
    found = probe(windows)
    low, high = found.on_minus_off_ci95
    means = [np.mean(np.random.default_rng(i).choice(list(gains.values()), 4)) for i in range(4000)]
    expected = np.percentile(means, [2.5, 97.5])
    assert (low, high) == pytest.approx(expected, abs=0.03) and low < -0.25 and high > 0.05
    assert found.random_minus_off_ci95 == pytest.approx((0.3, 0.3)), "nothing varies there"
    assert probe(windows) == found and found.on - found.off == pytest.approx(-0.1)


def test_a_long_document_weighs_more():
    windows = [loss(0, 1000, 1.0, 2.0, 2.0), loss(1, 10, 3.0, 2.0, 2.0)]
    found = probe(windows)
    assert found.on - found.off == pytest.approx(-990 / 1010)
    assert found.on_minus_off_ci95 == pytest.approx((-1.0, 1.0)), "two documents: either may be drawn twice"
