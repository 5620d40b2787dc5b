"""Settings classes as command line options."""

import argparse
import dataclasses
from typing import Any

from retro_core.config import Settings, bounds, option


def add_settings(parser: argparse.ArgumentParser, cls: type) -> None:
    """One option per field of a settings class, with the field's default and help text; under its other name
    (`also`) too, if it has one."""
    for spec in dataclasses.fields(cls):
        low, high, default, words = bounds(cls, spec.name)
        span = f", {low:,} to {high:,}" if low is not None and high is not None else ""
        shown = f" ({default}{span})" if default != "" else ""
        more: dict[str, Any] = {"type": type(default), "metavar": type(default).__name__.upper()}
        if isinstance(default, bool):
            more = {"action": argparse.BooleanOptionalAction}
        if isinstance(default, list):  # given once for each item
            more = {"type": spec.metadata.get("item", int), "action": "append"}
            more["metavar"] = more["type"].__name__.upper()
            shown, default = " (may be given several times)", None
        names = [option(spec.name)]
        if spec.metadata.get("also"):
            names.append(option(spec.metadata["also"]))
        parser.add_argument(
            *names, dest=spec.name, default=default, help=(words + shown).replace("%", "%%"), **more
        )


def read_settings(arguments: argparse.Namespace, cls: type[Settings]) -> Settings:
    """The settings that `add_settings` asked for. Raises ConfigError for a value out of bounds."""
    names = [spec.name for spec in dataclasses.fields(cls)]  # type: ignore[arg-type]
    given = {name: getattr(arguments, name, None) for name in names}
    return cls(**{name: value for name, value in given.items() if value is not None})
