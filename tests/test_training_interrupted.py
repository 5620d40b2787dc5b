"""Whatever ends a run, signal, kill or full disk: it goes on from what it saved last, to the last bit."""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from training_set import checkpoint, config, lines, make_training_set, same

from indexing import paths
from indexing.errors import CheckpointError, InputError, TrainingError
from retro_core import run_folder, training_state
from retro_core.cli import main
from retro_core.config import TrainConfig
from retro_core.monitoring import Saved, Started, Stopped
from retro_core.run_folder import checkpoints, read_status
from retro_core.training import load_run, train


@pytest.fixture(scope="module")
def material(tmp_path_factory, tokenizer) -> dict[str, str]:
    return make_training_set(tmp_path_factory.mktemp("material"), tokenizer)


def begun(work: Callable[[], object]) -> multiprocessing.Process:
    """Do it in another process, which is a copy of this one and so has nothing to import."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def killed_after(settings: TrainConfig, events: int, seconds: float) -> bool:
    """Train in another process, kill it so long after it told so many events; whether it was still there."""
    reading, writing = os.pipe()

    def work() -> None:
        for _ in train(settings):
            os.write(writing, b".")

    process = begun(work)
    os.close(writing)
    for _ in range(events):
        if not os.read(reading, 1):
            break
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    os.close(reading)
    return process.exitcode == -signal.SIGKILL


def kill_again_and_again(settings: TrainConfig, kills: int, seed: int) -> None:
    whole = config_of(settings, run="whole")
    since = time.monotonic()
    list(train(whole))
    a_step = (time.monotonic() - since) / settings.steps
    chance, done = np.random.default_rng(seed), 0
    for _ in range(3 * kills):
        if done == kills:
            break
        done += killed_after(settings, int(chance.integers(0, 9)), float(chance.random()) * 3 * a_step)
    assert done == kills, "the run was over before it could be killed often enough"
    status = read_status(run_folder.run_folder(settings.run))
    assert status is None or (status.state == "failed" and "was killed" in status.message)
    list(train(settings))
    assert same(checkpoint("whole"), checkpoint(settings.run))
    assert lines("whole") == lines(settings.run)
    left = {path.name for path in (paths.runs_dir() / settings.run / "checkpoints").iterdir()}
    assert left == {saved.path.name for saved in checkpoints(paths.runs_dir() / "whole")}


def config_of(settings: TrainConfig, **changes) -> TrainConfig:
    return TrainConfig(**{**settings.to_dict(), **changes})


def test_a_run_that_is_killed_ends_with_the_same_bits(material):
    settings = config(material, run="killed", steps=24, accumulate_grad_batches=2, evaluate_every=8)
    kill_again_and_again(settings, kills=3, seed=int(time.time()))


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_is_killed_thirty_times_ends_with_the_same_bits(material, accumulate):
    settings = config(
        material, run="killed", steps=200, save_every=3, evaluate_every=50, num_workers=2,
        accumulate_grad_batches=accumulate, schedule="cosine", tensorboard=True, samples=1,
    )  # fmt: skip
    kill_again_and_again(settings, kills=30, seed=int(time.time()))


@pytest.mark.parametrize("how", ["SIGTERM", "stop file"])
def test_a_request_to_stop_is_saved_told_and_gone_on_from(material, how):
    list(train(config(material, run="whole", steps=40, save_every=100)))
    settings = config(material, run="asked", steps=40, save_every=100)
    arguments = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in settings.to_dict().items()
        if not isinstance(value, bool | list)
    ]
    folder = paths.runs_dir() / "asked"
    folder.mkdir(parents=True)
    run_folder.ask_to_stop(folder)  # an old request is not meant for a new process
    process = begun(lambda: os._exit(main(["train", *arguments, "--no-tensorboard"])))
    while len(lines("asked") if (folder / "metrics.jsonl").exists() else ()) < 3:
        assert process.is_alive()
        time.sleep(0.01)
    if how == "SIGTERM":
        os.kill(process.pid, signal.SIGTERM)
    else:
        run_folder.ask_to_stop(folder)
    process.join()
    assert process.exitcode == 143
    status = read_status(folder)
    assert status.state == "stopped" and 3 <= status.step < 40
    assert status.message == "Stopped on request; start the same command to go on."
    assert checkpoints(folder)[-1].step == status.step and not run_folder.stop_asked(folder)
    list(train(settings))
    assert same(checkpoint("whole"), checkpoint("asked")) and read_status(folder).state == "finished"


def test_whoever_iterates_can_ask_too(material):
    *_, saved, stopped = train(config(material, save_every=100), should_stop=lambda: True)
    assert (saved, stopped) == (Saved(1, paths.runs_dir() / "try/checkpoints/step-0000001"), Stopped(1))


def test_a_run_is_trained_by_one_process_at_a_time(material):
    first = train(config(material))
    next(first)
    assert read_status(paths.runs_dir() / "try").state == "running"
    with pytest.raises(TrainingError, match="Run 'try' is being trained by another process. Wait"):
        next(train(config(material)))
    assert read_status(paths.runs_dir() / "try").state == "running", "the one is not hurt by the other"
    first.close()
    assert read_status(paths.runs_dir() / "try").state == "stopped"
    assert isinstance(next(train(config(material))), Started)


@contextmanager
def no_file_beyond(size: int):
    """Writing more than so many bytes to any file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [30_000, 500_000], ids=["weights", "optimiser"])
