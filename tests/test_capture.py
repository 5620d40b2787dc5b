"""What a forward pass returns besides logits is true, aligned, and costs the logits nothing."""

import pytest
import torch
from tiny_models import K, M, R, tiny_input, tiny_model
from torch.testing import assert_close

from retro_core.model import Capture, Retro

EVERYTHING = Capture(attention=True, write_strength=True, log_probs=True, hidden_states=True)
N = 3 * M + 2


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows; in the first, chunk 1 has no neighbours and chunk 2 a short one and a missing one."""
    ids, neighbours = tiny_input(N, batch=2)
    neighbours[0, 1] = 0
    neighbours[0, 2, 0, 4:] = 0
    neighbours[0, 2, 1] = 0
    return ids, neighbours


@pytest.fixture(scope="module", params=["paper", "reference"])
def model(request) -> Retro:
    return tiny_model(request.param)


@pytest.mark.parametrize("n", [1, M - 1, M, N])
@pytest.mark.parametrize("neighbours", [True, False])
def test_logits_are_the_same(model, n, neighbours):
    """Weights come from another kernel than attention without them: the same up to rounding (float64)."""
    ids, read = sample()
    ids, read = ids[:, :n], read[:, : n // M] if neighbours else None
    with torch.inference_mode():
        plain = model(ids, read).logits
        for one in ("write_strength", "log_probs", "hidden_states"):
            assert torch.equal(model(ids, read, capture=Capture(**{one: True})).logits, plain)
        for more in (Capture(attention=True), EVERYTHING):
            assert_close(model(ids, read, capture=more).logits, plain, atol=1e-12, rtol=1e-12)


def test_logits_are_the_same_to_the_last_bit_under_dropout(model):
    single = tiny_model(model.config.mode, dropout_p=0.2).float().train()
    ids, neighbours = sample()
    torch.manual_seed(0)
    plain = single(ids, neighbours).logits
    torch.manual_seed(0)
    assert torch.equal(single(ids, neighbours, capture=EVERYTHING).logits, plain)


def test_nothing_comes_unasked(model):
    out = model(*sample())
    assert out.attention is out.write_strength is out.log_probs is out.hidden_states is None
    assert out.neighbour_states is out.final_hidden is out.loss is None


def test_nothing_read_gives_no_attention(model):
    ids, neighbours = sample()
    off = model(ids, capture=EVERYTHING)
    short = model(ids[:, : M - 1], neighbours[:, :0], capture=EVERYTHING)
    for out in (off, short):
        assert out.attention is None and out.write_strength is None


def test_weights_of_a_position_sum_to_one_or_to_nothing(model):
    ids, neighbours = sample()
    weights = model(ids, neighbours, capture=EVERYTHING).attention.weights
    layers, heads = len(model.config.dec_cca_layers), model.config.dec_num_heads
    assert weights.shape == (layers, 2, 3, heads, M, K, R)
    assert (weights >= 0).all()
    total = weights.sum(dim=(-2, -1))
    expected = torch.ones_like(total)
    expected[:, 0, 1] = 0
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
    assert not weights[:, 0, 2, :, :, 1].any() and not weights[:, 0, 2, :, :, 0, 4:].any()


def test_by_token_undoes_the_shift(model):
    attention = model(*sample(), capture=EVERYTHING).attention
    rows = attention.by_token()
    assert rows.shape == (*attention.weights.shape[:2], model.config.dec_num_heads, N, K, R)
    for t in range(N):
        chunk, row = divmod(t - (M - 1), M)
        if chunk < 0:
            assert not rows[:, :, :, t].any()
        else:
            assert torch.equal(rows[:, :, :, t], attention.weights[:, :, chunk, :, row])


def test_a_position_attends_to_the_neighbour_that_moves_it():
    """Alignment end to end: change one neighbour token; weight on it changes in its chunk's rows only."""
    model = tiny_model()
    ids, neighbours = sample()
    changed = neighbours.clone()
    changed[1, 1, 0, 3] = neighbours[1, 1, 0, 3] % 22 + 1
    before = model(ids, neighbours, capture=EVERYTHING).attention.by_token()[0, 1]  # the first CCA layer
    after = model(ids, changed, capture=EVERYTHING).attention.by_token()[0, 1]
    moved = (before != after).flatten(2).any(dim=-1).any(dim=0)
    assert moved.nonzero().flatten().tolist() == [2 * M - 1, 2 * M, 2 * M + 1]


def test_write_strength_is_what_was_added_over_what_was_there(model):
    ids, neighbours = sample()
    seen = []
    handles = [
        layer["1"].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output[0])))
        for layer in model.base.decoder
        if "1" in layer
    ]
    strength = model(ids, neighbours, capture=EVERYTHING).write_strength
    for handle in handles:
        handle.remove()
    for layer, (there, added) in enumerate(seen):
        for b in range(2):
            for t in range(N):
                expected = added[b, t].square().sum().sqrt() / there[b, t].square().sum().sqrt()
                torch.testing.assert_close(strength[layer, b, t], expected)
    reads = torch.arange(N) >= M - 1
    assert torch.equal(strength[:, 1] != 0, reads.expand(len(seen), -1))
    reads[2 * M - 1 : 3 * M - 1] = False  # chunk 1 of row 0 has no neighbours
    assert torch.equal(strength[:, 0] != 0, reads.expand(len(seen), -1))


def test_log_probs_are_those_of_the_tokens_that_came(model):
    ids, neighbours = sample()
    out = model(ids, neighbours, capture=EVERYTHING)
    assert out.log_probs.shape == ids.shape and not out.log_probs[:, 0].any()
    for b in range(2):
        for t in range(1, N):
            scores = out.logits[b, t - 1]
            by_hand = scores[ids[b, t]] - scores.exp().sum().log()
            torch.testing.assert_close(out.log_probs[b, t], by_hand)


def test_hidden_states_are_before_the_last_norm_and_logits_after_it(model):
    out = model(*sample(), capture=EVERYTHING)
    assert len(out.hidden_states) == model.config.dec_num_layers + 1
    assert len(out.neighbour_states) == model.config.enc_num_layers + 1
    final = model.base.final_layer_norm(out.hidden_states[-1])
    assert torch.equal(out.final_hidden, final) and torch.equal(out.logits, model.lm_head(final))
