"""Importing the core brings torch along and none of the packages that take seconds more."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def loaded_by(modules: list[str]) -> set[str]:
    """Top-level modules in memory after importing `modules` in a new interpreter."""
    code = f"import {', '.join(modules)}, sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_no_module_of_the_core_imports_what_trains_embeds_or_draws():
    modules = [f"retro_core.{path.stem}" for path in (ROOT / "retro_core").glob("[!_]*.py")]
    assert len(modules) > 15
    loaded = loaded_by(modules)
    assert "torch" in loaded
    assert not loaded & {"lightning", "sentence_transformers", "gradio", "faiss", "pandas", "plotly"}


def test_writing_and_explaining_need_no_transformers():
    modules = (
        "model",
        "generation",
        "checkpoint",
        "explain",
        "counterfactual",
        "trace",
        "training",
        "dataset",
    )
    loaded = loaded_by([f"retro_core.{module}" for module in modules])
    assert not loaded & {"transformers", "sklearn", "scipy", "huggingface_hub"}
