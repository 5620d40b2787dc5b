"""Tokens that are guessed and read in advance leave the text as it is, and save passes when right."""

import random
from dataclasses import replace

import numpy as np
import pytest
from test_retrofit import fit_of
from tiny_models import tiny_model
from torch import nn

from retro_core import generation
from retro_core.config import GenerationConfig
from retro_core.drafting import Drafter
from retro_core.generation import Retrieved, Token, generate
from retro_core.verify import StubRetriever

M, K, R = 11, 2, 22
PLAIN = GenerationConfig(
    max_new_tokens=5 * M + 3, temperature=0.0, ignore_end=True, num_neighbours=K, draft_tokens=0
)
RULES = {
    "greedy": {},
    "drawn": {"temperature": 0.9, "seed": 3, "top_p": 0.9},
    "penalised": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    "ended": {"temperature": 1.0, "ignore_end": False, "top_k": 0, "seed": 1},
}  # fmt: skip


class Counted(nn.Module):
    """A model that notes how many tokens each pass reads."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.config, self.device, self.passes = model, model.config, model.device, []

    def new_cache(self):
        return self.model.new_cache()

    def forward(self, ids, *arguments, **more):
        self.passes.append(ids.shape[1])
        return self.model(ids, *arguments, **more)


def prompt(count: int) -> list[int]:
    return list(range(2, 2 + count))


def write(model, tokenizer, count: int, config: GenerationConfig) -> tuple[list, Counted]:
    counted = Counted(model)
    library = StubRetriever(tokenizer.vocab_size, R)
    return list(generate(counted, tokenizer, prompt(count), library, config)), counted


def same(one: list, other: list) -> bool:
    """The same events, but for seconds and rounding."""
    assert [type(event) for event in one] == [type(event) for event in other]
    for mine, theirs in zip(one, other, strict=True):
        if isinstance(mine, Token):
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-5)
            assert replace(mine, logprob=0) == replace(theirs, logprob=0)
        elif isinstance(mine, Retrieved):
            assert np.array_equal(mine.neighbours.tokens, theirs.neighbours.tokens)
        elif hasattr(mine, "seconds"):
            assert replace(mine, seconds=0) == replace(theirs, seconds=0)
        else:
            assert mine == theirs
    return True


def knowing(text: list[int], mistakes: float) -> type[Drafter]:
    """A drafter that knows the text to come, and says a wrong token now and then."""
    dice = random.Random(5)

    class Knowing(Drafter):
        def guess(self, tokens, room):
            known = text[len(tokens) : len(tokens) + min(room, self.most)]
            return [1 + token % 7 if dice.random() < mistakes else token for token in known]

    return Knowing


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("count, mistakes", [(M - 1, 0.0), (1, 0.3), (2 * M + 3, 0.3), (M, 1.0)])
def test_the_text_is_the_one_written_token_by_token(tokenizer, monkeypatch, rules, count, mistakes):
    model = tiny_model(num_embeddings=tokenizer.vocab_size, chunk_size=M)
    config = replace(PLAIN, **RULES[rules])
    plain, one_by_one = write(model, tokenizer, count, config)
    text = plain[-1].tokens
    written = len(text) - max(M, count)
    assert one_by_one.passes[1:] == [1] * (len(one_by_one.passes) - 1)
    monkeypatch.setattr(generation, "Drafter", knowing(text, mistakes))
    drafted, fewer = write(model, tokenizer, count, replace(config, draft_tokens=7))
    assert same(drafted, plain)
    if mistakes == 0 and plain[-1].reason == "length":  # up to eight tokens a pass; a border ends one
        assert len(fewer.passes) <= written // 8 + 2 * (written // M + 2)
    assert max(fewer.passes[1:]) > 1


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_a_fitted_base_takes_back_what_was_wrong(tokenizer, monkeypatch, family):
    model = fit_of(family)
    config = replace(PLAIN, max_new_tokens=13)
    library = StubRetriever(model.config.num_embeddings, R)
    begun = prompt(model.config.chunk_size + 1)
    plain = list(generate(model, tokenizer, begun, library, config))
    monkeypatch.setattr(generation, "Drafter", knowing(plain[-1].tokens, 0.4))
    assert same(list(generate(model, tokenizer, begun, library, replace(config, draft_tokens=5))), plain)


def test_a_text_that_repeats_itself_takes_fewer_passes(tokenizer):
    """A random model that takes the likeliest token runs in a circle sooner or later."""
    model = tiny_model(num_embeddings=tokenizer.vocab_size, chunk_size=M)
    config = replace(PLAIN, retrieval=False, max_new_tokens=90)
    plain, one_by_one = write(model, tokenizer, 3, config)
    drafted, fewer = write(model, tokenizer, 3, replace(config, draft_tokens=8))
    assert same(drafted, plain)
    assert len(one_by_one.passes) == 90 and len(fewer.passes) < 75


@pytest.mark.parametrize("settings, most", [({}, 8), ({"retrieval_step": 4}, 0), ({"int8": True}, 0)])
def test_nothing_is_guessed_where_it_cannot_be_read_at_once_or_changes_numbers(
    tokenizer, monkeypatch, settings, most
):
    made = []
    monkeypatch.setattr(generation, "Drafter", lambda *given: made.append(given) or Drafter(*given))
    model = tiny_model(num_embeddings=tokenizer.vocab_size, chunk_size=M).float()
    config = replace(PLAIN, **settings, draft_tokens=8, max_new_tokens=M)
    list(generate(model, tokenizer, prompt(M), StubRetriever(tokenizer.vocab_size, R), config))
    assert made == [(most, tokenizer.pad_id)]


# ------------------------------------------------------------------------------------------- the guess


def told(drafter: Drafter, tokens: list[int], room: int = 8) -> list[int]:
    return drafter.guess(tokens, room)


def test_what_followed_in_a_neighbour_is_guessed():
    drafter = Drafter(4, hidden=0)
    drafter.learn([[11, 12, 13, 14, 15, 16, 17, 18], [21, 22, 23, 0, 0]])
    assert told(drafter, [5, 11, 12]) == [13, 14, 15, 16]
    assert told(drafter, [5, 11, 12], room=2) == [13, 14]
    assert told(drafter, [5, 11, 12], room=0) == []
    assert told(drafter, [5, 11, 12, 99]) == [], "one token alone says little"
    assert told(drafter, [5, 11, 12, 99, 21, 22]) == [23], "padding is not guessed"
    assert told(drafter, [5, 11, 12, 99, 21, 22, 23]) == []


def test_the_place_that_agrees_longest_is_meant_and_of_these_the_last():
    drafter = Drafter(1, hidden=0)
    drafter.learn([[7, 11, 12, 31], [8, 11, 12, 32], [9, 11, 12, 33]])
    assert told(drafter, [5, 8, 11, 12]) == [32]
    assert told(drafter, [5, 8, 11, 12, 11, 12]) == [11], "the text itself came last"
    drafter.learn([[11, 12, 11, 12, 44]])
    assert told(drafter, [5, 8, 11, 12, 11, 12]) == [44]


def test_padding_on_the_left_joins_no_run():
    drafter = Drafter(3, hidden=0)
    assert told(drafter, [0, 0, 0, 0]) == []
    drafter.learn([[0, 0, 0, 6, 7, 8, 9]])
    assert told(drafter, [0, 0, 0, 0, 6]) == []
    assert told(drafter, [0, 0, 0, 0, 6, 7]) == [8, 9]


def test_guesses_grow_while_they_are_right_and_shrink_when_they_are_wrong():
    drafter = Drafter(8, hidden=0)
    drafter.learn([list(range(1, 30))])
    drafter.judge(guessed=8, right=2)
    assert told(drafter, [1, 2]) == [3, 4, 5]
    drafter.judge(guessed=3, right=3)
    assert told(drafter, [1, 2]) == [3, 4, 5, 6, 7, 8]
    drafter.judge(guessed=6, right=0)
    assert told(drafter, [1, 2]) == [3]


def test_with_none_allowed_nothing_is_kept():
    drafter = Drafter(0, hidden=0)
    drafter.learn([[1, 2, 3]])
    assert told(drafter, [1, 2]) == []
