"""`python app.py` as a process of its own, and what may never be read in its log or its answers."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import unhurried_app

ROOT = Path(__file__).parent.parent
TEMPORARY = "temporary"


@dataclass
class LiveApp:
    address: str
    process: subprocess.Popen
    home: Path
    log: Path

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def tracebacks(self, begin: int = 0) -> list[str]:
        """Of the log from character `begin` on, those that passed through a handler of ours. What Gradio
        prints of a value that it refuses before any of them sees it is not ours to mend."""
        ours = re.compile(rf'File "{re.escape(str(ROOT))}/(?!tests/|app\.py|app/guard\.py)')
        written = self.log.read_text(encoding="utf-8", errors="replace")[begin:]
        return [
            found for found in written.split("Traceback (most recent call last)")[1:] if ours.search(found)
        ]

    def clear(self) -> None:
        """End what was begun on this server and remove what was made on it."""
        _end_what_goes_on(self.home, but=self.process.pid)
        for folder in self.home.iterdir():
            if folder.is_dir() and folder != self.home / TEMPORARY:
                shutil.rmtree(folder)
            elif folder.name in (unhurried_app.SLOWLY, unhurried_app.PRETEND):
                folder.unlink()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def live_app(home: Path, port: int = 0, **environment: str | None) -> Iterator[LiveApp]:
    """Serve from `home`, which may have been served from before; see `unhurried_app`. environment: beside
    what is set here; None unsets. Settings that whoever runs the tests has made count for nothing"""
    port = port or free_port()
    home.mkdir(parents=True, exist_ok=True)
    temporary = home / TEMPORARY
    temporary.mkdir(exist_ok=True)
    given = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RETRO_", "GRADIO_"))},
        "RETRO_HOME": str(home),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(temporary / "gradio"),
        "TMPDIR": str(temporary),
        "RETRO_WARM_AFTER": "-1",
        "PIP_NO_INDEX": "1",  # nothing is fetched by a test
        **environment,
    }
    given = {name: value for name, value in given.items() if value is not None}
    path = home / "server.log"
    with open(path, "a") as log:
        process = subprocess.Popen(
            [sys.executable, unhurried_app.__file__], cwd=ROOT, env=given, stdout=log, stderr=log
        )
    app = LiveApp(f"http://127.0.0.1:{port}", process, home, path)
    try:
        wait_until_it_answers(app)
        yield app
    finally:
        process.terminate()
        process.wait(timeout=20)
        _end_what_goes_on(home)


def _end_what_goes_on(home: Path, but: int | None = None) -> None:
    """Training and measuring outlive the server that began them."""
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == but:
            continue
        with suppress(OSError):
            if f"RETRO_HOME={home}\0".encode() in (folder / "environ").read_bytes() + b"\0":
                os.kill(int(folder.name), signal.SIGKILL)


def wait_until_it_answers(app: LiveApp, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert app.process.poll() is None, f"app.py ended: {app.log.read_text()}"
        try:
            urllib.request.urlopen(app.address, timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"app.py does not answer within {seconds} s: {app.log.read_text()}")
