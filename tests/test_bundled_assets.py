"""What ships with the product is whole, small enough for plain git, and belongs together."""

import json
import os

import numpy as np
import pytest

from app import services
from indexing import paths
from indexing.datastore import Datastore, list_datastores
from indexing.embedder import open_embedder
from indexing.manifest import check_files
from indexing.neighbours import NO_CHUNK
from indexing.tokenizer import Tokenizer

MEGABYTE = 1_000_000
MODEL = paths.ASSETS / "models" / paths.DEMO_MODEL
DATASTORE = paths.ASSETS / "datastores" / paths.DEMO_DATASTORE
EDITIONS = ("factbook-2015", "factbook-2025")
PROMPTS = paths.ASSETS / "evaluation" / "fact-swap.jsonl"
TRACES = sorted((paths.ASSETS / "traces").glob("*.retro.json*"))


@pytest.fixture(scope="module")
def datastore() -> Datastore:
    return Datastore.open(DATASTORE, tokenizer=Tokenizer.load(MODEL))


@pytest.fixture(scope="module")
def demo_model():
    assert (MODEL / "config.json").is_file(), f"the bundled model is missing: {MODEL} has no config.json"
    from retro_core.checkpoint import load_model

    return load_model(MODEL)


def size(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_nothing_is_too_large_for_git():
    large = [
        path for path in paths.ASSETS.rglob("*") if path.is_file() and path.stat().st_size > 10 * MEGABYTE
    ]
    assert not large
    assert size(paths.ASSETS / "datastores") < 30_000_000
    assert size(MODEL) < 64 * MEGABYTE


def test_the_datastore_is_as_it_was_built(datastore):
    assert check_files(datastore.path, datastore.manifest, hash_all=True)
    lengths = np.linalg.norm(datastore.embeddings[:].astype(np.float32), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=2e-3)


def test_documents_begin_with_their_title_and_can_be_found_again(datastore):
    """The model was trained on such texts, and offsets must lead back to the words of a chunk."""
    assert datastore.num_documents == 1245
    for document in datastore.documents:
        assert document.text.startswith(f"{document.title}\n")
    for chunk in range(0, len(datastore.chunks), 97):
        tokens = datastore.tokenizer.decode(datastore.chunks.tokens[chunk])
        assert tokens.strip("\ufffd ") in datastore.text(chunk)


def test_a_question_finds_its_document(datastore):
    """With the packaged embedder, which must be the one the embeddings were made with."""
    opened = Datastore.open(DATASTORE, embedder=open_embedder())
    hits = opened.search("Government of France. Capital: Paris", 3)
    assert any(hit.title.startswith("France") for hit in hits), [hit.title for hit in hits]
    assert hits[0].distance < 1


def test_two_editions_hold_the_same_facts_of_two_years():
    """Each passage names its country and its field, fits into one chunk, and most stand in both editions; the
    prompts of the fact swap, with their answers, are beginnings of them."""
    from retro_core.evaluation.swap import read_prompts

    assert {info.name for info in list_datastores() if info.bundled} == {paths.DEMO_DATASTORE, *EDITIONS}
    prompts, begins = read_prompts(PROMPTS), []
    assert len(prompts) >= 250 and set(prompts[0].answers) == set(EDITIONS)
    for name in EDITIONS:
        edition = Datastore.open(paths.ASSETS / "datastores" / name)
        assert check_files(edition.path, edition.manifest, hash_all=True)
        assert len(edition.chunks) == edition.num_documents > 6000
        texts = [document.text for document in edition.documents]
        assert all(" — " in text.split("\n")[0] and ": " in text.split("\n")[1] for text in texts)
        begins.append({text.partition(": ")[0] for text in texts})
        by_begin = {text.partition(":")[0]: text for text in texts}
        for prompt in prompts:
            text = by_begin[prompt.prompt.partition(":")[0]]
            assert text.startswith(prompt.prompt + prompt.continuations[name]), prompt
    assert len(begins[0] & begins[1]) > 0.9 * len(begins[0] | begins[1])


def test_the_prompts_of_the_fact_swap_find_their_answers():
    """Looked up as a prompt is, every 20th of them: in both editions the answer can be read."""
    from retro_core.evaluation.swap import reachable, read_prompts
    from retro_core.generation import encode_prompt

    prompts, embedder = read_prompts(PROMPTS), open_embedder()
    for name in EDITIONS:
        edition = Datastore.open(paths.ASSETS / "datastores" / name, embedder=embedder)
        chunks = [encode_prompt(edition.tokenizer, prompt.prompt, 64) for prompt in prompts[::20]]
        found = edition.retrieve(np.stack(chunks), 2)
        for prompt, ids in zip(prompts[::20], found.ids, strict=True):
            assert name in reachable([edition.text(int(i)) for i in ids], prompt.answers), prompt


@pytest.mark.parametrize("name", [paths.DEMO_DATASTORE, *EDITIONS])
def test_opening_it_writes_nothing(name):
    """The program's own folder may be read-only."""
    folder = paths.ASSETS / "datastores" / name
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    Datastore.open(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_model_continues_a_text_and_reads(demo_model, datastore):
    from retro_core.config import GenerationConfig
    from retro_core.generation import Finished, Retrieved, generate

    retriever = Datastore.open(DATASTORE, tokenizer=demo_model.tokenizer, embedder=open_embedder())
    config = GenerationConfig(max_new_tokens=4, temperature=0.0, ignore_end=True)
    prompt = "Rwanda — Geography\nLocation: Central Africa,"
    events = list(generate(demo_model.model, demo_model.tokenizer, prompt, retriever, config))
    read = [event for event in events if isinstance(event, Retrieved)]
    assert read and read[0].neighbours.ids[0, 0] != NO_CHUNK
    assert isinstance(events[-1], Finished)
    assert demo_model.card, "the bundled model has no README.md"


def test_retrieval_helps_and_the_numbers_say_so(demo_model):
    """On held-out documents of every kind, and in the fact swap."""
    file = MODEL / "evaluation.json"
    assert file.is_file(), f"the bundled model is missing: {MODEL} has no evaluation.json"
    result = json.loads(file.read_text(encoding="utf-8"))
    for name, probe in result["probes"].items():
        gain, readings = probe["differences"]["on-off"], probe["readings"]
        low, high = gain["ci95"]
        assert low <= gain["nats"] <= high, name
        assert gain["nats"] == pytest.approx(readings["on"]["nats"] - readings["off"]["nats"]), name
        assert gain["ratio_ci95"][1] < 1, f"{name}: retrieval helps"
    factbook = result["probes"]["factbook"]["differences"]
    assert factbook["on-off"]["ratio"] < 0.75 and factbook["bm25-off"]["ratio"] < 0.70
    assert result["model"]["fingerprint"] == demo_model.fingerprint, "measured is what ships"
    # One model, two datastores: it writes what the one says, or the other.
    assert result["swap"]["swaps"]["value"] >= 0.6 and result["swap"]["count"] >= 200


def test_the_first_screen_has_a_recorded_trace():
    assert TRACES, f"no recorded trace in {paths.ASSETS / 'traces'}"


@pytest.mark.parametrize("path", TRACES, ids=lambda path: os.path.basename(path))
def test_recorded_traces_are_of_this_model_and_its_datastores(path, demo_model):
    trace = services.read_trace(path).to_json()
    assert trace["title"]
    assert trace["model"]["fingerprint"] == demo_model.fingerprint
    if trace["datastore"]:
        source = Datastore.open(paths.ASSETS / "datastores" / trace["datastore"]["name"])
        assert trace["datastore"]["fingerprint"] == source.fingerprint


def test_the_toy_run_trains_on_countries_that_are_not_held_out_and_reads_what_ships():
    """Without embeddings or a network: chunks, and neighbours that are of another document."""
    from indexing.training_sets import training_set
    from retro_core.dataset import RetroDataset
    from retro_core.presets import preset

    toy, tokenizer = training_set("two-editions"), Tokenizer.load(MODEL)
    assert toy.bundled and toy.fingerprint == tokenizer.fingerprint
    model = preset("toy", tokenizer.vocab_size, tokenizer.pad_id)
    train, held_out = (RetroDataset(spec, model, 4, 512) for spec in (toy.data_spec, toy.validation))
    names = [
        {tokenizer.decode(data.tokens(window)[:12]).split(" \u2014 ")[0] for window in data.windows}
        for data in (train, held_out)
    ]
    assert "Ghana" in names[1] and "Algeria" in names[0] and "Ghana" not in names[0]
    read = tokenizer.decode(train.retrieved_tokens(train.neighbour_ids(train.windows[0])[:1]).reshape(-1))
    assert "(2015 est.)" in read or "(2014 est.)" in read
    assert (train.neighbour_ids(train.windows[0]) >= 0).all()
