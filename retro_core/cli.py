"""python -m retro_core verify-reference | train | export | evaluate

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 verify-reference found a
deviation beyond the tolerance, 2 an error said in one sentence, 130 stopped with Ctrl-C.

torch is imported inside the commands, so that --help and a mistyped option answer at once.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from indexing import paths
from indexing.errors import InputError, RetroError
from indexing.files import write_json
from retro_core.config import Settings, TrainConfig, bounds


def main(argv: Sequence[str]) -> int:
    """Run one command; the exit code. An unusable command line exits (SystemExit 2) as argparse does."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.execute(arguments) or 0
    except RetroError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def add_settings(parser: argparse.ArgumentParser, cls: type) -> None:
    """One option per field of a settings class, with the field's default and help text."""
    for spec in dataclasses.fields(cls):
        low, high, default, words = bounds(cls, spec.name)
        option = "--" + spec.name.replace("_", "-")
        span = f", {low:,} to {high:,}" if low is not None and high is not None else ""
        shown = f" ({default}{span})" if default != "" else ""
        more: dict[str, Any] = {"type": type(default), "metavar": type(default).__name__.upper()}
        if isinstance(default, bool):
            more = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(option, default=default, help=(words + shown).replace("%", "%%"), **more)


def read_settings(arguments: argparse.Namespace, cls: type[Settings]) -> Settings:
    """The settings that `add_settings` asked for. Raises ConfigError for a value out of bounds."""
    names = [spec.name for spec in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: getattr(arguments, name) for name in names if hasattr(arguments, name)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m retro_core", description="The RETRO language model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("train", help="train a model, or resume the run of that name")
    command.set_defaults(execute=_train)
    add_settings(command, TrainConfig)

    command = commands.add_parser("export", help="make a model of a run's newest checkpoint")
    command.set_defaults(execute=_export)
    command.add_argument("run", metavar="RUN")
    command.add_argument("name", metavar="NAME", help="name of the new model, or a folder with a slash in it")
    command.add_argument("--half", action="store_true", help="store weights in 16 bits instead of 32")
    command.add_argument("--card", metavar="FILE", type=Path, help="the model card, Markdown")

    command = commands.add_parser("evaluate", help="held-out loss with neighbours, without, with random ones")
    command.set_defaults(execute=_evaluate)
    source = command.add_mutually_exclusive_group()
    source.add_argument("--model", default=paths.DEMO_MODEL, help="name or folder of a model (%(default)s)")
    source.add_argument("--run", metavar="NAME", help="instead, a run's newest checkpoint")
    command.add_argument(
        "probes", metavar="NAME=SPEC", nargs="+", help="held-out documents: a name and their data.spec.json"
    )
    command.add_argument("--num-neighbours", type=int, default=2, help="read for each chunk (%(default)s)")
    command.add_argument("--max-len", type=int, default=512, help="tokens in a window (%(default)s)")
    command.add_argument("--limit", type=int, metavar="N", help="only N windows, drawn at random")
    command.add_argument("--out", metavar="FILE", type=Path, help="also write the numbers there, as JSON")
    command.add_argument("--json", action="store_true", help="print JSON for programs")

    command = commands.add_parser(
        "verify-reference", help="recompute numbers that the reference implementation made, and compare"
    )
    command.set_defaults(execute=_verify_reference)
    command.add_argument("folder", metavar="DIR", type=Path, help="where these numbers are")
    return parser


def _verify_reference(arguments: argparse.Namespace) -> int:
    from retro_core.verify import ABSOLUTE, RELATIVE, verify_reference

    checked = beyond = skipped = 0
    for row in verify_reference(arguments.folder):
        if checked + skipped == 0:
            print("verdict  deviation  allowed  case  tensor")
        checked, beyond, skipped = checked + row.checked, beyond + (not row.ok), skipped + (not row.checked)
        numbers = f"{row.largest:9.2g}  {row.allowed:7.2g}" if row.checked else f"{'-':>9}  {'-':>7}"
        verdict = "-" if not row.checked else "ok" if row.ok else "BEYOND"
        print(f"{verdict:<7}  {numbers}  {row.case}  {row.tensor}" + (f"  ({row.note})" if row.note else ""))
    print(
        f"{checked - beyond} of {checked} tensors agree within {ABSOLUTE:g} + {RELATIVE:g} * |expected|; "
        f"{skipped} were not checked."
    )
    return 1 if beyond else 0


def _train(arguments: argparse.Namespace) -> None:
    from retro_core.training import Evaluated, Saved, StepDone, train

    for event in train(read_settings(arguments, TrainConfig)):
        match event:
            case StepDone():
                line = (
                    f"step {event.step:>7,}  loss {event.loss:.4f}  learning rate {event.learning_rate:.2e}  "
                    f"gradient {event.gradient_norm:.3f}  {event.tokens:,} tokens, "
                    f"{event.tokens_per_second:,.0f} a second"
                )
            case Evaluated():
                line = (
                    f"step {event.step:>7,}  held out: on {event.on:.4f}  off {event.off:.4f}  "
                    f"random {event.random:.4f}"
                )
            case Saved():
                line = f"step {event.step:>7,}  saved {event.path}"
        print(line, file=sys.stderr, flush=True)


def _export(arguments: argparse.Namespace) -> None:
    import torch

    from indexing.tokenizer import Tokenizer
    from retro_core.checkpoint import save_model
    from retro_core.training import load_run, model_folder

    model, settings, step, tokens = load_run(arguments.run)
    folder = Path(arguments.name)
    if "/" not in arguments.name:
        folder = paths.models_dir() / paths.check_name(arguments.name)
    card = _read_text(arguments.card) if arguments.card else None
    dtype = torch.float16 if arguments.half else None
    save_model(folder, model, Tokenizer.load(model_folder(settings.tokenizer)), card, dtype)
    print(f"{folder}: {model.num_parameters():,} parameters after {step:,} steps and {tokens:,} tokens")


def _evaluate(arguments: argparse.Namespace) -> None:
    from retro_core.checkpoint import load_model
    from retro_core.dataset import RetroDataset
    from retro_core.evaluation import probe, window_losses
    from retro_core.training import load_run

    specs = {}
    for text in arguments.probes:
        name, equals, spec = text.partition("=")
        if not (name and equals and spec):
            raise InputError(f"Expected NAME=SPEC, got {text!r}. Write for example held=out/data.spec.json.")
        specs[name] = Path(spec)
    model = load_run(arguments.run)[0] if arguments.run else load_model(arguments.model).model
    probes: dict[str, dict[str, Any]] = {}
    pad = model.config.pad_token_idx
    for name, spec in specs.items():
        data = RetroDataset(spec, arguments.num_neighbours, arguments.max_len, pad_id=pad)
        found = probe(window_losses(model, data, limit=arguments.limit))
        probes[name] = dataclasses.asdict(found)
        if not arguments.json:
            low, high = found.on_minus_off_ci95
            print(
                f"{name}: {found.documents:,} documents, {found.tokens:,} tokens, nats per token: "
                f"on {found.on:.4f}, off {found.off:.4f}, random {found.random:.4f}; "
                f"on minus off {found.on - found.off:+.4f} (95 % of resamples from {low:+.4f} to {high:+.4f})"
            )
    if arguments.json:
        print(json.dumps({"probes": probes}, indent=2))
    if arguments.out:
        write_json(arguments.out, {"probes": probes})


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}. Give a UTF-8 text file.") from error
