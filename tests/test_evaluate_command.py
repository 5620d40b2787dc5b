"""`evaluate` measures everything that is asked for, keeps what is done, and goes on where it was stopped."""

import json

import pytest
from conftest import SENTENCES
from tiny_models import M, tiny_model

from indexing.build import build
from indexing.corpus import Document
from indexing.files import lock
from indexing.paths import datastore_dir, models_dir
from indexing.precompute import precompute_neighbours
from retro_core.checkpoint import save_model
from retro_core.cli import main
from retro_core.evaluation import measure as measuring
from retro_core.evaluation.losses import token_losses

TEXTS = [f"{SENTENCES[i % 6]} Number {i}. {SENTENCES[(i + 1) % 6]}" for i in range(12)]


@pytest.fixture
def held(tmp_path, tokenizer, embedder, monkeypatch):
    """A data spec whose documents look into a datastore "read", and a model "tiny" of chunks of 3 tokens."""
    monkeypatch.setattr("indexing.datastore.open_embedder", lambda name: embedder)
    for name, first in (("read", 0), ("held", 6)):
        rows = [
            Document(f"{name}-{i}", f"T{i}", text, name) for i, text in enumerate(TEXTS[first : first + 6])
        ]
        list(build(name, rows, tokenizer, embedder, chunk_size=M))
    list(precompute_neighbours([datastore_dir("held")], [datastore_dir("read")], 2, tmp_path / "data"))
    model = tiny_model(num_embeddings=tokenizer.vocab_size).float()
    save_model(models_dir() / "tiny", model, tokenizer)
    return tmp_path / "data" / "data.spec.json"


@pytest.fixture
def undrawn(monkeypatch):
    """No figures, which take most of the time."""
    monkeypatch.setattr("retro_core.evaluation.report.write_report", lambda result, folder: [folder])


def run(*words) -> int:
    return main(["evaluate", "--model", "tiny", "--max-len", "12", *map(str, words)])


def test_everything_in_one_folder_and_nothing_twice(held, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    line = ["a b=" + str(held), "--out", out, "--limit", "2", "--sweep-limit", "2", "--knn-tokens", "1000"]
    assert run(*line) == 0
    assert "held" not in capsys.readouterr().out.split(":")[0]
    whole = json.loads((out / "evaluation.json").read_text())
    probe = whole["probes"]["a b"]
    assert probe["documents"] == 2 and {*probe["readings"]} == {*measuring.READINGS}
    assert {*probe["sweeps"]} >= {"k", "size"} and {*probe["comparators"]} >= {
        "copying",
        "in_context",
        "knn_lm",
    }
    assert probe["leakage"] and probe["relations"]["overlap"] and len(probe["per_document"]) == 2
    assert "evaluate --model tiny" in whole["command"]
    nats = {name: found["nats"] for name, found in probe["readings"].items()}
    assert probe["differences"]["on-off"]["nats"] == pytest.approx(nats["on"] - nats["off"])
    assert {path.name for path in out.iterdir()} >= {"report.md", "report.html", "figures"}

    monkeypatch.setattr("retro_core.evaluation.report.write_report", lambda result, folder: [folder])

    def never(*_, **__):
        raise AssertionError("it was made before")

    for name in ("token_losses", "sweeps", "comparators", "leakage", "chunk_gains"):
        monkeypatch.setattr(measuring, name, never)
    assert run(*line) == 0
    assert "was made before" in capsys.readouterr().err
    again = json.loads((out / "evaluation.json").read_text())
    assert again["probes"] == whole["probes"]


def test_a_stopped_command_goes_on_and_other_settings_do_not_count(
    held, tmp_path, capsys, monkeypatch, undrawn
):
    out = tmp_path / "out"
    line = [f"held={held}", "--out", out, "--quick"]
    real = measuring.chunk_gains

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "chunk_gains", stopped)
    assert run(*line) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (out / "evaluation.json").exists()
    assert {p.name for p in (out / "parts").iterdir()} == {
        "held.readings.json", "held.leakage.json", "held.losses.npz"
    }  # fmt: skip
    so_far = json.loads((out / "so-far.json").read_text())["probes"]["held"]
    assert so_far["readings"] and so_far["leakage"] and "relations" not in so_far
    note = json.loads((out / "progress.json").read_text())
    assert (note["part"], note["number"], note["count"]) == ("relations", 3, 3) and 0 < note["share"] <= 1
    monkeypatch.setattr(measuring, "chunk_gains", real)
    scored = []
    monkeypatch.setattr(measuring, "token_losses", lambda *a: scored.append(1) or token_losses(*a))
    assert run(*line) == 0 and not scored, "what was done is not done again"
    first = json.loads((out / "evaluation.json").read_text())
    assert not (out / "so-far.json").exists()
    assert run(*line, "--limit", "2") == 0 and scored
    assert json.loads((out / "evaluation.json").read_text())["probes"]["held"]["documents"] == 2
    assert first["probes"]["held"]["documents"] == 6


