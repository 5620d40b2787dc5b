"""ZeroGPU with a platform that is made up: what crosses to the other process is pickled, and nothing asks for
a GPU before it is lent."""

import importlib
import pickle
import subprocess
import sys
import types
from pathlib import Path

import gradio as gr
import pytest
from app_calls import fresh_services, message, run  # noqa: F401

from app import lent, services

ROOT = Path(__file__).parent.parent


@pytest.fixture
def platform(monkeypatch):
    """[(the function, the seconds it was lent for, its arguments)], and how the platform refuses."""
    calls, refusing = [], []

    def GPU(task=None, duration=60):
        def decorate(function):
            def called(*args):
                calls.append((function.__name__, duration(*args), args))
                if refusing:
                    raise gr.Error("ZeroGPU quota exceeded <a>60s requested vs. 12s left</a>")
                for event in function(*pickle.loads(pickle.dumps(args))):
                    yield pickle.loads(pickle.dumps(event))

            return called

        return decorate(task) if task else decorate

    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=GPU))
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    importlib.reload(lent)
    yield calls, refusing
    monkeypatch.undo()
    importlib.reload(lent)


def test_writing_is_lent_a_gpu_for_as_long_as_it_may_take(platform):
    calls, refusing = platform
    *_, (view, told, trace_id) = run("Ghana", retrieval=False, max_new_tokens=4)
    assert trace_id and "Wrote 4 tokens" in told["text"] and services.trace(trace_id)
    ((function, seconds, _),) = calls
    assert function == "_generated_there" and 1 <= seconds <= 10
    refusing.append(True)
    assert "lends no GPU" in message(run, "Ghana", retrieval=False, max_new_tokens=4)


def test_starting_asks_for_no_gpu_and_the_queue_has_room():
    """On ZeroGPU a queue has one place unless more is asked for, and CUDA before the first loan breaks it."""
    program = (
        "import os, sys, types; os.environ['SPACES_ZERO_GPU'] = 'true'\n"
        "lent = []\n"
        "def GPU(task=None, **named): return (lambda function: lent.append(function) or function)\n"
        "sys.modules['spaces'] = types.SimpleNamespace(GPU=GPU)\n"
        "from app.ui import build_demo\n"
        "demo = build_demo()\n"
        "assert lent and 'torch' not in sys.modules\n"
        "assert demo._queue.max_size > 1, demo._queue.max_size\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
