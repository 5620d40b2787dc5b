"""Incremental decoding gives the logits of reading the whole text at once."""

import itertools

import pytest
import torch
from tiny_models import M, R, tiny_input, tiny_model
from torch.testing import assert_close

from indexing.errors import InputError
from retro_core.model import Capture

LENGTH = 5 * M + 3
CLOSE = {"atol": 1e-10, "rtol": 1e-10}  # in float64; far inside the 1e-4 that float32 needs


def hard_input(batch: int = 2, n: int = LENGTH):
    """Left padding, missing neighbours, chunks without any, and neighbours that end early."""
    ids, neighbours = tiny_input(n, batch)
    ids[0, : M + 1] = 0
    neighbours[0, 0] = 0  # a chunk of padding asks for nothing
    neighbours[0, 1, 0] = 0
    neighbours[-1, 2] = 0
    neighbours[:, 3, 1, 4:] = 0
    return ids, neighbours


def in_pieces(model, ids, neighbours, sizes, cache=None):
    """Logits of all positions, computed piece by piece."""
    cache, found = cache or model.new_cache(), []
    for size in sizes:
        start = cache.length
        end = start + size
        known = None if neighbours is None else neighbours[:, : end // M]
        found.append(model(ids[:, start:end], known, cache=cache).logits)
    return torch.cat(found, dim=1)


@torch.inference_mode()
@pytest.mark.parametrize("mode", ["paper", "reference"])
@pytest.mark.parametrize("buckets", ["linear", "log-linear"])
@pytest.mark.parametrize("retrieval", [True, False])
def test_every_length_of_the_first_piece_then_token_by_token(mode, buckets, retrieval):
    model = tiny_model(mode, pos_bias=buckets, pos_bias_max_distance=40)
    ids, neighbours = hard_input()
    neighbours = neighbours if retrieval else None
    whole = model(ids, neighbours).logits
    seen = ids != 0  # padding looks ahead in reference mode; nothing looks at padding
    for first in range(1, LENGTH + 1):
        sizes = [first] + [1] * (LENGTH - first)
        assert_close(in_pieces(model, ids, neighbours, sizes)[seen], whole[seen], **CLOSE)


@torch.inference_mode()
def test_any_cut_into_three_pieces():
    model = tiny_model()
    ids, neighbours = hard_input()
    whole = model(ids, neighbours).logits
    for a, b in itertools.combinations(range(1, LENGTH), 2):
        assert_close(in_pieces(model, ids, neighbours, [a, b - a, LENGTH - b]), whole, **CLOSE)


@torch.inference_mode()
def test_float32_stays_within_a_tenthousandth():
    model = tiny_model().float()
    ids, neighbours = hard_input()
    found = in_pieces(model, ids, neighbours, [1] * LENGTH)
    assert_close(found, model(ids, neighbours).logits, atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize(
    "changes", [{"dec_cca_layers": []}, {"dec_cca_layers": [0]}, {"dec_cca_layers": [3]}]
)
def test_other_layers_read(changes):
    model = tiny_model(**changes)
    ids, neighbours = hard_input()
    found = in_pieces(model, ids, neighbours, [4] + [1] * (LENGTH - 4))
    assert_close(found, model(ids, neighbours).logits, **CLOSE)


@torch.inference_mode()
def test_longer_than_the_first_buffers_and_the_position_tables():
    n = 211
    model = tiny_model()
    ids, neighbours = tiny_input(n)
    found = in_pieces(model, ids, neighbours, [2] + [1] * (n - 2))
    assert_close(found, model(ids, neighbours).logits, **CLOSE)


@torch.inference_mode()
def test_chunks_completed_without_neighbours_have_none_then_and_later():
    model = tiny_model()
    ids, neighbours = tiny_input(LENGTH, batch=2)
    for without in ([0, 1], [2], [1, 4], [4]):
        missing = neighbours.clone()
        missing[:, without] = 0
        cache, found = model.new_cache(), []
        for t in range(LENGTH):
            completes = t // M if t % M == M - 1 else None
            given = None if completes in without else neighbours[:, : (t + 1) // M]
            found.append(model(ids[:, t : t + 1], given, cache=cache).logits)
        assert_close(torch.cat(found, dim=1), model(ids, missing).logits, **CLOSE)


@torch.inference_mode()
def test_cropped_it_is_as_if_the_rest_had_never_been_read():
    model = tiny_model()
    ids, neighbours = hard_input()
    whole = model(ids, neighbours).logits
    for length in range(LENGTH):
        cache = model.new_cache()
        in_pieces(model, ids.flip(1), neighbours.flip(1), [2, LENGTH - 2], cache)  # something else
        cache.crop(0)
        in_pieces(model, ids, neighbours, [LENGTH], cache)
        cache.crop(length)
        assert cache.length == length and cache.chunks_read == length // M
        if length:
            cache = cache.copy()  # as good as the first
        rest = in_pieces(model, ids, neighbours, [1] * (LENGTH - length), cache)
        assert_close(rest, whole[:, length:], **CLOSE)


@torch.inference_mode()
def test_rows_are_chosen_and_repeated_and_a_copy_is_independent():
    model = tiny_model()
    ids, neighbours = hard_input(batch=3)
    whole = model(ids, neighbours).logits
    cache = model.new_cache()
    first = 2 * M + 1
    in_pieces(model, ids, neighbours, [first], cache)
    kept = cache.copy()
    rows = torch.tensor([2, 0, 2, 1])
    cache.select(rows)
    rest = in_pieces(model, ids[rows], neighbours[rows], [2] + [1] * (LENGTH - first - 2), cache)
    assert_close(rest, whole[rows, first:], **CLOSE)
    assert kept.length == first
    assert_close(in_pieces(model, ids, neighbours, [LENGTH - first], kept), whole[:, first:], **CLOSE)


@torch.inference_mode()
def test_neighbours_are_encoded_once_and_for_one_chunk_at_a_time():
    model = tiny_model()
    ids, neighbours = tiny_input(LENGTH)
    seen = []
    model.base.encoder.register_forward_hook(lambda module, given, out: seen.append(tuple(given[0].shape)))
    in_pieces(model, ids, neighbours, [2 * M + 1] + [1] * (LENGTH - 2 * M - 1))
    assert seen == [(1, 2, 2, R)] + [(1, 1, 2, R)] * 4


@torch.inference_mode()
def test_encoded_neighbours_are_taken_over_or_made_from_the_cache():
    model = tiny_model()
    ids, neighbours = hard_input()
    other = tiny_input(LENGTH, batch=2, seed=7)[1]
    cache = model.new_cache()
    out = model(ids, neighbours, cache=cache)
    assert_close(out.encoded, model(ids, neighbours).encoded, **CLOSE)
    for u in range(LENGTH // M):
        edited = neighbours.clone()
        edited[:, u] = other[:, u]
        encoded = out.encoded.clone()
        encoded[:, u] = model.encode_neighbours(cache, edited[:, u : u + 1], first=u)[:, 0]
        start, again = (u + 1) * M - 1, cache.copy()
        again.crop(start)
        calls = []
        hook = model.base.encoder.register_forward_hook(lambda *_: calls.append(1))  # noqa: B023
        got = model(ids[:, start:], edited, encoded=encoded, cache=again).logits
        hook.remove()
        assert not calls
        assert_close(got, model(ids, edited).logits[:, start:], **CLOSE)


@torch.inference_mode()
@pytest.mark.parametrize("start", range(LENGTH))
def test_captured_weights_and_write_strength_are_those_of_the_whole(start):
    model = tiny_model()
    ids, neighbours = hard_input()
    capture = Capture(attention=True, write_strength=True)
    whole = model(ids, neighbours, capture=capture)
    cache = model.new_cache()
    if start:
        model(ids[:, :start], neighbours[:, : start // M], cache=cache)
    part = model(ids[:, start:], neighbours, cache=cache, capture=capture)
    assert_close(part.write_strength, whole.write_strength[..., start:], **CLOSE)
    first, weights = part.attention.first_chunk, part.attention.weights
    rows = weights.shape[2] * M
    expected = whole.attention.weights[:, :, first:]
    for row in range(rows):
        position = first * M + M - 1 + row
        got = weights[:, :, row // M, :, row % M]
        if start <= position < LENGTH:
            assert_close(got, expected[:, :, row // M, :, row % M], **CLOSE)
        elif position < start:
            assert not got.any()


@torch.inference_mode()
def test_fresh_neighbours_replace_those_of_the_chunk_until_the_next_border():
    """With CCA in the last layer only, the logits of a position depend on no other position's neighbours. So
    fresh neighbours at position p must give what a text padded until a chunk ends at p gives."""
    model = tiny_model(dec_cca_layers=[3])
    ids, neighbours = tiny_input(LENGTH, batch=2)
    fresh = tiny_input(LENGTH * M, batch=2, seed=5)[1]  # for each position its own
    whole = model(ids, neighbours).logits
    for p in range(M, LENGTH):
        if p % M == M - 1:
            continue  # a border
        cache = model.new_cache()
        in_pieces(model, ids, neighbours, [p], cache)
        got = [model(ids[:, p : p + 1], neighbours[:, : p // M], fresh_ids=fresh[:, p], cache=cache).logits]
        for t in range(p + 1, LENGTH):
            got.append(model(ids[:, t : t + 1], neighbours[:, : (t + 1) // M], cache=cache).logits)
        got = torch.cat(got, dim=1)
        border = (p + 1) // M * M + M - 1
        pad = -(p + 1) % M
        shifted = torch.cat([ids.new_zeros(2, pad), ids[:, :border]], dim=1)
        chunks = shifted.shape[1] // M
        read = fresh.new_zeros(2, chunks, *fresh.shape[2:])
        read[:, (p + pad) // M] = fresh[:, p]
        expected = model(shifted, read).logits[:, pad + p :]
        assert_close(got[:, : border - p], expected, **CLOSE)
        assert_close(got[:, border - p :], whole[:, border:], **CLOSE)


@pytest.mark.parametrize("given, message", [
    ({"labels": True}, "With a cache the model sees the new tokens only"),
    ({"capture": Capture(log_probs=True)}, "it gives no loss, log_probs or hidden_states"),
    ({"rows": 1}, "The cache holds 2 sequences, got 1."),
    ({"k": 1}, "The cache holds 2 neighbours of 7 tokens for each chunk, got 1 of 7."),
    ({"fresh": 2}, "After fresh neighbours tokens come one at a time until the next chunk border, got 2."),
])  # fmt: skip
def test_what_a_cache_cannot_do_is_said(given, message):
    model = tiny_model()
    ids, neighbours = tiny_input(2 * M, batch=2)
    with torch.inference_mode():
        cache = model.new_cache()
        model(ids[:, :M], neighbours[:, :1], cache=cache)
        rest, more = ids[:, M : M + given.get("fresh", M)], {"capture": given.get("capture")}
        if "labels" in given:
            more["labels"] = rest
        if "fresh" in given:
            more["fresh_ids"] = neighbours[:, 0]
        rows = slice(given.get("rows"))
        read = neighbours[:, : (M + rest.shape[1]) // M, : given.get("k")]
        with pytest.raises(InputError) as error:
            model(rest[rows], read[rows], cache=cache, **more)
    assert message in str(error.value)


def test_gradients_and_a_cache_exclude_each_other():
    model = tiny_model()
    with pytest.raises(InputError, match="A cache is for inference, but gradients are being recorded"):
        model(tiny_input(M)[0], cache=model.new_cache())
    with torch.inference_mode():
        cache = model.new_cache()
        model(tiny_input(2)[0], cache=cache)
        with pytest.raises(InputError, match="Fresh neighbours belong to the last 3 tokens, but there are 2"):
            early = model.new_cache()
            model(tiny_input(1)[0], cache=early)
            model(tiny_input(1)[0], fresh_ids=tiny_input(M)[1][:, 0], cache=early)
        with pytest.raises(InputError, match="holds 0 complete chunks, got neighbours of the chunks"):
            model.encode_neighbours(cache, tiny_input(M)[1])
        with pytest.raises(InputError, match="A cache cannot be cut to -1 tokens"):
            cache.crop(-1)
