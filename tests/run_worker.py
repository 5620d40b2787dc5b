"""Stands in for `python -m retro_core train` in tests of processes: the same files and locks, no torch.

python run_worker.py train FOLDER STEPS [deaf]     deaf: does not hear that it is asked to stop
python run_worker.py start NAME                    a server that starts a run and is killed
"""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from synthetic_trace import synthetic_file  # noqa: E402

from indexing import files  # noqa: E402
from retro_core import run_folder, runs  # noqa: E402
from retro_core.config import TrainConfig  # noqa: E402

PAUSE = 0.01  # seconds a step
EVALUATE_EVERY = 50
UNTRUSTED = "<img src=x onerror=\"window.__pwned='img'\"> ${window.__pwned='dollar'} {{1}}"


def command(config: TrainConfig) -> list[str]:
    """What takes the place of `runs.command`. A run that shall be deaf has `deaf` in its name."""
    folder = run_folder.run_folder(config.run, config.experiment_dir)
    more = ["deaf"] if "deaf" in config.run else []
    return [sys.executable, __file__, "train", str(folder), str(config.steps), *more]


def evaluated(step: int) -> dict:
    return {
        "event": "Evaluated", "step": step, "on": 3.0, "off": 3.0 + step / 1000, "random": 3.2,
        "write_strength": 0.5, "write_strength_by_layer": {"1": 0.2 + step / 10_000, "4": 0.8},
        "learning_rate": 1e-3,
    }  # fmt: skip


def sampled(step: int) -> dict:
    return {
        "event": "Sampled", "step": step, "prompt": f"Prompt {UNTRUSTED}", "on": f"On at {step} {UNTRUSTED}",
        "off": f"Off {UNTRUSTED}", "original": UNTRUSTED, "tokens": [UNTRUSTED, " more"],
        "lp_on": [-0.1, -2.0], "lp_off": [-3.0, -0.1], "read": [f"Neighbour {UNTRUSTED}"],
    }  # fmt: skip


def keep_trace(folder: Path, step: int) -> None:
    path = run_folder.sample_path(folder, step, 0)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps({**synthetic_file(), "title": f"At {step}"}).encode()))


def train(folder: Path, steps: int, deaf: bool) -> int:
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    with files.lock(folder):
        saved = run_folder.checkpoints(folder)
        beat = run_folder.Heartbeat(folder, saved[-1].step if saved else 0, steps)
        beat.start()
        if deaf:
            child = subprocess.Popen(["sleep", "600"])
            print(f"child {child.pid}", flush=True)
        while beat.step < steps:
            beat.step += 1
            time.sleep(PAUSE)
            line = {"event": "StepDone", "step": beat.step, "loss": 1.0, "tokens": 7 * beat.step}
            with open(folder / run_folder.METRICS_FILE, "a") as file:
                file.write(json.dumps({**line, "time": time.time()}) + "\n")
                if beat.step % EVALUATE_EVERY == 0:
                    file.write(json.dumps({**evaluated(beat.step), "time": time.time()}) + "\n")
            if beat.step % EVALUATE_EVERY == 0:
                keep_trace(folder, beat.step)
                with open(folder / run_folder.SAMPLES_FILE, "a") as file:
                    file.write(json.dumps({**sampled(beat.step), "time": time.time()}) + "\n")
            print(f"step {beat.step}", flush=True)
            if not deaf and (asked or run_folder.stop_asked(folder)):
                run_folder.checkpoint_path(folder, beat.step).mkdir(parents=True)
                run_folder.forget_stop(folder)
                beat.end(run_folder.STOPPED)
                return run_folder.STOPPED_EXIT_CODE
        beat.end(run_folder.FINISHED)
    return 0


def start(name: str) -> None:
    runs.command, runs._check = command, lambda config, folder: None
    print(runs.start(TrainConfig(run=name, steps=100_000)).pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    what, name, *more = sys.argv[1:]
    if what == "start":
        start(name)
    sys.exit(train(Path(name), int(more[0]), "deaf" in more))
