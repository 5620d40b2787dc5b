"""Whatever anybody sends to any handler of the page, by HTTP and without a browser, ends in an answer that
tells nothing of the server or of other people. The handlers are taken from the page: new ones are covered."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from app_calls import message
from bare_client import BareClient, Call, Handler
from live_app import ROOT, LiveApp, live_app
from serving import misbehaving

from app.errors import OUR_FAULT, shows_errors

pytestmark = pytest.mark.page

# What a visitor might have entered, where a control is empty at first or would cost much. By elem_id.
ENTERED = {
    "prompt": "The river Nile",
    "max_new_tokens": 1,
    "compare-prompt": "The river Nile",
    "compare-max_new_tokens": 1,
    "same-forms": ["off", "edit"],
    "pasted": "Ferns have no flowers.",
    "corpus-name": "of-mine",
    "append-text": "Mosses have none either.",
    "new-name": "mine",
    "remove-name": "of-mine",
    "chosen": "mine",
    "query": "ferns",
    "documents": ["1"],
    "train-steps": 1,
    "measure-source": "mine",
}
SECRET = "the-lamp-of-Skerryvore"  # in what another visitor entered


def file_data(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def forged(elsewhere: str) -> list[Any]:
    """Values that no control of the page sends. elsewhere: an address that nobody shall ask"""
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    return [
        None,
        True,
        -1,
        10**40,
        1e308,
        float("nan"),
        float("-inf"),
        "",
        " \n",
        "x" * 150_000,
        "\x00\ufffe‮",
        "\ud800",
        "<img src=x onerror=alert(1)>",
        "../../../../etc/passwd",
        "/etc/passwd",
        "app.py",
        "-o ProxyCommand=x",
        [],
        [None, 1.5, "a", {}, []],
        deep,
        {},
        {"a": {"b": [1, None]}, "": ""},
        {"text": "x", "chunks": -5, "task": "x", "name": "../../etc", "trace": ["x"], "done": 1, "value": []},
        {"__type__": "update", "value": "x", "choices": [["x", "x"]]},
        {"headers": ["a"], "data": [[1]], "metadata": None},
        file_data("/etc/passwd"),
        [file_data("/proc/self/environ"), file_data("../app.py", orig_name="../../x")],
        file_data("x.txt", url=elsewhere, orig_name="x.txt"),
        [file_data(elsewhere)],
        [file_data(elsewhere, is_stream=True, mime_type=[], size="x")],
        [["a", "b"], ["c"]],
    ]


def entered(handler: Handler) -> list[Any]:
    return [ENTERED.get(shown.get("elem_id"), shown.get("value")) for _, shown in handler.inputs]


def different(handlers: list[Handler]) -> tuple[list[Handler], list[Handler]]:
    """(handlers of which each is another function, the others): one function may follow several events."""
    seen: dict[tuple, Handler] = {}
    for handler in handlers:
        key = re.sub(r"_\d+$", "", handler.name), *(shown.get("elem_id") for _, shown in handler.inputs)
        seen.setdefault(key, handler)
    first = list(seen.values())
    return first, [handler for handler in handlers if handler not in first]


def calls(handlers: list[Handler], values: list[Any], share: int) -> Iterator[Call]:
    """Values in the place of all arguments, and in each argument's place in turn: one in `share` of them,
    other ones for each argument."""
    first, again = different(handlers)
    turn = 0
    for handler in first:
        good = entered(handler)
        for value in values[turn % share :: share] if good else values[:1]:
            yield Call(handler, [value] * len(good), event_data=value)
        for place in range(len(good)):
            turn += 1
            for value in values[turn % share :: share]:
                yield Call(handler, [*good[:place], value, *good[place + 1 :]])
        for data in ([], good + good, [*good[:-1]]):
            yield Call(handler, data)
    for handler in again:
        yield Call(handler, [file_data("/etc/passwd")] * len(handler.inputs))


def test_a_handler_is_called_with_what_its_annotations_name():
    @shows_errors
    def handler(name: str, count: int | None = None, files: list[str] | None = None, known: Any = None):
        return name, count, files, known

    assert handler(None) == ("", None, None, None)  # a box that nobody touched
    assert handler("a\ud800", 2, ["\udfff"], [1]) == ("a\N{REPLACEMENT CHARACTER}", 2, ["\ufffd"], [1])
    for wrong in ((["a"],), ("a", True), ("a", float("nan")), ("a", 1, "x"), ("a", 1, [2]), ({},)):
        assert "Expected" in message(handler, *wrong)


@dataclass
class Scene:
    """A server that another visitor has used, and the one who forges."""

    app: LiveApp
    forger: BareClient
    values: list[Any]
    asked: list[float]  # when something was fetched from where nothing shall be

    def leaks(self, said: str) -> list[str]:
        """What no answer may hold. A file to be downloaded is named by its place in Gradio's own folder."""
        said = re.sub(r'"(path|url)": ?"[^"]*/gradio(_api/file=)?/[^"]*"', "", said)
        wanted = [str(self.app.home), str(ROOT / "app"), "site-packages", "Traceback", "root:x:0", OUR_FAULT]
        return [word for word in wanted if word in said]


