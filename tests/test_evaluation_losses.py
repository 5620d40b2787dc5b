"""Every token of a held-out document is scored once, in every reading, with what that reading says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from fakes import HashingEmbedder
from other_tokenizers import bytes_for_the_unknown, unigram, word_piece
from tiny_models import M, tiny_config, tiny_model

from indexing.build import build
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.errors import InputError
from indexing.neighbours import Neighbours
from indexing.precompute import precompute_neighbours
from indexing.retrievers import open_retriever
from indexing.tokenizer import Tokenizer
from retro_core.evaluation import readings
from retro_core.evaluation.held_out import (
    HeldOut,
    HeldOutDocument,
    default_stride,
    default_window,
    sliding_windows,
)
from retro_core.evaluation.losses import Reading, collect, token_losses
from retro_core.model import Retro

K = 2
TEXTS = [*SENTENCES, SENTENCES[0] + " " + SENTENCES[3], "Nile", ""]


@pytest.fixture(scope="module")
def model(tokenizer) -> Retro:
    return tiny_model(num_embeddings=tokenizer.vocab_size)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory) -> Path:
    """A datastore of the sentences, and a data spec in which they ask each other."""
    folder, embedder = tmp_path_factory.mktemp("held-out"), HashingEmbedder()
    documents = [Document(f"d{i}", f"title {i}", text, "test") for i, text in enumerate(TEXTS)]
    list(build(folder / "texts", documents, tokenizer, embedder, chunk_size=M))
    list(precompute_neighbours([folder / "texts"], [folder / "texts"], K, folder / "data"))
    return folder


@pytest.fixture(scope="module")
def held_out(folder, tokenizer) -> HeldOut:
    config = tiny_config(num_embeddings=tokenizer.vocab_size)
    return HeldOut.from_spec("texts", folder / "data" / "data.spec.json", config, tokenizer, window=4 * M)


@torch.no_grad()
def plain_nats(
    model: Retro, text: list[int], read: np.ndarray | None, window: int, stride: int
) -> list[float]:
    """Of the tokens 1, 2, …: each window alone, token by token; a token counts where it first can."""
    found: dict[int, float] = {}
    for start in range(0, len(text), stride):
        part = text[start : start + window]
        chunks = read[start // M : start // M + len(part) // M] if read is not None else None
        neighbours = None if chunks is None or not len(chunks) else torch.tensor(chunks)[None]
        logits = model(torch.tensor([part]), neighbours).logits[0].log_softmax(-1)
        for place in range(len(part)):
            if start + place + 1 < len(text):
                found.setdefault(start + place + 1, -float(logits[place, text[start + place + 1]]))
    return [found[position] for position in range(1, len(text))]


@pytest.mark.parametrize(("window", "stride"), [(4 * M, 2 * M), (3 * M, 3 * M)])
def test_losses_are_those_of_windows_read_one_by_one(model, folder, tokenizer, window, stride):
    config = tiny_config(num_embeddings=tokenizer.vocab_size)
    spec, some = folder / "data" / "data.spec.json", [2, 3, 7]
    probe = HeldOut.from_spec("texts", spec, config, tokenizer, window=window, stride=stride).only(some)
    on = readings.on(probe)
    ways = [on, readings.off(), readings.fewer(on, 1)]
    losses = collect(probe, token_losses(model, probe, ways, tokens_at_once=5 * window))
    assert list(losses.nats) == ["on", "off", "k=1"]
    for number, name in enumerate(some):
        ids = [*tokenizer.encode(TEXTS[name]).tolist(), tokenizer.end_id]
        here = losses.document == number
        assert losses.position[here].tolist() == list(range(1, len(ids))), "each token once, in order"
        for reading in ways:
            read = reading.source and reading.source(number)[:, : reading.num_neighbours]
            expected = plain_nats(model, ids, read, window, stride)
            assert losses.nats[reading.name][here] == pytest.approx(expected, abs=1e-9), reading.name
    assert np.abs(losses.nats["on"] - losses.nats["off"]).max() > 0.1
    assert np.abs(losses.nats["on"] - losses.nats["k=1"]).max() > 0.01


def test_windows():
    assert (default_window(64), default_window(3), default_stride(2048, 64)) == (2048, 2046, 1024)
    found = [(w.start, w.stop, w.first, w.last) for w in sliding_windows(7, 23, 8, 4, 4)]
    assert found == [(0, 8, 1, 8), (4, 12, 9, 12), (8, 16, 13, 16), (12, 20, 17, 20), (16, 23, 21, 22)]
    assert [(w.start, w.stop, w.first, w.last) for w in sliding_windows(0, 9, 8, 8, 4)] == [(0, 8, 1, 8)]
    assert sliding_windows(0, 1, 8, 4, 4) == sliding_windows(0, 0, 8, 4, 4) == []
    for window, stride in ((8, 12), (8, 0), (6, 4), (8, 3)):
        with pytest.raises(
            InputError, match="multiples of the chunk size 4, and the stride at most a window"
        ):
            sliding_windows(0, 9, window, stride, 4)


def test_bytes_are_those_of_the_text(tokenizer):
    text = "Zürich – 東京 🦔🦔\n\tend; नमस्ते"
    ids = tokenizer.encode(text)
    counts = tokenizer.byte_counts([*ids, tokenizer.end_id, tokenizer.pad_id])
    assert counts.sum() == len(text.encode()) and counts[-2:].tolist() == [0, 0]
    assert len(ids) > len(text), "characters are cut over tokens"
    # Byte by byte: the pieces of a character that is cut have the bytes that they are.
    single = tokenizer.encode("🦔")
    assert tokenizer.byte_counts(single).tolist() == [1, 1, 1, 1]
    cut = tokenizer.byte_counts(ids[:7]).sum() + tokenizer.byte_counts(ids[7:]).sum()
    assert cut == len(text.encode())


def test_a_documents_tokens_have_its_bytes(held_out, model):
    losses = collect(held_out, token_losses(model, held_out, [readings.off()]))
    for number, text in enumerate(TEXTS[:-1]):
        counts = held_out.num_bytes(number)
        assert counts.sum() == len(text.encode())
        assert losses.num_bytes[losses.document == number].tolist() == counts[1:].tolist()
    assert losses.documents.tolist() == list(range(len(TEXTS) - 1)), "an empty text has nothing to predict"


def test_off_is_the_model_without_neighbours_to_the_last_bit(model, held_out):
    few = held_out.only([0, 1])
    off = collect(few, token_losses(model, few, [readings.off()], tokens_at_once=1))
    empty = Reading("empty", lambda document: readings.on(few).source(document) * 0, K)
    nothing = collect(few, token_losses(model, few, [empty, Reading("k=0", readings.on(few).source, 0)], 1))
    for name in ("empty", "k=0"):
        assert nothing.nats[name].tobytes() == off.nats["off"].tobytes()


def test_half_a_neighbour_is_hidden(held_out):
    on = readings.on(held_out)
    for number in range(len(TEXTS) - 1):
        whole = on.source(number)
        n, f = (each(held_out, on).source(number) for each in (readings.n_only, readings.f_only))
        assert np.array_equal(n[..., :M], whole[..., :M]) and not n[..., M:].any()
        assert np.array_equal(f[..., M:], whole[..., M:]) and not f[..., :M].any()
        assert np.array_equal(n + f, whole), "nothing is changed in place"


def test_random_chunks_are_of_other_documents_and_the_same_for_a_seed(held_out):
    store = held_out.searched.chunks
    chunks = {
        tuple(chunk): int(owner) for chunk, owner in zip(store.tokens.tolist(), store.chunk2seq, strict=True)
    }
    owners = set()
    for number in range(1, 6):  # others share a sentence
        drawn = readings.random(held_out, 3, seed=5).source(number)
        assert np.array_equal(drawn, readings.random(held_out, 3, seed=5).source(number))
        found = {chunks[tuple(tokens)] for tokens in drawn[..., :M].reshape(-1, M).tolist() if any(tokens)}
        assert number not in found
        owners |= found
        assert not np.array_equal(drawn, readings.random(held_out, 3, seed=6).source(number))
    assert len(owners) > 3


def test_shuffled_neighbours_are_anothers_of_the_same_text(held_out):
    on = readings.on(held_out)
    moved = readings.shuffled(held_out, on, seed=1)
    for number in range(len(TEXTS) - 1):
        complete = len(held_out.documents[number].tokens) // M
        if complete < 2:
            assert not moved.source(number).any(), "nothing to exchange with"
            continue
        before, after = on.source(number)[:complete], moved.source(number)[:complete]
        key = sorted(map(bytes, before))
        assert sorted(map(bytes, after)) == key, "the same neighbours, each once"
    orders = [readings.derangement(n, np.random.default_rng(s)) for n in (2, 3, 5) for s in range(50)]
    assert all((order != np.arange(len(order))).all() for order in orders)
    assert all(sorted(order) == list(range(len(order))) for order in orders)


def test_the_oracle_knows_what_comes(held_out):
    store = held_out.searched
    read = store.chunks.retrieved_tokens(np.arange(len(store.chunks)))
    for number in (0, 4, 6):
        chunks, found = held_out.chunks(number), readings.oracle(held_out, K).source(number)
        own = held_out.documents[number].own
        for u in range(len(chunks) - 1):
            wanted = set(chunks[u + 1].tolist()) - {0, store.tokenizer.end_id}
            counts = [
                0 if store.chunks.chunk2seq[c] == own else len(wanted & set(read[c].tolist()))
                for c in range(len(read))
            ]
            best = sorted(counts, reverse=True)[:K]
            got = [len(wanted & set(tokens.tolist())) for tokens in found[u]]
            assert got == best
        assert not found[-1].any(), "nothing comes after the last chunk"


def test_bm25_reads_what_the_retriever_finds(held_out, folder):
    datastore = Datastore.open(folder / "texts", embedder=HashingEmbedder())
    retriever = open_retriever("bm25", datastore)
    for number in (0, 3):
        own = np.full(len(held_out.chunks(number)), number)
        expected = retriever.retrieve(held_out.chunks(number), K, own).tokens
        assert np.array_equal(readings.bm25(held_out, K).source(number), expected)


def test_texts_look_up_what_the_spec_has_stored(held_out, folder, tokenizer):
    datastore = Datastore.open(folder / "texts", embedder=HashingEmbedder())
    documents = [Document(f"d{i}", f"title {i}", text, "test") for i, text in enumerate(TEXTS)]
    config = tiny_config(num_embeddings=tokenizer.vocab_size)
    live = HeldOut.from_texts("live", documents, config, tokenizer, datastore, K, window=4 * M)
    assert live.windows == held_out.windows and live.titles[2] == "title 2"
    for number in range(len(TEXTS)):
        a, b = live.neighbours(number), held_out.neighbours(number)
        assert np.array_equal(a.ids, b.ids) and np.array_equal(a.tokens, b.tokens)
        assert np.allclose(a.distances, b.distances, atol=2e-3)
        more = held_out.neighbours(number, 5)
        assert more.ids.shape[1] == 5 and np.array_equal(more.ids[:, :K], b.ids)
    other = held_out.reading_from(datastore, 1, open_retriever("random:3", datastore))
    assert other.neighbours(1).ids.shape[1] == 1


def test_what_cannot_be_asked(held_out, model, tokenizer):
    with pytest.raises(InputError, match="readings of different names"):
        list(token_losses(model, held_out, [readings.off(), readings.off()]))
    nothing = HeldOutDocument("empty", np.zeros(1, dtype=np.int64))
    sizes = {"chunk_size": M, "pad_id": 0, "num_neighbours": K}
    with pytest.raises(InputError, match="no token to predict"):
        HeldOut("none", [nothing], lambda *_: Neighbours.none((1,), K, 2 * M), **sizes)
    some = HeldOutDocument("some", np.arange(1, 9))
    bare = HeldOut("bare", [some], lambda *_: Neighbours.none((3,), K, 2 * M), window=2 * M, **sizes)
    with pytest.raises(InputError, match="'random' looks into a datastore, but 'bare' has nothing but"):
        readings.random(bare, K)
    losses = collect(bare, token_losses(model, bare, [readings.off()]))
    assert not losses.num_bytes.any()
    with pytest.raises(InputError, match="must have one number for each of 7 tokens, got shape .3."):
        losses.with_reading("mine", np.zeros(3))


@pytest.mark.parametrize("kind", [unigram, word_piece, bytes_for_the_unknown])
def test_bytes_of_other_tokenizers_are_those_of_their_text(kind):
    tokenizer = Tokenizer(kind([*SENTENCES, "a bee"]), "other")
    for text in (*SENTENCES, "東京 🦔 bees"):
        ids = [*tokenizer.encode(text).tolist(), tokenizer.end_id]
        counts = tokenizer.byte_counts(ids)
        assert len(counts) == len(ids) and counts.sum() == len(tokenizer.decode(ids).encode())
        assert counts[-1] == 0
