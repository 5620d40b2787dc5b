"""Neighbours changed by hand: what comes out is what a full pass over the changed neighbours gives, and only
what changed is computed."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_explain import datastore, explained, ids_of, loaded, looked_up  # noqa: F401
from test_generation import Library
from test_influence import full, neighbours_of
from tiny_models import M, R, tiny_input, tiny_model

from indexing.errors import InputError
from indexing.neighbours import NO_CHUNK, PASTED, Neighbours
from retro_core.config import REFERENCE, GenerationConfig
from retro_core.counterfactual import (
    Change,
    Edit,
    Mute,
    Paste,
    Reorder,
    Swap,
    all_chunks,
    branch,
    change,
    fork,
    leave_one_out,
    read,
    rescore,
)
from retro_core.generation import Finished, Prompted, Retrieved, Token, generate
from retro_core.model import Capture

K = 3
N = 5 * M + 2  # five complete chunks, the last one read by two tokens
TEXT = [7, 8, 9, 10]


def library() -> Neighbours:
    return neighbours_of(N, K, {1: 1, 3: 3})


def pasted(tokens: np.ndarray, u: int, j: int) -> None:
    tokens[u, j] = TEXT + [0] * (R - len(TEXT))


def exchanged(tokens: np.ndarray, *places: tuple[int, int]) -> None:
    (a, b), (c, d) = places
    tokens[a, b], tokens[c, d] = tokens[c, d].copy(), tokens[a, b].copy()


def muted(tokens: np.ndarray, u: int, j: int) -> None:
    tokens[u, j] = 0


def reordered(tokens: np.ndarray) -> None:
    tokens[2] = tokens[2][[2, 0, 1]]


def everything(tokens: np.ndarray) -> None:
    exchanged(tokens, (0, 1), (4, 0))
    pasted(tokens, 0, 1)
    muted(tokens, 4, 0)
    muted(tokens, 2, 2)


# changes, the same by hand on tokens (l, k, r), chunks that read something else then
CASES: list[tuple[list[Change], Callable[[np.ndarray], None], list[int]]] = [
    ([Mute(0, 2)], lambda t: muted(t, 0, 1), [0]),
    ([Mute(1, 1), Mute(1, 2)], lambda t: (muted(t, 1, 0), muted(t, 1, 1)), [1]),
    ([Edit(2, 1, TEXT)], lambda t: pasted(t, 2, 0), [2]),
    ([Paste(4, 3, TEXT)], lambda t: pasted(t, 4, 2), [4]),
    ([Paste(3, 2, TEXT)], lambda t: pasted(t, 3, 1), [3]),  # where nothing had been found
    ([Swap(1, 2, 4, 1)], lambda t: exchanged(t, (1, 1), (4, 0)), [1, 4]),
    ([Swap(2, 1, 2, 3)], lambda t: exchanged(t, (2, 0), (2, 2)), [2]),
    ([Reorder(2, (3, 1, 2))], reordered, [2]),
    ([Swap(0, 2, 4, 1), Edit(0, 2, TEXT), Mute(4, 1), Mute(2, 3)], everything, [0, 2, 4]),
]
NAMES = ["mute", "mute all", "edit", "paste", "paste anew", "swap", "swap within", "reorder", "several"]


@pytest.mark.parametrize("mode", ["paper", REFERENCE])
@pytest.mark.parametrize("changes, by_hand, chunks", CASES, ids=NAMES)
def test_rescored_is_a_full_pass_over_the_changed_neighbours(mode, changes, by_hand, chunks):
    model, ids, before = tiny_model(mode), tiny_input(N)[0][0].tolist(), library()
    scored = read(model, ids, before)
    found = rescore(scored, changes)

    tokens = before.tokens.copy()
    by_hand(tokens)
    assert (found.changed.neighbours.tokens == tokens).all()
    after = Neighbours(before.ids, before.distances, tokens)
    expected = full(model, ids, after, None)
    np.testing.assert_allclose(found.log_probs, expected, atol=1e-9)
    original = full(model, ids, before, None)
    np.testing.assert_allclose(found.gain, expected - original, atol=1e-9)
    assert found.first == (chunks[0] + 1) * M and not found.gain[: found.first].any()
    if mode == REFERENCE or changes != [Reorder(2, (3, 1, 2))] and changes != [Swap(2, 1, 2, 3)]:
        assert found.gain[found.first :].all()
    else:
        np.testing.assert_allclose(found.gain, 0, atol=1e-9)

    with torch.no_grad():
        attention = model(
            torch.tensor([ids]), torch.from_numpy(tokens)[None], capture=Capture(attention=True)
        ).attention.weights[:, 0]
    assert sorted(found.attention) == chunks
    for u, weights in found.attention.items():
        rows = M if u < 4 else 2
        assert weights.shape == (2, 3, rows, K, R)
        np.testing.assert_allclose(weights, attention[:, u, :, :rows], atol=1e-6)


@pytest.mark.parametrize("changes, encoded", [
    ([Mute(3, 1)], []),
    ([Reorder(2, (2, 3, 1))], []),
    ([Edit(2, 2, TEXT)], [(1, 1, 1, R)]),
    ([Paste(2, 1, TEXT), Paste(2, 3, TEXT[:2]), Mute(2, 2)], [(1, 1, 2, R)]),
    ([Swap(2, 1, 4, 1)], [(1, 1, 1, R), (1, 1, 1, R)]),
])  # fmt: skip
def test_only_what_changed_and_what_follows_is_computed(changes, encoded):
    model = tiny_model()
    scored = read(model, tiny_input(N)[0][0].tolist(), neighbours_of(N, K))
    positions, shapes = [], []
    model.base.decoder[0]["0"].register_forward_hook(lambda _, args, out: positions.append(out.shape[:2]))
    model.base.encoder.register_forward_hook(lambda _, args, out: shapes.append(tuple(args[0].shape)))
    rescore(scored, changes)
    first = changes[0].chunk
    assert positions == [(1, N - (first * M + M - 1))] and shapes == encoded
    before = scored.cache.length
    assert before == N, "what was read stays as it was, for the next change"
    assert (rescore(scored, changes).log_probs == rescore(scored, changes).log_probs).all()


def test_no_change_is_no_work():
    model = tiny_model()
    scored = read(model, tiny_input(5 * M)[0][0].tolist(), neighbours_of(5 * M, K))
    model.forward = None  # not to be called
    tokens = scored.neighbours.tokens
    for changes in (
        [],
        [Edit(1, 1, tokens[1, 0].tolist())],
        [Swap(1, 1, 2, 2), Swap(2, 2, 1, 1)],
        [Mute(4, 1)],
    ):
        found = rescore(scored, changes)  # what nothing has read yet changes nothing either
        assert found.first == 5 * M and not found.gain.any() and found.attention == {}
        assert (found.log_probs == scored.log_probs.numpy()).all()


def test_muting_is_leaving_out():
    scored = read(tiny_model(), tiny_input(N)[0][0].tolist(), library())
    lost = leave_one_out(scored)
    for u, rank in ((0, 3), (1, 1), (4, 2)):
        np.testing.assert_allclose(rescore(scored, [Mute(u, rank)]).gain, -lost[u, rank - 1], atol=1e-12)


def test_it_is_told_what_was_done_to_which():
    before = library()
    kept = before.tokens.copy(), before.ids.copy()
    after = change(before, [
        Mute(0, 1), Edit(0, 2, TEXT), Paste(3, 2, TEXT), Swap(1, 1, 4, 2), Reorder(2, (1, 3, 2)),
        Edit(3, 2, TEXT[:3]),
    ], None, M)  # fmt: skip
    assert [list(row) for row in after.what] == [
        ["muted", "edited", ""], ["moved", "", ""], ["", "moved", "moved"], ["", "pasted", ""],
        ["", "moved", ""],
    ]  # fmt: skip
    assert after.neighbours.ids[0].tolist() == [NO_CHUNK, 1, 2] and after.shown.ids[0].tolist() == [0, 1, 2]
    assert after.neighbours.ids[3].tolist() == [NO_CHUNK, PASTED, NO_CHUNK]
    assert (after.shown.tokens[0, 0] == before.tokens[0, 0]).all()
    # A distance belongs to a text and the chunk that asked for it.
    assert np.isinf(after.shown.distances[1, 0]) and np.isinf(after.shown.distances[0, 1])
    assert after.shown.distances[2].tolist() == [1, 1, 1]
    assert (before.tokens == kept[0]).all() and (before.ids == kept[1]).all(), "the original is as it was"


def test_texts_are_cut_into_the_neighbour_and_what_follows(tokenizer):
    text = "The river Nile"
    ids = tokenizer.encode(text).tolist()
    before = Neighbours(
        np.zeros((1, 1), np.int64), np.ones((1, 1), np.float32), np.ones((1, 1, 12), np.int64)
    )
    after = change(before, [Paste(0, 1, text)], tokenizer, 6)
    assert after.neighbours.tokens[0, 0].tolist() == ids + [0] * (12 - len(ids))


@pytest.mark.parametrize("one, sentence", [
    (Mute(5, 1), "There is no chunk 5: the text has 5 complete chunks, counted from 0. Choose one of them."),
    (Mute(-1, 1), "There is no chunk -1"),
    (Mute(1, 3), "Chunk 1 has the ranks 1, 2, got rank 3. Choose another rank or chunk."),
    (Edit(3, 1, TEXT), "Chunk 3 has no neighbours, got rank 1."),
    (Paste(0, 4, TEXT), "Chunk 0 has the ranks 1, 2, 3, got rank 4."),
    (Paste(0, 0, TEXT), "got rank 0."),
    (Swap(0, 1, 1, 3), "Chunk 1 has the ranks 1, 2, got rank 3."),
    (Reorder(1, (1, 2, 3)), "Expected the ranks 1, 2 of chunk 1 in another order, got 1, 2, 3. Name each"),
    (Edit(0, 1, []), "The text for a neighbour is empty."),
    (Edit(0, 1, [5] * (R + 1)), "has 8 tokens, up to 7 fit: 3 for the neighbour, the rest for what follows"),
    (Edit(0, 1, [5, 0, 5]), "Token 0 is padding"),
    (Edit(0, 1, [5, 23]), "Token id 23 is outside the model's vocabulary of 23"),
    (Edit(0, 1, "words"), "Got a text for a neighbour but no tokenizer."),
])  # fmt: skip
def test_what_cannot_be_changed_is_said_in_a_sentence(one, sentence):
    scored = read(tiny_model(), tiny_input(N)[0][0].tolist(), library())
    with pytest.raises(InputError) as caught:
        rescore(scored, [one])
    assert sentence in str(caught.value)


def test_a_text_read_without_neighbours_has_none_to_change():
    with pytest.raises(InputError, match="read without neighbours"):
        rescore(read(tiny_model(), [1, 2, 3], None), [])


def test_a_trace_of_changed_neighbours(loaded, tokenizer, datastore):  # noqa: F811
    ids = ids_of(tokenizer, 3 * M + 2)
    neighbours = looked_up(ids, tokenizer)[:2]  # the third chunk was never looked up
    changes = [Mute(0, 2), Paste(1, 1, "Nile"), Paste(2, 1, ids[:2])]
    value = explained(loaded, ids, neighbours, datastore, changes=changes)
    found = rescore(read(loaded.model, ids, all_chunks(neighbours, 3)), changes, tokenizer)
    shown = [token["lp_on"] for token in value["tokens"][1:]]
    assert shown == pytest.approx(found.log_probs[1:].tolist(), abs=1e-6)
    first, second, third = (chunk["neighbours"] for chunk in value["chunks"])
    assert [card["changed"] for card in first] == [None, "muted"]
    assert first[0]["share"] == 1 and first[1]["share"] == 0 and first[1]["influence"] is None
    assert "".join(first[1]["tokens"]), "what was muted is still shown"
    assert first[0]["influence"]["own"] != 0 and first[1]["copied"] is None
    assert [card["changed"] for card in second] == ["pasted", None]
    assert (second[0]["chunk_id"], second[0]["distance"], "".join(second[0]["tokens"])) == (
        None,
        None,
        "Nile",
    )
    assert [card["changed"] for card in third] == ["pasted"]

    # What was muted before somebody else looked at it: its text is gone, its place is not.
    after = change(all_chunks(neighbours, 3), [Mute(0, 1)], tokenizer, M).neighbours
    again = explained(loaded, ids, [after.chunks(u, u + 1) for u in range(2)], datastore)["chunks"]
    assert [card["changed"] for card in again[0]["neighbours"]] == ["muted", None]
    assert again[0]["neighbours"][0]["influence"] is None and again[0]["neighbours"][1]["share"] == 1


@pytest.fixture(scope="module")
def written(loaded, tokenizer):  # noqa: F811
    """A greedy text of a short prompt and the neighbours it read, five chunks complete."""
    config = GenerationConfig(max_new_tokens=N - M, temperature=0.0, ignore_end=True, num_neighbours=2)
    events = list(generate(loaded.model, tokenizer, "T", Library(tokenizer.vocab_size), config))
    found = [event.neighbours for event in events if isinstance(event, Retrieved)]
    (done,) = (event for event in events if isinstance(event, Finished))
    told = [event.logprob for event in events if isinstance(event, Token)]
    return config, done.tokens, all_chunks(found, len(done.tokens) // M), told


def test_a_branch_without_a_change_is_the_text_itself(loaded, tokenizer, written):  # noqa: F811
    config, tokens, neighbours, told = written
    for chunk in (0, 1, 4):
        shelf = Library(tokenizer.vocab_size)
        start = (chunk + 1) * M
        rest = GenerationConfig(**{**config.to_dict(), "max_new_tokens": len(tokens) - start})
        events = list(branch(loaded.model, tokenizer, tokens, neighbours, [], shelf, rest, chunk=chunk))
        assert isinstance(events[0], Prompted) and events[0].tokens == tokens[:start]
        assert events[0].pad == tokens.count(tokenizer.pad_id) > 0
        assert events[-1].tokens == tokens
        assert [e.logprob for e in events if isinstance(e, Token)] == pytest.approx(
            told[start - M :], abs=1e-6
        )
        assert shelf.asked == [tokens[u * M : (u + 1) * M] for u in range(chunk + 1, len(tokens) // M)]


def test_a_branch_reads_what_was_changed_and_looks_up_what_it_writes(loaded, tokenizer, written):  # noqa: F811
    config, tokens, neighbours, _ = written
    changes = [
        Mute(1, 1),
        Paste(1, 2, "Nile Nile"),
        Mute(3, 1),
    ]  # the last one is of a chunk that is written anew
    shelf = Library(tokenizer.vocab_size)
    config = GenerationConfig(**{**config.to_dict(), "max_new_tokens": M + 2, "num_neighbours": 5})
    events = list(branch(loaded.model, tokenizer, tokens, neighbours, changes, shelf, config))
    assert events[0].tokens == tokens[: 2 * M], "from the end of the first changed chunk"
    anew = events[-1].tokens
    assert anew[: 2 * M] == tokens[: 2 * M] and len(anew) == 3 * M + 2
    assert shelf.asked == [anew[2 * M : 3 * M]]

    # By hand: each token in a full pass over the text before it and what had been read by then.
    read_ = change(neighbours, changes, tokenizer, M).neighbours
    later = Library(tokenizer.vocab_size).retrieve(np.array([anew[2 * M : 3 * M]]), 2)
    rows = np.concatenate([read_.tokens[:2], later.tokens])
    for event in (event for event in events if isinstance(event, Token)):
        t = event.position
        with torch.no_grad():
            given = torch.from_numpy(rows[: t // M])[None]
            scores = loaded.model(torch.tensor([anew[:t]]), given).logits[0, -1].log_softmax(-1)
        assert event.logprob == pytest.approx(float(scores[anew[t]]), abs=1e-5)


def test_a_branch_needs_a_change_or_a_chunk(loaded, tokenizer, written):  # noqa: F811
    config, tokens, neighbours, _ = written
    for options, sentence in (({}, "Nothing was changed."), ({"chunk": 9}, "There is no chunk 9")):
        with pytest.raises(InputError, match=sentence):
            list(branch(loaded.model, tokenizer, tokens, neighbours, [], None, config, **options))


def test_a_fork_writes_on_from_another_token_and_looks_up_the_chunk_that_it_completes(
    loaded,  # noqa: F811
    tokenizer,
    written,
):
    config, tokens, neighbours, _ = written
    config = GenerationConfig(**{**config.to_dict(), "max_new_tokens": M})
    same = tokens[3 * M - 1]
    for position in (2 * M + 1, 3 * M - 1, 3 * M):  # within a chunk, its last token, the next one's first
        shelf = Library(tokenizer.vocab_size)
        other = next(t for t in range(30, 99) if t not in (tokens[position], same))
        arguments = (loaded.model, tokenizer, tokens, neighbours, [Mute(0, 1)], shelf, config)
        events = list(fork(*arguments, position, other))
        assert events[0].tokens == [*tokens[:position], other]
        anew = events[-1].tokens
        read_ = [event for event in events if isinstance(event, Retrieved)]
        kept = change(neighbours, [Mute(0, 1)], tokenizer, M).neighbours.tokens[: position // M]
        assert (np.concatenate([one.neighbours.tokens for one in read_])[: len(kept)] == kept).all()
        asked_first = position // M
        assert shelf.asked[0] == anew[asked_first * M : (asked_first + 1) * M]
    for position, token, sentence in ((0, 40, "position"), (10**6, 40, "position"), (9, 0, "cannot stand")):
        with pytest.raises(InputError, match=sentence):
            list(fork(*arguments, position, token))
