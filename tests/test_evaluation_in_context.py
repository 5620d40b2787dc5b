"""In-context retrieval reads the neighbour of the last complete chunk before the text, and scores the next
one."""

import numpy as np
import pytest
import torch
from small_probe import STRIDE, VOCABULARY, WINDOW, probe_of, texts
from tiny_models import M, tiny_model

from indexing.errors import InputError
from retro_core.config import FitConfig
from retro_core.evaluation.in_context import context_losses, contexts
from retro_core.evaluation.knn_lm import last_states
from retro_core.retrofit import retrofit

LONGEST = 5 * M


def tiny_fitted():
    """A Llama that has other positions than ours, fitted; its chunks are as long."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 40, "intermediate_size": 28, "num_hidden_layers": 2, "num_attention_heads": 5}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes))
    return retrofit(base, 0, FitConfig(chunk_size=M, cca_layers=[1], start="zero")).eval()


@pytest.fixture(scope="module", params=[tiny_model, tiny_fitted])
def model(request):
    return request.param()


def losses(model, probe, longest=LONGEST, k=1, continuation=True) -> dict[tuple[int, int], float]:
    """(document, token) -> nats"""
    some, owners = [], []
    for window in probe.windows:
        text, read = probe.tokens(window.document), probe.neighbours(window.document).tokens
        for context in contexts(text, read, window, M, 0, longest, k, continuation):
            some.append(context), owners.append(window.document)
            assert len(context.ids) <= longest + 1
    found = {}
    for number, nats in context_losses(model, some):
        for place, one in enumerate(nats):
            assert (owners[number], some[number].first + place) not in found
            found[owners[number], some[number].first + place] = float(one)
    assert len(found) == probe.num_tokens
    return found


@torch.no_grad()
@pytest.mark.parametrize(("k", "continuation"), [(1, True), (2, False), (2, True)])
def test_losses_are_those_of_one_token_after_the_other(model, k, continuation):
    probe = probe_of(texts(3))
    found = losses(model, probe, k=k, continuation=continuation)
    for window in probe.windows:
        text, read = probe.tokens(window.document), probe.neighbours(window.document).tokens
        for token in window.scored:
            context: list[int] = []
            if token >= M:
                for one in reversed(read[token // M - 1][:k]):  # the nearest one is beside the text
                    context += [t for t in one[: 2 * M if continuation else M] if t != 0]
            # What a chunk's last scored token leaves room for is what all of its tokens read.
            last = min(window.last, (token // M + 1) * M - 1)
            begin = max(window.start, last + len(context) - LONGEST)
            ids = torch.tensor([*context, *text[begin:token]])[None]
            expected = -model(ids).logits[0, -1].log_softmax(-1)[text[token]]
            assert found[window.document, token] == pytest.approx(float(expected), abs=1e-5)


@torch.no_grad()
def test_the_first_chunk_has_no_context(model):
    probe = probe_of(texts(3))
    found = losses(model, probe)
    for document, text in enumerate(texts(3)):
        plain = model(torch.from_numpy(text[:M])[None]).logits[0].log_softmax(-1)
        for token in range(1, min(M, len(text))):
            assert found[document, token] == pytest.approx(-float(plain[token - 1, text[token]]), abs=1e-5)


def test_later_tokens_and_neighbours_change_nothing_before_them(model):
    some = texts(3)
    before = losses(model, probe_of(some))
    for position in (1, M, M + 1, 11):
        later = [np.concatenate([text[:position], VOCABULARY - text[position:]]) for text in some]
        probe = probe_of(later)
        kept = probe._neighbours_of

        def neighbours(document, *more, kept=kept, position=position):
            found = kept(document, *more)
            found.tokens[position // M :] = 1  # of the chunk that the token is in, and of later ones
            return found

        probe._neighbours_of = neighbours
        after = losses(model, probe)
        assert all(after[at] == pytest.approx(before[at], abs=1e-9) for at in before if at[1] < position)
        assert any(abs(after[at] - before[at]) > 1e-3 for at in before if at[1] > position)


def test_a_context_too_short_is_told(model):
    probe = probe_of(texts(3))
    assert (WINDOW, STRIDE) == (9, 6)
    with pytest.raises(
        InputError, match="A context of 8 tokens does not hold 1 neighbours of 6 tokens and a chunk of 3"
    ):
        losses(model, probe, longest=8)


@torch.no_grad()
def test_keys_of_every_kind_of_model_are_what_its_output_layer_reads(model):
    head = model.lm_head if hasattr(model, "lm_head") else model.lm.get_output_embeddings()
    some = texts(3)
    for text, states in zip(some, last_states(model, some), strict=True):
        scores = torch.from_numpy(states).to(head.weight.dtype) @ head.weight.T
        assert torch.allclose(scores, model(torch.from_numpy(text)[None]).logits[0], atol=1e-4)
