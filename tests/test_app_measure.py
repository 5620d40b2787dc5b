"""Measure's handlers and what it draws, without a browser: views, refusals in a sentence, files to keep."""

import base64
import csv
import io
import json
import shlex
import zipfile

import gradio as gr
import pytest
from app_calls import message
from test_evaluate_command import held, run, undrawn  # noqa: F401
from test_measurements import ORDER, TEXTS, until, worker  # noqa: F401

from app import owners, policy, services
from app.tabs import measure, measure_export, measure_text, measure_view
from app.tabs import measure_words as words
from indexing import paths
from indexing.corpus import Document
from indexing.errors import InputError
from retro_core import cli, measurements
from retro_core.evaluation.result import load_result
from retro_core.evaluation.tables import guarded, tables

RECORDED = paths.ASSETS / "models" / "demo"


def view(result, **more):
    return measure_view.view(result, name="n", title="t", about="a", **more)


def test_strangers_are_given_the_command_that_their_refusal_speaks_of(monkeypatch):
    monkeypatch.setenv("RETRO_MODE", "public")
    with gr.Blocks() as page, gr.Tab("Measure") as tab:
        measure.build(tab)
    shown = {block.elem_id: block for block in page.blocks.values()}
    assert "the command" in shown["measure-progress"].value
    assert words.COMMAND in shown["measure-command"].value
    program, *arguments = shlex.split(words.COMMAND.removeprefix("python -m "))
    assert program == "retro_core" and cli._parser().parse_args(arguments).probes


def test_the_tab_begins_with_the_recorded_measurement_as_it_is_in_its_file():
    drawn, result = measure._recorded_value()["shown"], load_result(RECORDED)
    assert len(json.dumps(drawn)) < 300_000
    assert [point["x"] for point in drawn["probes"][0]["k"]] == [1, 2, 3, 5, 10, 20]
    assert drawn["headline"][0].startswith("Retrieval helps on factbook (perplexity 0.73")
    for probe, (name, source) in zip(drawn["probes"], result["probes"].items(), strict=True):
        assert probe["name"] == name
        bars = {bar["key"]: bar for bar in probe["bars"]}
        assert {*bars} == {*source["readings"]} and list(bars)[:3] == ["on", "off", "random"]
        for key, bar in bars.items():
            assert (
                bar["bpb"] == source["readings"][key]["bpb"]
                and bar["bpb_ci95"][0] < bar["bpb"] < bar["bpb_ci95"][1]
            )
            assert bar["perplexity_ci95"][0] < bar["perplexity"] < bar["perplexity_ci95"][1]
        assert (
            bars["on"]["ratio"] == source["differences"]["on-off"]["ratio"] and bars["off"]["ratio"] is None
        )
        assert [point["alpha"] for point in probe["leakage"]] == [eighths / 8 for eighths in range(1, 9)]
        assert probe["relations"]["overlap"]["spearman"] == source["relations"]["overlap"]["spearman"]
        gains = [row[4] for row in probe["list"]]
        assert gains == sorted(gains, reverse=True) and len(gains) == source["documents"]
    assert drawn["swap"]["rows"][0]["says"][0] == result["swap"]["readings"][0]["own"]["value"]
    assert all(words.MEASURED[key] for key in ("bpb", "leakage", "overlap", "index", "swap", "k"))


def test_every_part_alone_and_none_can_be_drawn():
    result = load_result(RECORDED)
    probe = result["probes"]["factbook"]
    for keys in [
        (),
        ("leakage",),
        ("readings",),
        ("readings", "differences", "documents", "tokens"),
        ("relations",),
    ]:
        some = {key: probe[key] for key in keys}
        drawn = view({**result, "probes": {"p": some}, "swap": None}, headline=False)
        assert json.loads(json.dumps(drawn))["probes"][0]["name"] == "p"
    assert view({"model": {}, "probes": {}})["headline"] == []


