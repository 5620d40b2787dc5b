"""The app's handlers as plain functions: what they yield, and the one sentence they raise."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from app_calls import TEXT, fresh_services, message, run  # noqa: F401

from app import services, settings
from app.errors import shows_errors
from app.tabs import corpus_make, explore, explore_result
from indexing import paths
from indexing.errors import InputError

ROOT = Path(__file__).parent.parent


def test_the_page_is_made_without_the_slow_libraries():
    slow = "{'torch', 'faiss', 'sentence_transformers', 'transformers', 'bm25s', 'lightning'}"
    code = f"import sys, app.ui; app.ui.build_demo(); print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_error_of_the_user_is_shown_escaped():
    @shows_errors
    def handler():
        raise InputError("Cannot read <img src=x onerror=alert(1)>.txt")

    assert message(handler) == "Cannot read &lt;img src=x onerror=alert(1)&gt;.txt"


def test_an_error_of_ours_is_logged_and_not_shown(caplog):
    @shows_errors
    def handler():
        yield 1
        raise ValueError("secret path /root/x")

    assert "secret" not in message(handler)
    assert "secret path" in caplog.text


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", "The prompt is empty"),
        (" \n\t", "The prompt is empty"),
        ("word " * 5000, "up to 1,024 fit"),
        ("word " * 100_000, "500,000 characters"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_refused_before_anything_is_loaded(prompt, expected, monkeypatch):
    monkeypatch.setattr(services, "model", lambda *_: pytest.fail("loaded a model"))
    sentence = message(run, prompt)
    assert expected in sentence


def test_settings_out_of_bounds_are_refused_whatever_the_page_sends():
    assert "max_new_tokens" in message(run, "A text.", max_new_tokens=10**6)
    assert "min_p" in message(run, "A text.", min_p=1.5)
    assert "seed" in message(run, "A text.", seed=None)
    assert "Up to 16 texts can be stopped at, got 17" in message(run, "A text.", stop_strings="a\n" * 17)


def test_retrieval_without_a_datastore_says_what_to_do():
    assert "Make one in Corpus" in message(run, "A text.", datastore=None)


@pytest.mark.parametrize(
    "request_", [None, "x", [], {}, {"trace": "no", "chunk": 0}, {"trace": "no", "chunk": "0"}, {"chunk": -1}]
)
def test_a_map_asked_for_with_anything_else_is_an_error_in_words(request_):
    assert list(explore_result.attention_map(request_)) == ["error"]


def test_a_file_that_is_no_trace_is_refused(tmp_path):
    for name, content in [
        ("a.json", b"{"),
        ("b.json", b"[]"),
        ("c.json.gz", b"not gzip"),
        ("d.json", b"\xff\xfe"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        assert message(explore_result.open_trace, str(path))


@pytest.fixture
def tiny_model(monkeypatch):
    """A RETRO of random weights with the real tokenizer in the place of the bundled model."""
    from retro_core.checkpoint import LoadedModel
    from retro_core.model import Retro
    from retro_core.presets import preset

    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    tokenizer = services.tokenizer()
    config = preset("toy", tokenizer.vocab_size, tokenizer.pad_id)
    model = LoadedModel(Retro(config).eval(), config, tokenizer, "tiny", "0" * 64, Path("."), None)
    changed = services._time_of(services._model_config(paths.DEMO_MODEL))
    monkeypatch.setitem(services._models, paths.DEMO_MODEL, (changed, model))
    monkeypatch.setattr(settings, "SECONDS_BETWEEN_DRAWINGS", 0)  # all are drawn, however quick
    list(corpus_make.index(TEXT * 40, None, "rivers", "", False))


def test_a_run_shows_each_stage_and_ends_in_a_trace_that_is_kept(tiny_model):
    steps = list(run("Rivers flow north.", True, "rivers", max_new_tokens=70))
    stages = [view["status"]["stage"] for view, _, _ in steps if "status" in view]
    assert list(dict.fromkeys(stages)) == ["retrieving", "reading", "writing", "measuring"]
    view, progress, trace_id = steps[-1]
    assert view["id"] == trace_id and "Wrote" in progress["text"]
    assert len(view["chunks"]) == 2 and all(chunk["seconds"]["retrieve"] > 0 for chunk in view["chunks"])
    assert "attention_heads" not in view["chunks"][0]
    one = explore_result.attention_map({"trace": trace_id, "chunk": 0, "layer": 0, "head": 1})
    assert (one["rows"], one["cols"]) == (64, 256)
    assert "error" in explore_result.attention_map({"trace": trace_id, "chunk": 9, "layer": 0, "head": 0})


def test_a_saved_trace_opens_as_the_same_trace(tiny_model, tmp_path):
    *_, (view, _, trace_id) = run("Rivers flow north.", True, "rivers", max_new_tokens=8)
    saved = explore_result.save_trace(trace_id)
    path = tmp_path / saved["name"]
    path.write_text(saved["text"], encoding="utf-8")
    opened, _, _ = explore_result.open_trace(str(path))
    assert opened["title"] == saved["name"]
    assert {**opened, "id": None, "title": ""} == {**view, "id": None}


def test_a_stopped_run_keeps_what_it_has(tiny_model):
    steps = run("Rivers flow north.", True, "rivers", max_new_tokens=900)
    for view, _, _ in steps:
        if view.get("status", {}).get("stage") == "writing":
            explore.stop()
            break
    *_, (view, progress, _) = steps
    assert "Stopped after" in progress["text"]
    assert 64 < len(view["tokens"]) < 900
    assert not services.stop_requested("")


def test_retrieval_off_reads_nothing(tiny_model):
    *_, (view, _, _) = run("Rivers flow north.", False, None, max_new_tokens=8)
    assert view["retrieval"] is False and view["chunks"] == []


def test_a_datastore_of_one_chunk_serves_two_neighbours(tiny_model):
    list(corpus_make.index("One sentence only.", None, "one", "", False))
    *_, (view, _, _) = run("Rivers flow north.", True, "one", max_new_tokens=8)
    assert len(view["chunks"][0]["neighbours"]) == 1


def test_a_text_ends_where_it_is_told_to_and_says_so(tiny_model):
    *_, (view, _, _) = run("Rivers flow north.", False, None, max_new_tokens=8)
    written = next(t["text"] for t in view["tokens"][view["prompt_tokens"] + 2 :] if t["text"].isprintable())
    assert explore.stops(" a\n\n\\n\n") == [" a", "\n"]
    *_, (view, progress, _) = run("Rivers flow north.", False, None, max_new_tokens=8, stop_strings=written)
    assert len(view["tokens"]) - view["prompt_tokens"] < 8
    assert "a text to stop at" in progress["text"]


def test_a_text_is_read_as_it_is_and_its_numbers_are_told(tiny_model):
    steps = list(run(TEXT * 8, True, "rivers", task="read"))
    view, told, trace_id = steps[-1]
    assert view["prompt_tokens"] == len(view["tokens"]) and view["title"] == "Your text, read as it is"
    assert [chunk["index"] for chunk in view["chunks"]] == list(range(len(view["chunks"])))
    trace = services.trace(trace_id)
    known = [token for token in trace.data["tokens"] if token["lp_on"] is not None]
    mean = -sum(token["lp_on"] for token in known) / len(known)
    assert f"Perplexity {math.exp(mean):,.1f} with retrieval" in told["text"]
    bits = mean * len(known) / math.log(2) / sum(len(token["text"].encode()) for token in known)
    assert f"Bits per byte {bits:.2f} with retrieval" in told["text"]
    *_, (_, told, _) = run(TEXT * 8, False, None, task="read")
    assert "with retrieval" not in told["text"] and "without retrieval" in told["text"]
    *_, (_, told, _) = run("Rivers flow north.", True, "rivers", task="read")
    assert "Shorter than a chunk" in told["text"]


@pytest.mark.parametrize(
    ("form", "measure"), [("bm25", "BM25"), ("random", "drawn at random"), ("dense", "squared L2")]
)
def test_a_run_reads_what_the_chosen_retriever_finds(tiny_model, form, measure):
    *_, (view, _, _) = run("Rivers flow north.", True, "rivers", max_new_tokens=8, form=form)
    assert view["datastore"]["metric"] == measure
    assert len(view["chunks"][0]["neighbours"]) == 2


def test_a_task_or_retriever_that_is_no_choice_is_refused():
    assert "Expected write or read" in message(run, "A text.", task="delete")
    assert "There is no retriever" in message(run, "A text.", form="off")