def build(client: BareClient, name: str, text: str) -> None:
    index = next(found for found in client.handlers() if found.name == "index")
    data = entered(index)
    for place, (_, shown) in enumerate(index.inputs):
        if shown.get("elem_id") == "corpus-name":
            data[place] = name
        if shown.get("elem_id") == "pasted":
            data[place] = text
    answer = client.call(index, data)
    assert answer.ok, answer.error


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / "pretend").touch()  # nothing is trained in earnest; see `unhurried_app`
    with live_app(home) as app, misbehaving(lambda _: None) as (elsewhere, asked):
        build(BareClient(app.address), "mine", "Ferns have no flowers. " * 40)
        forger = BareClient(app.address)  # who may choose what is there now
        yield Scene(app, forger, forged(f"{elsewhere}/secret.txt"), asked)


def expect_sentences(scene: Scene, sent: list[Call]) -> None:
    begin = len(scene.app.log.read_text(encoding="utf-8", errors="replace"))
    answers = scene.forger.call_all(sent)
    found = {
        f"{answer.call.handler}: {scene.leaks(answer.said)} after {json.dumps(answer.call.data)[:300]}"
        for answer in answers
        if scene.leaks(answer.said)
    }
    assert not found, "\n".join(sorted(found)[:20])
    tracebacks = scene.app.tracebacks(begin)
    different = {trace.strip().splitlines()[-1]: trace for trace in tracebacks}
    assert not different, f"{len(tracebacks)} tracebacks, such as\n" + "\n".join(list(different.values())[:6])
    unanswered = [
        f"{answer.call.handler}: {json.dumps(answer.call.data)[:200]}"
        for answer in answers
        if not answer.answered and "\\ud800" not in json.dumps(answer.call.data)
    ]
    assert not unanswered, "\n".join(unanswered[:20])
    assert scene.asked == []


def test_no_forged_value_is_answered_with_anything_but_a_sentence(scene):
    expect_sentences(scene, list(calls(scene.forger.handlers(), scene.values, share=16)))


@pytest.mark.slow
def test_every_forged_value_in_every_place(scene):
    expect_sentences(scene, list(calls(scene.forger.handlers(), scene.values, share=1)))


def test_functions_beside_the_queue_answer_anything_in_words(scene):
    functions = scene.forger.server_functions()
    assert functions
    begin = len(scene.app.log.read_text())
    for component, name in functions:
        for value in scene.values:
            for data in (value, [value], {"trace": value, "chunk": value, "layer": value, "head": value}):
                if "\\ud800" in json.dumps(data):
                    continue
                response = scene.forger.call_server_function(component, name, data)
                assert response.status_code < 500, f"{name} ({data!r:.200}): {response.status_code}"
                assert not scene.leaks(response.text), f"{name} ({data!r:.200}): {response.text:.300}"
    assert scene.app.tracebacks(begin) == []


def test_nobody_gets_at_what_is_anothers_by_any_handler(tmp_path):
    """On a page for strangers: whatever a visitor's things are called, by people or by the server, who names
    them learns nothing of what is in them and changes nothing."""
    with live_app(tmp_path / "home", RETRO_MODE="public", GRADIO_SERVER_NAME="127.0.0.1") as app:
        victim = BareClient(app.address)
        build(victim, "lamps", f"{SECRET} is a secret. " * 20)
        folder = next(app.home.glob("datastores/lamps*"))
        search = next(found for found in victim.handlers() if found.name == "search")
        assert SECRET in BareClient.again(victim).call(search, [SECRET, folder.name, "dense"]).said
        run = next(
            found for found in victim.handlers()
            if found.name.startswith("run") and any(one.get("elem_id") == "prompt" for _, one in found.inputs)
        )  # fmt: skip
        wrote = victim.call(run, [f"{SECRET} said" if x == "The river Nile" else x for x in entered(run)])
        trace = re.search(r'"id": "([\w-]{16})"', wrote.said)
        assert wrote.ok and trace, wrote.error
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

        names = ["lamps", folder.name, trace[1]]
        values = [
            *names,
            {"task": trace[1], "name": folder.name, "trace": trace[1], "chunk": 0, "id": trace[1]},
        ]
        sent = [
            Call(handler, [value] * len(handler.inputs), event_data=value)
            for handler in different(victim.handlers())[0]
            for value in values
        ]
        sent += [
            Call(handler, [*entered(handler)[:place], folder.name, *entered(handler)[place + 1 :]])
            for handler in different(victim.handlers())[0]
            for place, (kind, _) in enumerate(handler.inputs)
            if kind not in ("slider", "number", "checkbox", "state", "file")
        ]
        for begin in range(0, len(sent), 200):  # as many as one may ask for in a minute, and somebody else
            for answer in BareClient(app.address).call_all(sent[begin : begin + 200]):
                assert SECRET not in answer.said, f"{answer.call.handler}: {answer.call.data!r:.300}"
        forger = BareClient(app.address)
        for component, name in forger.server_functions():
            for value in values:
                assert SECRET not in forger.call_server_function(component, name, value).text, name
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
        assert app.tracebacks() == []


def test_the_server_still_answers_and_quickly(scene):
    """Runs last: after all that was sent above."""
    begin = time.monotonic()
    build(BareClient(scene.app.address), "afterwards", "Ferns have no flowers. " * 40)
    fresh = BareClient(scene.app.address)
    search = next(found for found in fresh.handlers() if found.name == "search")
    answer = fresh.call(search, ["ferns", "afterwards", "dense"])
    assert answer.ok and "Ferns" in answer.said
    assert time.monotonic() - begin < 20
