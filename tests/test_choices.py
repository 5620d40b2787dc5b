"""The variants of the benchmark of single choices differ in what they say they differ in."""

import json
from pathlib import Path

import numpy as np
from conftest import SENTENCES
from training_set import M, make_training_set, tiny_sizes

from benchmarks.choices import mixed, useful_half
from benchmarks.vocabularies import learned, retokenised
from indexing.chunks import ChunkStore, tokenize
from indexing.pipeline.specs import open_array, open_chunks, read_data_spec
from indexing.tokenizer import Tokenizer
from retro_core.config import RetroConfig
from retro_core.dataset import RetroDataset


def training_set(folder: Path, tokenizer: Tokenizer) -> Path:
    """Two shards, each the whole index: chunks that read themselves, and another chunk or nothing."""
    texts = [" ".join(SENTENCES[i:] + SENTENCES[:i]) for i in range(len(SENTENCES))]
    shards = []
    for name, part in (("wiki-train", texts[:4]), ("bible-kjv", texts[4:])):
        (folder / "shards" / name).mkdir(parents=True)
        ChunkStore.from_tokens((tokenize(tokenizer, t) for t in part), tokenizer, M).save(
            folder / "shards" / name
        )
        files = {key: f"shards/{name}/{key}.npy" for key in ("chunks", "chunk2seq", "seq2chunk")}
        shards.append({**files, "neighbours": f"shards/{name}/neighbours.npy"})
    first = 0
    for shard in shards:
        own = first + np.arange(len(np.load(folder / shard["chunks"])))
        np.save(folder / shard["neighbours"], np.stack([own, np.where(own % 3, own[::-1], -1)], axis=1))
        first += len(own)
    (folder / "index.spec.json").write_text(json.dumps(shards))
    (folder / "data.spec.json").write_text(
        json.dumps({"shards": shards, "neighbours": {"index_spec": "index.spec.json"}})
    )
    return folder / "data.spec.json"


def test_a_set_cut_anew_by_its_own_tokenizer_stays_as_it_is(tmp_path, tokenizer):
    spec = training_set(tmp_path, tokenizer)
    again = retokenised(spec, tokenizer, tokenizer, tmp_path / "again")
    for before, after in zip(read_data_spec(spec)[0], read_data_spec(again)[0], strict=True):
        for key in before:
            assert np.array_equal(np.load(before[key]), np.load(after[key])), key


def test_chunks_of_another_vocabulary_read_the_same_places(tmp_path, tokenizer):
    """What read itself reads itself, and what read nothing reads nothing, in chunks of fewer bytes."""
    spec = training_set(tmp_path, tokenizer)
    small = learned(spec, tokenizer, 280)
    shards, _ = read_data_spec(retokenised(spec, tokenizer, small, tmp_path / "small"))
    first = 0
    for shard, before in zip(shards, read_data_spec(spec)[0], strict=True):
        store, neighbours = open_chunks(shard, small.pad_id), open_array(shard["neighbours"], 2)
        assert len(store) > len(np.load(before["chunks"]))
        assert (neighbours[:, 0] == first + np.arange(len(store))).all() and (neighbours[:, 1] == -1).any()
        assert small.decode(np.asarray(store.tokens[: store.seq2chunk[1]]).reshape(-1)) in (
            tokenizer.decode(np.load(before["chunks"])[: np.load(before["seq2chunk"])[1]].reshape(-1))
        )
        first += len(store)


def test_texts_are_left_out_or_repeated(tmp_path, tokenizer):
    spec = mixed(training_set(tmp_path, tokenizer), {"wiki": 0, "bible": 3}, tmp_path / "mixed.spec.json")
    assert [shard["chunks"].parent.name for shard in read_data_spec(spec)[0]] == ["bible-kjv"] * 3


def test_the_useful_half_is_what_can_be_copied(tmp_path, tokenizer):
    make_training_set(tmp_path, tokenizer)
    neighbours = tmp_path / "data" / "neighbours.npy"
    own = np.load(neighbours)[:, 0]
    # The first half of the documents reads itself and so what comes next, the others what is anywhere.
    chance = np.random.default_rng(1).permutation(own)
    middle = np.load(tmp_path / "data" / "seq2chunk.npy")[300]
    np.save(neighbours, np.where(own < middle, own, chance)[:, None])
    config = RetroConfig(**tiny_sizes(tokenizer))
    data = RetroDataset(tmp_path / "data" / "data.spec.json", config, 1, 8 * M)
    useful = useful_half(data, at_once=100)
    assert len(useful) >= len(data.windows) // 2
    assert np.mean([window.document < 300 for window in useful]) > 0.9
