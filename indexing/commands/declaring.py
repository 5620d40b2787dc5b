"""How commands are declared, so that their --help pages read alike."""

import argparse
from collections.abc import Callable

from indexing.beginnings import FIRST_CHUNK_WEIGHT


def declare(
    commands, name: str, run: Callable[[argparse.Namespace], None], does: str, *aliases: str, **more
) -> argparse.ArgumentParser:
    """A command. `does` says it with a verb, in the list of commands and at the top of its own --help."""
    description = f"{does[0].upper()}{does[1:]}."
    command = commands.add_parser(name, aliases=aliases, help=does, description=description, **more)
    command.set_defaults(run=run)
    return command


def add_first_chunk_weight(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--first-chunk-weight",
        metavar="W",
        type=float,
        default=0.0,
        help="look each chunk up, and find it, by its embedding + W times that of its document's first "
        f"chunk, which tells what the document is about; {FIRST_CHUNK_WEIGHT} is a good value (%(default)s)",
    )


def add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON for programs")
