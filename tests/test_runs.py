"""What is said of a run is true whatever ended it: a stop, a kill, its starter's death, a pid used again."""

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import run_worker

from indexing import files, paths
from indexing.errors import InputError, TrainingError
from retro_core import run_folder, runs
from retro_core.cli import main
from retro_core.commands.settings import add_settings, read_settings
from retro_core.config import TrainConfig, as_arguments

ROOT = Path(__file__).parent.parent
PATIENCE = 120.0  # seconds; on a free computer everything here takes one or two


@pytest.fixture
def worker(monkeypatch):
    """Runs are trained by tests/run_worker.py."""
    monkeypatch.setattr(runs, "command", run_worker.command)
    monkeypatch.setattr(runs, "_check", lambda config, folder: None)
    yield
    for info in runs.list_runs():
        if info.active and info.pid != os.getpid():
            os.kill(info.pid, signal.SIGKILL)


def until(condition):
    """The first true value of `condition()`."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def running(name: str) -> runs.RunInfo:
    """The run `name`, once its process itself has said that it trains."""
    return until(
        lambda: (info := runs.show(name)).active and info.training and info.training["step"] > 2 and info
    )


def test_a_run_that_is_killed_has_failed_and_shows_its_last_lines(worker):
    begun = runs.start(TrainConfig(run="one", steps=100_000))
    assert (
        begun.state == "running"
        and begun.pid == json.loads((begun.folder / "status.json").read_text())["pid"]
    )
    info = running("one")
    assert info.pid == begun.pid and run_folder.is_alive(info.pid, None) and info.exit_code is None
    assert list(info.argv) == run_worker.command(TrainConfig(run="one", steps=100_000))
    assert info.started <= info.updated <= time.time() and info.settings["steps"] == 100_000
    assert os.getsid(info.pid) == info.pid, "no terminal's end is its own"
    assert os.getpriority(os.PRIO_PROCESS, info.pid) >= 10
    with pytest.raises(TrainingError, match="'one' is being trained at this moment. Stop it first"):
        runs.start(TrainConfig(run="one"))
    with pytest.raises(TrainingError, match="being trained"):
        runs.delete("one")
    assert info.folder.is_dir()

    os.kill(info.pid, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: runs.show("one").state == "failed")
    assert time.monotonic() - killed < 5
    failed = until(lambda: (now := runs.show("one")).exit_code is not None and now)
    assert failed.exit_code == -9 and "was killed" in failed.message and not failed.active
    assert failed.log.splitlines()[-1] == runs.log_tail("one").splitlines()[-1]
    assert failed.log.splitlines()[-1].startswith("step ") and 3 < len(failed.log.splitlines()) <= 20
    with pytest.raises(InputError, match="Run 'one' is failed, so there is nothing to stop"):
        runs.stop("one")


def test_a_run_that_is_stopped_has_saved_and_is_resumed_to_its_end(worker):
    runs.start(TrainConfig(run="two", steps=100_000, seed=5))
    running("two")
    stopped = runs.stop("two")
    saved = run_folder.checkpoints(stopped.folder)
    assert stopped.state == "stopped" and stopped.exit_code == 143 and stopped.message == ""
    assert len(saved) == 1 and saved[0].step == stopped.step and not (stopped.folder / "stop").exists()

    longer = json.loads((stopped.folder / "config.json").read_text())
    (stopped.folder / "config.json").write_text(json.dumps({**longer, "steps": stopped.step + 3}))
    assert runs.resume("two").settings == {**longer, "steps": stopped.step + 3}, "the settings that it has"
    log = "".join(runs.follow("two"))
    assert log.count("started") == 1 and log.endswith(f"step {stopped.step + 3}\n"), "from its last start on"
    ended = runs.show("two")
    assert (ended.state, ended.exit_code, ended.step) == ("finished", 0, stopped.step + 3)
    with pytest.raises(InputError, match="has done all of its .* steps. Start it with more steps"):
        runs.resume("two")

    other = runs.start(TrainConfig(run="other", steps=2))
    "".join(runs.follow("other"))
    runs.delete("two")
    assert [info.name for info in runs.list_runs()] == ["other"]
    assert not [path for path in other.folder.parent.iterdir() if "two" in path.name and path.is_dir()]
    with pytest.raises(InputError, match="There is no run 'two' in .*runs. See which there are with"):
        runs.show("two")


def test_of_many_starts_at_the_same_moment_one_comes_through(worker):
    barrier, outcomes = threading.Barrier(8), []

    def begin() -> None:
        barrier.wait()
        try:
            outcomes.append(runs.start(TrainConfig(run="race", steps=100_000)).pid)
        except TrainingError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pids = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(pids) == 1 and sum("is being trained" in str(outcome) for outcome in outcomes) == 7
    assert running("race").pid == pids[0]


def test_what_was_not_started_here_is_not_started_twice_either(worker):
    """Somebody typed `python -m retro_core train`: there is its lock, and no word of it yet."""
    folder = paths.runs_dir() / "typed"
    folder.mkdir(parents=True)
    with files.lock(folder):
        with pytest.raises(TrainingError, match="being trained"):
            runs.start(TrainConfig(run="typed"))
        (folder / "command.json").write_text("{}")
        with pytest.raises(TrainingError, match="being trained"):
            runs.delete("typed")
    assert [path.name for path in folder.iterdir()] == ["command.json"]
    runs.delete("typed")
    model = paths.models_dir() / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    with pytest.raises(InputError, match="There is no run"):
        runs.delete(str(model))


def test_a_run_outlives_who_started_it(worker):
    server = subprocess.run(
        [sys.executable, run_worker.__file__, "start", "orphan"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert server.returncode == -9, server.stderr
    info = running("orphan")
    assert info.pid == int(server.stdout) and os.getsid(info.pid) == info.pid
    before = info.training["step"]
    until(lambda: runs.show("orphan").training["step"] > before)
    with pytest.raises(TrainingError, match="being trained"):
        runs.start(TrainConfig(run="orphan"))
    assert runs.stop("orphan").state == "stopped"


def test_a_run_that_does_not_hear_is_ended_with_all_that_belongs_to_it(worker):
    runs.start(TrainConfig(run="deaf", steps=100_000))
    info = running("deaf")
    child = int(next(line for line in runs.log_tail("deaf").splitlines() if "child" in line).split()[1])
    stopped = runs.stop("deaf", grace=0.3)
    assert stopped.state == "stopped" and "did not save within 0.3 seconds and was ended" in stopped.message
    assert not run_folder.is_alive(info.pid, None)
    until(lambda: not run_folder.is_alive(child, None))


def test_a_run_that_was_asked_before_it_could_hear_is_stopped(worker, monkeypatch):
    """Importing torch takes seconds, in which SIGTERM ends a process at once."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(runs, "command", lambda config: sleeper)
    begun = runs.start(TrainConfig(run="early", steps=11))
    assert (begun.state, begun.message) == ("running", "Starting.")
    runs.ask_to_stop("early")
    until(lambda: not runs.show("early").active)
    info = runs.show("early")
    assert info.state == "stopped" and "before it had anything new to save" in info.message
    monkeypatch.setattr(runs, "command", run_worker.command)
    runs.resume("early")
    "".join(runs.follow("early"))
    assert runs.show("early").state == "finished"


