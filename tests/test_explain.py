"""What a trace says about a text is what the model computed with the neighbours, and without them."""

import base64
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_generation import Library
from tiny_models import M, tiny_model

from indexing.errors import InputError
from indexing.neighbours import Neighbours
from retro_core.checkpoint import LoadedModel
from retro_core.config import GenerationConfig
from retro_core.explain import explain
from retro_core.generation import Finished, Retrieved, generate
from retro_core.model import Capture
from retro_core.trace import Trace

K, R = 2, 2 * M
LAYERS, HEADS = 2, 3


@pytest.fixture(scope="module")
def loaded(tokenizer) -> LoadedModel:
    model = tiny_model(num_embeddings=tokenizer.vocab_size)
    return LoadedModel(model, model.config, tokenizer, "tiny", "f" * 64, None, None)


@pytest.fixture(scope="module")
def datastore():
    """As much of a datastore as a trace needs: names, and where chunks come from."""
    return SimpleNamespace(
        name="shelf", fingerprint="e" * 64, embedder_name="hashing", chunks=[0] * 9, num_documents=3,
        provenance=lambda chunk: SimpleNamespace(document_id=f"d{chunk}", title="T", offset=3, source="s"),
    )  # fmt: skip


def ids_of(tokenizer, n: int, pad: int = 0) -> list[int]:
    return [0] * pad + tokenizer.encode("The river Nile flows north through eleven countries")[
        : n - pad
    ].tolist()


