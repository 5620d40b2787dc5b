"""The reference's data commands as people type them: what they print, all in one, and looking at it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SENTENCES
from fakes import HashingEmbedder

from indexing import paths
from indexing.cli import main
from indexing.commands import pipeline
from indexing.pipeline.examples import Examples

PIPELINE = Path(__file__).parent / "data" / "pipeline"
EDGE, TWO = PIPELINE / "edge", PIPELINE / "two"


@pytest.fixture(autouse=True)
def quick_world(tokenizer, monkeypatch):
    """A model `demo` that is only a tokenizer, and an embedder that needs no loading."""
    folder = paths.models_dir() / "demo"
    folder.mkdir(parents=True)
    tokenizer.save(folder)
    monkeypatch.setattr(pipeline, "open_embedder", HashingEmbedder)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_the_five_steps_and_the_specs(tmp_path, capsys, monkeypatch):
    lines = (EDGE / "edge.jsonl").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    chunks, first, owner = (tmp_path / f"{name}.npy" for name in ("chunks", "seq2chunk", "chunk2seq"))
    out = ["--chunks-out", chunks, "--seq2chunk-index-out", first, "--chunk2seq-index-out", owner]
    assert run("tokenize-and-chunk", *out, "--max-chunks", 100, "--verbose") == 0
    output = capsys.readouterr()
    assert output.out == "\rNum seqs: 10    Num chunks: 14\n"
    assert "tokenizer all-MiniLM-L6-v2, 30,522 tokens" in output.err
    assert chunks.read_bytes() == (EDGE / "chunks.npy").read_bytes()

    vectors = tmp_path / "chunks.embeddings.npy"
    assert run("embed-chunks", chunks, vectors, "--batch-size", 5) == 0
    assert np.load(vectors).shape == (14, 48) and np.load(vectors).dtype == np.float16

    spec = tmp_path / "spec" / "index.spec.json"
    files = ["--chunks", chunks, "--seq2chunk", first, "--chunk2seq", owner]
    assert run("index-spec", spec, *files, "--embeddings", vectors) == 0
    assert json.loads(spec.read_text()) == [
        {"chunks": "../chunks.npy", "seq2chunk": "../seq2chunk.npy", "chunk2seq": "../chunk2seq.npy",
         "embeddings": "../chunks.embeddings.npy"}
    ]  # fmt: skip
    trained, index, found = tmp_path / "trained.index", tmp_path / "data.index", tmp_path / "neighbours.npy"
    capsys.readouterr()
    assert run("train-faiss-index", "--spec", spec, "--index-type", "Flat", "--output", trained) == 0
    assert capsys.readouterr().out == "Training index...\nSaving index...\n"
    assert run("build_faiss_index", "--spec", spec, "--trained-index", trained, "--output-index", index) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["Loading index...", "Adding embedding shards..."] and said[3:] == ["Saving index..."]
    assert said[2].startswith("1:\t14 vectors \tRecall@1: 0.") and "\tQueries / s: " in said[2]
    asking = ["--query-embeddings", vectors, "--query-chunk2seq", owner, "--neighbours-output", found]
    asked = ["--index", index, "--index-spec", spec, "--num-neighbours", 3]
    assert run("retrieve-neighbours", *asking, *asked) == 0
    assert "  The queries seem to be in index." in capsys.readouterr().out
    assert np.load(found).shape == (14, 3) and (np.load(found) != -1).all()
    owners = np.load(owner)
    assert (owners[np.load(found)] != owners[:, None]).all()

    data = tmp_path / "data.spec.json"
    rest = ["--neighbours", found, "--index-spec", spec, "--faiss-index", index]
    assert run("data-spec", data, *files, *rest) == 0
    assert json.loads(data.read_text())["neighbours"] == {
        "faiss_index": "data.index", "index_spec": "spec/index.spec.json",
    }  # fmt: skip

    capsys.readouterr()
    monkeypatch.setattr("builtins.input", answers := Answers("2", "two", "11", "-1"))
    assert run("dataset-demo", data, "--num-neighbours", 2, "--max-len", 64) == 0
    output = capsys.readouterr()
    assert answers.asked == ["Enter a sequence index: "] * 5, "and then the input ends"
    assert "  - 11 sequences\n  - 14 chunks\n  - 1 shard(s)" in output.out
    assert " input_ids:       [64]\n neighbour_ids:   [1, 2, 128]\n labels:          [64]" in output.out
    assert output.out.count("Input chunk 1:\nthe the the") == 1 and "Neighbour 2:   " in output.out
    assert (
        "expected a whole number" in output.err and "There is no sequence 11: expected 0 to 10" in output.err
    )
    assert run("browse", data, "--sequence", 0, 10) == 0
    assert capsys.readouterr().out.count("Shapes:") == 2


class Answers:
    def __init__(self, *answers: str):
        self.answers, self.asked = list(answers), []

    def __call__(self, prompt: str) -> str:
        self.asked.append(prompt)
        if not self.answers:
            raise EOFError
        return self.answers.pop(0)


def test_an_example_is_a_document_with_its_neighbours(tmp_path):
    """Against plain loops over the files, the reference's rules one by one."""
    generator = np.random.default_rng(7)
    stores, shards = [], []
    for name, counts in (("a", (2, 1, 3)), ("b", (1, 4))):
        tokens = generator.integers(2, 400, (sum(counts), 5)).astype(np.uint16)
        ends = np.cumsum(counts) - 1
        tokens[ends, 3:] = 0
        stores.append((tokens, np.repeat(np.arange(len(counts)), counts)))
        arrays = {
            "chunks": tokens,
            "seq2chunk": np.cumsum([0, *counts[:-1]]),
            "chunk2seq": stores[-1][1].astype(np.int32),
            "embeddings": np.zeros((len(tokens), 7), np.float16),
            "neighbours": generator.integers(-1, 11, (len(tokens), 3)),
        }
        for key, array in arrays.items():
            np.save(tmp_path / f"{name}.{key}.npy", array)
        shards.append({key: f"{name}.{key}.npy" for key in arrays})
    (tmp_path / "index.json").write_text(json.dumps(shards))
    spec = tmp_path / "data.json"
    spec.write_text(json.dumps({"shards": shards[::-1], "neighbours": {"index_spec": "index.json"}}))

    tokens = np.concatenate([store[0] for store in stores]).astype(int)
    owners = np.concatenate([stores[0][1], stores[1][1] + 3])
    examples = Examples(spec, 0, num_neighbours=2, num_continuations=2, max_len=15)
    assert len(examples) == 5
    for number, document in enumerate((3, 4, 0, 1, 2)):  # shard b asks first
        example, rows = examples[number], np.flatnonzero(owners == document)[:3]
        text = tokens[rows].reshape(-1)
        assert example.input_ids.tolist() == text.tolist()
        after = [*text[1:], 0]
        assert example.labels.tolist() == [t or -100 for t in after]
        stored = np.load(tmp_path / f"{'b' if document >= 3 else 'a'}.neighbours.npy")
        local = rows - (6 if document >= 3 else 0)
        for u, row in enumerate(local):
            for j, i in enumerate(stored[row][:2]):
                follow = [] if i < 0 else [n for n in range(i, min(i + 3, 11)) if owners[n] == owners[i]]
                expected = tokens[follow].reshape(-1).tolist() + [0] * (15 - 5 * len(follow))
                assert example.neighbour_ids[u, j].tolist() == expected