def forged(name: str, **changes) -> Path:
    """A run whose status names this very process."""
    folder = paths.runs_dir() / name
    folder.mkdir(parents=True)
    status = run_folder.write_status(folder, "running", 7, 11)
    (folder / "status.json").write_text(json.dumps({**dataclasses.asdict(status), **changes}))
    return folder


def test_a_pid_that_is_somebody_elses_by_now_does_not_fool(retro_home):
    mine = run_folder.process_start(os.getpid())
    if mine is None:
        pytest.skip("this system does not tell when a process started")
    forged("mine")
    assert runs.show("mine").state == "running"
    forged("used-again", pid_started=mine + 1)
    info = runs.show("used-again")
    assert info.state == "failed" and "The process is gone" in info.message and info.step == 7


def test_a_process_that_lives_and_says_nothing_does_not_answer(retro_home):
    forged("silent", updated=time.time() - 31)
    info = runs.show("silent")
    assert info.state == "not answering" and info.active and "has said nothing for 31 seconds" in info.message
    with pytest.raises(TrainingError, match="being trained"):
        runs.resume("silent")
    forged("quiet", updated=time.time() - 20)
    forged("slow", updated=time.time() - 200, message="Starting.")
    assert runs.show("quiet").state == runs.show("slow").state == "running"


