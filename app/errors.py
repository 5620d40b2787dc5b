"""Where errors become messages on the page."""

import functools
import html
import inspect
import logging
import secrets
import tempfile
from collections.abc import Callable
from typing import Any, NoReturn

import gradio as gr

from app import arguments, owners
from indexing import paths
from indexing.errors import RetroError

OUR_FAULT = (
    "Something went wrong on our side. What you entered is still here; the server's log has the details."
)

_log = logging.getLogger(__name__)


def shows_errors(handler: Callable) -> Callable:
    """Decorate a handler, generator or not: a RetroError becomes a message, anything else is logged. What it
    is called with is checked against its annotations first.

    Gradio shows messages as HTML, and ours may quote a file name or a prompt: hence the escaping.
    """
    return _guarded(handler, html.escape, arguments.FOR_PEOPLE)


def tells_errors(handler: Callable) -> Callable:
    """As `shows_errors`, for endpoints that only programs call: what they are told is plain text."""
    return _guarded(handler, str, arguments.FOR_PROGRAMS)


def _guarded(handler: Callable, worded: Callable[[str], str], remedy: str) -> Callable:
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generator(*args: Any, **kwargs: Any) -> Any:
            try:
                args, kwargs = arguments.checked(handler, args, kwargs, remedy)
                yield from handler(*args, **kwargs)
            except Exception as error:
                _show(error, worded)

        return generator

    @functools.wraps(handler)
    def function(*args: Any, **kwargs: Any) -> Any:
        try:
            args, kwargs = arguments.checked(handler, args, kwargs, remedy)
            return handler(*args, **kwargs)
        except Exception as error:
            _show(error, worded)

    return function


def sentence(error: RetroError) -> str:
    """What the page says of an error: where this server keeps its files is its own affair."""
    said = str(error)
    for folder, word in (
        (paths.home(), "RETRO_HOME"),
        (paths.ASSETS.parent, "…"),
        (tempfile.gettempdir(), "…"),
    ):
        said = said.replace(str(folder), word)
    return owners.shown(said)


def _show(error: Exception, worded: Callable[[str], str]) -> NoReturn:
    if isinstance(error, gr.Error):
        raise error
    if isinstance(error, RetroError):
        raise gr.Error(worded(sentence(error)), duration=20, print_exception=False) from error
    number = secrets.token_hex(4)  # by which its lines in the log are found
    _log.exception("A handler failed: error %s", number, exc_info=error)
    raise gr.Error(f"{OUR_FAULT} Error {number}.", print_exception=False) from error
