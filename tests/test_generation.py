"""A prompt is continued as the model says: looked up chunk by chunk, and drawn as the settings say."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tiny_models import M, tiny_config, tiny_model

from indexing.errors import CheckpointError, InputError
from indexing.neighbours import NO_CHUNK, Neighbours
from retro_core.cache import DecodingCache, Growing
from retro_core.config import GenerationConfig
from retro_core.generation import (
    MAX_PROMPT_TOKENS,
    Finished,
    Prompted,
    Reading,
    Refreshed,
    Retrieved,
    Retrieving,
    Token,
    choose,
    encode_prompt,
    generate,
    penalised,
    repeating,
)
from retro_core.model import Retro, RetroOutput
from retro_core.verify import StubRetriever

K, R = 2, 2 * M
GREEDY = GenerationConfig(max_new_tokens=2 * M + 2, temperature=0.0, ignore_end=True, num_neighbours=K)


class Library(StubRetriever):
    """Answers every chunk with text of its own, notes what it was asked, and may lack neighbours."""

    def __init__(self, vocabulary: int, missing: int = 0):
        super().__init__(vocabulary, R)
        self.missing, self.asked = missing, []

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        self.asked += [chunk.tolist() for chunk in chunks]
        found = super().retrieve(chunks, num_neighbours)
        ids, tokens, first = found.ids.copy(), found.tokens.copy(), num_neighbours - self.missing
        ids[..., first:], tokens[..., first:, :] = NO_CHUNK, 0
        return Neighbours(ids, np.where(ids == NO_CHUNK, np.inf, found.distances), tokens)


class Scripted:
    """In place of a model: wants to write the given tokens, each with the end mark as second choice."""

    device = torch.device("cpu")
    config = tiny_config()

    def __init__(self, vocabulary: int, script: list[int]):
        self.vocabulary, self.script, self.start = vocabulary, script, None

    def new_cache(self) -> DecodingCache:
        return DecodingCache(M)

    def __call__(self, ids, read, cache: DecodingCache, logits_to_keep: int, **more) -> RetroOutput:
        cache.length += ids.shape[1]
        first = cache.length - logits_to_keep + 1
        self.start = first if self.start is None else self.start
        logits = torch.zeros(1, logits_to_keep, self.vocabulary)
        logits[..., 1] = 5.0
        for row, token in enumerate(self.script[first - self.start :][:logits_to_keep]):
            logits[0, row, token] = 9.0
        return RetroOutput(logits)


@pytest.fixture(scope="module")
def model(tokenizer) -> Retro:
    return tiny_model(num_embeddings=tokenizer.vocab_size)


@pytest.fixture
def library(tokenizer) -> Library:
    return Library(tokenizer.vocab_size)


def prompt_of(tokenizer, count: int) -> str:
    text = ("qzjxk" * count)[:count]  # letters that never meet in the tiny tokenizer's texts
    assert len(tokenizer.encode(text)) == count
    return text


def written(events: Iterator) -> list[int]:
    return [event.id for event in events if isinstance(event, Token)]


def naive(
    model, tokens: list[int], library: StubRetriever | None, steps: int
) -> tuple[list[int], list[float]]:
    """Greedy continuation that looks up and computes everything anew for each token."""
    tokens, probabilities = list(tokens), []
    for _ in range(steps):
        read = None
        if library is not None:
            chunks = [tokens[u * M : (u + 1) * M] for u in range(len(tokens) // M)]
            read = torch.tensor(library.retrieve(np.array(chunks), K).tokens)[None]
        with torch.no_grad():
            logits = model(torch.tensor([tokens]), read).logits[0, -1]
        allowed = logits.clone()
        allowed[[0, 1]] = -torch.inf  # padding, and the end mark, which these runs ignore
        tokens.append(int(allowed.argmax()))
        probabilities.append(float(logits.log_softmax(-1)[tokens[-1]]))
    return tokens, probabilities


@pytest.mark.parametrize("count", [1, M - 1, M, M + 1, 2 * M - 1, 2 * M, 3 * M + 1])
@pytest.mark.parametrize("reads", [True, False])
def test_equals_a_loop_that_computes_everything_anew(model, tokenizer, library, count, reads):
    prompt = prompt_of(tokenizer, count)
    events = list(generate(model, tokenizer, prompt, library if reads else None, GREEDY))
    start = [0] * max(0, M - count) + tokenizer.encode(prompt).tolist()
    asked = library.asked.copy()
    tokens, probabilities = naive(model, start, library if reads else None, GREEDY.max_new_tokens)

    assert events[0] == Prompted(start, tokenizer.token_texts(start), max(0, M - count))
    assert events[-1].tokens == tokens and events[-1].reason == "length"
    new = [event for event in events if isinstance(event, Token)]
    assert [event.position for event in new] == list(range(len(start), len(tokens)))
    assert [event.logprob for event in new] == pytest.approx(probabilities, abs=1e-5)
    # Each chunk once, in order, when it was full and before the next token; the last token reaches nobody.
    full = range((len(tokens) - 1) // M)
    assert asked == ([tokens[u * M : (u + 1) * M] for u in full] if reads else [])
    assert [event.chunk for event in new] == [(e.position // M - 1) if reads else -1 for e in new]


def test_events_come_in_the_order_of_the_work(model, tokenizer, library):
    events = list(generate(model, tokenizer, prompt_of(tokenizer, 2 * M + 1), library, GREEDY))
    kinds = [(type(event), getattr(event, "chunk", None)) for event in events]
    assert kinds[:2] == [(Prompted, None), (Retrieving, 0)]
    assert kinds[2:6] == [(Retrieved, 0), (Retrieving, 1), (Retrieved, 1), (Reading, 1)]
    assert kinds[6 : 6 + M - 1] == [(Token, 1)] * (M - 1)
    assert kinds[6 + M - 1 :][:4] == [(Retrieving, 2), (Retrieved, 2), (Reading, 2), (Token, 2)]
    assert kinds[-1] == (Finished, None) and len(written(iter(events))) == GREEDY.max_new_tokens
    assert all(e.neighbours.tokens.shape == (1, K, R) for e in events if isinstance(e, Retrieved))


def test_missing_neighbours(model, tokenizer, library):
    prompt = prompt_of(tokenizer, M + 1)
    for missing in (0, 1):
        fewer = Library(tokenizer.vocab_size, missing)
        expected, _ = naive(model, tokenizer.encode(prompt).tolist(), fewer, GREEDY.max_new_tokens)
        assert list(generate(model, tokenizer, prompt, fewer, GREEDY))[-1].tokens == expected
    nothing = list(generate(model, tokenizer, prompt, Library(tokenizer.vocab_size, K), GREEDY))
    off = GenerationConfig(**{**GREEDY.to_dict(), "retrieval": False})
    silent = list(generate(model, tokenizer, prompt, library, off))
    assert nothing[-1].tokens == silent[-1].tokens != expected
    assert library.asked == [] and not any(isinstance(event, Retrieving) for event in silent)


def test_same_seed_same_text_other_seed_other_text(model, tokenizer, library):
    def text(seed: int, **changes) -> list[int]:
        settings = {"max_new_tokens": 9, "temperature": 1.5, "top_k": 0, "top_p": 1.0, "ignore_end": True}
        config = GenerationConfig(**{**settings, "seed": seed, **changes})
        return written(generate(model, tokenizer, "qz", library, config))

    assert text(3) == text(3) != text(4)
    greedy = text(3, temperature=0.0)
    assert greedy[: GREEDY.max_new_tokens] == written(generate(model, tokenizer, "qz", library, GREEDY))
    for alone in ({"top_k": 1}, {"top_p": 0.01}, {"temperature": 1e-40}):
        assert text(5, **alone) == greedy, alone


def test_what_may_be_drawn(tokenizer):
    """Probabilities .4 .3 .2 .1; padding is likelier than all of them and never drawn."""
    logits = torch.full((tokenizer.vocab_size,), -torch.inf)
    logits[torch.tensor([7, 5, 8, 6])] = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    logits[tokenizer.pad_id] = 50.0

    def drawn(**settings) -> set[int]:
        config = GenerationConfig(**{"temperature": 1.0, "top_k": 0, "top_p": 1.0, **settings})
        dice = torch.Generator().manual_seed(0)
        return {choose(logits, [0, 9], 1, tokenizer, config, dice) for _ in range(150)}

    assert drawn() == {5, 6, 7, 8}
    assert drawn(top_k=3) == {5, 7, 8} and drawn(top_k=1) == {7} == drawn(temperature=0.0)
    assert drawn(top_p=0.69) == {5, 7} and drawn(top_p=0.71) == {5, 7, 8}, "the token that crosses it stays"
    assert drawn(temperature=0.02) == {7}
    assert drawn(top_k=2, top_p=0.56) == {7}, "shares are of what top_k left: .57 and .43"
    assert drawn(min_p=0.51) == {5, 7} and drawn(min_p=0.49) == {5, 7, 8} and drawn(min_p=1.0) == {7}


def test_penalties_by_hand():
    logits = torch.tensor([3.0, -1.0, 2.0, -2.0, 0.5])

    def after(tokens: list[int], **settings) -> list[float]:
        got = penalised(logits, tokens, 4, GenerationConfig(**settings)).tolist()
        assert logits.tolist() == [3.0, -1.0, 2.0, -2.0, 0.5], "the model's own numbers stay"
        return got

    assert after([2, 3, 2], repetition_penalty=2.0) == [3.0, -1.0, 1.0, -4.0, 0.5]
    assert after([0, 1, 2, 0, 1], no_repeat_ngram_size=3)[2] == -np.inf
    assert after([0, 1], min_length=3)[4] == -np.inf and after([0, 1, 2], min_length=3)[4] == 0.5
    assert after([0], ignore_end=True)[4] == -np.inf
    random = np.random.default_rng(0)
    for _ in range(200):
        tokens, size = random.integers(0, 3, random.integers(0, 9)).tolist(), int(random.integers(1, 5))
        grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
        again = [t for t in range(3) if tuple([*tokens, t][-size:]) in grams and len(tokens) >= size - 1]
        assert repeating(tokens, size) == again


def test_the_end_of_a_document_ends_the_text(tokenizer):
    config = GenerationConfig(temperature=0.0, max_new_tokens=4)
    script = [10, 11, tokenizer.end_id, 12]
    done = list(generate(Scripted(tokenizer.vocab_size, script), tokenizer, "qz", None, config))[-1]
    assert (done.reason, done.tokens[M:]) == ("end of document", [10, 11])
    on = GenerationConfig(temperature=0.0, max_new_tokens=4, ignore_end=True)
    done = list(generate(Scripted(tokenizer.vocab_size, script), tokenizer, "qz", None, on))[-1]
    assert done.reason == "length" and done.tokens[M : M + 2] == [10, 11] and len(done.tokens) == M + 4
    assert not {tokenizer.end_id, tokenizer.pad_id} & set(done.tokens[M:])
    longer = GenerationConfig(temperature=0.0, min_length=4)  # "qz" and two more; padding does not count
    done = list(generate(Scripted(tokenizer.vocab_size, [1] * 5), tokenizer, "qz", None, longer))[-1]
    assert done.reason == "end of document" and len(done.tokens) == M + 2


def test_texts_joined_are_the_text(tokenizer):
    text = " Zürich 😀, 東京"
    script = tokenizer.encode(text).tolist()
    config = GenerationConfig(temperature=0.0, max_new_tokens=len(script))
    events = list(generate(Scripted(tokenizer.vocab_size, script), tokenizer, "é 😀", None, config))
    assert "".join(events[0].texts) == "é 😀"
    assert "".join(event.text for event in events[1:-1]) == text
    cut = GenerationConfig(temperature=0.0, max_new_tokens=len(tokenizer.encode(" Zürich 😀")) - 1)
    events = list(generate(Scripted(tokenizer.vocab_size, script), tokenizer, "qz", None, cut))
    assert "".join(event.text for event in events[1:-1]) == " Zürich ", "half a character is not shown"


def test_a_stop_string_ends_the_text_wherever_its_tokens_are_cut(tokenizer):
    text = " Zürich 😀, 東京"
    script = tokenizer.encode(text).tolist()

    def until(*stop: str) -> tuple[str, str]:
        config = GenerationConfig(temperature=0.0, max_new_tokens=len(script), stop=list(stop))
        events = list(generate(Scripted(tokenizer.vocab_size, script), tokenizer, "h 😀", None, config))
        return "".join(e.text for e in events if isinstance(e, Token)), events[-1].reason

    whole = (text, "length")
    assert until() == until("Bern") == until("h 😀 Z") == whole, "the prompt's own text stops nothing"
    got, reason = until("Z")  # the token that brings it stays whole
    assert "Z" in got and text.startswith(got) and len(got) < 7 and reason == "stop string"
    got, reason = until("Bern", "h 😀")
    assert got == " Zürich 😀" and reason == "stop string"
    assert until("京") == (text, "stop string")


def test_neighbours_found_before_are_not_looked_up_again(model, tokenizer, library):
    prompt = prompt_of(tokenizer, 2 * M + 1)
    whole = list(generate(model, tokenizer, prompt, library, GREEDY))
    found = [event.neighbours for event in whole if isinstance(event, Retrieved)]
    for known in range(len(found) + 1):
        library.asked.clear()
        again = list(generate(model, tokenizer, prompt, library, GREEDY, found=found[:known]))
        assert again[-1].tokens == whole[-1].tokens and len(library.asked) == len(found) - known
        assert len([e for e in again if isinstance(e, Retrieved)]) == len(found)
    assert list(generate(model, tokenizer, prompt, None, GREEDY, found=found))[-1].tokens == whole[-1].tokens


@pytest.mark.parametrize("count", [1, M, M + 1, 2 * M - 1])
@pytest.mark.parametrize("step", [1, 2, M])
def test_a_shorter_retrieval_step_reads_what_the_last_chunk_asked_for(tokenizer, library, count, step):
    """With CCA in the last layer only, a position's logits depend on its own neighbours alone: those of the
    latest lookup, in a text padded on the left until a chunk ends there."""
    model = tiny_model(num_embeddings=tokenizer.vocab_size, dec_cca_layers=[3])
    config = GenerationConfig(**{**GREEDY.to_dict(), "retrieval_step": step})
    events = list(generate(model, tokenizer, prompt_of(tokenizer, count), library, config))
    tokens, start = events[-1].tokens, max(M, count)
    looked_up = [u * M for u in range(1, start // M + 1)]
    for end in range(start, len(tokens)):
        beyond = end % M
        if beyond == 0 or (beyond >= step and (beyond % step == 0 or end == start)):
            looked_up.append(end)
        pad = -looked_up[-1] % M
        padded = torch.tensor([[0] * pad + tokens[:end]])
        read = torch.zeros(1, padded.shape[1] // M, K, R, dtype=torch.int64)
        asked = np.array([tokens[looked_up[-1] - M : looked_up[-1]]])
        read[0, -1] = torch.tensor(library.retrieve(asked, K).tokens)[0]
        with torch.no_grad():
            allowed = model(padded, read).logits[0, -1]
        allowed[[0, 1]] = -torch.inf
        assert int(allowed.argmax()) == tokens[end]
    fresh = [event.position for event in events if isinstance(event, Refreshed)]
    assert fresh == [end for end in looked_up if end % M]


def test_a_retrieval_step_beyond_the_chunk_is_refused(model, tokenizer, library):
    config = GenerationConfig(retrieval_step=M + 1)
    with pytest.raises(
        InputError, match="reads in chunks of 3 tokens, so retrieval_step can be 1 to 3, got 4"
    ):
        next(generate(model, tokenizer, "qz", library, config))


def test_scores_that_are_no_numbers_end_the_text(tokenizer, library):
    broken = tiny_model(num_embeddings=tokenizer.vocab_size)
    with torch.no_grad():
        broken.lm_head.weight[5] = torch.nan
    with pytest.raises(CheckpointError, match="are not all numbers"):
        list(generate(broken, tokenizer, "qz", library, GREEDY))


def test_closing_stops_the_work(model, tokenizer, library):
    running = generate(model, tokenizer, prompt_of(tokenizer, M), library, GREEDY)
    for event in running:
        if isinstance(event, Token):
            break
    running.close()
    assert len(library.asked) == 1 and list(running) == []
    assert not torch.is_inference_mode_enabled()


def test_prompts_that_cannot_be_continued(model, tokenizer, library):
    with pytest.raises(InputError, match="The prompt is empty. Type the beginning"):
        next(generate(model, tokenizer, "", library, GREEDY))
    with pytest.raises(InputError, match="has 4,097 tokens, up to 4,096 fit. Shorten it"):
        next(generate(model, tokenizer, "q" * (MAX_PROMPT_TOKENS + 1), library, GREEDY))
    assert len(encode_prompt(tokenizer, "q" * MAX_PROMPT_TOKENS, M)) == MAX_PROMPT_TOKENS
    assert library.asked == []


def test_room_for_the_whole_text_is_made_once(model, tokenizer, library, monkeypatch):
    made: dict[int, int] = {}
    grow = Growing._grow

    def counted(self, new, needed):
        made[id(self)] = made.get(id(self), 0) + 1
        grow(self, new, needed)

    monkeypatch.setattr(Growing, "_grow", counted)
    config = GenerationConfig(**{**GREEDY.to_dict(), "max_new_tokens": 150})
    list(generate(model, tokenizer, prompt_of(tokenizer, 2 * M), library, config))
    assert len(made) == 2 * 4 + 2 * 2 + 3 and set(made.values()) == {1}
