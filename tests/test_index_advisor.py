"""The advisor's ladder, its figures against real indexes, and sentences for what cannot be built."""

import numpy as np
import pytest
from test_index import texts_like

from indexing.advisor import IndexSettings, advise, check_factory, lists_for, ram_of
from indexing.errors import ConfigError
from indexing.index import build_index, open_index


@pytest.mark.parametrize("n", [0, 1, 2, 38, 39, 40, 9_999, 200_000, 200_001, 1_000_000, 40_000_000])
@pytest.mark.parametrize("dim", [1, 13, 48, 384, 768])
@pytest.mark.parametrize("ram", [None, 1, 50_000_000, 10**12])
@pytest.mark.parametrize("deletes", [True, False])
def test_any_size_gets_an_index_that_can_be_made(n, dim, ram, deletes):
    advice = advise(n, dim, ram, deletes)
    if not advice.exact:
        check_factory(advice.factory, n, dim)
        assert advice.nprobe >= 1 and advice.candidates >= 1 and advice.build_seconds > 0
    assert lists_for(n) == 1 or lists_for(n) <= n / 39
    assert advice.reason.endswith(".") and 0.9 < advice.recall <= 1
    if ram and advice.ram_bytes > ram and not advice.exact:
        assert "Nothing fits" in advice.reason
    assert not (deletes and "HNSW" in advice.factory)


def test_the_ladder():
    million = 1_000_000
    assert advise(200_000, 384).factory == "SQ8"
    assert advise(million, 384).factory == "IVF4096,SQ8"
    assert advise(million, 384, 2 * 10**9, deletes=False).factory == "HNSW32,SQ8"
    assert advise(million, 384, 2 * 10**9).factory == "IVF4096,SQ8"
    small = advise(million, 384, 80 * 10**6)
    assert small.factory == "IVF4096,PQ96x4fs" and small.ram_bytes <= 80 * million
    assert advise(million, 384).ram_bytes <= 400 * million + 4096 * 4 * 384
    assert advise(million, 383, 80 * 10**6).factory == "IVF4096,RaBitQ", "383 is prime"


@pytest.mark.parametrize(
    "factory",
    [
        "IVF29,SQ8",
        "IVF29,Flat",
        "IVF29,PQ12x4fs",
        "IVF29,RaBitQ",
        "HNSW16,SQ8",
        "HNSW32",
        "SQ4",
    ],
)
def test_expected_memory_is_what_faiss_takes(factory):
    vectors, documents = texts_like(4801, dim=48)
    settings = IndexSettings(factory=factory, recall=0.0)
    index = open_index(vectors, documents, np.ones(4801, bool), [("a", 4801)], None, settings)
    assert index.about.ram_bytes == pytest.approx(ram_of(factory, 4801, 48), rel=0.12)


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("nonsense", "faiss knows no index 'nonsense' of 24 dimensions"),
        ("IVF10,PQ7", "faiss knows no index 'IVF10,PQ7' of 24 dimensions"),
        ("IVF11,Flat", "11 lists of 'IVF11,Flat', got 400 vectors. Use at most IVF10"),
        ("IVF64k,Flat", "39 vectors for each of the 65,536 lists"),
        ("IVF2,PQ6x9", "at least 512 vectors to train"),
        ("IDMap,Flat", "numbered and compared exactly already"),
        ("IVF10,PQ6x4fs,Refine(SQ8)", "numbered and compared exactly already"),
        ("LSH", "by squared L2 distance"),
        ("HNSW9999", "at most 512 links"),
        ("IVF" + "9" * 30, "Expected a faiss factory string"),
        ("x" * 300, "Expected a faiss factory string"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_in_a_sentence(factory, sentence, tmp_path):
    vectors, documents = texts_like(400)
    rows = (vectors, documents, np.ones(400, bool), [("a", 400)])
    with pytest.raises(ConfigError) as caught:
        list(build_index(*rows, tmp_path / "index", IndexSettings(factory=factory)))
    assert sentence in str(caught.value) and "/project" not in str(caught.value)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_39_vectors_a_list_are_enough_and_38_are_not(spare):
    n = 39 * 7 + spare
    vectors, documents = texts_like(n)
    rows = (vectors, documents, np.ones(n, bool), [("a", n)])
    if spare < 0:
        with pytest.raises(ConfigError, match="Use at most IVF6"):
            open_index(*rows, None, IndexSettings(factory="IVF7,SQ8"))
    else:
        assert open_index(*rows, None, IndexSettings(factory="IVF7,SQ8")).about.recall_at_10 >= 0.95


def test_settings_out_of_bounds_are_refused():
    for wrong, sentence in [
        ({"nprobe": -1}, "Expected nprobe between 0 and 1,048,576, got -1"),
        ({"ram_mb": "much"}, "Expected ram_mb to be int, got 'much'"),
        ({"recall": 1.5}, "Expected recall between 0.0 and 1.0, got 1.5"),
        ({"deletes": 1}, "Expected deletes to be bool, got 1"),
        ({"nprobe": True}, "Expected nprobe to be int, got True"),
    ]:
        with pytest.raises(ConfigError) as caught:
            IndexSettings(**wrong)
        assert sentence in str(caught.value)


def test_without_a_gpu_it_says_so_and_goes_on(tmp_path):
    vectors, documents = texts_like(400)
    rows = (vectors, documents, np.ones(400, bool), [("a", 400)])
    settings = IndexSettings(factory="IVF7,SQ8", use_gpus=True)
    import faiss

    messages = [event.message for event in build_index(*rows, tmp_path / "index", settings)]
    if faiss.get_num_gpus() == 0:
        assert any("sees no GPU here: the index is trained on the processor" in text for text in messages)
    assert "of the nearest 10" in messages[-1]
