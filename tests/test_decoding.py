"""What makes writing faster leaves the numbers alone, or says that it does not and by how much."""

import gc

import pytest
import torch
from tiny_models import tiny_config, tiny_input, tiny_model
from torch.testing import assert_close

from indexing.errors import InputError
from retro_core import decoding
from retro_core.decoding import for_decoding
from retro_core.model import Retro

WAYS = (decoding.plain, decoding.as_columns, decoding.by_core, decoding.packed)


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.fixture
def always_by_core(monkeypatch, cores):
    monkeypatch.setattr(decoding, "_fastest", lambda *_: dict.fromkeys((1, 2, 4), decoding.by_core))


def logits(model, ids, neighbours):
    with torch.inference_mode():
        cache = model.new_cache()
        return torch.cat([
            model(ids[:, t : t + 1], neighbours[:, : (t + 1) // 3], cache=cache).logits
            for t in range(ids.shape[1])
        ], dim=1)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("outputs", [1, 23, 24])
def test_every_way_gives_the_product(cores, way, outputs):
    weight = torch.randn(outputs, 13, generator=torch.Generator().manual_seed(outputs))
    product = way(weight)
    for rows in (1, 2, 3, 7, 16):
        x = torch.randn(rows, 13, generator=torch.Generator().manual_seed(rows))
        assert_close(product(x), (x.double() @ weight.double().t()).float(), atol=1e-5, rtol=1e-5)


def test_each_number_of_rows_is_multiplied_in_its_way():
    weight, asked = torch.randn(5, 3), []

    def noting(name):
        return lambda weight: lambda x: (asked.append((name, len(x))), x @ weight.t())[1]

    two, six = noting("two"), noting("six")
    linear = decoding.FewRowsLinear(weight, {2: two, 6: six})
    for shape in ((3,), (1, 1, 3), (2, 1, 3), (1, 3, 3), (2, 3, 3), (1, 7, 3)):
        x = torch.randn(shape)
        assert_close(linear(x), x @ weight.t())
    assert asked == [("two", 1), ("two", 1), ("two", 2), ("six", 3), ("six", 6)]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_twin_computes_what_its_model_does(always_by_core, tied, batch):
    model = tiny_model(tie_embeddings=tied)
    ids, neighbours = tiny_input(11, batch)
    twin = for_decoding(model)
    exchanged = sum(isinstance(m, decoding.FewRowsLinear) for m in twin.modules())
    assert twin is not model and exchanged == 5 * 4 + 2 * 3 + 1
    assert_close(logits(twin, ids, neighbours), logits(model, ids, neighbours), atol=1e-12, rtol=1e-12)


def test_the_fastest_way_is_measured(monkeypatch):
    """By a clock that says what each way takes."""
    takes = {"slow": 9.0, "quick": 1.0, "plain": 2.0}
    clock = [0.0]
    monkeypatch.setattr(decoding.time, "perf_counter", lambda: clock[0])

    def way(name):
        def product(x):
            many = 3 if name == "quick" and len(x) > 2 else 1
            clock[0] += many * takes[name]

        return lambda weight: product

    slow, quick = way("slow"), way("quick")
    monkeypatch.setattr(decoding, "plain", way("plain"))
    found = decoding._fastest([decoding.plain, slow, quick], [torch.ones(5, 3)] * 2)
    assert {rows: taken is quick for rows, taken in found.items()} == {
        1: True, 2: True, 4: False, 8: False, 16: False,
    }  # fmt: skip
    assert all(taken is quick or taken is decoding.plain for taken in found.values())


def test_where_nothing_is_faster_the_model_itself_is_used(monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(decoding, "_WORTH_IT", 0.0)
    assert for_decoding(model) is model


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_real_model_in_float32_measures_all_ways(monkeypatch, way):
    asked = []

    def fastest(ways, weights):
        asked.extend(ways)
        return {4: way}

    monkeypatch.setattr(decoding, "_fastest", fastest)
    model = tiny_model().float()
    ids, neighbours = tiny_input(11)
    found = logits(for_decoding(model), ids, neighbours)
    assert_close(found, logits(model, ids, neighbours), atol=1e-4, rtol=1e-4)
    assert asked == list(WAYS)


def test_a_twin_is_made_once_for_the_same_weights_and_shares_them(always_by_core):
    model = tiny_model()
    twin = for_decoding(model)
    assert for_decoding(model) is twin
    assert twin.base.dec_embs.weight is model.base.dec_embs.weight
    ids, neighbours = tiny_input(11)
    with torch.no_grad():
        model.base.decoder[0]["2"].wo.weight[0, 0] += 1
    changed = for_decoding(model)
    assert changed is not twin
    assert_close(logits(changed, ids, neighbours), logits(model, ids, neighbours), atol=1e-12, rtol=1e-12)
    count = len(decoding._twins)
    del model, twin, changed
    gc.collect()
    assert len(decoding._twins) == count - 1


def test_8_bits_are_near_and_leave_the_model_as_it_was():
    torch.manual_seed(0)
    model = Retro(tiny_config(num_embeddings=97, dec_hidden_dim=64, dec_qkv_dim=63, dec_ffn_dim=128)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids, neighbours = tiny_input(11)
    plain = logits(model, ids, neighbours)
    found = logits(for_decoding(model, int8=True), ids, neighbours)
    likeness = torch.cosine_similarity(plain.flatten(), found.flatten(), dim=0)
    assert 0.995 < likeness < 1 - 1e-9
    assert torch.equal(logits(model, ids, neighbours), plain)


def test_8_bits_where_they_cannot_be_had():
    with pytest.raises(InputError, match="8-bit weights are for RETRO models in float32 on a processor"):
        for_decoding(tiny_model(), int8=True)  # in float64
    with pytest.raises(InputError, match="leave int8 off"):
        for_decoding(torch.nn.Linear(2, 3), int8=True)
