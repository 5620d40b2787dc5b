"""Compare: texts written side by side, and one text under several readings."""

import json
import re

import numpy as np
import pytest
from app_calls import TEXT, fresh_services, message  # noqa: F401
from tiny_models import tiny_model

from app import services, settings, text
from app.compare import SameText, SideBySide
from app.same_text import headline
from app.side_by_side import answer, common_beginning, judgement, parts, sentence
from app.tabs import compare
from indexing import paths
from indexing.build import build
from indexing.corpus import Document
from retro_core.config import GenerationConfig
from retro_core.counterfactual import log_probs_of

FIRST, SECOND = text.EDITIONS
SWAPPED = text.SWAPS[0][1]


def run(prompt=SWAPPED, stores=(FIRST, SECOND, compare.NONE), forms=("dense",) * 3, **changes):
    sampling = {"max_new_tokens": 8, "num_neighbours": 2, "temperature": 0.0, "seed": 0} | changes
    model = sampling.pop("model", paths.DEMO_MODEL)
    return compare.run(prompt, model, *stores, *forms, **sampling)


def read(scored=" total: 35,336,133 (2025 est.)", beginning=SWAPPED, forms=("off", "dense"), **changes):
    given = {
        "model_name": paths.DEMO_MODEL,
        "other_model": compare.NONE,
        "store_name": SECOND,
        "other_store": compare.NONE,
        "edit": "",
        "num_neighbours": 2,
    } | changes
    return compare.read(beginning, scored, forms=list(forms), **given)


def rivers():
    """A datastore of this name that costs nothing to search."""
    list(build("rivers", [Document("a", "Rivers", TEXT * 20, "")], services.tokenizer(), services.embedder()))


@pytest.fixture
def bundled(monkeypatch):
    """The bundled datastores are searched with the embedder that they were built with; every event is drawn,
    so that nothing hangs on how fast this machine is."""
    monkeypatch.setattr(services, "_embedders", {})
    monkeypatch.setattr(settings, "SECONDS_BETWEEN_DRAWINGS", -1)


# ------------------------------------------------------------------------------------------- writing


def test_two_editions_are_written_from_side_by_side_and_each_from_its_own(bundled):
    views = [view for view, _ in run(stores=(FIRST, SECOND, compare.OFF)) if "columns" in view]
    # In turn: while the first is being written, so are the others.
    assert any(view["busy"] and all(one["text"] for one in view["columns"]) for view in views)
    left, right, off = views[-1]["columns"]
    assert [one["source"] for one in (left, right, off)] == [FIRST, SECOND, ""]
    found = ["".join(words for words, _ in one["lookups"][0]["neighbours"][0]["n"]) for one in (left, right)]
    assert "26,327,649" in found[0] and "35,336,133" in found[1] and off["lookups"] == []
    assert views[-1]["given"] == SWAPPED
    assert "the 2015 edition" in views[-1]["headline"][0][0]
    json.dumps(views[-1], allow_nan=False)


def test_a_column_is_what_generating_alone_gives(bundled):
    from retro_core.generation import Token, generate

    *_, (view, _) = run()
    model = services.model()
    config = GenerationConfig(max_new_tokens=8, num_neighbours=2, temperature=0.0)
    for one in view["columns"]:
        events = generate(
            model.model, model.tokenizer, SWAPPED, services.datastore(one["source"], model), config
        )
        alone = "".join(event.text for event in events if isinstance(event, Token))
        assert "".join(words for words, _ in one["text"]) == alone


def test_what_is_written_stays_when_it_is_stopped(bundled, monkeypatch):
    steps = run(max_new_tokens=200)
    for view, _ in steps:
        if "columns" in view and all(one["text"] for one in view["columns"]):
            compare.stop()
            break
    rest = list(steps)
    assert len(rest) < 20 and "Stopped after" in rest[-1][1]["text"]
    assert all("Stopped" in one["stage"] and one["text"] for one in rest[-1][0]["columns"])
    assert not services.stop_requested(compare._session(None))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (" total: 35,336,133 (2025 est.); male: 17,278,776", "35,336,133"),
        (" Queen ELIZABETH II (since 6 February 1952)", "Queen ELIZABETH II"),
        (" -0.06% (2025 est.)\nBirth rate: 12", "-0.06%"),
        (" $1.117 trillion (2024 est.)", "$1.117 trillion"),
        ("", ""),
    ],
)
def test_the_answer_is_the_first_clause_without_its_label(written, said):
    assert answer(written) == said


