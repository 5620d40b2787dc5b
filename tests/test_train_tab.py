"""Train's handlers called as the page calls them: what is shown is read from the disk, what is asked is
checked."""

import json
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import run_worker
from app_calls import fresh_services, message  # noqa: F401
from fakes import HashingEmbedder

from app import services, tasks, text
from app.tabs import train_curves, train_form, train_runs, train_sets
from indexing import paths
from indexing.build import build
from indexing.corpus import Document
from indexing.training_sets import training_set
from retro_core import run_folder, runs
from retro_core.cli import _parser
from retro_core.commands.settings import read_settings
from retro_core.config import TrainConfig
from retro_core.presets import RUN_PRESETS, located
from retro_core.runs import History

TOY = f"set:{train_sets.TOY}"
# As the page begins: preset, what it trains on, base, name, size, and the numbers in their order.
USUAL = ["toy", TOY, None, "", "toy", 300, 4, 512, 2, 25, 50, 3e-3, 0]


@pytest.fixture
def begun(monkeypatch):
    """Runs that were started, none of which trains."""
    started = []

    def start(config):
        started.append(config)
        return SimpleNamespace(name=config.run)

    monkeypatch.setattr(runs, "start", start)
    return started


def forged(name, state="finished", **changes):
    """A run that this very process is said to train, or has trained."""
    folder = paths.runs_dir() / name
    folder.mkdir(parents=True)
    run_folder.write_status(folder, state, 7, 10, **changes)
    (folder / "config.json").write_text(json.dumps({"run": name, "steps": 10, "seed": len(name)}))
    lines = [
        {"event": "StepDone", "step": 7, "tokens": 70, "loss": 2.0, "tokens_per_second": 9.0},
        {"event": "Evaluated", "step": 7, "on": 2.0, "off": 2.5, "random": 2.4},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def shown(*asked):
    """What `show` sends, by the names of the parts that are looked at here."""
    asked = asked or (None, [], {})
    answer = train_runs.show(*asked)
    kept = (old if new == {"__type__": "update"} else new for old, new in zip(asked, answer, strict=False))
    out = [*kept, *answer[3:]]
    names = ["chosen", "compared", "seen", "listing", "facts", "buttons", "stop", "resume", "delete", "use"]
    return SimpleNamespace(
        **dict(zip([*names, "checkpoint", "curves", "samples", "fold", "log"], out, strict=True))
    )


def test_what_the_page_begins_with_is_the_toy_and_what_it_takes_is_told():
    _, base, size, *numbers = train_form.preset_values("toy")
    assert numbers == USUAL[5:] and size["value"] == "toy" and not base["visible"]
    estimate, command, settings = train_form.preview(*USUAL)
    facts = dict(estimate["facts"])
    assert facts["Trains on"] == "226 documents, 3,259 chunks; 28 held out"
    assert "minute" in facts["Time"] and "free" in facts["Memory"] and "parameters" in facts["Model"]
    assert json.loads(settings)["data_spec"].startswith("assets/training-sets/")
    line = command["commands"][0]
    assert str(paths.home()) not in line + settings and str(paths.ASSETS.parent) not in line + settings


@pytest.mark.parametrize("preset", ["toy", "small", "further"])
def test_the_command_means_what_the_button_does(preset):
    _, _, size, *numbers = train_form.preset_values(preset)
    assert size["visible"] == (preset != "further")
    who = train_form.policy.visitor()
    config = train_form.config_of(preset, None, "mine", size["value"], numbers, who)
    wanted = train_sets.wanted(TOY, "", who)
    (line,) = train_form.commands(train_form._on(config, wanted), wanted)["commands"]
    words = shlex.split(line)
    assert words[:4] == ["python", "-m", "retro_core", "train"]
    read = read_settings(_parser().parse_args(words[3:]), TrainConfig)
    toy = training_set(train_sets.TOY)
    sets = {"data_spec": str(toy.data_spec), "validation": str(toy.validation)}
    assert located(read) == TrainConfig(**RUN_PRESETS[preset], run="mine", **sets)


def test_what_does_not_fit_is_said_before_the_button_is_pressed():
    for place, value, sentence in [
        (0, "huge", "Expected one of toy, small, further, fit, got 'huge'"),
        (1, "set:nothing", "There is no training set 'nothing'"),
        (1, "set:../../etc", "cannot be used as a name"),
        (1, "somewhere", "Expected something to train on"),
        (3, "Not A Name", "cannot be used as a name"),
        (4, "retro-99t", "Expected a size of toy"),
        (5, 0, "steps must be from 1"),
        (5, None, "Steps is empty"),
        (6, 2.5, "batch_size must be a whole number"),
        (7, 100, "max_len must be a multiple of the chunk size 64"),
        (9, 7.0, ""),
    ]:
        asked = [*USUAL]
        asked[place] = value
        estimate, *_ = train_form.preview(*asked)
        assert sentence in " ".join(estimate.get("notes", [])), (place, value)
    estimate, command, settings = train_form.preview("fit", TOY, "nothing-here", "", None, *USUAL[5:])
    assert estimate["notes"] == [text.NO_BASE_HERE]
    assert (command, settings) == ({"notes": [text.NO_COMMAND]}, "{}")
    assert "Expected a number or nothing for steps, got a text" in message(
        train_form.preview, *USUAL[:5], "many", *USUAL[6:]
    )


def test_one_button_begins_the_toy_and_the_next_has_another_name(begun):
    forged("toy-1")
    events = list(train_form.start(*USUAL))
    (config,) = begun
    assert config.run == "toy-2" and config.model == "toy" and config.tokenizer == "demo"
    assert config.data_spec == str(training_set(train_sets.TOY).data_spec)
    assert events[0][3]["interactive"] is False and events[-1][3]["interactive"] is True
    assert events[-1][1]["name"] == "toy-2" and "toy-2 is being trained" in events[-1][2]["text"]


def library(name="library", count=30):
    words = np.array(["nile", "etna", "river", "sicily", "chunk", "treaty", "honey", "volcano"])
    chance = np.random.default_rng(0)
    texts = [" ".join(chance.choice(words, 150)) for _ in range(count)]
    documents = [Document(f"d{i}", f"T{i}", text, "here") for i, text in enumerate(texts)]
    list(build(name, documents, services.tokenizer(), HashingEmbedder()))


def test_a_datastore_becomes_a_training_set_on_the_way_and_only_once(begun):
    library()
    assert ("library", "store:library") in [
        (a.split(" · ")[0], b) for a, b in train_sets.choices(train_runs.policy.visitor())
    ]
    asked = ["toy", "store:library", *USUAL[2:]]
    estimate, command, _ = train_form.preview(*asked)
    assert "neighbours of" in dict(estimate["facts"])["First"] and "Time" in dict(estimate["facts"])
    assert command["commands"][0] == "python -m indexing training-set library library"
    assert "--data-spec $RETRO_HOME/training-sets/library/train/data.spec.json" in command["commands"][1]
    lines = [event[2]["text"] for event in train_form.start(*asked)]
    assert any(line.startswith("Finding each chunk's neighbours") for line in lines)
    made = training_set("library")
    assert begun[0].data_spec == str(made.data_spec) and begun[0].validation == str(made.validation)
    when = made.folder.stat().st_mtime_ns
    assert [event[2]["text"] for event in train_form.start(*asked)][0] == text.STARTING_RUN
    assert training_set("library").folder.stat().st_mtime_ns == when and len(begun) == 2


def test_a_text_that_somebody_brings_is_trained_on(begun):
    asked = ["toy", train_sets.OWN, *USUAL[2:]]
    assert "no name yet" in message(train_form.start, *asked, "A text.", None, " ")
    assert "no text yet" in message(train_form.start, *asked, " ", None, "mine")
    novel = " ".join(f"Chapter {i}: the ferry to the island left at {i} in the morning." for i in range(400))
    *_, last = train_form.start(*asked, novel, None, "mine")
    chosen, offered, source = train_form.look_at(last[1], None)
    assert (chosen, offered) == ("toy-1", [[train_sets.OWN, "store:mine"]])
    assert "store:mine" in [value for _, value in source["choices"]]
    assert begun[0].data_spec == str(training_set("mine").data_spec)
    assert "mine" in [info.name for info in services.datastores()]
    assert "exists" in message(train_form.start, *asked, novel, None, "mine")
    assert "Add some text" in message(train_form.start, *asked, "Too short.", None, "short")
    assert len(begun) == 1


def test_a_base_is_fitted_on_texts_in_its_own_tokens(begun):
    from tiny_fits import tiny_base

    tiny_base()
    library()
    _, base, size, *numbers = train_form.preset_values("fit")
    assert base["visible"] and not size["visible"]
    offered = train_form.refresh(TOY, None, 300)[0]
    assert offered == [None, [None, "tiny-base"], None], "what is there is offered where nothing is chosen"
    assert train_form.refresh("store:gone", "tiny-base", 300)[0] == [["store:gone", TOY], None, None]
    asked = ["fit", "store:library", "tiny-base", "", None, *numbers]
    estimate, command, _ = train_form.preview(*asked)
    assert estimate["notes"] == [text.ESTIMATED_LATER]
    assert "training-set library-in-tiny-base library --tokenizer" in command["commands"][0]
    assert "--base tiny-base" in command["commands"][1]
    assert "has others" in train_form.preview("fit", TOY, *asked[2:])[0]["notes"][0]
    list(train_form.start(*asked))
    made = training_set("library-in-tiny-base")
    assert begun[0].base == "tiny-base" and begun[0].data_spec == str(made.data_spec)
    assert made.fingerprint != services.tokenizer().fingerprint and made.source == "library"


def test_a_page_that_is_loaded_anew_finds_what_is_being_made(begun):
    def work():
        yield {"text": "Working"}
        return {"name": "later", "source": "store:mine"}

    task = tasks.start("train", "later", work)
    events = list(train_form.reattach({"task": task.id, "name": "later"}))
    assert not events[-1][0] and events[-1][1]["name"] == "later"
    (lost,) = train_form.reattach({"task": "of another server", "name": "later"})
    assert "started anew while later was being prepared" in lost[2]["text"]
    for anything in (None, {"task": 3, "name": []}):
        (nothing,) = train_form.reattach(anything)
        assert not nothing[0]


def test_buttons_are_what_the_state_allows():
    empty = shown()
    assert empty.chosen is None and empty.listing["runs"] == [] and empty.listing["empty"]
    assert "recorded example" in empty.curves["note"] and empty.samples["steps"]
    forged("active", "running")
    forged("done")
    folder = forged("dead", "running", pid=2**22 + 1)
    (folder / "log.txt").write_text(
        "".join(f"line {i}\n" for i in range(40)) + str(paths.home()) + "/secret\n"
    )
    for name, visible in [("active", ["stop"]), ("done", ["delete"]), ("dead", ["resume", "delete"])]:
        now = shown(name, [], {})
        assert [
            button for button in ("stop", "resume", "delete", "use") if getattr(now, button)["visible"]
        ] == visible
        assert dict(now.facts["value"]["facts"])["Gain from reading"] == "+0.500"
    assert now.fold["open"] and now.log.endswith("line 39\nRETRO_HOME/secret")
    assert "process is gone" in now.facts["value"]["notes"][0]
    assert not shown("done", [], {}).fold["visible"], "it printed nothing"
    (paths.runs_dir() / "dead" / "config.json").write_text("{")
    assert not shown("dead", [], {}).resume["visible"], "nobody knows with what"
    states = {run["name"]: run["state"] for run in now.listing["runs"]}
    assert states == {"active": "running", "done": "finished", "dead": "failed"}
    run_folder.ask_to_stop(paths.runs_dir() / "active")
    assert shown("active", [], {}).stop["value"] == "Stopping…"


def test_what_has_not_changed_is_not_sent_again():
    folder = forged("one")
    first = shown()
    again = shown(first.chosen, [], first.seen)
    assert all(value == {"__type__": "update"} for value in (again.listing, again.curves, again.log))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"event": "Evaluated", "step": 9, "on": 1.0, "off": 2.5}) + "\n")
    later = shown(first.chosen, [], first.seen)
    assert later.curves["runs"][0]["held_out"]["on"] == [2.0, 1.0]
    assert later.samples == {"__type__": "update"}
    run_folder.checkpoint_path(folder, 7).mkdir(parents=True)
    saved = shown(later.chosen, [], later.seen)
    assert saved.checkpoint["value"] == "newest" and saved.use["visible"]
    run_folder.checkpoint_path(folder, 9).mkdir()
    more = shown(saved.chosen, [], saved.seen)
    assert "value" not in more.checkpoint, "what somebody chose stays chosen"
    assert [value for _, value in more.checkpoint["choices"]] == ["newest", "7"]