def test_damaged_parts_are_made_again(held, tmp_path, undrawn):
    out = tmp_path / "out"
    assert run(f"held={held}", "--out", out, "--quick") == 0
    first = json.loads((out / "evaluation.json").read_text())["probes"]
    (out / "parts" / "held.leakage.json").write_text("{")
    (out / "parts" / "held.losses.npz").unlink()
    assert run(f"held={held}", "--out", out, "--quick") == 0
    assert json.loads((out / "evaluation.json").read_text())["probes"] == first


def test_texts_look_into_a_datastore_and_never_at_themselves(held, tmp_path, capsys):
    file = tmp_path / "texts.jsonl"
    rows = [{"id": f"read-{i}", "title": f"T{i}", "text": text} for i, text in enumerate(TEXTS[:4])]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(f"texts={file}") == 2
    assert "has no neighbours of its own. Name what to look into with --datastore." in capsys.readouterr().err
    assert run(f"texts={file}", "--datastore", "read", "--json") == 0
    found = json.loads(capsys.readouterr().out)["probes"]["texts"]
    assert found["documents"] == 4 and found["readings"]["on"]["nats"] != found["readings"]["off"]["nats"]

    from retro_core.evaluation import held_out as module

    seen = []
    real = module.retrieved

    def watched(retriever, chunks, k, pad, own=-1):
        seen.append(own)
        return real(retriever, chunks, k, pad, own)

    module.retrieved, before = watched, module.retrieved
    try:
        assert run(f"texts={file}", "--datastore", "read", "--json") == 0
    finally:
        module.retrieved = before
    assert sorted(set(seen)) == [0, 1, 2, 3], "each leaves out the document of its own id"


def test_questions_and_a_swap(held, tmp_path, capsys):
    questions, prompts = tmp_path / "q.jsonl", tmp_path / "p.jsonl"
    rows = [
        {"id": str(i), "question": f"Which river {i}?", "answers": [w]} for i, w in enumerate(("Nile", "Po"))
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompt = {"id": "1", "country": "X", "field": "f", "prompt": "The river", "answers": {"read": ["Nile"], "held": ["Po"]}}  # fmt: skip # noqa: E501
    prompts.write_text(json.dumps(prompt) + "\n")
    line = ["--questions", f"q={questions}", "--datastore", "read", "--swap", prompts, "--json"]
    assert run(*line, "--out", tmp_path / "out") == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["questions"]["q"]["count"] == 2 and whole["swap"]["count"] == 1
    assert (tmp_path / "out" / "figures" / "swap.svg").is_file()


@pytest.mark.parametrize("words, sentence", [
    (["--out", "x"], "There is nothing to measure on."),
    (["spec.json"], "Expected NAME=FILE, got 'spec.json'."),
    (["a=data.spec.json", "--out", "b.json"], "--out is a folder"),
    (["a=data.spec.json", "--retriever", "bm25"], "Name one with --datastore."),
    (["a=HELD", "--parts", "readigns"], "There is no part 'readigns'. Choose of readings, leakage"),
    (["a=HELD", "--readings", "best"], "There is no reading 'best'. Choose of on, off"),
    (["--questions", "q=HELD"], "--questions q has no neighbours of its own."),
])  # fmt: skip
def test_mistakes_are_one_sentence(held, capsys, words, sentence):
    assert run(*[word.replace("HELD", str(held)) for word in words]) == 2
    assert sentence in capsys.readouterr().err


def test_one_program_at_a_time_in_a_folder(held, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    with lock(out / measuring.RESULT_FILE):
        assert run(f"held={held}", "--out", out, "--quick") == 2
    assert "Another program is measuring in" in capsys.readouterr().err


def test_a_report_again_and_side_by_side(held, tmp_path, capsys, monkeypatch, undrawn):
    out = tmp_path / "out"
    assert run(f"held={held}", "--out", out, "--parts", "readings", "--readings", "") == 0
    assert not (out / "report.html").exists()
    capsys.readouterr()
    monkeypatch.undo()
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html") and (out / "report.html").is_file()
    assert main(["report", str(out), str(out)]) == 2
    assert "Say where with --out DIR" in capsys.readouterr().err
    assert main(["report", str(out), str(out), "--out", str(tmp_path / "both")]) == 0
    assert "tiny (2)" in (tmp_path / "both" / "report.md").read_text()
