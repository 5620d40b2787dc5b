"""A sweep changes one thing: k, the datastore's size, the index. Comparators score the same tokens in the
same table."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from fakes import HashingEmbedder
from small_probe import K, last_of, probe_of, searchable_of, texts
from tiny_models import M, tiny_config, tiny_model

from indexing.build import build
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.errors import InputError, MismatchError
from indexing.precompute import precompute_neighbours
from indexing.retokenised import RetokenisedDatastore
from retro_core.evaluation.comparators import COMPARATORS, check_reader, comparators
from retro_core.evaluation.held_out import HeldOut
from retro_core.evaluation.losses import collect, token_losses
from retro_core.evaluation.readings import off, on
from retro_core.evaluation.searching import Searchable, asked, reading, search_all
from retro_core.evaluation.sweeps import drawn_share, sweeps

STORED = tuple(3 + 7 * n % 40 for n in range(31))  # tokens of the datastore's documents


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def searchable():
    return searchable_of(texts(7, STORED))


@pytest.fixture(scope="module")
def probe():
    return probe_of(texts(3), own=(-1, 4, -1, -1, 0))


@pytest.fixture(scope="module")
def swept(model, probe, searchable):
    return last_of(
        sweeps(
            model, probe, searchable, K, ks=(1, 3, 7), shares=(0.1, 0.4, 1.0), size_seeds=2, nprobes=(1, 2)
        )
    )


def nats(model, probe, searchable, k, allowed) -> float:
    """Mean over all tokens with the k nearest allowed chunks, found one by one."""
    total = count = 0
    for window in probe.windows:
        text = probe.tokens(window.document)
        chunks = probe.chunks(window.document)
        read = np.zeros((len(chunks), k, 2 * M), dtype=np.int64)
        for place, query in enumerate(searchable.embed(chunks)):
            distances = ((searchable.vectors.astype(np.float64) - query) ** 2).sum(axis=1)
            own = searchable.documents == probe.documents[window.document].own
            distances[~allowed | own] = np.inf
            nearest = np.argsort(distances)[:k]
            nearest = nearest[np.isfinite(distances[nearest])]
            read[place, : len(nearest)] = searchable.retrieved_tokens(nearest)
        ids = torch.from_numpy(text[window.start : window.stop])[None]
        first = window.start // M
        with torch.no_grad():
            scores = model(ids, torch.from_numpy(read[first : first + ids.shape[1] // M])[None]).logits[0]
        for token in window.scored:
            total -= float(scores[token - 1 - window.start].log_softmax(-1)[text[token]])
            count += 1
    return total / count


def test_every_k_is_read_from_the_nearest_chunks(model, probe, searchable, swept):
    assert [point.num_neighbours for point in swept.k] == [1, 2, 3, 7]
    for point in swept.k:
        expected = nats(model, probe, searchable, point.num_neighbours, searchable.allowed)
        assert point.gain.nats == pytest.approx(expected, abs=1e-5)
    plain = collect(probe, token_losses(model, probe, [off()])).nats["off"].mean()
    assert swept.k[0].gain.minus_off == pytest.approx(swept.k[0].gain.nats - plain, abs=1e-6)
    assert swept.tokens == probe.num_tokens and swept.documents == 5
    low, high = swept.k[0].gain.minus_off_ci95
    assert low < swept.k[0].gain.minus_off < high


def test_smaller_datastores_are_parts_of_larger_ones(model, probe, searchable, swept):
    drawn = {
        (share, seed): set(drawn_share(searchable, share, seed)) for share in (0.1, 0.4) for seed in (0, 1)
    }
    assert all(drawn[0.1, seed] < drawn[0.4, seed] for seed in (0, 1)) and drawn[0.1, 0] != drawn[0.1, 1]
    assert [(point.share, point.seed) for point in swept.size] == [
        (0.1, 0),
        (0.1, 1),
        (0.4, 0),
        (0.4, 1),
        (1.0, 0),
    ]
    for point in swept.size[:4]:
        documents = drawn[point.share, point.seed]
        allowed = np.isin(searchable.documents, list(documents)) & searchable.allowed
        assert (point.documents, point.chunks) == (round(30 * point.share), allowed.sum())
        assert point.gain.nats == pytest.approx(nats(model, probe, searchable, K, allowed), abs=1e-5)
    assert swept.size[-1].gain == swept.k[1].gain and swept.size[-1].documents == 30


def test_recall_is_counted_and_all_lists_find_everything(model, probe, searchable, swept):
    assert swept.index == f"IVF{searchable.allowed.sum() // 39},SQ8" and not swept.skipped
    assert [point.nprobe for point in swept.nprobe] == [1, 2, swept.nprobe[0].lists]
    recalls = [point.recall for point in swept.nprobe]
    assert recalls == sorted(recalls) and recalls[0] < recalls[-1] == 1
    assert swept.nprobe[-1].gain == swept.k[1].gain != swept.nprobe[0].gain


def test_few_documents_are_drawn_and_nothing_is_made_that_was_not_asked_for(model, probe, searchable):
    result = last_of(sweeps(model, probe, searchable, K, ks=(), shares=(), nprobes=(), limit=2, seed=1))
    assert result.documents == 2 and [point.num_neighbours for point in result.k] == [K]
    assert not result.size and not result.nprobe
    chosen = probe.drawn(2, seed=1)
    assert result.scored == 2 * chosen.num_tokens, "Off and k = 2"
    few = last_of(
        sweeps(model, probe, searchable_of(texts(7, (5, 9))), K, ks=(1, 100), shares=(), nprobes=(1,))
    )
    assert [point.num_neighbours for point in few.k] == [1, K] and "too few" in few.skipped["nprobe"]
    with pytest.raises(InputError, match="shares above 0 up to 1"):
        next(sweeps(model, probe, searchable, K, shares=(0.0,)))


@pytest.fixture(scope="module")
def compared(model, probe, searchable):
    scored = collect(probe, token_losses(model, probe, [on(probe), off()]))
    return last_of(
        comparators(model, probe, searchable, losses=scored, knn_neighbours=5, reader=model, reader_name="b")
    )


def test_comparators_stand_in_the_table_of_the_same_tokens(model, probe, compared):
    result, losses = compared
    assert {"on", "off", *COMPARATORS} <= losses.nats.keys() and len(losses) == probe.num_tokens
    first = losses.position < M
    for name in ("in_context", "copying"):  # nothing was asked before the first chunk was complete
        assert np.allclose(losses.nats[name][first], losses.nats["off"][first], atol=1e-6)
        assert not np.allclose(losses.nats[name][~first], losses.nats["off"][~first], atol=0.01)
    assert result.copying.with_on.nats == pytest.approx(losses.nats["copying_with_on"].mean())
    assert np.allclose(losses.nats["copying_with_on"][first], losses.nats["on"][first], atol=1e-6)
    assert np.allclose(losses.nats["reader"], losses.nats["off"], atol=1e-6)
    for name in COMPARATORS:
        one = getattr(result, name).compared
        assert one.gain.nats == pytest.approx(losses.nats[name].mean())
        assert one.on_minus_this == pytest.approx((losses.nats["on"] - losses.nats[name]).mean())
        if one.share_of_gain is not None:
            gains = [(losses.nats["off"] - losses.nats[which]).sum() for which in (name, "on")]
            assert one.share_of_gain == pytest.approx(gains[0] / gains[1])
    assert result.in_context.compared.read_per_token > 3 and not result.skipped
    assert json.loads(json.dumps(asdict(result)))["knn_lm"]["store"]["share"] == 1


def test_on_reads_what_knn_lm_knows(model, probe, searchable, compared):
    result, losses = compared
    expected = nats(model, probe, searchable, K, searchable.allowed)
    assert result.knn_lm.on_in_store.nats == pytest.approx(expected, abs=1e-5)
    some = comparators(model, probe, searchable, which=("knn_lm",), knn_budget=200, losses=losses)
    part = last_of(some)[0].knn_lm
    assert 0 < part.store.share < 1 and part.on_in_store.nats != result.knn_lm.on_in_store.nats


def test_what_cannot_be_compared_is_told(model, probe, searchable):
    result, _ = last_of(comparators(model, probe.only([3]), None))
    assert result.in_context is not None and result.knn_lm is None and result.copying is None
    assert "fewer than two documents" in result.skipped["copying"] and "knn_lm" in result.skipped
    with pytest.raises(InputError, match="no comparator 'cache'"):
        next(comparators(model, probe, which=("cache",)))
    other = tiny_model(num_embeddings=29)
    with pytest.raises(MismatchError, match="the model 'big' must have the same tokenizer"):
        check_reader(model, other, "big")
    with pytest.raises(MismatchError, match="the model 'big'"):
        next(comparators(model, probe, which=("in_context",), reader=other, reader_name="big"))


@pytest.fixture(scope="module")
def files(tmp_path_factory, tokenizer):
    """A datastore of three documents, held-out ones, one of which is in it, and the spec of both."""
    folder = tmp_path_factory.mktemp("searching")
    documents = [
        Document(str(n), str(n), SENTENCES[n] * 2 + SENTENCES[(n + 1) % 5], "test") for n in range(5)
    ]
    list(build(folder / "store", documents[:3], tokenizer, HashingEmbedder(), chunk_size=M))
    list(build(folder / "asks", documents[3:], tokenizer, HashingEmbedder(), chunk_size=M))
    shards = [folder / "store"]
    for name, weight in (("data", 0.0), ("weighted", 0.5)):
        list(precompute_neighbours([folder / "asks", *shards], shards, K, folder / name, weight))
    return folder, documents


@pytest.mark.parametrize("name", ["data", "weighted"])
def test_searching_again_finds_what_was_found(files, tokenizer, name):
    folder, documents = files
    config = tiny_config(num_embeddings=tokenizer.vocab_size)
    spec = folder / name / "data.spec.json"
    probe = HeldOut.from_spec("files", spec, config, tokenizer, window=3 * M)
    for some in (probe, probe.drawn(3, seed=2)):
        searchable = Searchable.of_spec(spec, tokenizer)
        found = search_all(
            some, asked(some, searchable), K,
            lambda v, k, own, s=searchable: s.exact.search(v, k, own, s.allowed),
        )  # fmt: skip
        source = reading("again", searchable, found, K).source
        for number in range(len(some.documents)):
            assert np.array_equal(found[number][0], some.neighbours(number).ids)
            assert np.array_equal(source(number), some.neighbours(number).tokens)
    if name == "weighted":
        plain = HeldOut.from_spec(
            "files", folder / "data" / "data.spec.json", config, tokenizer, window=3 * M
        )
        ids = [[one.neighbours(number).ids for number in range(5)] for one in (probe, plain)]
        assert not all(map(np.array_equal, *ids))
        return
    datastore = Datastore.open(folder / "store", embedder=HashingEmbedder())
    same = Searchable.of_datastore(datastore, tokenizer, M)
    again = search_all(
        probe, asked(probe, same), K, lambda v, k, own: same.exact.search(v, k, own, same.allowed)
    )
    for number in range(len(probe.documents)):
        assert np.allclose(again[number][1], probe.neighbours(number).distances, atol=2e-3)
    texts = [tokenizer.decode(same.document_tokens(number)) for number in range(3)]
    assert texts == [document.text for document in documents[:3]]
    retokenised = Searchable.of_datastore(RetokenisedDatastore(datastore, tokenizer, 5), tokenizer, 5)
    assert retokenised.retrieved_tokens(np.array([[0, 1]])).shape == (1, 2, 10)
    assert np.array_equal(retokenised.document_tokens(1), same.document_tokens(1))


def test_unknown_embeddings_are_told(files, tokenizer):
    folder, _ = files
    described = json.loads((folder / "data" / "data.spec.json").read_text())
    for shard in described["shards"]:
        shard["embeddings"] = "nowhere.npy"
    spec = folder / "data" / "other.spec.json"
    spec.write_text(json.dumps(described))
    with pytest.raises(InputError, match='Add "embeddings" to the shard in the spec, or name a datastore'):
        Searchable.of_spec(spec, tokenizer)
    searchable = Searchable.of_spec(folder / "data" / "data.spec.json", tokenizer)
    with pytest.raises(InputError, match="is in no shard of"):
        searchable.embed(np.full((1, M), 7))