def test_a_full_disk_is_told_and_costs_no_checkpoint(material, size):
    list(train(config(material, run="whole")))
    running = train(config(material))
    folder = paths.runs_dir() / "try"
    while not isinstance(next(running), Saved):
        pass
    before = checkpoint("try")
    sizes = [path.stat().st_size for path in checkpoints(folder)[-1].path.iterdir()]
    assert 30_000 < sorted(sizes)[1] < 500_000 < sorted(sizes)[2]
    with (
        no_file_beyond(size),
        pytest.raises(TrainingError, match="Step [34] could not be saved .* step 2 is untouched. Make"),
    ):
        list(running)
    assert [saved.step for saved in checkpoints(folder)] == [2] and same(checkpoint("try"), before)
    assert not list((folder / "checkpoints").glob(".*"))
    status = read_status(folder)
    assert status.state == "failed" and "Make room on the disk" in status.message
    list(train(config(material)))
    assert same(checkpoint("try"), checkpoint("whole"))


def test_what_a_kill_leaves_behind_is_cleared_away(material):
    list(train(config(material, steps=4)))
    parent = paths.runs_dir() / "try" / "checkpoints"
    (parent / ".unfinished-step-0000006-1-abc").mkdir()
    (parent / "step-0000004").rename(parent / ".previous-step-0000004")
    list(train(config(material)))
    assert not list(parent.glob(".*")) and {4, 7} - {s.step for s in checkpoints(parent.parent)} <= {4}


def test_the_best_checkpoint_stays_and_can_be_had(material):
    list(train(config(material, steps=8, evaluate_every=2, learning_rate=0.05, warmup=0)))
    measured = {line["step"]: line["on"] for line in lines("try") if line["event"] == "Evaluated"}
    best = min(measured, key=measured.get)
    folder = paths.runs_dir() / "try"
    assert [saved.step for saved in checkpoints(folder)] == sorted({best, 6, 8})
    assert run_folder.best_checkpoint(folder).step == best and load_run("try", "best")[2] == best
    assert load_run("try", 6)[2] == 6 and load_run("try")[2] == 8 and load_run(str(folder))[2] == 8
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5; it has .*6, 8. Choose one"):
        load_run("try", 5)


def test_other_data_and_other_settings_than_a_checkpoints_are_noticed(material, tmp_path):
    list(train(config(material, steps=2)))
    folder = paths.runs_dir() / "try"
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"seed": 0', '"seed": 5'))
    with pytest.raises(CheckpointError, match="saved under other settings than config.json"):
        list(train(config(material, seed=5)))
    (folder / "config.json").write_text(text)
    data = Path(material["data_spec"])
    before = data.read_text()
    try:
        data.write_text(before.replace("../", "").replace('"i.json"', '"../held-out/i.json"'))
        with pytest.raises(InputError, match="neighbours|indexed chunks"):
            list(train(config(material)))
    finally:
        data.write_text(before)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_the_same_and_resumes_to_the_bit(material, precision):
    changes = {"precision": precision, "steps": 6, "validation": ""}
    list(train(config(material, run="whole", **changes)))
    list(train(config(material, run="full", steps=6, validation="")))
    gaps = [abs(a["loss"] - b["loss"]) for a, b in zip(lines("whole"), lines("full"), strict=True)]
    assert 0 < max(gaps) < 0.02
    running = train(config(material, run="parts", **changes))
    while not isinstance(next(running), Saved):
        pass
    running.close()
    list(train(config(material, run="parts", **changes)))
    assert same(checkpoint("whole"), checkpoint("parts"))
    assert bool(checkpoint("whole")["scaler"]) == (precision == "fp16")


def test_old_runs_with_a_single_checkpoint_open_and_go_on(material):
    """As they were written before there were folders of checkpoints."""
    import torch

    list(train(config(material, run="whole")))
    list(train(config(material, steps=4)))
    folder = paths.runs_dir() / "try"
    saved = training_state.load(checkpoints(folder)[-1])
    model = load_run("try")[0]
    from retro_core.training import parameter_groups

    names = {id(p): name for name, p in model.named_parameters()}
    order = [names[id(p)] for g in parameter_groups(model, config(material)) for p in g["params"]]
    content = {
        "model": model.state_dict(),
        "optimizer": {"state": {i: saved.moments[name] for i, name in enumerate(order)}, "param_groups": []},
        "step": 4,
        "tokens": saved.tokens,
    }
    for each in checkpoints(folder):
        for file in each.path.iterdir():
            file.unlink()
        each.path.rmdir()
    torch.save(content, folder / "checkpoint.pt")
    assert load_run("try")[2] == 4
    list(train(config(material)))
    assert same(checkpoint("try")["weights"], checkpoint("whole")["weights"])
    assert same(checkpoint("try")["moments"], checkpoint("whole")["moments"])


if sys.platform != "linux":
    pytest.skip("forks, signals and limits of Linux", allow_module_level=True)
