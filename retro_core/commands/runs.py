"""python -m retro_core runs … and estimate: training runs as processes of their own; what one will need."""

import argparse
import dataclasses
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from indexing.commands.shown import print_json
from indexing.errors import InputError
from retro_core import runs
from retro_core.commands.settings import add_settings, read_settings
from retro_core.config import TrainConfig
from retro_core.run_folder import FAILED
from retro_core.runs import Comparison, RunInfo


def add(commands: Any) -> None:
    command = commands.add_parser(
        "estimate", help="memory, disk and time that a training run will need, and whether all fits together"
    )
    command.set_defaults(execute=_estimate)
    add_settings(command, TrainConfig)
    command.set_defaults(run=None)
    _json(command)

    command = commands.add_parser(
        "runs", help="training runs: list, start, watch, stop, resume, delete, compare"
    )
    command.set_defaults(execute=_list)
    command.add_argument("--in", dest="parent", metavar="DIR", default="", help="another folder of runs")
    _json(command)
    parts = command.add_subparsers(metavar="ACTION")

    part = parts.add_parser("show", help="one run: how it is doing, its settings, its exact command")
    part.set_defaults(execute=_show)
    _name(part)
    _json(part)

    part = parts.add_parser("start", help="train in a process that lives on when this one ends")
    part.set_defaults(execute=_start)
    add_settings(part, TrainConfig)
    part.set_defaults(run=None)
    part.add_argument("--follow", action="store_true", help="show the log; Ctrl-C ends only the showing")
    _json(part)

    part = parts.add_parser("resume", help="go on with a run, with the settings that it has")
    part.set_defaults(execute=_resume)
    _name(part)
    part.add_argument("--follow", action="store_true", help="show the log; Ctrl-C ends only the showing")
    _json(part)

    part = parts.add_parser("stop", help="let a run save and end")
    part.set_defaults(execute=_stop)
    _name(part)
    part.add_argument(
        "--grace", type=float, default=runs.GRACE, metavar="SECONDS", help="then it is killed (%(default)s)"
    )

    part = parts.add_parser("log", help="the end of what a run printed")
    part.set_defaults(execute=_log)
    _name(part)
    part.add_argument("--follow", action="store_true", help="from its last start on, as it grows")

    part = parts.add_parser("compare", help="held-out losses side by side, and the settings that differ")
    part.set_defaults(execute=_compare)
    part.add_argument("names", metavar="NAME", nargs="+")
    _json(part)

    part = parts.add_parser("delete", help="remove a run and all that it saved")
    part.set_defaults(execute=_delete)
    _name(part)
    part.add_argument("--yes", action="store_true", help="do not ask")


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a run's name, or its folder with a slash in it")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def _estimate(arguments: argparse.Namespace) -> None:
    from retro_core.estimates import bytes_in_words, check_fits, estimate, in_words

    config = _settings(arguments)
    found = estimate(config)
    if arguments.json:
        print_json({**dataclasses.asdict(found), "duration": in_words(found.seconds)})
    else:
        print(f"{found.parameters:,} parameters, {found.trained:,} of them trained, on {found.device}")
        free = "unknown" if found.free_memory_bytes is None else bytes_in_words(found.free_memory_bytes)
        print(f"memory  {bytes_in_words(found.memory_bytes):>9}   free: {free}")
        print(
            f"disk    {bytes_in_words(found.disk_bytes):>9}   free: {bytes_in_words(found.free_disk_bytes)}"
        )
        print(f"time    {in_words(found.seconds)}")
        for sentence in found.warnings:
            print(f"warning: {sentence}", file=sys.stderr)
    check_fits(config, found)


def _settings(arguments: argparse.Namespace) -> TrainConfig:
    config = read_settings(arguments, TrainConfig)
    if config.experiment_dir and arguments.run is None:
        return dataclasses.replace(config, run="")  # the next version_N, as with `train`
    return config


def _list(arguments: argparse.Namespace) -> None:
    found = runs.list_runs(arguments.parent)
    if arguments.json:
        print_json({"runs": [_as_json(info) for info in found]})
        return
    for info in found:
        facts = [f"{info.name:<24}", f"{info.state:<13}", f"step {info.step:>9,} of {info.steps:<9,}"]
        if info.held_out:
            facts.append(_losses(info.held_out.get("on"), info.held_out.get("off")))
        elif info.training:
            facts.append(f"loss {_number(info.training.get('loss'))}")
        if info.message:
            facts.append(info.message)
        print("  ".join(facts).rstrip())
    if not found:
        print("There is no run yet. Begin one with `python -m retro_core runs start`.", file=sys.stderr)


def _show(arguments: argparse.Namespace) -> None:
    _print_run(runs.show(arguments.name), arguments.json)