@pytest.fixture
def documents(tmp_path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    rows = [{"text": " ".join(SENTENCES[i:] * 2)} for i in range(5)]
    (folder / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "note.txt").write_text("A note about the river Nile. " * 9)
    return folder


def test_one_command_does_all_and_no_step_twice(documents, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    arguments = ["prepare", documents, "--out", out, "--chunk-size", 8, "--num-neighbours", 3]
    assert run(*arguments) == 0
    assert capsys.readouterr().out == f"{out / 'data.spec.json'}\n"
    found, owners = np.load(out / "chunks.neighbours.npy"), np.load(out / "chunk2seq.npy")
    assert len(np.load(out / "seq2chunk.npy")) == 6 and (found != -1).all()
    assert (owners[found] != owners[:, None]).all()
    examples = Examples(out / "data.spec.json", 0)
    assert (examples[5].input_ids == 1).sum() == 1, "one end mark"
    first = {path.name: path.read_bytes() for path in out.iterdir()}

    assert run(*arguments) == 0
    again = capsys.readouterr().err
    assert again.count("done before") == 5
    assert run(*arguments, "--nprobe", 2) == 0
    again = capsys.readouterr().err
    assert "index: done before" in again and "neighbours: done before" not in again
    (out / "chunks.npy").write_bytes(b"damaged")
    assert run(*arguments, "--nprobe", 2) == 0 and "chunks: done before" not in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.suffix == ".npy"} == {
        name: data for name, data in first.items() if name.endswith(".npy")
    }

    embedded = []
    monkeypatch.setattr(
        pipeline, "open_embedder", lambda _: embedded.append(HashingEmbedder()) or embedded[0]
    )
    (documents / "more.txt").write_text("The Nile again, and nothing else.")
    assert run(*arguments) == 0
    assert len(np.load(out / "seq2chunk.npy")) == 7
    assert embedded[0].num_embedded > 0


def test_prepare_goes_on_where_it_was_killed(documents, tmp_path, capsys, monkeypatch):
    arguments = [documents, "--chunk-size", 8, "--batch-size", 3]
    assert run("prepare", *arguments, "--out", tmp_path / "whole") == 0
    dying = HashingEmbedder()
    embed = dying.embed

    def dies(texts):
        if dying.num_embedded > 20:
            raise KeyboardInterrupt
        return embed(texts)

    dying.embed = dies
    monkeypatch.setattr(pipeline, "open_embedder", lambda _: dying)
    with pytest.raises(SystemExit) as caught:
        run("prepare", *arguments, "--out", tmp_path / "twice")
    assert caught.value.code == 130 and "run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "twice" / "data.spec.json").exists()
    dying.embed, dying.num_embedded = embed, 0
    assert run("prepare", *arguments, "--out", tmp_path / "twice") == 0
    total = len(np.load(tmp_path / "whole" / "chunks.npy"))
    assert dying.num_embedded == total - 21, "what was embedded is not embedded again"
    for path in (tmp_path / "whole").glob("*.npy"):
        assert path.read_bytes() == (tmp_path / "twice" / path.name).read_bytes()


def test_mistakes_are_one_sentence(tmp_path, capsys):
    out = [
        "--chunks-out",
        tmp_path / "c",
        "--seq2chunk-out",
        tmp_path / "s",
        "--chunk2seq-out",
        tmp_path / "o",
    ]
    for arguments, sentence in [
        (["tokenize-and-chunk", tmp_path / "absent.jsonl", *out], "There is no file"),
        (["tokenize-and-chunk", EDGE / "edge.jsonl", *out, "--tokenizer", tmp_path], "Expected a tokenizer"),
        (["embed-chunks", TWO / "a.chunk2seq.npy", tmp_path / "e.npy"], "to have 2 axes, got 1"),
        (["embed-chunks", EDGE / "chunks.npy", tmp_path / "e.npy", "--tokenizer", "demo"], "has only 400"),
        (["browse", TWO / "index.spec.json"], "names no index_spec"),
        (["prepare", tmp_path / "absent", "--out", tmp_path / "x"], "There is no file"),
        (["index-spec", tmp_path / "i.json", "--chunks", "a", "b", "--seq2chunk", "a", "--chunk2seq", "a",
          "--embeddings", "a"], "as many files of each kind"),
    ]:  # fmt: skip
        assert run(*arguments) == 2, arguments
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and sentence in error, error