def looked_up(ids: list[int], tokenizer, missing: int = 0) -> list[Neighbours]:
    library = Library(tokenizer.vocab_size, missing)
    return [library.retrieve(np.array([ids[u * M : (u + 1) * M]]), K) for u in range(len(ids) // M)]


def explained(loaded, ids, neighbours, datastore, **options) -> dict:
    trace = explain(loaded, ids, neighbours, datastore, GenerationConfig(num_neighbours=K), **options)
    assert Trace.from_json(trace.to_json()) == trace
    return trace.to_json()


def map_of(found: dict) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(found["data"]), dtype=np.uint8).reshape(
        found["rows"], found["cols"]
    )
    return data / 255 * found["scale"]


@pytest.mark.parametrize("n", [M - 1, M, M + 1, 2 * M - 1, 2 * M, 3 * M + 2])
def test_windows_rows_and_numbers_line_up_at_chunk_borders(loaded, tokenizer, datastore, n):
    ids = ids_of(tokenizer, n)
    neighbours = looked_up(ids, tokenizer)
    trace = explained(loaded, ids, neighbours, datastore, prompt_tokens=2, title="t")
    assert (trace["prompt_tokens"], trace["pad"], trace["title"]) == (2, 0, "t")
    assert trace["retrieval"] == bool(neighbours) and len(trace["chunks"]) == n // M

    # By hand: one token after the other, each with the neighbours of the chunks complete before it.
    lp = {"lp_on": [None], "lp_off": [None]}
    for t in range(1, n):
        chunks = [found.tokens[0] for found in neighbours[: t // M]]
        read = torch.tensor(np.array(chunks))[None] if chunks else None
        for key, given in (("lp_on", read), ("lp_off", None)):
            with torch.no_grad():
                scores = loaded.model(torch.tensor([ids[:t]]), given).logits[0, -1].log_softmax(-1)
            lp[key].append(float(scores[ids[t]]))
            token, alternatives = trace["tokens"][t], trace["tokens"][t]["alts_" + key[3:]]
            assert token[key] == pytest.approx(lp[key][t], abs=1e-6)
            best = scores.topk(5)
            assert [number for _, number in alternatives] == pytest.approx(best.values.tolist(), abs=1e-6)
            shown = [tokenizer.decode([i]) for i in best.indices.tolist()]
            assert [text or "(end of document)" for text in shown] == [text for text, _ in alternatives]
    assert trace["tokens"][0]["lp_on"] is trace["tokens"][0]["lp_off"] is None

    for u, chunk in enumerate(trace["chunks"]):
        stop = min(n, (u + 2) * M)
        assert (chunk["index"], chunk["ask"], chunk["read"]) == (u, [u * M, (u + 1) * M], [(u + 1) * M, stop])
        assert chunk["query"] == tokenizer.decode(ids[u * M : (u + 1) * M])
        gains = [lp["lp_on"][t] - lp["lp_off"][t] for t in range((u + 1) * M, stop)]
        assert chunk["gain"] == (pytest.approx(np.mean(gains), abs=1e-6) if gains else None)
        assert (chunk["attention"]["rows"], chunk["attention"]["cols"]) == (len(gains), K * R)
        shares = [card["share"] for card in chunk["neighbours"]]
        assert sum(shares) == pytest.approx(1) if gains else shares == [None] * K
    assert "".join(token["text"] for token in trace["tokens"]) == tokenizer.decode(ids)


def test_the_first_tokens_read_nothing(loaded, tokenizer, datastore):
    ids = ids_of(tokenizer, 3 * M)
    tokens = explained(loaded, ids, looked_up(ids, tokenizer), datastore)["tokens"]
    for t, token in enumerate(tokens):
        assert (token["lp_on"] == token["lp_off"]) == (t < M) and (token["write"] is None) == (t < M)
    strengths = loaded.model(
        torch.tensor([ids]),
        torch.tensor(np.concatenate([n.tokens for n in looked_up(ids, tokenizer)]))[None],
        capture=Capture(write_strength=True),
    ).write_strength
    for t in range(M, 3 * M):
        assert tokens[t]["write"] == pytest.approx(strengths[:, 0, t - 1].tolist())


def test_maps_are_the_weights_of_the_rows_that_predict(loaded, tokenizer, datastore):
    ids = ids_of(tokenizer, 3 * M + 1)
    neighbours = looked_up(ids, tokenizer)
    value = explained(loaded, ids, neighbours, datastore)
    with torch.no_grad():
        found = loaded.model(
            torch.tensor([ids]),
            torch.tensor(np.concatenate([n.tokens for n in neighbours]))[None],
            capture=Capture(attention=True),
        )
    by_token = found.attention.by_token()[:, 0].flatten(-2).numpy()  # (layer, h, n, k*r)
    for u, chunk in enumerate(value["chunks"]):
        rows = by_token[:, :, chunk["read"][0] - 1 : chunk["read"][1] - 1]
        weights = map_of(chunk["attention"])
        assert np.abs(weights - rows.mean(axis=(0, 1))).max() <= chunk["attention"]["scale"] / 255 + 1e-6
        assert weights.sum(axis=1) == pytest.approx(1, abs=1e-2)
        single = map_of(Trace.from_json(value).attention_map(u, 1, 2))
        assert np.abs(single - rows[1, 2]).max() < 0.005 and single.sum(axis=1) == pytest.approx(1, abs=1e-2)
        for j, card in enumerate(chunk["neighbours"]):
            assert card["share"] == pytest.approx(rows[..., j * R : (j + 1) * R].sum(-1).mean(), abs=1e-6)


def test_a_text_that_was_looked_up_between_chunks_is_refused(loaded, tokenizer, datastore):
    ids = ids_of(tokenizer, 2 * M)
    config = GenerationConfig(num_neighbours=K, retrieval_step=M - 1)
    with pytest.raises(
        InputError, match="one lookup for each chunk, but this text was written with one every 2"
    ):
        explain(loaded, ids, looked_up(ids, tokenizer), datastore, config)
    assert not explain(loaded, ids, [], datastore, config).view()["retrieval"]


def test_without_retrieval_nothing_differs(loaded, tokenizer, datastore):
    ids = ids_of(tokenizer, 2 * M + 1, pad=1)
    for neighbours, shelf in (([], datastore), ([], None), (looked_up(ids, tokenizer), None)):
        trace = explained(loaded, ids, neighbours, shelf)
        assert not trace["retrieval"] and trace["chunks"] == [] and trace["pad"] == 1
        assert (trace["datastore"] is None) == (shelf is None)
        assert all(token["lp_on"] == token["lp_off"] and token["write"] is None for token in trace["tokens"])
        assert [t for t, token in enumerate(trace["tokens"]) if token["lp_on"] is None] == [0, 1]


def test_missing_neighbours_leave_their_columns_empty(loaded, tokenizer, datastore):
    ids = ids_of(tokenizer, 3 * M)
    one, nothing = (looked_up(ids, tokenizer, missing) for missing in (1, 2))
    trace = explained(loaded, ids, [one[0], nothing[1]], datastore)
    first, second = trace["chunks"]  # the third chunk was never looked up
    assert [card["rank"] for card in first["neighbours"]] == [1] and first["neighbours"][0]["share"] == 1
    weights = map_of(first["attention"])
    assert weights.shape == (M, K * R) and not weights[:, R:].any() and weights[:, :R].any(axis=1).all()
    assert second["neighbours"] == [] and second["attention"] is None
    assert [t for t, token in enumerate(trace["tokens"]) if token["write"]] == list(range(M, 2 * M))


def test_copies_are_found_where_they_are(loaded, tokenizer, datastore):
    ids = ids_of(tokenizer, 3 * M)
    found = looked_up(ids, tokenizer)[:2]
    found[0].tokens[0, 1, M : 2 * M] = ids[M : 2 * M]  # the continuation is what comes next
    first, second = explained(loaded, ids, found, datastore)["chunks"]
    assert [card["copied"] for card in first["neighbours"]] == [0.0, 1.0]
    assert first["neighbours"][1]["copy_read"] == [[0, M]]
    assert first["neighbours"][1]["copy_neighbour"] == [[M, 2 * M]]
    assert [card["copied"] for card in second["neighbours"]] == [0.0, 0.0]


def test_what_was_generated_is_explained(loaded, tokenizer, datastore):
    """End to end: probabilities of the trace are those that the generation told."""
    config = GenerationConfig(max_new_tokens=2 * M, seed=4, num_neighbours=K, ignore_end=True)
    events = list(generate(loaded.model, tokenizer, "The river", Library(tokenizer.vocab_size), config))
    neighbours = [event.neighbours for event in events if isinstance(event, Retrieved)]
    done = next(event for event in events if isinstance(event, Finished))
    trace = explain(loaded, done.tokens, neighbours, datastore, config, prompt_tokens=len(events[0].tokens))
    told = [event.logprob for event in events if hasattr(event, "logprob")]
    shown = [token["lp_on"] for token in trace.to_json()["tokens"][len(events[0].tokens) :]]
    assert shown == pytest.approx(told, abs=1e-5)
    assert trace.to_json()["sampling"] == config.to_dict()
    assert trace.to_json()["datastore"]["embedder"] == "hashing"
