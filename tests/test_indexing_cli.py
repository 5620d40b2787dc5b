"""The commands people type: what they print, and how they fail."""

import argparse
import json
import subprocess
import sys
from unittest.mock import Mock

import pytest
from conftest import SENTENCES
from fakes import HashingEmbedder

from indexing import advisor, index, paths
from indexing.cli import _parser, main
from indexing.datastore import Datastore
from indexing.manifest import INDEX_FOLDER


@pytest.fixture(autouse=True)
def quick_world(tokenizer, monkeypatch):
    """A model `demo` that is only a tokenizer, and an embedder that needs no loading."""
    monkeypatch.setattr(paths, "ASSETS", paths.home() / "no-assets")
    folder = paths.models_dir() / "demo"
    folder.mkdir(parents=True)
    tokenizer.save(folder)
    for module in ("indexing.cli", "indexing.datastore"):
        monkeypatch.setattr(f"{module}.open_embedder", HashingEmbedder)


@pytest.fixture
def corpus_file(tmp_path):
    file = tmp_path / "facts.jsonl"
    rows = [{"text": " ".join(SENTENCES[i:] * 3), "title": f"Fact {i}"} for i in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_build_search_inspect_and_list(corpus_file, capsys):
    assert main(["build", "facts", corpus_file]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("Built 'facts': 6 documents,") and "embedding" in output.err

    assert main(["search", "facts", "honey bees dancing on the comb", "--k", "2", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert len(hits) == 2
    assert {"document", "title", "offset", "distance", "text", "continuation"} <= set(hits[0])
    assert "bees" in hits[0]["text"] and hits[0]["distance"] <= hits[1]["distance"]

    assert main(["search", "facts", "honey bees", "--k", "1"]) == 0
    assert capsys.readouterr().out.startswith("1. Fact")

    assert main(["inspect", "facts", "--verify", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["name"], info["num_documents"], info["tokenizer"]["name"]) == ("facts", 6, "demo")
    assert main(["inspect", "facts"]) == 0 and "6 documents" in capsys.readouterr().out

    assert main(["list", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == ["facts"]
    assert main(["list"]) == 0 and capsys.readouterr().out.startswith("facts")


def test_folders_and_tables_are_built_and_appended_and_what_was_left_out_is_told(tmp_path, capsys):
    folder = tmp_path / "papers"
    folder.mkdir()
    table = [f'{number},"{SENTENCES[number % 5]} {number}"' for number in range(150)]
    (folder / "facts.csv").write_text("\n".join(["id,body", *table, "too few fields"]))
    (folder / "page.html").write_text(f"<title>Bees</title><p>{SENTENCES[3]} 3")
    (folder / "photo.png").write_bytes(b"png")
    assert main(["build", "facts", str(folder), "--text-column", "body"]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("Built 'facts': 151 documents,")
    assert "Line 152 of papers/facts.csv has 1 fields, expected 2" in output.err
    assert "Cannot read papers/photo.png: expected a" in output.err
    assert "papers/page.html repeats papers/facts.csv, line 5" in output.err
    strict = ["append", "facts", str(folder), "--text-column", "body", "--bad-rows", "none"]
    assert main(strict) == 2 and "Line 152 of papers/facts.csv" in capsys.readouterr().err
    assert main(["append", "facts", str(folder / "page.html")]) == 0


def test_search_with_any_retriever_and_less_documents(corpus_file, capsys):
    assert main(["build", "facts", corpus_file]) == 0
    capsys.readouterr()

    def found(*options: str) -> list[dict]:
        command = ["search", "facts", "honey bees dancing on the comb", "--k", "4", "--json", *options]
        assert main(command) == 0
        return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)

    nearest = found()
    assert nearest == found("--retriever", "dense")
    everywhere = {hit["document"] for hit in found("--k", "99")}
    assert len(everywhere) == 6
    one = nearest[0]["document"]
    for form, measure in (
        ("dense", "squared L2"), ("first-chunk", "similarity with first chunks"), ("bm25", "BM25"),
        ("hybrid-rrf", "reciprocal ranks"), ("hybrid-rerank", "BM25"), ("random:3", "drawn at random"),
    ):  # fmt: skip
        hits = found("--retriever", form)
        assert len(hits) == 4 and {hit["measure"] for hit in hits} == {measure}
        assert {hit["document"] for hit in found("--retriever", form, "--only", one)} == {one}
        rest = found("--retriever", form, "--k", "99", "--exclude", one, "--exclude", hits[-1]["document"])
        assert rest and not {one, hits[-1]["document"]} & {hit["document"] for hit in rest}
        assert main(["search", "facts", "honey bees", "--retriever", form, "--k", "1"]) == 0
        printed = capsys.readouterr().out.splitlines()[0]
        assert printed.startswith("1. Fact")
        assert ("squared distance" if form == "dense" else measure) in printed
    for wrong in (["--retriever", "bm26"], ["--retriever", "off"], ["--only", "no-such"]):
        assert main(["search", "facts", "bees", *wrong]) == 2
        assert capsys.readouterr().err.startswith("error: The")


def test_neighbours_of_a_datastore_in_itself(corpus_file, capsys, tmp_path):
    assert main(["build", "facts", corpus_file]) == 0
    folder = str(paths.datastore_dir("facts"))
    out = tmp_path / "out"
    assert main(["neighbours", "--query", folder, "--index", folder, "--k", "2", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "data.spec.json")
    assert (
        json.loads((out / "data.spec.json").read_text())["shards"][0]["neighbours"]
        == "00-facts.neighbours.npy"
    )


def test_a_large_datastore_has_its_index_when_it_is_built_and_when_it_has_grown(
    tmp_path, capsys, monkeypatch
):
    """Else the first who searches would wait for it."""
    monkeypatch.setattr(advisor, "EXACT_ROWS", 100)
    monkeypatch.setattr(index, "TAIL_ROWS", 50)
    texts = [json.dumps({"text": f"{sentence} {n}"}) for n in range(40) for sentence in SENTENCES]
    (tmp_path / "many.jsonl").write_text("\n".join(texts))
    assert main(["build", "many", str(tmp_path / "many.jsonl")]) == 0
    built = Datastore.open("many")
    assert any((built.path / INDEX_FOLDER).iterdir())
    before = {path: path.stat().st_mtime_ns for path in (built.path / INDEX_FOLDER).iterdir()}
    assert main(["append", "many", str(tmp_path / "many.jsonl")]) == 0
    after = {path: path.stat().st_mtime_ns for path in (built.path / INDEX_FOLDER).iterdir()}
    assert after != before, "twice as many chunks want another index"
    with monkeypatch.context() as stopping:
        stopping.setattr(Datastore, "build_index", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(SystemExit, match="130"):
            main(["append", "many", str(tmp_path / "many.jsonl")])
    assert "its index is not made, the first search will make it" in capsys.readouterr().err
    assert Datastore.open("many").version == 3


def test_a_datastore_lives_by_commands(corpus_file, capsys, tmp_path, monkeypatch):
    def said(*arguments: str) -> str:
        assert main(list(arguments)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    more = tmp_path / "more.txt"
    more.write_text("A paragraph about aardvarks.")
    monkeypatch.chdir(tmp_path)
    said("build", "facts", corpus_file)
    assert said("append", "facts", str(more)).startswith("Added to 'facts': 1 document, ")
    assert json.loads(said("documents", "facts", "--json"))[-1]["id"] == "more.txt"
    assert "… and 6 more" in said("documents", "facts", "--first", "1")
    assert said("delete", "facts", "facts.jsonl:2") == "Deleted 1 document; 'facts' is at version 3.\n"
    assert "version 3: 2 segments, 1 documents deleted" in said("inspect", "facts")
    assert "one segment instead of 2" in said("compact", "facts")
    assert "is as it was written" in said("verify", "facts") and "not damaged" in said("repair", "facts")
    assert "Exported" in said("export", "facts") and "Imported 'again'" in said(
        "import", "again", "facts.retro-datastore.zip"
    )
    said("rename", "again", "once-more")
    said("copy", "once-more", "copy")
    said("remove", "copy")
    assert [row["name"] for row in json.loads(said("list", "--json"))] == ["facts", "once-more"]
    assert said("search", "once-more", "aardvarks", "--k", "1").startswith("1. more.txt")


def test_errors_are_one_sentence_on_stderr_and_exit_2(corpus_file, capsys, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "fine"}\n' * 6 + "{\n")
    assert main(["build", "facts", corpus_file]) == 0
    capsys.readouterr()
    for arguments, sentence in [
        (["build", "other", str(broken)], "error: Line 7 of broken.jsonl is not valid JSON"),
        (["build", "facts", corpus_file], "error: A datastore 'facts' exists already"),
        (["build", "Bad Name", corpus_file], "error: 'Bad Name' cannot be used as a name"),
        (["build", "other", corpus_file, "--model", "absent"], "error: Expected a tokenizer at"),
        (["search", "absent", "x"], "error: There is no datastore 'absent'"),
        (["search", "facts", " "], "error: Expected a text to search for"),
        (["inspect", "absent", "--json"], "error: There is no datastore 'absent'"),
    ]:
        assert main(arguments) == 2
        output = capsys.readouterr()
        assert output.err.startswith(sentence) and output.err.count("\n") == 1 and output.out == ""
    with pytest.raises(SystemExit) as caught:
        main(["search"])
    assert caught.value.code == 2


def test_help_needs_no_heavy_library():
    code = (
        "import sys\nfrom indexing.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print([m for m in ('torch', 'transformers', 'faiss') if m in sys.modules])"
    )
    root = str(__import__("pathlib").Path(__file__).resolve().parent.parent)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert result.stdout.startswith("usage: python -m indexing") and result.stdout.endswith("[]\n")


def test_every_command_and_option_says_what_it_is():
    (commands,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    listed = {choice.dest: choice.help for choice in commands._choices_actions}
    assert len(listed) > 20
    for name, command in commands.choices.items():
        wordless = [action.dest for action in command._actions if not action.help]
        assert not wordless, f"{name}: {wordless}"
        assert command.description and command.description[0].isupper() and command.description[-1] == "."
    for name, does in listed.items():
        assert does and does[0].islower() and does[-1] != ".", name
