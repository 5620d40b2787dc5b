"""A text that is being written goes on when its page goes away, for its visitor alone, and not for ever."""

import threading
import time

import gradio as gr
import pytest
from app_calls import message

from app import ongoing, owners, policy, services, settings, work
from app.line import Line
from app.tabs import explore_return
from indexing.errors import InputError

MINE = policy.Visitor(owners.stranger(), policy.Mode.PUBLIC, policy.Role.ANONYMOUS)
OTHER = policy.Visitor(owners.stranger(), policy.Mode.PUBLIC, policy.Role.ANONYMOUS)


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch):
    monkeypatch.setattr(ongoing, "_ongoing", type(ongoing._ongoing)())
    monkeypatch.setattr(services, "_stopping", set())


@pytest.fixture
def paced():
    """Steps of writing, each let go by the test; told to stop, they end with what there is."""
    go = threading.Semaphore(0)

    def steps(session="me"):
        for number in range(1, 1000):
            if services.stop_requested(session):
                break
            yield {"tokens": [number]}, f"writing {number}", gr.skip()
            go.acquire(timeout=5)
        yield {"tokens": ["all"]}, "Stopped", "the trace"

    yield steps, go
    go.release(1000)


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_who_comes_back_sees_it_go_on_and_stops_it_and_nobody_else_finds_it(paced):
    steps, go = paced
    one = ongoing.begin(steps(), 3, "me", MINE)
    page = ongoing.watch(one, "me")
    assert any(values[1] == "writing 1" for values in page)
    page.close()  # it is loaded anew
    go.release()
    until(lambda: one.values[1] == "writing 2")
    assert ongoing.find(one.id, OTHER) is None
    assert ongoing.find(one.id, MINE) is one and ongoing.find({}, MINE) is None

    again = ongoing.watch(one, "me, anew")
    assert next(again)[:2] == ({"tokens": [2]}, "writing 2"), "at once what there is"
    ongoing.stop("somebody else")
    assert not services.stop_requested("me")
    ongoing.stop("me, anew")
    go.release()
    assert list(again)[-1] == ({"tokens": ["all"]}, "Stopped", "the trace")
    assert work.found({"id": one.id}, MINE).values[2] == "the trace"
    assert work.found({"id": one.id, "server": services.STARTED}, OTHER).forgotten


@pytest.mark.parametrize("wanted", [False, True])
def test_what_nobody_comes_back_to_is_stopped_sooner_where_others_wait(paced, wanted):
    steps, go = paced
    served = Line()
    with served.joined(), served.joined() if wanted else threading.Lock():
        one = ongoing.begin(steps(), 3, "me", MINE, served.is_wanted)
        page = ongoing.watch(one, "me")
        next(page)
        one.left -= 1000
        go.release()
        until(lambda: one.values[1] == "writing 2")
        assert not services.stop_requested("me"), "somebody watches"
        page.close()
        go.release()
        until(lambda: one.values[1] == "writing 3")
        assert not services.stop_requested("me"), "it has only just gone away"
        one.left -= settings.ALONE_BEFORE_OTHERS
        go.release(2)
        until(lambda: one.move >= 4)
        until(lambda: services.stop_requested("me") is wanted)
        one.left -= settings.ALONE_AT_MOST
        until(lambda: go.release() or not one.active)
    assert one.values[1:] == ["Stopped", "the trace"], "what was written is kept"


def test_what_failed_while_nobody_watched_is_said_to_who_comes_back():
    def steps():
        yield {"tokens": [1]}, "writing", gr.skip()
        raise InputError("The disk is <full>.")

    begun = work.going_on(work.shows_errors(steps), 3, lambda request: "me")
    assert message(begun) == "The disk is &lt;full&gt;.", "as any error"
    (failed,) = ongoing._ongoing.values()
    found = work.found({"id": failed.id}, policy.visitor())
    assert found.told == "The disk is <full>." and found.one is None
    *_, last = [*found_by_page(failed.id)]
    assert last[3] == work.NOTHING and last[4]["interactive"] and not last[5]["interactive"]


def found_by_page(known):
    steps = work.resume(3, 1, lambda request: "me")(known)
    try:
        for values in steps:
            yield [{"interactive": one.interactive} if isinstance(one, gr.Button) else one for one in values]
    except gr.Error as error:
        assert "disk" in error.message


def test_each_answer_says_what_the_page_must_not_miss(paced):
    """Gradio's page may take an event's first two answers as one, the second."""
    steps, go = paced
    begun = work.going_on(steps, 3, lambda request: "me")()
    kept = next(begun)[3]
    (one,) = ongoing._ongoing.values()
    assert kept["id"] == one.id
    back = found_by_page(one.id)
    next(back)
    go.release()
    assert next(begun)[3] == kept
    assert [button["interactive"] for button in next(back)[4:]] == [False, True]
    begun.close()


@pytest.mark.parametrize("forged", [None, 7, [], {}, "x", {"id": []}, {"id": 5, "server": {}}])
def test_what_a_browser_never_kept_leads_to_nothing(forged):
    assert work.found(forged, MINE) == work.Found()
    assert [*work.resume(3, 1, lambda request: "me")("no-such-id")][-1][3] == gr.skip()


def test_a_page_begins_with_what_is_being_written_and_says_what_was_cut_off(paced):
    steps, _ = paced
    one = ongoing.begin(steps(), 3, "me", policy.visitor())
    until(lambda: one.move)
    tab, lens, told, shown, lost, writing, goes_on, *_ = explore_return.come_back({}, {}, {"id": one.id})
    assert (lens, told, goes_on) == ({"tokens": [1]}, "writing 1", one.id) and lost == gr.skip() == writing
    before = {"id": "of-another-start", "server": "another"}
    _, lens, _, _, lost, writing, goes_on, *_ = explore_return.come_back({}, {"trace": "gone"}, before)
    assert lens == {"interrupted": True} and "cut off" in lost and "press Run" in lost
    assert (writing, goes_on) == (work.NOTHING, None)
