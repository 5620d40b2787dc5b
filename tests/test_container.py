"""start.sh with a `docker` that writes down what it is asked; the image is not built here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCKER = f"""#!{sys.executable}
import json, os, sys
known = {{name.lower(): os.environ.get(f"RETRO_{{name}}") for name in ("MODE", "PASSWORD")}}
print(json.dumps({{"asked": sys.argv[1:], **known}}))
"""
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def start(tmp_path):
    """start.sh in a folder of its own: what docker was asked, in order."""
    shutil.copy(ROOT / "start.sh", tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RETRO_")}
    environment = {**kept, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def start_(*arguments, settings="", fails=False):
        (tmp_path / ".env").write_text(settings)
        ran = subprocess.run(
            [tmp_path / "start.sh", *arguments], env=environment, capture_output=True, text=True, cwd="/"
        )
        assert (ran.returncode != 0) is fails, ran.stderr
        return ran.stderr if fails else [json.loads(line) for line in ran.stdout.splitlines()]

    return start_


def test_the_page_runs_for_this_computer_alone(start):
    build, run = start()  # `docker stop` says nothing
    asked = run["asked"]
    assert build["asked"][0] == "build" and "retro-explorer" in build["asked"]
    assert asked[asked.index("--publish") + 1] == "127.0.0.1:7860:7860"
    assert run["mode"] == "local" and "--gpus" not in asked and "--detach" not in asked
    assert asked[-1] == "retro-explorer"


def test_the_options_of_the_reference(start):
    build, run = start("--gpu", "-v", "/a b:/data", "-d", "bash", "-c", "ls")
    asked = run["asked"]
    assert "TORCH_INDEX=https://pypi.org/simple" in build["asked"]
    assert asked[asked.index("--gpus") + 1] == "all" and "/a b:/data" in asked and "--detach" in asked
    assert asked[-4:] == ["retro-explorer-cuda", "bash", "-c", "ls"]


def test_settings_come_from_env_and_a_password_is_on_no_command_line(start):
    settings = "HOST=0.0.0.0\nPORT=8000\nRETRO_MODE=server\nRETRO_PASSWORD='open sesame'\nDATA_DIR=/big\n"
    _, run = start(settings=settings)
    asked = run["asked"]
    assert "0.0.0.0:8000:7860" in asked and "/big:/data" in asked
    assert run["password"] == "open sesame" and "RETRO_PASSWORD" in asked and "sesame" not in str(asked)
    _, run = start(settings="HOST=0.0.0.0\n")
    assert run["mode"] is None  # so the page takes everybody for a stranger


@pytest.mark.parametrize("arguments", [["--cpu"], ["-v"], ["-v", "no-colon"]])
def test_what_it_does_not_know_is_said(start, arguments):
    assert "Expected" in start(*arguments, fails=True)


def test_every_setting_of_the_example_is_read_somewhere():
    read = (ROOT / "start.sh").read_text() + (ROOT / "Dockerfile").read_text()
    lines = (ROOT / ".env.example").read_text().splitlines()
    names = [line[1:].split("=")[0] for line in lines if line.startswith("#") and "=" in line.split(" ")[0]]
    assert len(names) > 8 and [name for name in names if name not in read] == []
