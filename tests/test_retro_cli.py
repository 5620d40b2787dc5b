"""The commands of retro_core: from text to a trained model and its numbers, as a user types them."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import tiny_model

from indexing.build import build
from indexing.corpus import read_text
from indexing.datastore import Datastore
from indexing.paths import datastore_dir
from indexing.precompute import precompute_neighbours
from retro_core.checkpoint import load_model, save_model
from retro_core.cli import main
from retro_core.config import GenerationConfig
from retro_core.trace import Trace


@pytest.mark.parametrize(
    "command", ["", "generate", "score", "train", "export", "evaluate", "verify-reference", "presets"]
)
def test_help_answers_without_loading_torch(command):
    program = (
        "import sys; from retro_core.cli import main\n"
        f"try: main({[*command.split(), '--help']})\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'faiss', 'lightning', 'sentence_transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m retro_core {command}".strip() in done.stdout


def test_every_setting_is_an_option_with_its_default_and_its_bounds(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name in GenerationConfig().to_dict():
        assert f"--{name.replace('_', '-')}" in shown
    assert "tokens to write (128, 1 to 1,024)" in shown and "--no-retrieval" in shown


@pytest.mark.parametrize("line, sentence", [
    (["generate", "x", "--temperature", "9"], "temperature must be from 0 to 2, got 9.0."),
    (["generate", "x", "--model", "absent"], "There is no model at"),
    (["generate", "x", "--trace", "t.json"], "A trace's name ends with .retro.json, got 't.json'."),
    (["score", "x", "--trace", "t.json"], "A trace's name ends with .retro.json, got 't.json'."),
    (["generate", "x", "--trace", "t.retro.json", "--retrieval-step", "9"], "do not go together. Leave one"),
    (["score", " "], "The text to score is empty."),
    (["score", "x", "--num-neighbours", "0"], "num_neighbours must be from 1 to 16, got 0."),
    (["train", "--steps", "0"], "steps must be from 1 to 10,000,000, got 0."),
    (["evaluate", "spec.json"], "Expected NAME=FILE, got 'spec.json'."),
    (["evaluate", "--run", "absent", "held=spec.json"], "Run 'absent' has no checkpoint"),
    (["export", "absent", "new"], "Run 'absent' has no checkpoint"),
    (["export", "Run 1", "new"], "cannot be used as a name"),
    (["export", "../x", "new"], "Run '../x' has no checkpoint in ../x"),
])  # fmt: skip
def test_errors_are_one_sentence_and_exit_2(capsys, line, sentence):
    assert main(line) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and sentence in captured.err


def test_from_a_text_to_a_model_and_its_numbers(tmp_path, capsys, tokenizer, embedder, monkeypatch):
    text = "The river Nile flows north through eleven countries to the Mediterranean Sea. " * 12
    documents = [read_text(f"{text} Number {i}.", f"Nile {i}") for i in range(4)]
    list(build("nile", documents, tokenizer, embedder, chunk_size=8))
    list(precompute_neighbours([datastore_dir("nile")], [datastore_dir("nile")], 2, tmp_path / "data"))
    spec, words = tmp_path / "data" / "data.spec.json", tmp_path / "words"
    words.mkdir()
    tokenizer.save(words)
    config = tmp_path / "model.json"
    sizes = {"mode": "paper", "num_embeddings": tokenizer.vocab_size, "chunk_size": 8, "dropout_p": 0.0}
    for part in ("enc", "dec"):
        sizes |= {f"{part}_hidden_dim": 8, f"{part}_ffn_dim": 8, f"{part}_num_heads": 2, f"{part}_qkv_dim": 8}
    config.write_text(json.dumps(sizes))

    settings = ["--data-spec", str(spec), "--tokenizer", str(words), "--model", str(config), "--steps", "2"]
    assert main(["train", *settings, "--run", "try", "--batch-size", "2", "--max-len", "32"]) == 0
    assert "saved" in capsys.readouterr().err
    (tmp_path / "card.md").write_text("# A try")
    assert main(["export", "try", "tried", "--half", "--card", str(tmp_path / "card.md")]) == 0
    assert "parameters after 2 steps" in capsys.readouterr().out
    assert load_model("tried").card == "# A try"

    line = ["evaluate", "--model", "tried", f"nile={spec}", "--max-len", "32", "--json"]
    assert main(line) == 0
    found = json.loads(capsys.readouterr().out)["probes"]["nile"]
    assert found["documents"] == 4 and found["tokens"] > 100
    change, nats = found["differences"]["on-off"], {n: x["nats"] for n, x in found["readings"].items()}
    assert change["ci95"][0] <= nats["on"] - nats["off"] <= change["ci95"][1]

    monkeypatch.setattr("indexing.datastore.open_embedder", lambda name: embedder)
    ons = {}
    for form in ("dense", "bm25", "off"):
        assert main([*line, "--datastore", "nile", "--retriever", form]) == 0
        again = json.loads(capsys.readouterr().out)["probes"]["nile"]
        assert again["readings"]["off"] == found["readings"]["off"] and again["tokens"] == found["tokens"]
        ons[form] = again["readings"]["on"]["nats"]
    assert len({*ons.values()}) == 3 and ons["off"] == pytest.approx(nats["off"])
    assert main([*line, "--retriever", "bm25"]) == 2
    assert "Name one with --datastore" in capsys.readouterr().err


@pytest.fixture
def nile(tokenizer, embedder, retro_home, monkeypatch) -> None:
    """A datastore and a model of that name, chunk size 3; queries are embedded by the stand-in."""
    text = "The river Nile flows north. Honey bees dance. " * 3
    documents = [read_text(f"{text} Number {i}.", f"Nile {i}") for i in range(3)]
    list(build("nile", documents, tokenizer, embedder, chunk_size=3))
    save_model(retro_home / "models" / "nile", tiny_model(num_embeddings=tokenizer.vocab_size), tokenizer)
    monkeypatch.setattr("indexing.datastore.open_embedder", lambda name: embedder)


def test_generate_writes_the_text_and_says_what_was_read(nile, capsys):
    line = ["generate", "The river", "--model", "nile", "--datastore", "nile", "--max-new-tokens", "7"]
    assert main(line) == 0
    plain = capsys.readouterr()
    assert plain.out.startswith("The river") and "chunk 1 read Nile " in plain.err
    assert main([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "The river" + told["text"] == plain.out.removesuffix("\n")
    assert told["reason"] in ("length", "end of document")
    assert sum(token["logprob"] is not None for token in told["tokens"]) <= 7
    first = told["chunks"][0]["neighbours"][0]
    assert first["document_id"] and first["title"].startswith("Nile") and first["distance"] >= 0
    assert main([*line, "--json", "--no-retrieval"]) == 0
    assert json.loads(capsys.readouterr().out)["chunks"] == []


@pytest.mark.parametrize("form, measure, scored, far", [
    ("dense", "squared L2", False, False), ("first-chunk", "similarity with first chunks", True, False),
    ("bm25", "BM25", True, True),
    ("hybrid-rrf", "reciprocal ranks", True, False), ("hybrid-rerank", "BM25", True, False),
    ("random:5", "drawn at random", False, True),
])  # fmt: skip
def test_a_model_reads_what_any_retriever_finds(nile, capsys, form, measure, scored, far):
    options = ["--model", "nile", "--datastore", "nile", "--retriever", form]
    ids = [label.id for label in Datastore.open("nile").labels()]
    line = ["generate", "The river Nile flows", *options, "--max-new-tokens", "4", "--json"]
    for less, documents in ([], ids), (["--exclude", ids[0]], ids[1:]), (["--only", ids[2]], ids[2:]):
        assert main([*line, *less]) == 0
        told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        found = [neighbour for chunk in told["chunks"] for neighbour in chunk["neighbours"]]
        assert found and {one["document_id"] for one in found} <= {*documents}
        for one in found:
            assert one["measure"] == measure and one["text"]
            assert (one["score"] is not None, one["distance"] is None) == (scored, far)
    assert main(line[:-1]) == 0
    assert measure in capsys.readouterr().err or form == "dense"
    line = ["score", "The river Nile flows north", *options, "--json"]
    assert main(line) == 0
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    cards = [card for chunk in told["chunks"] for card in chunk["neighbours"]]
    assert cards and {(card["score"] is not None, card["distance"] is None) for card in cards} == {
        (scored, far)
    }
    overlaps = [chunk["overlap"] for chunk in told["chunks"] if chunk["overlap"] is not None]
    assert max(overlaps) > 0 or form == "random:5"
    assert main([*line, "--leakage", "0"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {chunk["overlap"] for chunk in told["chunks"]} <= {0, None}
    assert main([line[0], line[1], *options]) == 0 and "tokens, nats per token" in capsys.readouterr().out


def test_generate_saves_a_trace_that_opens_again(nile, capsys, tmp_path, monkeypatch):
    path = tmp_path / "nile.retro.json"
    line = ["generate", "-", "--model", "nile", "--datastore", "nile", "--max-new-tokens", "5"]
    monkeypatch.setattr("sys.stdin", io.StringIO("The river Nile"))
    assert main([*line, "--trace", str(path)]) == 0
    trace = Trace.from_json(json.loads(path.read_text()))
    assert trace.view()["datastore"]["name"] == "nile" and len(trace.view()["chunks"]) >= 1
    assert "saved" in capsys.readouterr().err


def test_score_says_what_each_neighbour_did(nile, capsys, tmp_path, monkeypatch):
    path = tmp_path / "scored.retro.json"
    text = "The river Nile flows north"
    line = ["score", "--model", "nile", "--datastore", "nile"]
    assert main([*line, text, "--trace", str(path)]) == 0
    plain = capsys.readouterr()
    trace = json.loads(path.read_text())
    assert trace["prompt_tokens"] == len(trace["tokens"]) and "saved" in plain.err
    chunk = trace["chunks"][0]
    own, later = (chunk["neighbours"][0]["influence"][name] for name in ("own", "downstream"))
    assert f"chunk 1, read by 3 tokens   gain {chunk['gain']:+.3f} nats per token" in plain.out
    assert f"influence {own:+.3f} here, {later:+.3f} later" in plain.out
    assert f"{len(trace['tokens']) - 1} tokens, nats per token: on" in plain.out

    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert main([*line, "-", "--json", "--num-neighbours", "1", "--no-influence"]) == 0
    told = json.loads(capsys.readouterr().out)
    lost = [token["lp_on"] for token in told["tokens"][1:]]
    assert told["on"] == pytest.approx(-sum(lost) / len(lost)) and told["scored"] == len(lost)
    assert [len(chunk["neighbours"]) for chunk in told["chunks"]] == [1] * len(told["chunks"])
    assert told["chunks"][0]["neighbours"][0]["influence"] is None


@pytest.mark.parametrize("text", ["T", "The river Nile"])
def test_every_chunk_is_looked_up_even_of_a_text_shorter_than_one(nile, tokenizer, capsys, text):
    assert main(["score", text, "--model", "nile", "--datastore", "nile", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    count = max(3, len(tokenizer.encode(text)))
    assert len(told["tokens"]) == count
    assert [chunk["read"] for chunk in told["chunks"]] == [
        [min(start, count), min(start + 3, count)] for start in range(3, 3 * (count // 3) + 1, 3)
    ]
    assert all(chunk["neighbours"] for chunk in told["chunks"])
    assert (told["chunks"][-1]["gain"] is None) == (count % 3 == 0)
    assert (told["on"] is None) == (text == "T"), "one token is given, none is predicted"