def _start(arguments: argparse.Namespace) -> int:
    return _begun(runs.start(_settings(arguments)), arguments)


def _resume(arguments: argparse.Namespace) -> int:
    return _begun(runs.resume(arguments.name), arguments)


def _begun(info: RunInfo, arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json(_as_json(info))
    else:
        print(f"{info.name}: process {info.pid}, {info.folder}")
    if not arguments.follow:
        return 0
    for text in runs.follow(str(info.folder)):
        print(text, end="", file=sys.stderr, flush=True)
    ended = runs.show(str(info.folder))
    print(f"{ended.name}: {ended.state}. {ended.message}".strip(), file=sys.stderr)
    return 2 if ended.state == FAILED else 0


def _stop(arguments: argparse.Namespace) -> None:
    print(f"{arguments.name}: asked to save and end", file=sys.stderr)
    info = runs.stop(arguments.name, arguments.grace)
    print(f"{info.name}: {info.state} after step {info.step:,}. {info.message}".strip())


def _log(arguments: argparse.Namespace) -> None:
    for text in runs.follow(arguments.name) if arguments.follow else [runs.log_tail(arguments.name)]:
        print(text, end="", flush=True)


def _delete(arguments: argparse.Namespace) -> None:
    info = runs.show(arguments.name)
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise InputError("Nobody is here to be asked. Give --yes to delete without a question.")
        print(f"Delete {info.folder} with all that it saved? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was deleted", file=sys.stderr)
            return
    runs.delete(arguments.name)
    print(f"{info.name}: deleted", file=sys.stderr)


def _compare(arguments: argparse.Namespace) -> None:
    found = runs.compare(arguments.names)
    if arguments.json:
        print_json(dataclasses.asdict(found))
        return
    _print_table(
        ["run", "state", "step", "tokens", "on", "off", "on - off", "best on", "at step"],
        [
            [
                curve.name, curve.state, f"{curve.step:,}", f"{curve.tokens:,}", _number(curve.final_on),
                _number(curve.final_off), _difference(curve.final_on, curve.final_off),
                _number(curve.best_on), "-" if curve.best_step is None else f"{curve.best_step:,}",
            ]
            for curve in found.runs
        ],
    )  # fmt: skip
    _print_differing(found)
    _print_curves(found)


def _print_differing(found: Comparison) -> None:
    if found.settings:
        print()
        rows = [[key, *map(str, values)] for key, values in found.settings.items()]
        _print_table(["setting", *(curve.name for curve in found.runs)], rows)


def _print_curves(found: Comparison) -> None:
    """Held-out losses On / Off by step, the runs side by side."""
    by_step: dict[int, dict[int, str]] = {}
    for place, curve in enumerate(found.runs):
        for row in curve.evaluations:
            by_step.setdefault(row["step"], {})[place] = f"{_number(row['on'])} / {_number(row['off'])}"
    if by_step:
        print()
        _print_table(
            ["step, on / off", *(curve.name for curve in found.runs)],
            [
                [f"{step:,}", *(by_step[step].get(place, "-") for place in range(len(found.runs)))]
                for step in sorted(by_step)
            ],
        )


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_run(info: RunInfo, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(info))
        return
    print(f"{info.name}: {info.state}, step {info.step:,} of {info.steps:,}. {info.message}".rstrip())
    print(f"folder   {info.folder}")
    for word, when in (("started", info.started), ("updated", info.updated)):
        if when:
            print(f"{word}  {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(when))}")
    if info.pid:
        code = "" if info.exit_code is None else f", exit code {info.exit_code}"
        print(f"process  {info.pid}{code}")
    if info.training:
        speed = info.training.get("tokens_per_second")
        rate = f", {speed:,.0f} tokens a second" if isinstance(speed, int | float) else ""
        print(f"loss     {_number(info.training.get('loss'))} at step {info.training['step']:,}{rate}")
    if info.held_out:
        losses = _losses(info.held_out.get("on"), info.held_out.get("off"))
        print(f"held out {losses} at step {info.held_out['step']:,}")
    changed = {k: v for k, v in info.settings.items() if v != TrainConfig().to_dict().get(k)}
    print("settings " + ", ".join(f"{key} {value}" for key, value in changed.items()))
    if info.argv:
        print("command  " + shlex.join(info.argv))
    if info.log:
        print(f"\n{info.log}")


def _losses(on: Any, off: Any) -> str:
    return f"on {_number(on)} off {_number(off)} ({_difference(on, off)})"


def _number(value: Any) -> str:
    return f"{value:.4f}" if _is_finite(value) else "-"


def _difference(one: Any, other: Any) -> str:
    return f"{one - other:+.4f}" if _is_finite(one) and _is_finite(other) else "-"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _as_json(info: RunInfo) -> dict[str, Any]:
    values = dataclasses.asdict(info)
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