def test_the_headline_says_what_was_written_and_whether_it_stands_in_what_was_read():
    said = ["26,327,649", "35,336,133", "9,000"]
    words = sentence(["with the 2015 edition", "with the 2025 edition", "without retrieval"], said)
    assert "".join(one for one, _ in words) == (
        "Same model, same prompt: with the 2015 edition it writes 26,327,649, with the 2025 edition "
        "35,336,133, without retrieval 9,000."
    )
    found = [["Population: 26,327,649"], ["total: 35,336,133 (2025 est.)"], []]
    both = judgement(said, found, [True, True, False])
    assert both.startswith("Both stand word for word") and "a guess" in both
    only = judgement(["6,327,649", said[1]], found[:2], [True, True])
    assert only.startswith("Only “35,336,133” stands")
    assert judgement(["1", "2"], found[:2], [True, True]).startswith("None of them stands")
    assert "Underlined" in judgement(["a long story " * 9, "1"], found[:2], [True, True])
    assert judgement([*said[:2], "a long story " * 9], found, [True, True, False]).startswith("Both stand")
    assert sentence(["a", "b"], ["x", ""]) == []


def test_texts_part_between_words():
    assert common_beginning([" total: 26,327", " total: 35,336"]) == len(" total: ")
    assert common_beginning([" 18.4 years", " 18.9 years"]) == 1
    assert common_beginning([" 18.4", " 18.4 years"]) == len(" 18.4")
    assert common_beginning(["", " x"]) == 0
    pieces = parts([" to", "tal", ": 26"], np.array([False, True, True]), "26", 8)
    assert pieces == [[" to", "shared"], ["tal: ", "copied shared"], ["26", "copied said"]]


# ------------------------------------------------------------------------------------------- reading


def test_the_same_text_is_expected_as_one_pass_of_the_model_says(bundled):
    import torch

    from retro_core.generation import encode_prompt
    from retro_core.model import neighbour_tensor

    *_, (view, told) = read()
    assert "Read 2 of 2" in told["text"] and view["beginning"] == SWAPPED
    model = services.model()
    given = encode_prompt(model.tokenizer, SWAPPED, 64)
    ids = np.concatenate([given, model.tokenizer.encode(" total: 35,336,133 (2025 est.)")])
    found = services.datastore(SECOND, model).retrieve(ids[None, :64], 2)
    tokens = torch.tensor(ids)[None]
    with torch.inference_mode():
        for one, neighbours in zip(
            view["settings"], (None, neighbour_tensor(found, model.model.device)), strict=True
        ):
            plain = log_probs_of(model.model(tokens, neighbours).logits, tokens)[0, 64:]
            assert np.allclose(one["nats"], -plain.numpy(), atol=2e-3)
            bits = sum(one["nats"]) / np.log(2) / len(" total: 35,336,133 (2025 est.)")
            assert one["bpb"] == pytest.approx(bits, rel=1e-3)
    off, dense = view["settings"]
    assert off["less"] is None and dense["less"]["value"] == pytest.approx(dense["bpb"] - off["bpb"])
    assert dense["ci95"] is None and "No interval" in view["notes"][0]
    assert "".join(view["groups"][0]["tokens"]) == " total: 35,336,133 (2025 est.)"
    titles = [view["neighbours"][key]["title"] for key in dense["read"][0]]
    assert titles[0] == "Ghana — People and Society: Population" and off["read"] == [[]]


def test_one_document_has_intervals_of_its_windows_and_reads_what_was_typed():
    rivers()
    views = read(
        TEXT * 14, "", ["off", "bm25", "random", "edit"], store_name="rivers", edit="Bees dance on the comb."
    )
    *_, (view, _) = views
    names = [one["name"] for one in view["settings"]]
    assert names == ["no retrieval", "by words (BM25)", "at random", "my edit"]
    for one in view["settings"]:
        low, high = one["ci95"]
        assert low < one["bpb"] < high
    assert view["settings"][1]["less"]["ci95"] and "of this one text" in view["notes"][0]
    assert view["settings"][3]["read"][0] == ["typed"]
    assert view["neighbours"]["typed"]["text"] == "Bees dance on the comb."
    # The first chunk asks and is not scored; nothing else is lost.
    assert view["beginning"] + "".join(view["groups"][0]["tokens"]) == TEXT * 14
    assert len(services.tokenizer().encode(view["beginning"])) == 64


def test_the_headline_names_the_best_reading_and_says_when_it_may_be_chance():
    off = {"name": "no retrieval", "bpb": 1.5, "less": None}
    best = {"name": "by words (BM25)", "bpb": 1.25, "less": {"value": -0.25, "ci95": (-0.5, -0.1)}}
    words = headline([off, best])
    assert "“by words (BM25)”" in words and "0.25 less than with “no retrieval”" in words
    assert "chance" not in words
    assert "chance" in headline([off, best | {"less": {"value": -0.25, "ci95": (-0.5, 0.1)}}])
    assert headline([best, off | {"less": {"value": 0.25, "ci95": None}}]).startswith("Nothing beats")
    assert headline([off]) == ""


def test_models_with_other_tokenizers_share_bytes_but_no_tokens(tokenizer):
    from retro_core.checkpoint import save_model

    other = tiny_model(num_embeddings=tokenizer.vocab_size, chunk_size=16, pad_token_idx=tokenizer.pad_id)
    save_model(paths.models_dir() / "other", other.float(), tokenizer)
    rivers()
    *_, (view, _) = read(TEXT * 6, "", ["off", "dense"], store_name="rivers", other_model="other")
    assert [one["group"] for one in view["settings"]] == [0, 0, 1, 1]
    assert ["".join(group["tokens"]) for group in view["groups"]][0] == "".join(view["groups"][1]["tokens"])
    assert any("other tokens or chunks" in note for note in view["notes"])
    assert view["settings"][2]["less"] is None and view["settings"][3]["name"].startswith("other: ")


