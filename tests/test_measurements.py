"""A measurement is a process of its own: found again, stopped, gone on with and deleted by its folder."""

import json
import os
import signal
import sys
import time

import measure_worker
import pytest

from indexing import paths
from indexing.corpus import Document
from indexing.errors import ConfigError, InputError
from retro_core import measurements
from retro_core.cli import _parser
from retro_core.measurements import FAILED, FINISHED, RUNNING, STOPPED, Order

TEXTS = [Document("a", "=A <b>", "Text of ümläuts\nand lines.", "somewhere")]
ORDER = Order(
    title="a text", kind="mine", probe="my text", model="demo", datastore="factbook", parts=("readings", "k"),
    readings=("on", "off"), settings={"num_neighbours": 3}, leakage=0.125,
)  # fmt: skip


@pytest.fixture
def worker(monkeypatch):
    """Processes that do `parts` parts; all of them have ended when the test has."""
    todo = {"parts": 4}

    def command(arguments):
        return [sys.executable, measure_worker.__file__, str(todo["parts"])]

    monkeypatch.setattr(measurements, "command", command)
    yield todo
    for one in measurements.list_measurements():
        measurements.stop(one.name)


def until(condition):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen within 30 seconds")


def state(name):
    return measurements.show(name).state


def test_it_goes_on_alone_is_killed_and_goes_on_where_it_was(worker):
    worker["parts"] = 60
    begun = measurements.start("one", ORDER, TEXTS)
    assert begun.state == RUNNING and begun.order == ORDER and measurements.result("one") is None
    assert [one.name for one in measurements.list_measurements()] == ["one"]
    with pytest.raises(InputError, match="Another measurement is going on"):
        measurements.start("two", ORDER, TEXTS)
    assert not (paths.measurements_dir() / "two").exists()
    with pytest.raises(InputError, match="Stop it first"):
        measurements.delete("one")
    until(lambda: (measurements.result("one") or {}).get("parts", 0) >= 2)
    info = measurements.show("one")
    assert info.progress["part"] == "readings" and info.changed
    pid = json.loads((info.folder / "process.json").read_text())["pid"]
    assert os.getsid(pid) == pid, "no terminal's end and no server's end is its own"

    os.kill(pid, signal.SIGKILL)
    until(lambda: state("one") == FAILED)
    failed = measurements.show("one")
    assert "was killed" in failed.message and measurements.result("one")["parts"] >= 2
    worker["parts"] = measurements.result("one")["parts"] + 2
    assert measurements.resume("one").state == RUNNING
    until(lambda: state("one") == FINISHED)
    whole = measurements.result("one")
    assert whole["parts"] == worker["parts"] and whole["begun_with"] >= 2
    assert whole["texts"] == [{"id": "a", "title": "=A <b>", "text": "Text of ümläuts\nand lines."}]
    with pytest.raises(InputError, match="nothing to go on with"):
        measurements.resume("one")
    measurements.delete("one")
    assert measurements.list_measurements() == []
    assert [path.name for path in paths.measurements_dir().iterdir() if path.is_dir()] == []


def test_stopped_keeps_what_it_has_and_a_refusal_is_told(worker):
    worker["parts"] = 60
    measurements.start("one", ORDER, TEXTS)
    until(lambda: measurements.result("one"))
    stopped = measurements.stop("one")
    assert stopped.state == STOPPED and stopped.message == "" and measurements.result("one")["parts"] >= 1
    assert measurements.stop("one").state == STOPPED, "twice is once"
    worker["parts"] = -1
    measurements.resume("one")
    until(lambda: state("one") == FAILED)
    assert measurements.show("one").message == "This cannot be measured. Choose something else."


def test_what_cannot_be_is_refused_before_anything_is_written(worker):
    for name, order, texts, error in [
        ("../up", ORDER, TEXTS, InputError),
        ("one", ORDER, [], InputError),
        ("one", Order(**{**vars(ORDER), "settings": {"num_neighbours": 0}}), TEXTS, ConfigError),
    ]:
        with pytest.raises(error):
            measurements.start(name, order, texts)
    with pytest.raises(InputError, match="There is no measurement 'one'"):
        measurements.show("one")
    assert not paths.measurements_dir().exists() or not any(
        p.is_dir() for p in paths.measurements_dir().iterdir()
    )


def test_damaged_folders_are_passed_over_and_say_so(worker):
    for name, content in [("a", "{"), ("b", "[]"), ("c", '{"title": 1}')]:
        (paths.measurements_dir() / name).mkdir(parents=True)
        (paths.measurements_dir() / name / "order.json").write_text(content)
    assert measurements.list_measurements() == []
    with pytest.raises(InputError, match="damaged"):
        measurements.show("a")


def test_the_command_is_one_that_the_command_line_reads():
    read = _parser().parse_args(ORDER.arguments())
    assert read.probes == ["my text=texts.jsonl"] and str(read.out) == "."
    assert (read.model, read.datastore, read.parts, read.readings) == (
        "demo",
        "factbook",
        "readings,k",
        "on,off",
    )
    assert (read.num_neighbours, read.leakage, read.swap) == (3, 0.125, None)