def test_runs_are_compared_by_what_differs():
    forged("a"), forged("longer")
    event = SimpleNamespace(_data={"names": ["a", "longer"]})
    out = train_runs.compare.__wrapped__("a", event)
    assert out[1] == ["a", "longer"]
    assert "seed: a 1, longer 6" in out[3 + 8]["note"]
    colours = {run["name"]: run["colour"] for run in out[3]["runs"]}
    assert len(set(colours.values())) == 2 and all(colour.startswith("#") for colour in colours.values())


@pytest.mark.parametrize("name", ["nothing", "../../etc", "/etc", "a/b", "", None])
def test_a_name_that_the_browser_made_up_is_refused(name, tmp_path):
    secret = tmp_path / "elsewhere"
    secret.mkdir()
    (secret / "config.json").write_text("{}")
    (secret / "command.json").write_text("{}")
    for handler in (train_runs.stop, train_runs.resume, train_runs.delete):
        assert "Choose" in message(handler, name, [], {}) or "no run" in message(handler, name, [], {})
    assert "hoose" in message(train_runs.use, name, "newest") or "no run" in message(
        train_runs.use, name, "newest"
    )
    assert "error" in train_runs.fetch_samples({"run": name, "step": 1})
    assert message(train_runs.choose, [], SimpleNamespace(_data={"name": name}))
    assert message(train_runs.delete, str(secret), [], {}) and secret.is_dir()