def test_reading_can_be_stopped_between_two_settings():
    rivers()
    steps = read(TEXT * 4, "", ["off", "random", "bm25"], store_name="rivers")
    for view, _ in steps:
        if "settings" in view:
            compare.stop()
            break
    *_, (view, told) = steps
    assert "Stopped after 1 of 3" in told["text"] and len(view["settings"]) == 1


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: run(""), "The prompt is empty"),
        (lambda: run("word " * 5000), "up to 1,024 fit"),
        (lambda: run(stores=(FIRST, FIRST, compare.NONE)), "would read the same"),
        (lambda: run(stores=(FIRST, compare.NONE, compare.NONE)), "only one text"),
        (lambda: run(stores=("../../etc", SECOND, compare.NONE)), "There is no datastore"),
        (lambda: run(stores=([FIRST], SECOND, compare.NONE)), "Expected a text for first, got a list"),
        (lambda: run(forms=("http://127.0.0.1:1", "dense", "dense")), "cannot be looked into"),
        (lambda: run(model="<b>x</b>"), "There is no model"),
        (lambda: run(max_new_tokens=10**6), "max_new_tokens"),
        (lambda: run(temperature="hot"), "temperature"),
        (lambda: run(seed=None), "seed"),
        (lambda: read(""), "no text to score"),
        (lambda: read(None), "no text to score"),
        (lambda: read("word " * 5000), "up to 1,024 fit"),
        (lambda: read(forms=[]), "No way to read"),
        (lambda: read(forms=["http://127.0.0.1:1"]), "There is no way to read"),
        (lambda: read(store_name=compare.OFF), "no datastore to look things up in"),
        (lambda: read(forms=["off", "edit"], edit=" "), "has no text to read"),
        (lambda: read(store_name="/etc/passwd"), "There is no datastore"),
        (lambda: read(model_name=compare.NONE), "There is no model"),
        (lambda: read(num_neighbours=10**6), "num_neighbours"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_loaded(call, expected, monkeypatch):
    monkeypatch.setattr(services, "model", lambda *_: pytest.fail("loaded a model"))
    sentence_ = message(call)
    assert expected in sentence_ and str(paths.ASSETS) not in sentence_ and "<b>" not in sentence_


def test_a_text_in_which_nothing_reads_says_what_to_do(bundled):
    assert "the first 64 read nothing" in message(read, "A short text.", "")
    assert "up to 128 fit" in message(read, forms=["off", "edit"], edit="word " * 300)


# ------------------------------------------------------------------------------------------- the page


def test_the_examples_are_prompts_of_the_fact_swap():
    lines = (paths.ASSETS / "evaluation" / "fact-swap.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = {json.loads(line)["prompt"] for line in lines}
    assert {words for _, words in text.SWAPS} <= prompts


def test_what_was_recorded_can_be_drawn_before_a_model_is_loaded(bundled):
    """And is of this model: record again with `python -m assets.traces.make_comparisons`."""
    written, scored = (services.recorded_comparison(name) for name in ("side-by-side", "same-text"))
    assert [one["source"] for one in written["columns"]] == [FIRST, SECOND, ""]
    *_, (now, _) = run(stores=(FIRST, SECOND, compare.OFF), max_new_tokens=8)
    for old, new in zip(written["columns"], now["columns"], strict=True):
        whole, begun = ("".join(words for words, _ in one["text"]) for one in (old, new))
        assert whole.startswith(begun)
    shown = [one["name"].partition(", ")[2] or one["name"] for one in scored["settings"]]
    wanted = [text.LOOKED_INTO.get(form, form) for form in compare.READ_AT_FIRST]
    assert list(dict.fromkeys(shown)) == ["no retrieval", *wanted[1:-1], "my edit"]
    assert all(one["ci95"] for one in scored["settings"])


def test_choices_that_are_gone_are_replaced_and_others_left_alone():
    kept = compare.refresh(
        paths.DEMO_MODEL, FIRST, "gone", "gone", "gone", compare.NONE, SECOND, compare.NONE
    )
    assert ["value" in update for update in kept] == [False, False, True, True, True, False, False, False]
    assert kept[2]["value"] == compare.OFF and kept[3]["value"] == compare.NONE


@pytest.mark.parametrize("part", [SideBySide(), SameText()], ids=lambda part: type(part).__name__)
def test_untrusted_text_can_reach_no_markup(part):
    for template in (part.html_template, part.css_template):
        assert not re.search(r"\{\{|\$\{|\\|`", template)
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|\beval\b|\$\{"
    )
    assert not re.search(forbidden, part.js_on_load)
