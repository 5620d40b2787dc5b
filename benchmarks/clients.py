"""Many visitors at once: does anybody get to see what is another's, how long is the wait, does memory grow?

    python -m benchmarks.clients [--quick] [--clients N] [--minutes M] [--mode local|public] [--seed N]

Starts the page's server with a RETRO_HOME of its own and `--clients` visitors without a browser. Each makes a
datastore, and then writes, scores, looks up, compares, uploads and searches at random, one thing after the
other. All that a visitor sends carries a word of their own; a word of another visitor's in any answer is
cross-talk, and ends this with status 1. In public mode the quotas of app/policy.py hold, and most of what is
asked for is refused.
"""

import argparse
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.machine import opened, table

ROOT = Path(__file__).parent.parent
API = "/gradio_api"
WEIGHTS = {"generate": 4, "score": 2, "retrieve": 4, "compare": 1, "upload": 2, "search": 3}
NEW_TOKENS = 16
PATIENCE = 300.0  # seconds that a visitor waits for an answer
LOOK_EVERY = 2.0  # seconds between two looks at the server's memory
WARM_UP = 0.4  # of the time: memory grows while things are loaded for the first time


class Refused(Exception):
    """What the server said instead of an answer."""


class Client:
    """One visitor: cookies, a session and a word of their own."""

    def __init__(self, address: str, number: int):
        self.number = number
        self.word = f"client{number:03d}x{secrets.token_hex(6)}"
        self.store = f"store-{self.word[-12:]}"
        once = httpx.Limits(max_keepalive_connections=0)  # a server that is busy closes what waits
        self.http = httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False, limits=once)
        self.http.get("/").raise_for_status()
        self.config = self.http.get("/config").raise_for_status().json()
        self.session = secrets.token_hex(6)
        self.components = {one["id"]: one for one in self.config["components"]}
        self.first_token: float | None = None
        self.arrive()

    def arrive(self) -> None:
        """What the page asks when it is loaded and its tabs are opened: Gradio then knows which choices this
        visitor has."""
        tabs = {number for number, one in self.components.items() if one["type"] == "tabitem"}
        for found in self.config["dependencies"]:
            if found.get("backend_fn") and any(
                event == "load" or (event == "select" and target in tabs)
                for target, event in found["targets"]
            ):
                with suppress(Refused, httpx.HTTPError):
                    self._ask(found["id"], [self._prop(i, "value") for i in found["inputs"]])

    def build(self) -> str:
        text = " ".join(f"{self.word} wrote sentence {i} about rivers and lamps." for i in range(60))
        said = self.press("index", {"pasted": text, "corpus-name": self.store})
        self.arrive()
        return said

    def generate(self) -> str:
        begin = time.monotonic()
        self.first_token = None

        def notice(message: str) -> None:
            if self.first_token is None and "logprob" in message:
                self.first_token = time.monotonic() - begin

        data = [f"{self.word} came to the river and", self.store, "demo", NEW_TOKENS, 2, 0.7, 0, "dense"]
        return self._ask(self._named("generate"), data, notice)

    def score(self) -> str:
        return self._ask(self._named("score"), [f"{self.word} scored this.", self.store, "demo", 2, "dense"])

    def retrieve(self) -> str:
        return self._ask(self._named("retrieve"), [f"{self.word} about lamps", self.store, 2, "dense"])

    def compare(self) -> str:
        return self.press(
            "run", {"compare-prompt": f"{self.word} compared", "compare-store-first": self.store,
                    "compare-max_new_tokens": 4}
        )  # fmt: skip

    def upload(self) -> str:
        name = f"{self.word}.txt"
        sent = self.http.post(f"{API}/upload", files={"files": (name, f"{self.word} uploaded this.\n" * 20)})
        if sent.status_code != 200:
            raise Refused(f"upload {sent.status_code}")
        file = {"path": sent.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        return self.press("preview_texts", {"files": [file]})

    def search(self) -> str:
        return self.press("search", {"query": f"{self.word} lamps", "chosen": self.store})

    def press(self, name: str, entered: dict[str, Any]) -> str:
        """Ask the page's handler `name`, of those that take what is entered, with the values of its controls
        else; `entered` by elem_id."""
        for found in self.config["dependencies"]:
            ids = [self._prop(i, "elem_id") for i in found["inputs"]]
            if (found.get("api_name") or "").rstrip("_0123456789") == name and {*entered} <= {*ids}:
                values = [
                    entered.get(elem_id, self._prop(i, "value"))
                    for elem_id, i in zip(ids, found["inputs"], strict=True)
                ]
                return self._ask(found["id"], values)
        raise LookupError(f"The page has no handler {name!r} that takes {', '.join(entered)}.")

    def _named(self, name: str) -> int:
        return next(one["id"] for one in self.config["dependencies"] if one.get("api_name") == name)

    def _prop(self, component: int, name: str) -> Any:
        return (self.components.get(component, {}).get("props") or {}).get(name)

    def _ask(self, fn_index: int, data: list[Any], notice: Callable[[str], None] = lambda _: None) -> str:
        """All that came back. Raises Refused."""
        body = {"fn_index": fn_index, "data": data, "session_hash": self.session}
        joined = self.http.post(f"{API}/queue/join", json=body)
        if joined.status_code != 200:
            raise Refused(f"{joined.status_code} {joined.json().get('detail', '')}"[:80])
        event, said = joined.json()["event_id"], ""
        params = {"session_hash": self.session}
        with self.http.stream("GET", f"{API}/queue/data", params=params) as answer:
            for line in answer.iter_lines():
                if not line.startswith("data:"):
                    continue
                said += line + "\n"
                notice(line)
                message = json.loads(line[5:])
                if message["msg"] == "process_completed" and message.get("event_id") == event:
                    if not message["success"]:
                        raise Refused(str((message.get("output") or {}).get("error"))[:80])
                    return said
        raise Refused("no answer")


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    machine = opened(0, options.quick)
    count = 4 if options.quick else options.clients
    seconds = 60 * (0.15 if options.quick else options.minutes)
    with serving(options.mode) as (address, process):
        clients = [Client(address, number) for number in range(count)]
        found = Found({client.word for client in clients})
        together(clients, lambda client: settle(client, found))
        with watching(process.pid, seconds) as memory:
            end = time.monotonic() + seconds
            together(
                clients,
                lambda client: live(client, found, end, random.Random(f"{options.seed} {client.number}")),
            )
            memory_found = memory()
    kinds = sorted(found.seconds)
    rows = [
        (kind, len(times), round(percentile(times, 50), 2), round(percentile(times, 95), 2))
        for kind in kinds
        if (times := found.seconds[kind])
    ]
    print(table(("what", "answers", "p50 s", "p95 s"), rows), "\n")
    for (kind, said), number in found.refused.most_common(20):
        print(f"{number:6} {kind}: {said}")
    first = found.first_token
    print(
        json.dumps(
            {
                "benchmark": "clients",
                "machine": machine,
                "clients": count,
                "seconds": round(seconds),
                "mode": options.mode,
                "answers": {kind: len(times) for kind, times in found.seconds.items()},
                "p50_seconds": {row[0]: row[2] for row in rows},
                "p95_seconds": {row[0]: row[3] for row in rows},
                "first_token_p50_seconds": round(percentile(first, 50), 2) if first else None,
                "first_token_p95_seconds": round(percentile(first, 95), 2) if first else None,
                "refused": {f"{kind}: {said}": n for (kind, said), n in found.refused.items()},
                "cross_talk": len(found.cross_talk),
                **memory_found,
            }
        )
    )
    if found.cross_talk:
        sys.exit("\n".join(["Visitors saw what is not theirs:", *found.cross_talk[:10]]))


class Found:
    """What visitors waited for, what was refused, what they saw that is not theirs."""

    def __init__(self, words: set[str]):
        self.words = words
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.first_token: list[float] = []
        self.refused: Counter[tuple[str, str]] = Counter()
        self.cross_talk: list[str] = []
        self._noting = threading.Lock()

    def ask(self, client: Client, kind: str) -> bool:
        """Whether there was an answer."""
        begin = time.monotonic()
        try:
            said = getattr(client, kind)()
        except (Refused, httpx.HTTPError) as error:
            with self._noting:
                self.refused[kind, str(error) if isinstance(error, Refused) else type(error).__name__] += 1
            return False
        took, all_text = time.monotonic() - begin, whole_text(said)
        with self._noting:
            self.seconds[kind].append(took)
            if kind == "generate" and client.first_token is not None:
                self.first_token.append(client.first_token)
            for other in self.words - {client.word}:
                if other in said or other in all_text:
                    self.cross_talk.append(f"{kind} of {client.word} brought {other}")
        return True


def settle(client: Client, found: Found) -> None:
    """Make a datastore; others wait in the same line."""
    for _ in range(100):
        if found.ask(client, "build"):
            return
        time.sleep(1)


def live(client: Client, found: Found, end: float, chance: random.Random) -> None:
    """Ask for everything once, and then at random."""
    for kind in chance.sample(sorted(WEIGHTS), len(WEIGHTS)):
        found.ask(client, kind)
    while time.monotonic() < end:
        if not found.ask(client, chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]):
            time.sleep(chance.uniform(0.2, 1))