def test_what_the_component_sends_may_be_anything():
    forged("one")
    for sent in (None, 3, [], {}, {"run": "one"}, {"run": "one", "step": "1"}, {"run": ["one"], "step": 1}):
        assert "error" in train_runs.fetch_samples(sent)
        assert message(train_runs.choose, [], SimpleNamespace(_data=sent if sent != {"run": "one"} else 1))
    assert train_runs.fetch_samples({"run": "one", "step": 1}) == {"samples": []}
    assert train_runs.fetch_samples({"run": "recorded example", "step": 300})["samples"]
    for sent in (
        None,
        {"run": "one"},
        {"run": "one", "step": 1, "number": "0"},
        {"run": "../one", "step": 1},
    ):
        assert message(train_runs.see_sample, SimpleNamespace(_data=sent))


def test_a_sample_is_seen_in_the_lens_as_it_was_read():
    folder = forged("one")
    run_worker.keep_trace(folder, 7)
    (folder / "samples.jsonl").write_text(json.dumps({**run_worker.sampled(7), "lp_on": [-0.1, None]}) + "\n")
    now = shown("one", [], {})
    assert now.samples["gains"] == [[pytest.approx(2.9)]], "where both are known"
    (sample,) = train_runs.fetch_samples({"run": "one", "step": 7})["samples"]
    assert sample["traced"]
    asked = SimpleNamespace(_data={"run": "one", "step": 7, "number": 0})
    tabs, view, _, trace_id = train_runs.see_sample(asked)
    assert tabs.selected == "explore" and view["title"] == "At 7" and view["id"] == trace_id
    asked._data["number"] = 1
    assert "no trace was kept" in message(train_runs.see_sample, asked)
    assert "Expected a checkpoint of the list" in message(train_runs.use, "one", "seventh")


