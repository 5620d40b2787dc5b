"""Leaving out each neighbour alone: every number is what a full forward pass without that neighbour gives."""

import numpy as np
import pytest
import torch
from test_explain import datastore, explained, ids_of, loaded, looked_up  # noqa: F401
from tiny_models import M, R, tiny_input, tiny_model

from indexing.chunking import num_chunks, read_window
from indexing.neighbours import NO_CHUNK, Neighbours
from retro_core.config import REFERENCE
from retro_core.counterfactual import Swap, leave_one_out, read, read_without, rescore
from retro_core.explain import MEASURED
from retro_core.model import Capture, Retro

K = 2


def neighbours_of(n: int, k: int = K, missing: dict[int, int] | None = None, seed: int = 1) -> Neighbours:
    """Of all complete chunks of n tokens; `missing` says how many neighbours, from the end, a chunk lacks."""
    tokens = tiny_input(n, k=k, seed=seed)[1][0].numpy()
    ids = np.arange(len(tokens) * k).reshape(-1, k)
    tokens[:, -1, -2:] = 0  # shorter than the others
    for u, count in (missing or {}).items():
        ids[u, k - count :], tokens[u, k - count :] = NO_CHUNK, 0
    return Neighbours(ids, np.ones(ids.shape, dtype=np.float32), tokens)


def full(model: Retro, ids: list[int], neighbours: Neighbours, mask: torch.Tensor) -> np.ndarray:
    """Log probabilities by one pass over everything, nothing taken from anywhere."""
    with torch.no_grad():
        tokens = torch.from_numpy(neighbours.tokens)[None]
        out = model(torch.tensor([ids]), tokens, neighbour_mask=mask, capture=Capture(log_probs=True))
    return out.log_probs[0].numpy()


