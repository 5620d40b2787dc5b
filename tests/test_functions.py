"""The hand-written gradients are those of the plain formulas, by finite differences and by autograd."""

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_input, tiny_model
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from retro_core import functions
from retro_core.functions import attention, by_distance, cross_entropy_in_pieces, gated_feed_forward, rms_norm


def noise(*shape: int, seed: int = 0, grad: bool = True) -> Tensor:
    random = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_(grad)


def test_rms_norm():
    x, scale = noise(2, 3, 5), noise(5)
    assert gradcheck(rms_norm, (x, scale))
    with torch.no_grad():
        expected = x / (x.square().mean(dim=-1, keepdim=True).sqrt() + 1e-8) * scale
        assert_close(rms_norm(x, scale), expected)
    assert_close(rms_norm(x, scale).detach(), expected)


def test_rms_norm_of_nothing_is_nothing_and_has_a_finite_gradient():
    x = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    y = rms_norm(x, torch.ones(5, dtype=torch.float64))
    y.sum().backward()
    assert not y.any() and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("queries, keys", [(1, 1), (1, 7), (5, 1), (5, 7), (7, 3)])
def test_by_distance(queries, keys):
    line = noise(2, queries + keys - 1)
    found = by_distance(line, queries, keys)
    for i in range(queries):
        for j in range(keys):
            assert_close(found[:, i, j], line[:, j - i + queries - 1])
    with torch.no_grad():
        assert_close(by_distance(line, queries, keys), found)
    assert gradcheck(lambda x: by_distance(x, queries, keys), (line,))


@pytest.mark.parametrize("own", [False, True], ids=["one bias", "a bias for each"])
def test_attention(own):
    q, k, v = noise(2, 3, 5, 7), noise(2, 3, 11, 7, seed=1), noise(2, 3, 11, 7, seed=2)
    bias = noise(*((2,) if own else ()), 3, 5, 11, seed=3)
    hidden = torch.zeros(5, 11, dtype=torch.bool)
    hidden[2, 3:], hidden[0, 1] = True, True

    def ours(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return attention(q, k, v, bias.masked_fill(hidden, -torch.inf), 0.3)

    assert gradcheck(ours, (q, k, v, bias))
    plain = (q @ k.transpose(-1, -2) * 0.3 + bias).masked_fill(hidden, -torch.inf).softmax(dim=-1) @ v
    assert_close(ours(q, k, v, bias), plain)
    with torch.no_grad():
        assert_close(ours(q, k, v, bias), plain)


def test_attention_does_not_change_what_it_is_given():
    q, k, v, bias = noise(1, 1, 5, 7), noise(1, 1, 5, 7, seed=1), noise(1, 1, 5, 7, seed=2), noise(1, 5, 5)
    before = [x.detach().clone() for x in (q, k, v, bias)]
    attention(q, k, v, bias, 1.0).sum().backward()
    for x, kept in zip((q, k, v, bias), before, strict=True):
        assert torch.equal(x, kept)


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_gated_feed_forward(monkeypatch, rows):
    monkeypatch.setattr(functions, "_ROWS", rows)
    x, gate, up, down = noise(2, 5, 3), noise(7, 3), noise(7, 3, seed=1), noise(3, 7, seed=2)
    plain = (F.gelu(x @ gate.T, approximate="tanh") * (x @ up.T)) @ down.T
    assert_close(gated_feed_forward(x, gate, up, down), plain)
    assert gradcheck(gated_feed_forward, (x, gate, up, down))
    with torch.no_grad():
        assert_close(gated_feed_forward(x, gate, up, down), plain)


@pytest.mark.parametrize("piece", [1, 4, 100])
def test_cross_entropy_in_pieces(monkeypatch, piece):
    monkeypatch.setattr(functions, "_PIECE", piece)
    hidden, weight = noise(2, 5, 3), noise(7, 3)
    labels = torch.tensor([[1, -100, 3, 6, 0], [2, 2, -100, -100, 5]])
    plain = F.cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten())
    assert_close(cross_entropy_in_pieces(hidden, weight, labels), plain)
    assert gradcheck(lambda h, w: cross_entropy_in_pieces(h, w, labels), (hidden, weight))
    for frozen in (0, 1):
        given = [hidden.detach().requires_grad_(), weight.detach().requires_grad_()]
        given[frozen].requires_grad_(False)
        cross_entropy_in_pieces(*given, labels).backward()
        (expected,) = torch.autograd.grad(plain, (hidden, weight)[1 - frozen], retain_graph=True)
        assert given[frozen].grad is None
        assert_close(given[1 - frozen].grad, expected)
    each = F.cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten(), reduction="none")
    found = cross_entropy_in_pieces(hidden, weight, labels, "none")
    assert_close(found, each.view(2, 5))
    assert_close(torch.autograd.grad(found.sum(), hidden), torch.autograd.grad(each.sum(), hidden))


def test_cross_entropy_survives_large_logits():
    hidden = torch.tensor([[[1e4, -1e4]]], dtype=torch.float32, requires_grad=True)
    weight = torch.eye(2, requires_grad=True)
    loss = cross_entropy_in_pieces(hidden, weight, torch.tensor([[1]]))
    assert_close(loss, torch.tensor(2e4))


def test_mixed_precision_on_a_processor_goes_through():
    model = tiny_model(dropout_p=0.0).float().train()
    ids, neighbours = tiny_input(11)
    exact = model(ids, neighbours, ids, logits_to_keep=None).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(ids, neighbours, ids, logits_to_keep=None).loss
    mixed.backward()
    assert torch.isfinite(mixed) and abs(mixed - exact) < 0.05 * exact
