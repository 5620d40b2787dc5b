"""A trace leads back to exactly what was read; where it no longer does, it says so."""

import numpy as np
import pytest
from fakes import HashingEmbedder
from serving import five_texts
from test_explain import K, loaded  # noqa: F401
from tiny_models import M

from indexing.datastore import Datastore
from indexing.errors import MismatchError
from indexing.nearness import nearest_distances, share_nearer
from indexing.retokenised import RetokenisedDatastore
from indexing.tokenizer import train_byte_level_bpe
from indexing.upkeep import delete
from retro_core.config import GenerationConfig
from retro_core.counterfactual import Edit, Mute, Paste, Swap, all_chunks
from retro_core.explain import explain
from retro_core.generation import Retrieved, generate
from retro_core.recorded import ids_of, neighbours_of
from retro_core.trace import Trace

CONFIG = GenerationConfig(num_neighbours=K, max_new_tokens=3 * M, temperature=0, ignore_end=True)


@pytest.fixture
def datastore(tmp_path, tokenizer):
    return five_texts(tmp_path / "shelf", tokenizer, M, dim=48)


def written(loaded, datastore):  # noqa: F811
    ids, found = [], []
    prompt = "The treaty was signed in 1648, after five years"
    for event in generate(loaded.model, loaded.tokenizer, prompt, datastore, CONFIG):
        ids = getattr(event, "tokens", ids)
        if isinstance(event, Retrieved):
            found.append(event.neighbours)
    return ids, found


def reopened(trace: Trace) -> Trace:
    return Trace.from_json(trace.to_json())


def test_what_was_read_comes_back_token_by_token(loaded, datastore, tokenizer):  # noqa: F811
    ids, found = written(loaded, datastore)
    trace = reopened(explain(loaded, ids, found, datastore, CONFIG))
    again, did = neighbours_of(trace, datastore, tokenizer)
    assert ids_of(trace, tokenizer) == ids and not did
    for then, now in zip(found, again, strict=True):
        assert (then.ids == now.ids).all() and (then.tokens == now.tokens).all()
        np.testing.assert_allclose(then.distances, now.distances, rtol=1e-6)
    assert explain(loaded, ids, again, datastore, CONFIG).data["tokens"] == trace.data["tokens"]


def test_what_was_done_by_hand_comes_back_too(loaded, datastore, tokenizer):  # noqa: F811
    ids, found = written(loaded, datastore)
    changes = [Swap(1, 1, 2, 2), Mute(0, 1), Edit(0, 2, "dance"), Paste(2, 1, "Etna")]
    trace = reopened(explain(loaded, ids, found, datastore, CONFIG, changes=changes))
    again, did = neighbours_of(trace, datastore, tokenizer)
    assert {(one.what, one.chunk, one.rank) for one in did} == {
        ("muted", 0, 1),
        ("edited", 0, 2),
        ("pasted", 2, 1),
    }
    kinds = {"edited": Edit, "pasted": Paste}
    redone = [
        Mute(one.chunk, one.rank) if one.what == "muted" else kinds[one.what](one.chunk, one.rank, one.tokens)
        for one in did
    ]
    second = explain(loaded, ids, again, datastore, CONFIG, changes=redone)
    assert second.data["tokens"] == trace.data["tokens"]
    assert all_chunks(again, len(ids) // M).tokens.shape[1] == K


def test_another_text_in_its_place_is_noticed(loaded, datastore, tokenizer, tmp_path):  # noqa: F811
    ids, found = written(loaded, datastore)
    trace = reopened(explain(loaded, ids, found, datastore, CONFIG))
    card = trace.data["chunks"][0]["neighbours"][0]
    recorded = list(card["tokens"])
    card["tokens"][0] = "forged"
    with pytest.raises(MismatchError, match="no longer holds"):
        neighbours_of(trace, datastore, tokenizer)
    card["tokens"] = recorded
    delete(tmp_path / "shelf", [card["document_id"]])
    later = Datastore.open(tmp_path / "shelf", embedder=HashingEmbedder(dim=48))
    with pytest.raises(MismatchError, match="was deleted"):
        neighbours_of(trace, later, tokenizer)
    other = train_byte_level_bpe(["another text altogether"] * 9, vocab_size=300, name="other")
    with pytest.raises(MismatchError, match="other"):
        ids_of(trace, other)


def test_texts_that_were_cut_into_other_tokens_come_back(loaded, tokenizer, tmp_path):  # noqa: F811
    other = train_byte_level_bpe(["The river Nile flows north. "] * 9, vocab_size=300, name="other")
    datastore = RetokenisedDatastore(five_texts(tmp_path / "shelf", other, 2 * M, dim=48), tokenizer, M)
    ids, found = written(loaded, datastore)
    trace = reopened(explain(loaded, ids, found, datastore, CONFIG))
    again, _ = neighbours_of(trace, datastore, tokenizer)
    for then, now in zip(found, again, strict=True):
        assert (then.tokens == now.tokens).all()


def test_near_is_near_for_this_datastore(datastore):
    distances = nearest_distances(datastore)
    vectors = np.asarray(datastore.embeddings, dtype=np.float32)
    apart = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=-1)
    documents = datastore.chunks.chunk2seq
    apart[documents[:, None] == documents[None]] = np.inf
    np.testing.assert_allclose(distances, np.sort(apart.min(axis=1)), atol=1e-3)
    assert share_nearer(-1.0, distances) == 0 and share_nearer(9.0, distances) == 1
    assert share_nearer(1.0, distances[:0]) is None