def test_a_thorough_measurement_is_drawn_and_leaves_as_tables(held, undrawn, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    parts = "readings,leakage,relations,k,nprobe,index,copying"
    more = ["--sweep-limit", "2", "--readings", "random", "--parts", parts]
    assert run(f"held={held}", "--out", out, *more) == 0
    result = load_result(out)
    probe = view(result)["probes"][0]
    source = result["probes"]["held"]
    assert [point["x"] for point in probe["k"]] == [
        point["num_neighbours"] for point in source["sweeps"]["k"]
    ]
    assert probe["k"][0]["y"] == source["sweeps"]["k"][0]["gain"]["minus_off"]
    assert probe["index"]["found"][0]["name"] == "exact" and probe["index"]["found"][0]["recall_at_10"] == 1.0
    assert [row["name"] for row in probe["comparators"]] == [words.READINGS["on"], words.READINGS["copying"]]
    assert probe["points"] and probe["nprobe"][0]["recall"] <= 1
    found = tables(result)
    assert {name.split(".", 1)[1] for name in found} >= {
        "readings.csv", "leakage.csv", "gain-by-overlap.csv", "sweep-k.csv", "index.csv", "documents.csv",
        "chunks.csv",
    }  # fmt: skip
    for columns, rows in found.values():
        assert rows and all(len(row) == len(columns) for row in rows)
    assert not (out / "so-far.json").exists() and (out / "progress.json").exists()


def decoded(file):
    return base64.b64decode(file["base64"])


def test_files_hold_the_numbers_and_nothing_that_a_reader_would_run():
    result = load_result(RECORDED)
    drawn = (
        "documents",
        "tokens",
        "readings",
        "differences",
        "per_document",
        "worse",
    )  # pictures take seconds
    few = {key: result["probes"]["bible"][key] for key in drawn}
    result["probes"], result["swap"] = {"bible": few}, None
    evil = '=HYPERLINK("http://x")<img src=x onerror=alert(1)>'
    result["probes"]["bible"]["per_document"][0]["title"] = evil
    assert json.loads(decoded(measure_export.exported("json", "n", result))) == result
    archive = zipfile.ZipFile(io.BytesIO(decoded(measure_export.exported("csv", "n", result))))
    rows = list(csv.reader(io.StringIO(archive.read("bible.documents.csv").decode("utf-8-sig"))))
    assert rows[1][1] == "'" + evil and float(rows[1][-1]) > 0
    leak = list(csv.reader(io.StringIO(archive.read("bible.readings.csv").decode("utf-8-sig"))))
    on = dict(zip(leak[0], leak[1], strict=True))
    assert float(on["minus_off_nats"]) == result["probes"]["bible"]["differences"]["on-off"]["nats"] < 0
    for kind in ("html", "markdown"):
        text = decoded(measure_export.exported(kind, "n", result)).decode()
        assert "<img src=x" not in text and "0.212" in text
    for cell, safe in [
        ("=1", "'=1"),
        (" +1", "' +1"),
        ("@a", "'@a"),
        ("\t=1", "'\t=1"),
        (-1.5, -1.5),
        (None, ""),
        ("a=1", "a=1"),
    ]:
        assert guarded(cell) == safe
    with pytest.raises(InputError, match="Expected one of html, markdown, csv, json"):
        measure_export.exported("exe", "n", result)


# ---------------------------------------------------------------------------------- what is measured on


def test_bundled_pages_are_of_countries_that_were_held_out_and_the_same_for_everybody():
    pages = measure_text.held_out(12)
    assert len(pages) == 12 and pages == measure_text.held_out(12) and pages[:5] == measure_text.held_out(5)
    lines = (paths.ASSETS / "evaluation" / "fact-swap.jsonl").read_text().splitlines()
    held_out = {json.loads(line)["country"] for line in lines}
    assert {page.title.rpartition(" — ")[0] for page in pages} <= held_out
    assert all(page.id.startswith("factbook-2025:") for page in pages), "by which they never read themselves"


def test_texts_that_nothing_could_be_measured_on_are_refused():
    with pytest.raises(InputError, match="are of one chunk each"):
        measure_text.stored("factbook-2015", 5)
    assert "There is no text to measure on" in message(begin, source="mine", pasted=" \n")
    assert "fewer than 65 tokens" in message(begin, source="mine", pasted="Only a few words.")
    assert "more than 300,000 characters" in message(begin, source="mine", pasted="word " * 70_000)
    assert measurements.list_measurements() == []


def begin(**changes):
    given = {
        "source": "held-out", "pasted": "", "files": None, "amount": "quick", "model": "demo",
        "datastore": "factbook", "documents": 3, "num_neighbours": 2, "leakage": 0.0, "swap": False,
        **changes,
    }  # fmt: skip
    return measure.begin(*given.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "elsewhere"}, {"source": 3}, {"amount": "all"}, {"amount": None}, {"model": "../../etc"},
        {"model": "nobody"}, {"datastore": None}, {"datastore": "nobody"}, {"datastore": "../demo"},
        {"documents": 0}, {"documents": 10**9}, {"documents": "x"}, {"documents": float("nan")},
        {"num_neighbours": -1}, {"num_neighbours": 10**6}, {"leakage": 0.3}, {"leakage": []}, {"swap": "yes"},
        {"files": ["/etc/passwd", 3], "source": "mine"}, {"pasted": {}, "source": "mine"},
    ],
)  # fmt: skip
def test_forged_values_end_in_a_sentence_and_begin_nothing(changes, worker):  # noqa: F811
    assert message(begin, **changes)[-1] in ".?"
    assert measurements.list_measurements() == []


