"""The app's handlers as plain functions: what they yield, and the one sentence they raise."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from app_calls import TEXT, fresh_services, message, run  # noqa: F401

from app import services, settings
from app.errors import shows_errors
from app.tabs import corpus, explore
from indexing import files, paths
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
    assert list(explore.attention_map(request_)) == ["error"]


def test_a_file_that_is_no_trace_is_refused(tmp_path):
    for name, content in [
        ("a.json", b"{"),
        ("b.json", b"[]"),
        ("c.json.gz", b"not gzip"),
        ("d.json", b"\xff\xfe"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        assert message(explore.open_trace, str(path))


def test_a_preview_cuts_as_indexing_cuts():
    list(corpus.index(TEXT * 20, None, "rivers", False))
    store = services.datastore("rivers")
    shown = corpus.preview_texts(TEXT * 20, None, "")[0]["documents"][0]["chunks"]
    assert [chunk["text"] for chunk in shown] == [store.text(i) for i in range(len(store.chunks))]
    assert "".join(chunk["text"] for chunk in shown) == TEXT * 20


def test_a_long_corpus_is_previewed_in_part_and_says_so():
    value = corpus.preview_texts(TEXT * 5000, None, "")[0]
    assert sum(len(document["chunks"]) for document in value["documents"]) == settings.PREVIEW_CHUNKS
    assert "about" in value["summary"]
    assert value["rest"]


def test_a_name_is_suggested_only_where_none_is_given():
    assert corpus.preview_texts(TEXT, None, "")[1] == "the-nile-flows"
    assert isinstance(corpus.preview_texts(TEXT, None, "mine")[1], dict)  # gr.skip()


def test_an_indexed_corpus_can_be_searched_and_is_listed():
    *_, (progress, choice, rows) = corpus.index(TEXT * 20, None, "rivers", False)
    assert progress["tone"] == "good" and "rivers" in progress["text"]
    assert choice.value == "rivers"
    assert "rivers" in [row[0] for row in rows]
    found = corpus.search("volcano Sicily", "rivers")
    assert "Sicily" in found[0][3]


def test_a_corpus_of_one_chunk_works():
    *_, (progress, _, _) = corpus.index("One sentence only.", None, "tiny", False)
    assert "1 chunk" in progress["text"]
    assert len(corpus.search("sentence", "tiny")) == 1


def test_cancelling_leaves_nothing(monkeypatch):
    steps = corpus.index(TEXT * 400, None, "rivers", False)
    next(steps)
    corpus.cancel()
    *_, (progress, _, _) = steps
    assert "nothing was written" in progress
    left = [path.name for path in paths.datastores_dir().glob("*")]
    assert left in ([], [".rivers.lock"])


def test_a_page_that_goes_away_while_indexing_leaves_nothing():
    steps = corpus.index(TEXT * 400, None, "rivers", False)
    next(steps)
    steps.close()
    assert "rivers" not in [info.name for info in services.datastores()]
    assert not list(paths.datastores_dir().glob(f"{files.UNFINISHED}*"))


def test_replacing_a_datastore_reaches_the_search_at_once():
    list(corpus.index("Bees dance on the comb.", None, "mine", False))
    assert "Bees" in corpus.search("bees", "mine")[0][3]
    assert "exists already" in message(corpus.index, "Honey.", None, "mine", False)
    list(corpus.index("Glaciers move slowly.", None, "mine", True))
    assert "Glaciers" in corpus.search("bees", "mine")[0][3]


def upload(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return [str(path)]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.txt", b"", "empty.txt is empty"),
        ("photo.txt", b"\x89PNG\0\0\1\2", "looks binary"),
        ("latin.txt", "Zürich".encode("latin-1"), "byte 1"),
        ("rows.jsonl", b'{"text": "a"}\n' * 6 + b'{"text": \n', "Line 7 of rows.jsonl"),
        ("notes.pdf", b"text", "Cannot read notes.pdf: it is damaged, or no pdf file"),
        ("notes.exe", b"text", "Cannot read notes.exe: expected a .txt, .md,"),
    ],
)
def test_a_bad_file_is_named_with_its_remedy(tmp_path, name, content, expected):
    assert expected in message(corpus.preview_texts, "", upload(tmp_path, name, content), "")
    assert expected in message(corpus.index, "", upload(tmp_path, name, content), "mine", False)


def test_tables_and_archives_are_indexed_and_what_was_left_out_is_told(tmp_path):
    table = "title,text\n" + "Nile,The Nile flows north.\n" * 150 + "one field only\n"
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        archive.writestr("rivers.csv", table)
        archive.writestr("<img src=x>.exe", "not text")
    files = [str(tmp_path / "mine.zip")]
    value, suggestion, _ = corpus.preview_texts("", files, "")
    assert value["summary"].startswith("150 documents") and suggestion == "nile"
    notes = "\n".join(value["notes"])
    assert "1 row was left out:\n– Line 152 of mine.zip/rivers.csv has 1 fields, expected 2" in notes
    assert "1 file was left out:\n– Cannot read mine.zip/<img src=x>.exe: expected a .txt" in notes
    assert "149 documents repeat earlier ones:" in notes
    *_, (progress, _, _) = corpus.index("", files, "rivers", False)
    assert "150 documents" in progress["text"] and "1 row was left out." in progress["text"]
    assert str(tmp_path) not in notes + progress["text"]


@pytest.mark.parametrize(
    ("name", "expected"), [("", "no name yet"), ("../up", "cannot be used"), ("A B", "cannot")]
)
def test_a_bad_name_is_refused(name, expected):
    assert expected in message(corpus.index, TEXT, None, name, False)


def test_nothing_to_index_says_so():
    assert "no text yet" in message(corpus.index, "", None, "mine", False)


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
    list(corpus.index(TEXT * 40, None, "rivers", False))


def test_a_run_shows_each_stage_and_ends_in_a_trace_that_is_kept(tiny_model):
    steps = list(run("Rivers flow north.", True, "rivers", max_new_tokens=70))
    stages = [view["status"]["stage"] for view, _, _ in steps if "status" in view]
    assert list(dict.fromkeys(stages)) == ["retrieving", "reading", "writing", "measuring"]
    view, progress, trace_id = steps[-1]
    assert view["id"] == trace_id and "Wrote" in progress["text"]
    assert len(view["chunks"]) == 2 and all(chunk["seconds"]["retrieve"] > 0 for chunk in view["chunks"])
    assert "attention_heads" not in view["chunks"][0]
    one = explore.attention_map({"trace": trace_id, "chunk": 0, "layer": 0, "head": 1})
    assert (one["rows"], one["cols"]) == (64, 256)
    assert "error" in explore.attention_map({"trace": trace_id, "chunk": 9, "layer": 0, "head": 0})


def test_a_saved_trace_opens_as_the_same_trace(tiny_model, tmp_path):
    *_, (view, _, trace_id) = run("Rivers flow north.", True, "rivers", max_new_tokens=8)
    saved = explore.save_trace(trace_id)
    path = tmp_path / saved["name"]
    path.write_text(saved["text"], encoding="utf-8")
    opened, _, _ = explore.open_trace(str(path))
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
    list(corpus.index("One sentence only.", None, "one", False))
    *_, (view, _, _) = run("Rivers flow north.", True, "one", max_new_tokens=8)
    assert len(view["chunks"][0]["neighbours"]) == 1


def test_a_text_ends_where_it_is_told_to_and_says_so(tiny_model):
    *_, (view, _, _) = run("Rivers flow north.", False, None, max_new_tokens=8)
    written = next(t["text"] for t in view["tokens"][view["prompt_tokens"] + 2 :] if t["text"].isprintable())
    assert explore.stops(" a\n\n\\n\n") == [" a", "\n"]
    *_, (view, progress, _) = run("Rivers flow north.", False, None, max_new_tokens=8, stop_strings=written)
    assert len(view["tokens"]) - view["prompt_tokens"] < 8
    assert "a text to stop at" in progress["text"]
