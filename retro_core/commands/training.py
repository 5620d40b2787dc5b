"""The commands that train a model, and make a model of a run."""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from indexing import paths
from indexing.errors import InputError
from retro_core import run_folder
from retro_core.commands.settings import add_settings, read_settings
from retro_core.config import TrainConfig
from retro_core.presets import PRESETS

if TYPE_CHECKING:
    from retro_core.monitoring import TrainEvent


def add(commands) -> None:
    command = commands.add_parser(
        "train",
        help="train a model, or resume the run of that name",
        epilog=f"Presets for --model: {', '.join(PRESETS)}. Their sizes: python -m retro_core presets. "
        "Several processes: torchrun --nproc-per-node N -m -- retro_core train …. SIGTERM and Ctrl-C save "
        "and stop after the current step.",
    )
    command.set_defaults(execute=_train)
    add_settings(command, TrainConfig)
    command.set_defaults(run=None)  # what is not said means something else with --experiment-dir

    command = commands.add_parser("export", help="make a model of a run's checkpoint, the newest if not told")
    command.set_defaults(execute=_export)
    command.add_argument("run", metavar="RUN", help="name of the run, or its folder with a slash in it")
    command.add_argument(
        "name", metavar="NAME", nargs="?", help="name of the new model, or a folder with a slash in it"
    )
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "--best", action="store_true", help="the checkpoint with the lowest held-out loss with neighbours"
    )
    which.add_argument("--step", type=int, metavar="N", help="the checkpoint of this step")
    command.add_argument("--half", action="store_true", help="store weights in 16 bits instead of 32")
    command.add_argument("--card", metavar="FILE", type=Path, help="the model card, Markdown")
    command.add_argument(
        "--reference",
        metavar="FILE",
        type=Path,
        help="also, or instead, write a .ckpt that the reference implementation loads, and FILE.config.json",
    )


def _train(arguments: argparse.Namespace) -> int:
    config = read_settings(arguments, TrainConfig)
    if config.experiment_dir and arguments.run is None:
        config = dataclasses.replace(config, run="")  # the next version_N
    else:
        # An old request to stop is not meant for this process; one made from here on is.
        run_folder.forget_stop(run_folder.run_folder(config.run, config.experiment_dir))

    from retro_core.monitoring import Stopped
    from retro_core.training import train

    command = [sys.executable, "-m", "retro_core", *sys.argv[1:]]
    with _stopping_on_signals() as asked:
        for event in train(config, command=command, should_stop=lambda: bool(asked)):
            if isinstance(event, Stopped):
                print(f"step {event.step:>7,}  stopped; start the same command to go on", file=sys.stderr)
                return 128 + signal.SIGINT if signal.SIGINT in asked else run_folder.STOPPED_EXIT_CODE
            print(_line(event), file=sys.stderr, flush=True)
    return 0


@contextmanager
def _stopping_on_signals() -> Iterator[list[int]]:
    """A list that gets SIGTERM, or the first Ctrl-C; a second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if number == signal.SIGINT and number in asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _line(event: "TrainEvent") -> str:
    from retro_core.monitoring import Evaluated, FellBack, Sampled, Saved, Started, StepDone, Warned

    match event:
        case Started():
            shared = f", {event.processes} processes" if event.processes > 1 else ""
            return (
                f"step {event.step:>7,}  of {event.steps:,} in {event.folder}: "
                f"{event.parameters:,} parameters{shared}"
            )
        case Warned():
            return f"warning: {event.message}"
        case FellBack():
            since = f"step {event.step:,}" if event.step else "the beginning"
            return f"going on from {since}, because the newest checkpoint cannot be used: {event.reason}"
        case StepDone():
            used = f", {event.mfu:.0%} of the peak" if event.mfu is not None else ""
            return (
                f"step {event.step:>7,}  loss {event.loss:.4f}  learning rate {event.learning_rate:.2e}  "
                f"gradient {event.gradient_norm:.3f}  {event.tokens:,} tokens, "
                f"{event.tokens_per_second:,.0f} a second{used}, {_duration(event.seconds_left)} left"
            )
        case Evaluated():
            return (
                f"step {event.step:>7,}  held out: on {event.on:.4f}  off {event.off:.4f}  "
                f"random {event.random:.4f}  written by CCA {event.write_strength:.3f}"
            )
        case Sampled():
            return (
                f"step {event.step:>7,}  {event.prompt[-60:]!r} goes on\n"
                f"    on   {event.on[:100]!r}\n    off  {event.off[:100]!r}\n"
                f"    text {event.original[:100]!r}"
            )
        case Saved():
            return f"step {event.step:>7,}  saved {event.path}"
    raise TypeError(type(event).__name__)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def _export(arguments: argparse.Namespace) -> None:
    if arguments.name is None and arguments.reference is None:
        raise InputError("Expected a NAME for the new model, or --reference FILE, got neither. Give one.")

    import torch

    from retro_core.checkpoint import save_model, save_reference
    from retro_core.training import BEST, NEWEST, load_run, run_tokenizer

    which = BEST if arguments.best else NEWEST if arguments.step is None else arguments.step
    model, settings, step, tokens = load_run(arguments.run, which)
    trained = f"{model.num_parameters():,} parameters after {step:,} steps and {tokens:,} tokens"
    if arguments.name is not None:
        card = _read_text(arguments.card) if arguments.card else None
        # A plain word is a name among the user's models.
        name = arguments.name
        folder = Path(name) if "/" in name else paths.models_dir() / paths.check_name(name)
        save_model(folder, model, run_tokenizer(settings), card, torch.float16 if arguments.half else None)
        print(f"{folder}: {trained}")
    if arguments.reference is not None:
        described = save_reference(arguments.reference, model, step)
        print(f"{arguments.reference}, with {described.name}: {trained}")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}. Give a UTF-8 text file.") from error
