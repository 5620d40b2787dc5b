"""What a handler accepts is what its annotations say: anybody can send it anything, without the page."""

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from indexing.errors import InputError

_WORDS = {
    str: "a text",
    bool: "yes or no",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "named values",
    types.NoneType: "nothing",
}


FOR_PEOPLE = "Load the page anew and try again."
FOR_PROGRAMS = "What each endpoint takes is told by `gradio_client.Client(…).view_api()` and in docs/api.md."


def checked(
    handler: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], remedy: str = FOR_PEOPLE
) -> tuple[list[Any], dict]:
    """The arguments. None where a text is expected is an empty one: a box that nobody touched sends that. Of
    halves of characters there is none: JSON can bring one, and no tokenizer and no answer can hold it.
    Other annotations than those of JSON's values are left alone.

    remedy  what to do where something else was sent than the page sends

    Raises InputError if one is not of the kind that its annotation names.
    """
    names, kinds = _expected(handler)
    try:
        given = [
            _checked(name, value, kinds.get(name), remedy) for name, value in zip(names, args, strict=False)
        ]
        return given, {name: _checked(name, value, kinds.get(name), remedy) for name, value in kwargs.items()}
    except RecursionError as error:
        raise InputError(f"What was sent is nested too deeply. {remedy}") from error


def _checked(name: str, value: Any, kinds: list[Any] | None, remedy: str) -> Any:
    if kinds is None:
        return value
    if value is None and str in kinds and types.NoneType not in kinds:
        return ""
    if not any(_is(value, kind) for kind in kinds):
        expected = " or ".join(_WORDS[typing.get_origin(kind) or kind] for kind in kinds)
        if value is None and remedy is FOR_PEOPLE:
            remedy = "Enter one."
        raise InputError(
            f"Expected {expected} for {name}, got {_WORDS.get(type(value), 'something else')}. {remedy}"
        )
    return whole(value)


def whole(value: Any) -> Any:
    """The value with U+FFFD for each half of a character."""
    if isinstance(value, str):
        return (
            value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _halved(value) else value
        )
    if isinstance(value, list):
        return [whole(one) for one in value]
    if isinstance(value, dict):
        return {whole(name): whole(one) for name, one in value.items()}
    return value


def _halved(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


@cache
def _expected(handler: Callable) -> tuple[list[str], dict[str, list[Any]]]:
    """(names of the parameters in order, of each that is checked the kinds that it may be)."""
    kinds = {}
    hints = typing.get_type_hints(handler)
    for name, hint in hints.items():
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        several = list(typing.get_args(hint)) if union else [hint]
        if all((typing.get_origin(kind) or kind) in _WORDS for kind in several):
            kinds[name] = several
    kinds.pop("return", None)
    return list(inspect.signature(handler).parameters), kinds


def _is(value: Any, kind: Any) -> bool:
    """A whole number is a number too, and a slider may send 2.0 for 2; what is checked further on is whether
    the handler can do with it."""
    origin = typing.get_origin(kind) or kind
    if origin in (int, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not isinstance(value, origin):
        return False
    if origin is list and (of := typing.get_args(kind)):
        return all(_is(one, of[0]) for one in value) if of[0] is not Any else True
    return True