@pytest.mark.parametrize("chosen", [None, ":recorded", "nobody", "../x", "a/b", 3, []])
def test_only_what_is_there_can_be_stopped_gone_on_with_and_deleted(chosen):
    for handler in (measure.stop, measure.resume, measure.delete, measure.ask_to_delete):
        assert message(handler, chosen)[-1] == "."


# ---------------------------------------------------------------------------------- the page's state


NAMES = ["chosen", "beside", "drawn", "view", "progress", "run", "stop", "go_on", "remove", "timer"]


def look(chosen, drawn=None, handler=measure.look, beside=None):
    return dict(zip(NAMES, handler(chosen, beside, drawn), strict=True))


def test_buttons_and_timer_follow_the_disk(worker):  # noqa: F811
    worker["parts"] = 60
    at_rest = look(None)
    assert at_rest["chosen"].value == measure.RECORDED and at_rest["run"].interactive
    assert "shown" not in look(None, measure._drawn(None, measure.NONE, None))["view"], "it is there already"
    assert not at_rest["timer"].active and not at_rest["stop"].interactive and not at_rest["go_on"].visible
    begin()
    name = measurements.list_measurements()[0].name
    until(lambda: measurements.result(name))
    going = look(name)
    assert not going["run"].interactive and going["stop"].interactive and going["timer"].active
    assert not going["remove"].interactive and going["progress"]["tone"] == "busy"
    assert "part" in going["progress"]["text"] and "about 3 s left" in going["progress"]["text"]
    assert look(None, handler=measure.arrive)["chosen"].value == name, "what goes on is found after a reload"
    measure.stop(name)
    stopped = look(name, going["drawn"])
    assert (
        "Stopped" in stopped["progress"]["text"] and stopped["go_on"].visible and stopped["run"].interactive
    )
    assert look(name, stopped["drawn"])["view"] == look(name, stopped["drawn"])["view"]
    assert "shown" not in look(name, stopped["drawn"])["view"], "what has not changed is not sent again"
    measure.delete(name)
    assert look(name)["chosen"].value == measure.RECORDED


def test_two_are_drawn_beside_each_other():
    result = load_result(RECORDED)
    both = measure_view.beside(
        [("one", result), ("two", {**result, "probes": {"bible": result["probes"]["bible"]}})]
    )
    assert [(row["title"], row["probe"]) for row in both["rows"]][-1] == ("two", "bible") and len(
        both["rows"]
    ) == 5
    assert both["note"] == words.OTHER_TEXT


def test_strangers_may_not_measure_and_do_not_see_what_others_measured(worker, monkeypatch):  # noqa: F811
    mine, others = owners.stranger(), owners.stranger()
    worker["parts"] = 1
    measurements.start(owners.mark("20261122-000000-a", others), ORDER, TEXTS)
    monkeypatch.setenv("RETRO_MODE", "public")
    assert "keeps both processors busy" in message(begin)
    told = look(None)
    assert not told["run"].interactive and "not possible on this public page" in told["progress"]["text"]
    assert [value for _, value in told["chosen"].choices] == [measure.RECORDED]
    name = owners.mark("20261122-000000-a", others)
    for call in (measure.delete, measure.stop, measure._exporter("json")):
        assert "Measured" not in message(call, name)
    who = policy.Visitor(mine, policy.Mode.PUBLIC, policy.Role.SIGNED_IN)
    with pytest.raises(InputError, match="no such measurement"):
        measure._seen(name, who)
    assert (
        measure._seen(name, policy.Visitor(others, policy.Mode.PUBLIC, policy.Role.SIGNED_IN)).order == ORDER
    )


def test_a_title_is_what_people_gave():
    own = [Document("x", "<b>{{1}}</b>", "t", "s")]
    assert measure_text.title("mine", "d", own) == "1 text of mine: <b>{{1}}</b>"
    assert measure_text.title("datastore", "d", own * 2) == "2 documents of d, each without itself"
    assert services.default_datastore() == "factbook"
