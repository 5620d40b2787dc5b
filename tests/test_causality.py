"""No position learns of a later token, nor of a chunk's neighbours before that chunk is complete.

By gradients: exactly 0 where there must be no influence, and not 0 where there must be one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tiny_models import M, tiny_input, tiny_model
from torch import Tensor, nn

from retro_core.model import Capture, Retro

N = 3 * M + 2
EVERYTHING = Capture(attention=True, write_strength=True, log_probs=True, hidden_states=True)


@contextmanager
def outputs_of(embeddings: nn.Embedding) -> Iterator[list[Tensor]]:
    found: list[Tensor] = []
    handle = embeddings.register_forward_hook(lambda module, inputs, output: found.append(output))
    yield found
    handle.remove()


def influences(model: Retro, n: int, capture: Capture | None, pad: int = 0) -> tuple[Tensor, Tensor]:
    """((t, s) bool: logits of position t depend on token s; (t, u) bool: … on the neighbours of chunk u)"""
    ids, neighbours = tiny_input(n)
    ids[:, :pad] = 0
    with outputs_of(model.base.dec_embs) as own, outputs_of(model.base.encoder.enc_embs) as read:
        torch.manual_seed(7)
        logits = model(ids, neighbours, capture=capture).logits
    mix = torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(3), dtype=logits.dtype)
    on_tokens, on_chunks = [], []
    for t in range(n):
        gradients = torch.autograd.grad(logits[0, t] @ mix, own + read, retain_graph=True, allow_unused=True)
        gradients = [g if g is not None else torch.zeros(1, n // M, 1) for g in gradients]
        on_tokens.append(gradients[0][0].abs().sum(dim=-1) != 0)
        on_chunks.append(gradients[1][0].abs().flatten(1).sum(dim=-1) != 0)
    return torch.stack(on_tokens), torch.stack(on_chunks)


def expected_influences(n: int) -> tuple[Tensor, Tensor]:
    t, s, u = torch.arange(n)[:, None], torch.arange(n)[None, :], torch.arange(n // M)[None, :]
    return s <= t, t >= (u + 1) * M - 1


@pytest.mark.parametrize("capture", [None, EVERYTHING], ids=["plain", "captured"])
@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_influence_begins_exactly_where_it_must(mode, capture):
    tokens, chunks = influences(tiny_model(mode), N, capture)
    own, read = expected_influences(N)
    assert torch.equal(tokens, own)
    assert torch.equal(chunks, read)


@pytest.mark.parametrize("capture", [None, EVERYTHING], ids=["plain", "captured"])
@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_nothing_leaks_while_training_with_dropout(mode, capture):
    model = tiny_model(mode, dropout_p=0.3).train()
    tokens, chunks = influences(model, N, capture)
    own, read = expected_influences(N)
    assert not (tokens & ~own).any()
    assert not (chunks & ~read).any()
    assert tokens.any() and chunks.any()


@pytest.mark.parametrize("n", range(M, 3 * M + 3))
def test_every_length(n):
    tokens, chunks = influences(tiny_model(), n, None)
    own, read = expected_influences(n)
    assert torch.equal(tokens, own) and torch.equal(chunks, read)


@pytest.mark.parametrize("layers", [[0], [2], [0, 1, 2, 3]])
def test_any_choice_of_layers(layers):
    model = tiny_model(dec_cca_layers=layers, enc_share_decoder_embs=False)
    tokens, chunks = influences(model, N, None)
    own, read = expected_influences(N)
    assert torch.equal(tokens, own) and torch.equal(chunks, read)


def test_padding_in_front_neither_leaks_nor_is_read():
    """With the reference's additive masks a padded first position sees what follows. Not in paper mode."""
    pad = M - 1
    tokens, _ = influences(tiny_model(), N, None, pad=pad)
    own, _ = expected_influences(N)
    assert not (tokens & ~own).any()
    assert not tokens[pad:, :pad].any()
    assert torch.equal(tokens[pad:, pad:], own[pad:, pad:])


def test_log_linear_positions_are_causal_too():
    tokens, chunks = influences(tiny_model(pos_bias="log-linear"), N, None)
    own, read = expected_influences(N)
    assert torch.equal(tokens, own) and torch.equal(chunks, read)
