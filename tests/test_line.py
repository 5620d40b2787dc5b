"""One visitor after the other, in the order in which they came; those who wait know how long."""

import threading
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import pytest
from app_calls import message

from app import line, services, settings, work
from app.line import Line


def test_first_come_first_served_and_one_at_a_time():
    served, order, inside = Line(), [], []
    first_may_go = threading.Event()

    def visit(number):
        with served.joined() as ticket:
            joined[number].set()
            while served.before(ticket, 5):
                pass
            inside.append(number)
            assert len(inside) == 1
            if not number:
                first_may_go.wait(5)
            order.append(number)
            inside.remove(number)

    joined = [threading.Event() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        visits = []
        for number in range(4):
            visits.append(pool.submit(visit, number))
            assert joined[number].wait(5)
        first_may_go.set()
        for one in visits:
            one.result(10)
    assert order == [0, 1, 2, 3]


def test_who_waits_is_told_the_place_and_the_time():
    served = Line()
    served._took.extend([4.0, 7.0, 60.0])
    assert line.told(3, served.seconds(3)) == "3rd in line, about 20 s…"
    assert line.told(1, served.seconds(1)) == "Next in line, about 7 s…"
    assert [line._ordinal(n) for n in (2, 11, 12, 21, 22, 113)] == [
        "2nd",
        "11th",
        "12th",
        "21st",
        "22nd",
        "113th",
    ]


def visitor(served, done=()):
    def steps(request: gr.Request | None = None):
        yield "drawn", "working"
        yield "drawn", "done"

    return work.taking_turns(steps, served, 2, 1, lambda request: "me", "Look around.")()


def test_a_visitor_waits_in_line_and_leaves_it_when_the_page_goes_away(monkeypatch):
    monkeypatch.setattr(work, "_PATIENCE", 0.01)
    served = Line()
    one, two, three = (visitor(served) for _ in range(3))
    assert next(one) == ("drawn", "working")
    assert "Next in line" in next(two)[1]["text"]
    assert next(three)[1]["text"].startswith("2nd in line") and next(three)[1]["text"].endswith(
        "Look around."
    )
    four = visitor(served)
    next(four)
    four.close()  # its page was closed: nobody else's turn has come
    assert "Next in line" in next(two)[1]["text"]
    two.close()
    assert "Next in line" in next(three)[1]["text"]
    assert list(one)[-1] == ("drawn", "done")
    assert list(three)[-1] == ("drawn", "done")
    assert served._tickets == []


def test_who_stops_waiting_is_out_of_the_line(monkeypatch):
    monkeypatch.setattr(work, "_PATIENCE", 0.01)
    served = Line()
    one, two = visitor(served), visitor(served)
    next(one), next(two)
    services.request_stop("me")
    assert [told[1] for told in two][-1] == "Left the line."
    assert not services.stop_requested("me")
    assert list(one)[-1] == ("drawn", "done")


def test_a_line_that_is_full_says_so(monkeypatch):
    monkeypatch.setattr(settings, "MAX_IN_LINE", 1)
    served = Line()
    one, two = visitor(served), visitor(served)
    next(one), next(two)
    assert "1 visitors are waiting already" in message(lambda: visitor(served))
    one.close(), two.close()


@pytest.mark.parametrize("failing", [ValueError("x")])
def test_an_error_lets_the_next_one_in(failing):
    def steps():
        raise failing
        yield

    served = Line()
    assert "our side" in message(work.taking_turns(steps, served, 1, 0, lambda request: ""))
    assert served._tickets == [] and not served._took, "others are not told that it takes no time"
