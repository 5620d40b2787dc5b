"""A GPU that a Space is lent for some seconds at a time (ZeroGPU); without one, nothing is different.

What is decorated here runs in another process: what goes in and comes out is pickled, and what it changes in
`services` is changed there. So it is called with names, opens what they name itself, and yields events.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gradio as gr

from app import services, settings
from app.policy import Visitor
from indexing.errors import InputError
from indexing.retrievers import Lookup
from retro_core.config import GenerationConfig

try:
    if not settings.is_lent_a_gpu():
        raise ImportError
    import spaces  # before torch, which it patches
except ImportError:
    spaces = None

_TOKENS_A_SECOND = 25  # fewer than any GPU writes
_TO_BEGIN = 5  # seconds: the model's way there, and the first look-up


def seconds_for(
    prompt: str,
    model_name: str,
    datastore_name: str | None,
    form: str,
    config: GenerationConfig,
    who: Visitor,
) -> int:
    """How long it is asked for: the platform refuses at once who asks for more than a visitor has left."""
    return _TO_BEGIN + config.max_new_tokens // _TOKENS_A_SECOND


def _lent(seconds: Callable[..., int]) -> Callable:
    return spaces.GPU(duration=seconds) if spaces else lambda function: function


@_lent(seconds_for)
def _generated_there(
    prompt: str,
    model_name: str,
    datastore_name: str | None,
    form: str,
    config: GenerationConfig,
    who: Visitor,
) -> Iterator[Any]:
    from retro_core.generation import generate

    loaded = services.model(model_name)
    with suppress(AssertionError, RuntimeError):  # without a GPU after all, the processor writes
        loaded.model.to("cuda")
    lookup = services.lookup(datastore_name, form, loaded, who) if datastore_name else None
    yield from generate(loaded.model, loaded.tokenizer, prompt, lookup, config)


def generated(
    prompt: str, model: Any, lookup: Lookup | None, form: str, config: GenerationConfig, who: Visitor
) -> Iterator[Any]:
    """The events of `generate`, from a lent GPU if there is one. Raises InputError if it is not lent now."""
    if not spaces:
        from retro_core.generation import generate

        yield from generate(model.model, model.tokenizer, prompt, lookup, config)
        return
    name = lookup.datastore.name if lookup else None
    try:
        yield from _generated_there(prompt, model.name, name, form, config, who)
    except gr.Error as error:  # of the platform, in words of its own
        raise InputError(
            "The Hub lends no GPU for this just now: a visitor's minutes of the day may be used up, of which "
            "those who sign in have more, or all are busy. Try again later; the recorded examples need none."
        ) from error