def together(clients: list[Client], does: Callable[[Client], None]) -> None:
    threads = [threading.Thread(target=does, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def whole_text(said: str) -> str:
    """Every text of an answer after the other: a word that was cut into tokens is whole again."""
    pieces: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, str):
            pieces.append(value)
        elif isinstance(value, list):
            for one in value:
                walk(one)
        elif isinstance(value, dict):
            for one in value.values():
                walk(one)

    for line in said.splitlines():
        walk(json.loads(line[5:]))
    return "".join(pieces)


@contextmanager
def serving(mode: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """(address, process) of a server with an empty RETRO_HOME."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ, "RETRO_HOME": home, "RETRO_MODE": mode, "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": f"{home}/gradio", "RETRO_WARM_AFTER": "0", "PIP_NO_INDEX": "1",
        }  # fmt: skip
        with open(f"{home}/server.log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                with suppress(httpx.HTTPError):
                    httpx.get(address, trust_env=False, timeout=2)
                    break
                if process.poll() is not None:
                    break
                time.sleep(0.2)
            if process.poll() is not None:
                sys.exit(f"app.py ended: {Path(home, 'server.log').read_text()}")
            yield address, process
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextmanager
def watching(pid: int, seconds: float) -> Iterator[Callable[[], dict[str, Any]]]:
    """Look at a process's memory now and then; what is yielded tells how it grew after the warm-up."""
    seen: list[tuple[float, float]] = []
    over = threading.Event()
    begin = time.monotonic()

    def look() -> None:
        while not over.wait(LOOK_EVERY):
            with suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                held = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
                seen.append((time.monotonic() - begin, held / 1024))

    def tell() -> dict[str, Any]:
        late = [(t, mb) for t, mb in seen if t > WARM_UP * seconds] or seen
        if len(late) < 3:
            return {"rss_mb": None, "rss_slope_mb_per_minute": None}
        times, held = np.array(late).T
        slope = np.polyfit(times / 60, held, 1)[0]
        return {
            "rss_mb": [round(held[0]), round(held[-1])],
            "rss_slope_mb_per_minute": round(float(slope), 2),
        }

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        over.set()
        thread.join()


def percentile(values: list[float], share: float) -> float:
    return float(np.percentile(values, share))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clients", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="four visitors, a few seconds")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--mode", choices=["local", "public"], default="local")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
