"""What makes writing faster leaves the numbers alone, or says that it does not and by how much."""

import gc

import pytest
import torch
from tiny_models import tiny_config, tiny_input, tiny_model
from torch.testing import assert_close

from indexing.errors import InputError
from retro_core import decoding
from retro_core.decoding import SplitLinear, for_decoding
from retro_core.model import Retro


@pytest.fixture
def always_split(monkeypatch):
    monkeypatch.setattr(decoding, "_WORTH_IT", 1e9)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def logits(model, ids, neighbours):
    with torch.inference_mode():
        cache = model.new_cache()
        return torch.cat([
            model(ids[:, t : t + 1], neighbours[:, : (t + 1) // 3], cache=cache).logits
            for t in range(ids.shape[1])
        ], dim=1)  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_split_products_are_the_products(always_split, tied, batch):
    model = tiny_model(tie_embeddings=tied)
    ids, neighbours = tiny_input(11, batch)
    twin = for_decoding(model)
    assert twin is not model and sum(isinstance(m, SplitLinear) for m in twin.modules()) == 5 * 4 + 2 * 3 + 1
    assert_close(logits(twin, ids, neighbours), logits(model, ids, neighbours), atol=1e-12, rtol=1e-12)


def test_where_splitting_is_not_faster_the_model_itself_is_used(monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(decoding, "_WORTH_IT", 0.0)
    assert for_decoding(model) is model


def test_a_twin_is_made_once_for_the_same_weights_and_shares_them(always_split):
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
