"""The whole golden pipeline of the reference, against its files where they are at hand.

    RETRO_PIPELINE_FIXTURES=DIR pytest -m slow tests/test_pipeline_parity.py

DIR holds what the unmodified reference made of 200 documents: docs.jsonl, its chunks, embeddings, neighbours
of three kinds of index, their hashes in SHA256SUMS.py311, examples of the dataset, neighbours of `edge`.
The embedder's numbers for a few documents are checked in any case.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from indexing.embedder import open_embedder
from indexing.pipeline.chunk_files import ChunkFiles, jsonl_texts, write_chunks
from indexing.pipeline.embedding_files import embed_chunks
from indexing.pipeline.examples import Examples
from indexing.pipeline.index_files import build_index, train_index
from indexing.pipeline.neighbour_files import retrieve_neighbours
from indexing.pipeline.specs import write_data_spec
from indexing.pipeline.tokens import open_tokenizer
from indexing.pipeline.unfinished import sha256

EDGE = Path(__file__).parent / "data" / "pipeline" / "edge"
GOLDEN = Path(os.environ.get("RETRO_PIPELINE_FIXTURES", "absent"))
golden = pytest.mark.skipif(
    not (GOLDEN / "docs.jsonl").is_file(), reason="RETRO_PIPELINE_FIXTURES is not set"
)


def smallest_cosine(one: Path, other: Path) -> float:
    a, b = np.load(one).astype(np.float64), np.load(other).astype(np.float64)
    assert a.shape == b.shape
    return ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()


@pytest.mark.slow
def test_embeddings_of_odd_documents(tmp_path):
    out = tmp_path / "embeddings.npy"
    list(embed_chunks(EDGE / "chunks.npy", out, open_tokenizer("all-MiniLM-L6-v2"), open_embedder()))
    assert np.load(out).dtype == np.float16 and smallest_cosine(out, EDGE / "chunks.embeddings.npy") > 0.9999


@pytest.mark.slow
@golden
def test_chunks_and_embeddings(tmp_path):
    tokenizer = open_tokenizer("all-MiniLM-L6-v2")
    names = ("chunks.npy", "seq2chunk.npy", "chunk2seq.npy")

    def texts():
        with open(GOLDEN / "docs.jsonl", "rb") as lines:
            yield from jsonl_texts(lines, "docs.jsonl")

    list(write_chunks(texts, tokenizer, ChunkFiles(*(tmp_path / name for name in names)), 64))
    for name in names:
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()
    out = tmp_path / "chunks.embeddings.npy"
    list(embed_chunks(tmp_path / "chunks.npy", out, tokenizer, open_embedder()))
    assert smallest_cosine(out, GOLDEN / out.name) > 0.9999


@pytest.mark.slow
@golden
@pytest.mark.parametrize("index_type", ["Flat", "IVF16,Flat", "IVF16,PQ32"])
def test_indexes_and_neighbours_of_the_same_embeddings(tmp_path, index_type):
    sums = dict(line.split()[::-1] for line in (GOLDEN / "SHA256SUMS.py311").read_text().splitlines())
    name, spec = index_type.replace(",", "_"), GOLDEN / "index.spec.json"
    trained, index, found = (tmp_path / f"{name}.{kind}" for kind in ("trained.index", "data.index", "npy"))
    list(train_index(spec, index_type, trained))
    list(build_index(spec, trained, index))
    assert [sha256(trained), sha256(index)] == [sums[trained.name], sums[index.name]]
    queries, owners = GOLDEN / "chunks.embeddings.npy", GOLDEN / "chunk2seq.npy"
    list(retrieve_neighbours([queries], [owners], [found], index, spec, 4, margin=4, nprobe=1))
    assert found.read_bytes() == (GOLDEN / f"{name}.neighbours.npy").read_bytes()
    list(retrieve_neighbours([queries], [owners], [found], index, spec, 4))
    assert (np.load(found) != -1).all(), "where the reference's settings leave 9 % of the chunks without any"
    if index_type == "Flat":
        queries, owners = GOLDEN / "nonindexed" / "chunks.embeddings.npy", GOLDEN / "edge" / "chunk2seq.npy"
        list(retrieve_neighbours([queries], [owners], [found], index, spec, 4, margin=4, nprobe=1))
        assert found.read_bytes() == (GOLDEN / "nonindexed" / "nonindexed.neighbours.npy").read_bytes()


@pytest.mark.slow
@golden
def test_examples_are_the_references(tmp_path):
    from safetensors.numpy import load_file

    shard = {key: GOLDEN / f"{key}.npy" for key in ("chunks", "seq2chunk", "chunk2seq")}
    shard["neighbours"] = GOLDEN / "pinned_py39" / "Flat.neighbours.npy"
    spec = tmp_path / "data.spec.json"
    write_data_spec(spec, [shard], GOLDEN / "index.spec.json")
    expected, compared = load_file(GOLDEN / "dataset_examples.safetensors"), 0
    for kind, settings in {
        "kallc0": {"num_continuations": 0},
        "k1c2_max128": {"num_neighbours": 1, "num_continuations": 2, "max_len": 128},
        "k2c1_max256": {"num_neighbours": 2, "max_len": 256},
    }.items():
        examples = Examples(spec, 0, **settings)
        for number in (0, 5, 22, 150, 199):
            for key, array in vars(examples[number]).items():
                golden_array = expected[f"{kind}.seq{number}.{key}"]
                assert array.dtype == golden_array.dtype and np.array_equal(array, golden_array)
                compared += 1
    assert compared == 45