def test_damaged_files_are_one_runs_sentence(retro_home):
    forged("good")
    for name, content, sentence in [
        ("status.json", b"{", "status.json cannot be read"),
        ("status.json", b'{"state": "running", "pid": "1"}', "status.json cannot be read"),
        ("status.json", b"[" * 50_000, "status.json cannot be read"),
        ("config.json", b"\xff\xfe", "config.json is not valid JSON"),
        ("command.json", b"[1]", "command.json must hold a JSON object"),
        ("metrics.jsonl", b'{"event": 3}\n\x00\xff\n[]\n{"event": "StepDone", "st', ""),
        ("log.txt", bytes(range(256)), ""),
    ]:
        damaged = forged("bad")
        (damaged / name).write_bytes(content)
        found = {info.name: info for info in runs.list_runs()}
        assert found["good"].state == "running" and sentence in found["bad"].message, name
        assert runs.metrics("bad").events == [] and isinstance(runs.log_tail("bad"), str)
        assert runs.compare(["good", "bad"]).runs[1].tokens == 0
        for path in damaged.iterdir():
            path.unlink()
        damaged.rmdir()

    chance = random.Random(3)
    folder = forged("bad")
    whole = (folder / "status.json").read_bytes()
    states = set()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(b'0123456789-."{[ \xff')
        (folder / "status.json").write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
        states.add(runs.show("bad").state)
    assert len(states) > 1 and "failed" in states


def test_a_run_from_before_there_was_a_status_is_listed(retro_home):
    for name, step in (("old", 8), ("older", 5)):
        folder = paths.runs_dir() / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"steps": 8}')
        (folder / "metrics.jsonl").write_text(
            json.dumps({"event": "StepDone", "step": step, "time": step}) + "\n"
        )
    found = [(info.name, info.state, info.step, info.updated) for info in runs.list_runs()]
    assert found == [("old", "finished", 8, 8.0), ("older", "stopped", 5, 5.0)]


def test_metrics_come_piece_by_piece(retro_home):
    path = forged("one") / "metrics.jsonl"
    assert runs.metrics("one") == runs.Lines([], 0, False)
    lines = [json.dumps({"event": "StepDone", "step": step}) + "\n" for step in range(1, 6)]
    path.write_text("".join(lines[:2]) + lines[2][:9])
    first = runs.metrics("one")
    assert [event["step"] for event in first.events] == [1, 2] and not first.restarted
    path.write_text("".join(lines[:4]) + "broken\n" + lines[4])
    second = runs.metrics("one", first.position)
    assert [event["step"] for event in second.events] == [3, 4, 5] and not second.restarted
    assert runs.metrics("one", second.position).events == []
    path.write_text(lines[0])  # resumed from an earlier step
    third = runs.metrics("one", second.position)
    assert [event["step"] for event in third.events] == [1] and third.restarted
    long = "x" * 100 + "\n"
    (path.parent / "log.txt").write_text(long * 2000)
    assert len(runs.log_tail("one")) <= 64 << 10 and runs.log_tail("one", 250) == long * 2


