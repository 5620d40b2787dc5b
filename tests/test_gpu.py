"""The same code on a CUDA device: parity, cache, causality, no waiting. Skipped where there is none.

pytest -m gpu
"""

import copy

import pytest
import torch
from tiny_models import M, tiny_input, tiny_model
from torch.testing import assert_close

from retro_core.config import GenerationConfig
from retro_core.generation import generate
from retro_core.model import Capture, Retro
from retro_core.verify import StubRetriever

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LENGTH = 5 * M + 3


@pytest.fixture(params=["paper", "reference"])
def model(request) -> Retro:
    return tiny_model(request.param)


def hard_input() -> tuple[torch.Tensor, torch.Tensor]:
    ids, neighbours = tiny_input(LENGTH, batch=2)
    ids[0, : M + 1] = 0
    neighbours[0, 0] = 0
    neighbours[0, 1, 0] = 0
    neighbours[:, 3, 1, 4:] = 0
    return ids, neighbours


@pytest.mark.parametrize("capture", [Capture(), Capture(attention=True, log_probs=True)])
def test_logits_and_gradients_are_those_of_the_processor(model, capture):
    ids, neighbours = hard_input()
    labels = torch.roll(ids, -1, dims=1).masked_fill(ids == 0, -100)
    twin = copy.deepcopy(model).cuda()
    here = model(ids, neighbours, labels, capture=capture)
    there = twin(ids.cuda(), neighbours.cuda(), labels.cuda(), capture=capture)
    assert_close(there.logits.cpu(), here.logits, atol=1e-9, rtol=1e-9)
    here.loss.backward()
    there.loss.backward()
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        message = f"gradient of {name}"
        assert_close(theirs.grad.cpu(), mine.grad, atol=1e-8, rtol=1e-6, msg=lambda m, name=message: name + m)


def test_the_loss_in_pieces_is_the_loss(model):
    ids, neighbours = (x.cuda() for x in tiny_input(LENGTH, batch=2))
    twin = copy.deepcopy(model).cuda()
    whole = twin(ids, neighbours, ids).loss
    pieces = twin(ids, neighbours, ids, logits_to_keep=None).loss
    assert_close(pieces, whole)
    weight = twin.base.decoder[0]["2"].wo.weight
    assert_close(torch.autograd.grad(pieces, weight), torch.autograd.grad(whole, weight))


@torch.inference_mode()
def test_the_cache_gives_the_logits_of_the_whole_text(model):
    ids, neighbours = (x.cuda() for x in hard_input())
    model = model.cuda()
    whole, seen = model(ids, neighbours).logits, ids != 0
    for first in range(1, LENGTH):
        cache, found = model.new_cache(), []
        for start, end in [(0, first), *((t, t + 1) for t in range(first, LENGTH))]:
            found.append(model(ids[:, start:end], neighbours[:, : end // M], cache=cache).logits)
        assert_close(torch.cat(found, dim=1)[seen], whole[seen], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("capture", [Capture(), Capture(attention=True)])
def test_nothing_looks_ahead(model, capture):
    model, (ids, neighbours) = model.cuda(), tiny_input(LENGTH)
    read = model.base.dec_embs(ids.cuda()).detach().requires_grad_()
    model.base.dec_embs.forward = lambda _: read
    logits = model(ids.cuda(), neighbours.cuda(), capture=capture).logits
    for t in range(LENGTH):
        (grad,) = torch.autograd.grad(logits[0, t].sum(), read, retain_graph=True)
        reached = grad[0].abs().sum(dim=-1) > 0
        assert reached[t] and not reached[t + 1 :].any()


@torch.inference_mode()
def test_a_token_does_not_make_the_host_wait(model):
    model, (ids, neighbours) = model.cuda(), tiny_input(3 * M)
    ids, neighbours = ids.cuda(), neighbours.cuda()
    cache = model.new_cache()
    model(ids[:, :M], neighbours[:, :1], cache=cache)
    model(ids[:, M : M + 1], neighbours[:, :1], cache=cache)  # tables are made once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for t in range(M + 1, 3 * M):
            model(ids[:, t : t + 1], neighbours[:, : (t + 1) // M], cache=cache, logits_to_keep=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_greedy_text_is_that_of_the_processor(tokenizer):
    model = tiny_model(num_embeddings=tokenizer.vocab_size)
    config = GenerationConfig(max_new_tokens=3 * M, temperature=0.0, ignore_end=True)
    library = StubRetriever(tokenizer.vocab_size, 2 * M)
    here = list(generate(model, tokenizer, "qzjxk", library, config))[-1]
    there = list(generate(model.cuda(), tokenizer, "qzjxk", library, config))[-1]
    assert there.tokens == here.tokens


def test_a_step_in_mixed_precision_is_near_one_in_float32(model):
    ids, neighbours = (x.cuda() for x in tiny_input(LENGTH, batch=2))
    model = model.float().cuda().train()
    exact = model(ids, neighbours, ids, logits_to_keep=None).loss
    with torch.autocast("cuda", dtype=torch.bfloat16):
        mixed = model(ids, neighbours, ids, logits_to_keep=None).loss
    mixed.backward()
    assert torch.isfinite(mixed) and abs(mixed - exact) < 0.05 * exact
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
