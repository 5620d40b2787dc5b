"""Competitors as processes that stay alive between their turns, so that turns can alternate."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.sizes import Workload
from retro_core.config import RetroConfig

ROOT = Path(__file__).parent.parent
REST_SECONDS = 0.3  # for which threads of the one before may still spin


class Competitor:
    """A benchmarks/worker.py at the other end of two pipes."""

    def __init__(self, name: str, process: subprocess.Popen):
        self.name, self._process = name, process
        self.parameters = 0

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        time.sleep(REST_SECONDS)
        self.tell(command)
        return self.answer()

    def tell(self, line: dict[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended without an answer; what it wrote stands above.")
        return json.loads(line)


@contextmanager
def started(
    pythons: dict[str, str], config: RetroConfig, work: Workload, purpose: str, **more: Any
) -> Iterator[list[Competitor]]:
    """One process per competitor {name: its Python}, ready to be asked. purpose: "training" or "generation".
    more: `threads` (0 for torch's own choice), `reference` (a checkout)."""
    running: list[Competitor] = []
    processes: list[subprocess.Popen] = []
    try:
        for name, python in pythons.items():
            process = subprocess.Popen(
                [python, "-m", "benchmarks.worker"], cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            processes.append(process)
            competitor = Competitor(name, process)
            task = {
                "competitor": name,
                "config": config.to_dict(),
                "purpose": purpose,
                **asdict(work),
                **more,
            }
            competitor.tell(task)
            competitor.parameters = competitor.answer()["parameters"]
            running.append(competitor)
        yield running
    finally:
        for process in processes:
            process.stdin.close()
            process.wait()