def test_a_history_is_drawn_in_few_points_and_follows_the_log(retro_home):
    path = forged("one") / "metrics.jsonl"
    assert runs.history("one").training["loss"] == [] and runs.sampled_steps("one") == []

    def line(step, **more):
        told = {"event": "StepDone", "step": step, "tokens": 10 * step, "loss": 1.0 * step, **more}
        return json.dumps(told) + "\n"

    evaluated = {"event": "Evaluated", "on": 2.0, "off": 3.0, "random": None, "write_strength": float("nan")}
    text = "".join(line(step) for step in range(2, 42, 2)) + "{broken\n"
    path.write_text(
        text + json.dumps({**evaluated, "step": 5}) + "\n" + json.dumps({**evaluated, "step": 40})
    )
    drawn = runs.history("one", points=5)
    assert drawn.training["loss"] == [5.0, 13.0, 21.0, 29.0, 37.0] == drawn.training["step"]
    assert drawn.training["tokens_per_second"] == [None] * 5
    assert drawn.held_out["step"] == [5], "the last line is being written"
    assert drawn.held_out["tokens"] == [50.0] and drawn.held_out["write_strength"] == [None]
    assert drawn.written == {}, "as in runs that have only the mean"
    by_layer = [{"3": 0.5, "10": 1}, 3, {"3": None, "x": 1, "-1": 1, "03": 1, "9" * 9999: 1}]
    path.write_text(
        "".join(
            json.dumps({**evaluated, "step": step, "write_strength_by_layer": said}) + "\n"
            for step, said in enumerate(by_layer)
        )
    )
    assert runs.history("one").written == {3: [0.5, None, None], 10: [1, None, None]}
    path.write_text(text + line(42, loss=float("inf")))
    assert runs.history("one").training["loss"][-2:] == [40.0, None], "as the file is now"

    samples = [
        {"event": "Sampled", "step": step, "prompt": f"{step} {n}"} for step in (5, 10) for n in (1, 2)
    ]
    (path.parent / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    assert runs.sampled_steps("one") == [5, 10]
    assert [sample["prompt"] for sample in runs.samples_of("one", 10)] == ["10 1", "10 2"]
    assert runs.samples_of("one", 7) == []


def test_runs_side_by_side(retro_home, capsys):
    for name, rate, losses in (
        ("a", 0.1, [(2, 5.0, 5.5), (4, 3.0, 4.0), (6, 3.5, 4.0)]),
        ("b", 0.2, [(4, 2.5, 2.0)]),
    ):
        folder = forged(name)
        (folder / "config.json").write_text(json.dumps({"run": name, "learning_rate": rate, "steps": 6}))
        events = [
            {"event": "Evaluated", "step": step, "on": on, "off": off, "random": off}
            for step, on, off in losses
        ]
        events.append({"event": "StepDone", "step": 6, "loss": 1.0, "tokens": 13})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    found = runs.compare(["a", "b"])
    assert found.settings == {"learning_rate": [0.1, 0.2]}
    a, b = found.runs
    assert (a.final_on, a.final_off, a.best_step, a.best_on, a.best_off, a.tokens) == (
        3.5,
        4.0,
        4,
        3.0,
        4.0,
        13,
    )
    assert (b.final_on, b.final_off, b.best_step) == (2.5, 2.0, 4)
    assert [row["step"] for row in a.evaluations] == [2, 4, 6]

    assert main(["runs", "compare", "a", "b"]) == 0
    printed = capsys.readouterr().out
    assert (
        "-0.5000" in printed
        and "3.0000 / 4.0000  2.5000 / 2.0000" in printed
        and "learning_rate  0.1" in printed
    )
    assert main(["runs", "compare", "a", "b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["best_step"] == 4
    assert main(["runs", "--json"]) == 0
    assert {info["name"] for info in json.loads(capsys.readouterr().out)["runs"]} == {"a", "b"}
    assert main(["runs", "show", "a"]) == 0 and "learning_rate 0.1" in capsys.readouterr().out
    assert main(["runs", "delete", "a"]) == 2 and "Give --yes" in capsys.readouterr().err


def test_the_command_says_all_settings():
    chance, values = random.Random(1), {}
    for spec in dataclasses.fields(TrainConfig):
        default = getattr(TrainConfig(), spec.name)
        low, high = spec.metadata.get("low"), spec.metadata.get("high")
        if spec.metadata.get("choices"):
            values[spec.name] = spec.metadata["choices"][-1]
        elif isinstance(default, bool):
            values[spec.name] = not default
        elif isinstance(default, int):
            values[spec.name] = chance.randint(int(low), int(high))
        elif isinstance(default, float):
            values[spec.name] = chance.uniform(low, high)
        elif isinstance(default, list):
            values[spec.name] = [3, 1]
        else:
            values[spec.name] = f"- ä {spec.name}\n'--seed"
    parser = argparse.ArgumentParser()
    add_settings(parser, TrainConfig)
    of_base, of_model = (
        {"base": values.pop("base")},
        {key: values.pop(key) for key in ("weights", "reading_only")},
    )
    for config in (TrainConfig(**values, **of_base), TrainConfig(**values, **of_model), TrainConfig()):
        assert read_settings(parser.parse_args(as_arguments(config)), TrainConfig) == config
    assert runs.command(TrainConfig())[1:4] == ["-m", "retro_core", "train"]


@pytest.mark.slow
def test_a_real_run_is_killed_resumed_stopped_and_finished(tmp_path, tokenizer, capsys, monkeypatch):
    """The commands as they are typed, the training as it is, from another folder than the package's."""
    from training_set import config, make_training_set

    make_training_set(tmp_path, tokenizer)
    monkeypatch.chdir(tmp_path)
    material = {
        "data_spec": "data/data.spec.json", "validation": "held-out/data.spec.json",
        "tokenizer": "./", "model": "model.json",
    }  # fmt: skip
    settings = config(material, run="real", steps=100_000, save_every=20, evaluate_every=50)
    assert main(["runs", "start", *as_arguments(settings)]) == 0
    began = runs.show("real")
    assert f"real: process {began.pid}" in capsys.readouterr().out
    assert main(["runs", "start", *as_arguments(settings)]) == 2
    assert "is being trained at this moment" in capsys.readouterr().err
    first = until(lambda: (info := runs.show("real")).held_out and info)
    assert first.pid == began.pid and first.state == "running" and first.held_out["on"] > 0
    os.kill(first.pid, signal.SIGKILL)
    failed = until(lambda: (info := runs.show("real")).state == "failed" and info)
    assert "held out: on" in failed.log and run_folder.checkpoints(failed.folder)

    saved = run_folder.checkpoints(failed.folder)[-1].step
    assert main(["runs", "resume", "real", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"] == failed.settings
    until(lambda: (info := runs.show("real")).active and info.training["step"] > max(saved, failed.step))
    assert main(["runs", "stop", "real"]) == 0 and "real: stopped after step" in capsys.readouterr().out
    stopped = runs.show("real")
    assert stopped.exit_code == 143 and run_folder.checkpoints(stopped.folder)[-1].step == stopped.step
    steps = [event["step"] for event in runs.metrics("real").events if event["event"] == "StepDone"]
    assert steps == list(range(1, stopped.step + 1)), "each step once, none left out"

    longer = dataclasses.replace(settings, steps=stopped.step + 5)
    assert main(["runs", "start", *as_arguments(longer), "--follow"]) == 0
    assert "real: finished" in capsys.readouterr().err
    other = dataclasses.replace(longer, learning_rate=0.5)
    assert main(["runs", "start", *as_arguments(other)]) == 2
    assert "was started with learning_rate = 0.001, now it is 0.5" in capsys.readouterr().err
    assert runs.show("real").state == "finished"
    assert main(["runs", "delete", "real", "--yes"]) == 0 and runs.list_runs() == []