def test_a_public_page_refuses_and_says_what_to_do_instead(monkeypatch, begun):
    monkeypatch.setenv("RETRO_MODE", "public")
    forged("one", "running")
    assert "Training is not possible on this public page" in message(train_form.start, *USUAL)
    for handler in (train_runs.stop, train_runs.resume, train_runs.delete):
        assert "not possible" in message(handler, "one", [], {})
    assert "not possible" in message(train_runs.use, "one", "newest")
    _, _, _, refused, button, command = train_form.refresh(None, None, 300)
    assert command["open"] and refused["visible"] and not button["interactive"]
    _, command, _ = train_form.preview(*USUAL)
    assert command["commands"][0].startswith("python -m retro_core train --data-spec assets/")
    assert not begun and shown().buttons["visible"] is False


def test_many_numbers_are_drawn_in_few_figures():
    history = History(
        {"step": [1, 2], "tokens": [10, 20], "loss": [1.23456789, None], "tokens_per_second": [1e6, 2.0]},
        {"step": [2], "tokens": [20.4], "on": [1.0], "off": [2.0], "random": [None], "write_strength": [0.1]},
        {3: [0.123456]},
    )
    value = train_curves.drawn([("a", history)])
    assert value["runs"][0]["training"]["loss"] == [1.2346, None]
    assert value["runs"][0]["held_out"]["tokens"] == [20]
    assert value["runs"][0]["written"] == [{"layer": 3, "strength": [0.12346]}]
    assert json.dumps(value, allow_nan=False)
    assert [train_curves.duration(s) for s in (5, 80, 700, 7260)] == [
        "5 s",
        "1 min 20 s",
        "11 min",
        "2 h 01 min",
    ]