@pytest.mark.parametrize("mode", ["paper", REFERENCE])
@pytest.mark.parametrize("n, k, missing", [
    (4 * M + 2, 2, {}), (4 * M, 3, {1: 1, 2: 3}), (2 * M, 1, {}), (M + 1, 2, {0: 1}), (3 * M + 1, 2, {0: 2}),
])  # fmt: skip
def test_each_difference_is_that_of_a_full_pass_without_the_neighbour(mode, n, k, missing):
    model, ids = tiny_model(mode), tiny_input(n)[0][0].tolist()
    neighbours = neighbours_of(n, k, missing)
    found = leave_one_out(read(model, ids, neighbours))
    assert found.shape == (n // M, k, n)
    mask = torch.from_numpy(neighbours.mask)[None]
    everything = full(model, ids, neighbours, mask)
    for u in range(n // M):
        for j in range(k):
            if j >= k - missing.get(u, 0) or not read_window(u, n, M):
                assert np.isnan(found[u, j]).all()
                continue
            without = mask.clone()
            without[:, u, j] = False
            expected = everything - full(model, ids, neighbours, without)
            np.testing.assert_allclose(found[u, j], expected, atol=1e-9)
            start = (u + 1) * M
            assert not found[u, j, :start].any(), "what comes before cannot change"
            assert found[u, j, start:].all(), "what comes after does, to its end"


@pytest.mark.parametrize("mode", ["paper", REFERENCE])
@pytest.mark.parametrize("n", [1, M - 1, M, 3 * M + 1])
def test_without_retrieval_is_that_of_a_full_pass(mode, n):
    model, ids = tiny_model(mode), [0, *tiny_input(n)[0][0].tolist()][:n]  # padding first
    neighbours = neighbours_of(n) if n >= M else None
    scored = read(model, ids, neighbours)
    logits, log_probs = read_without(scored)
    with torch.no_grad():
        off = model(torch.tensor([ids]), capture=Capture(log_probs=True))
        on = full(model, ids, neighbours, None) if neighbours else off.log_probs[0]
    # What reference mode computes at a position of padding depends on what comes after; nothing reads it.
    np.testing.assert_allclose(logits[:, 1:], off.logits[:, 1:], atol=1e-9)
    np.testing.assert_allclose(log_probs[2:], off.log_probs[0, 2:], atol=1e-9)
    np.testing.assert_allclose(scored.log_probs[2:], on[2:], atol=1e-9)


def test_nothing_before_a_neighbour_and_no_neighbour_is_computed_again():
    n, model = 5 * M, tiny_model()
    neighbours = neighbours_of(n)
    positions, encoded = [], []
    model.base.decoder[0]["0"].register_forward_hook(
        lambda _, args, out: positions.append(tuple(out.shape[:2]))
    )
    model.base.encoder.register_forward_hook(lambda _, args, out: encoded.append(tuple(args[0].shape)))
    scored = read(model, tiny_input(n)[0][0].tolist(), neighbours)
    assert positions == [(1, n)] and encoded == [(1, 5, K, R)]
    read_without(scored)
    leave_one_out(scored)
    # Retro[Off] from the first position that reads; then a chunk's neighbours at once, last chunk first.
    assert positions[1:] == [(1, n - (M - 1)), *((K, n - (u * M + M - 1)) for u in (3, 2, 1, 0))]
    assert len(encoded) == 1


def test_a_trace_tells_the_window_and_what_comes_later_apart(loaded, tokenizer, datastore):  # noqa: F811
    n = 3 * M + 2
    ids = ids_of(tokenizer, n)
    neighbours = looked_up(ids, tokenizer)
    value = explained(loaded, ids, neighbours, datastore)
    joined = Neighbours(
        *(
            np.concatenate([getattr(one, name) for one in neighbours])
            for name in ("ids", "distances", "tokens")
        )
    )
    mask = torch.from_numpy(joined.mask)[None]
    everything = full(loaded.model, ids, joined, mask)
    for u, chunk in enumerate(value["chunks"]):
        start, stop = chunk["read"]
        for j, card in enumerate(chunk["neighbours"]):
            without = mask.clone()
            without[:, u, j] = False
            lost = everything - full(loaded.model, ids, joined, without)
            found = card["influence"]
            assert found["tokens"] == pytest.approx(lost[start:stop].tolist(), abs=1e-6)
            assert found["own"] == pytest.approx(lost[start:stop].mean(), abs=1e-6)
            later = lost[stop:]
            expected = pytest.approx(later.mean(), abs=1e-6) if len(later) else None
            assert found["downstream"] == expected
    assert [chunk["neighbours"][0]["influence"]["downstream"] is None for chunk in value["chunks"]] == [
        False,
        False,
        True,
    ]


def test_it_is_measured_up_to_a_number_of_neighbours_and_never_guessed(loaded, tokenizer, datastore):  # noqa: F811
    few, many = (ids_of(tokenizer, 1) * (chunks * M + 1) for chunks in (MEASURED // K, MEASURED // K + 1))

    def measured(ids, **options) -> set[bool]:
        value = explained(loaded, ids, looked_up(ids, tokenizer), datastore, **options)
        assert len(value["chunks"]) == num_chunks(len(ids), M)
        return {card["influence"] is not None for chunk in value["chunks"] for card in chunk["neighbours"]}

    assert measured(few) == {True} and measured(few, influence=False) == {False}
    assert measured(many) == {False} and measured(many, influence=True) == {True}


def test_missing_neighbours_and_empty_windows_have_none(loaded, tokenizer, datastore):  # noqa: F811
    ids = ids_of(tokenizer, 3 * M)
    one, nothing = (looked_up(ids, tokenizer, missing) for missing in (1, 2))
    first, second, third = explained(loaded, ids, [one[0], nothing[1], one[2]], datastore)["chunks"]
    assert first["neighbours"][0]["influence"]["own"] != 0 and second["neighbours"] == []
    assert third["read"] == [3 * M, 3 * M] and third["neighbours"][0]["influence"] is None
    assert second["overlap"] == 0 and third["overlap"] is None


def test_overlap_is_the_longest_run_that_the_window_shares_with_one_neighbour(loaded, tokenizer, datastore):  # noqa: F811
    """r(C) of the paper's section 2.6, for what was read."""
    ids = ids_of(tokenizer, 2 * M + 2)
    found = looked_up(ids, tokenizer)
    for neighbour in found:
        neighbour.tokens[:] = max(ids) + 1
    found[0].tokens[0, 0, :1], found[0].tokens[0, 1, M - 1 : M + 1] = ids[M], ids[M + 1 : M + 3]
    found[1].tokens[0, 1, 1:3] = ids[2 * M :]
    first, second = explained(loaded, ids, found, datastore)["chunks"]
    assert first["overlap"] == 2 / M  # across the border of N and F
    assert second["overlap"] == 1  # of a window of two tokens
    assert first["neighbours"][1]["copies"] == []  # shorter than a copy


def test_a_fitted_model_is_measured_like_any_other():
    """Through the interface of models alone: a base with hooks has another inside and another cache."""
    transformers = pytest.importorskip("transformers")
    from retro_core.config import FitConfig
    from retro_core.retrofit import retrofit

    torch.manual_seed(0)
    sizes = {"vocab_size": 23, "hidden_size": 12, "intermediate_size": 17, "num_hidden_layers": 3}
    base = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1)
    )
    fit = FitConfig(start="zero", cca_layers=[1, 2], chunk_size=M)
    model = retrofit(base.double().eval(), 0, fit).double()
    with torch.no_grad():
        for parameter in model.new_parameters().values():
            parameter += 0.3 * torch.randn_like(parameter)
    ids, neighbours = tiny_input(4 * M + 1)[0][0].tolist(), neighbours_of(4 * M + 1, K, {2: 1})
    scored = read(model, ids, neighbours)
    found = leave_one_out(scored)
    mask = torch.from_numpy(neighbours.mask)[None]
    everything = full(model, ids, neighbours, mask)
    np.testing.assert_allclose(scored.log_probs, everything, atol=1e-9)
    for u, j in ((0, 1), (1, 0), (2, 0), (3, 1)):
        without = mask.clone()
        without[:, u, j] = False
        expected = everything - full(model, ids, neighbours, without)
        np.testing.assert_allclose(found[u, j], expected, atol=1e-9)
        assert found[u, j, (u + 1) * M :].all()

    tokens = neighbours.tokens.copy()
    tokens[1, 0], tokens[3, 1] = tokens[3, 1].copy(), tokens[1, 0].copy()
    swapped = Neighbours(neighbours.ids, neighbours.distances, tokens)
    expected = full(model, ids, swapped, None)
    np.testing.assert_allclose(rescore(scored, [Swap(1, 1, 3, 2)]).log_probs, expected, atol=1e-9)
