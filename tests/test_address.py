"""What a link may ask for: a recorded example at a chunk, a prompt with settings, a tab; nothing else."""

from types import SimpleNamespace

import pytest
from app_calls import fresh_services  # noqa: F401

from app import address, owners, policy, services, text
from app.tabs import explore_return
from app.tabs.explore import READ


def asked(**query):
    return address.of_query(query, policy.visitor())


def test_a_recorded_example_opens_at_its_chunk():
    found = asked(example="3-ghana", chunk="2")
    assert (found.example, found.chunk, found.refused) == ("recorded-3-ghana", 1, ())


def test_a_prompt_comes_with_the_settings_of_the_link():
    found = asked(
        prompt="The Nile", task="read", retriever="bm25", retrieval="false", seed="7", temperature="0.5"
    )
    assert found.values == {
        "prompt": "The Nile", "task": READ, "retriever": "bm25", "retrieval": False, "seed": 7,
        "temperature": 0.5,
    }  # fmt: skip
    assert not found.refused


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tab", "admin"), ("example", "../../etc/passwd"), ("task", "delete"), ("retriever", "off"),
        ("model", "../x"), ("datastore", "nobody"), ("seed", "1e9999"), ("seed", "x"), ("seed", "1.5"),
        ("top_p", "nan"), ("max_new_tokens", "-1"), ("max_new_tokens", "9" * 400), ("retrieval", "maybe"),
        ("prompt", "x" * 200_000), ("int8", "<script>"),
    ],
)  # fmt: skip
def test_what_is_not_possible_is_left_out_and_named(name, value):
    found = asked(**{name: value})
    assert name in found.refused
    assert not found.values and found.tab is None and found.example is None


def test_a_link_to_a_datastore_of_ones_own_does_not_say_whose_it_is(monkeypatch):
    mine, other = (policy.Visitor(owners.stranger(), policy.Mode.PUBLIC, policy.Role.ANONYMOUS) for _ in "ab")
    there = [SimpleNamespace(name=name) for name in ("factbook", mine.names("lamps"))]
    monkeypatch.setattr(services, "list_datastores", lambda: there)
    assert address.of_query({"datastore": "lamps"}, mine).values == {"datastore": mine.names("lamps")}
    assert address.of_query({"datastore": "lamps"}, other).refused == ("datastore",)
    assert address.of_query({"datastore": mine.names("lamps")}, other).refused == ("datastore",)
    assert address.of_query({"datastore": "factbook"}, other).values == {"datastore": "factbook"}


@pytest.mark.parametrize("chunk", ["0", "99", "-1", "x", "²", "1" * 500])
def test_a_chunk_that_is_not_there_opens_the_example_all_the_same(chunk):
    found = asked(example="3-ghana", chunk=chunk)
    assert found.example and found.chunk is None


@pytest.mark.parametrize(
    "kept", [None, [], "x", 3, {"seed": "7"}, {"seed": True}, {"prompt": 5}, {"datastore": ["a"]}]
)
def test_a_browser_may_remember_anything(kept):
    assert address.of_memory(kept, policy.visitor()) == {}


def came_back(settings=None, seen=None):
    """(lens, what was lost, controls by name)"""
    _, lens, _, _, lost, _, _, *controls = explore_return.come_back(settings, seen)
    return lens, lost, dict(zip(address.NAMES, controls, strict=True))


def test_settings_and_the_last_result_come_back_after_a_reload():
    trace_id = services.keep(services.trace("recorded-4-ireland"))
    lens, lost, controls = came_back(
        {"seed": 7, "task": READ}, {"trace": trace_id, "server": services.STARTED}
    )
    assert lens["id"] == trace_id and "text" not in str(lost)
    assert controls["seed"]["value"] == 7 and controls["task"]["value"] == READ
    assert "value" not in controls["temperature"]


def test_a_result_that_the_server_no_longer_has_is_told_with_the_reason():
    assert came_back(None, {"trace": "gone", "server": "another"})[1] == text.RESTARTED
    assert came_back(None, {"trace": "gone", "server": services.STARTED})[1] == text.FORGOTTEN
    assert came_back(None, {"trace": "recorded-3-ghana", "server": "another"})[0]["id"] == "recorded-3-ghana"


def test_a_link_goes_before_what_the_browser_remembers():
    class Asked:
        query_params = {"example": "4-ireland", "chunk": "1"}

    _, lens, *_ = explore_return.come_back({"seed": 7}, {"trace": "gone", "server": "x"}, None, Asked())
    assert (lens["id"], lens["opened_at"]) == ("recorded-4-ireland", 0)
