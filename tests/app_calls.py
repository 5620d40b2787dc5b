"""The app's handlers called as the page calls them, with an embedder that costs nothing."""

import gradio as gr
import pytest
from fakes import HashingEmbedder

from app import services
from app.tabs import explore
from indexing import paths
from indexing.embedder import DEFAULT_EMBEDDER
from retro_core.config import GenerationConfig, bounds

TEXT = "The Nile flows north to the Mediterranean Sea. Mount Etna is a volcano on the coast of Sicily. "


@pytest.fixture(autouse=True)
def fresh_services(monkeypatch):
    """No state of other tests, and an embedder that costs nothing."""
    quick = HashingEmbedder()
    monkeypatch.setattr(services, "_embedders", {DEFAULT_EMBEDDER: quick, quick.name: quick})
    monkeypatch.setattr(services, "_datastores", {})
    monkeypatch.setattr(services, "_traces", type(services._traces)())


def run(prompt, retrieval=True, datastore="any", **changes):
    """`explore.run` with the settings that the page begins with."""
    names = [
        "max_new_tokens",
        "num_neighbours",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "seed",
    ]
    sampling = {name: bounds(GenerationConfig, name)[2] for name in names}
    model = changes.pop("model", paths.DEMO_MODEL)
    sampling |= {"stop_strings": "", "int8": False, **changes}
    return explore.run(prompt, model, retrieval, datastore, **sampling)


def message(call, *args, **named):
    with pytest.raises(gr.Error) as caught:
        result = call(*args, **named)
        list(result)  # a generator raises when drained
    return caught.value.message
