"""python -m retro_core evaluate | report"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexing import corpus, paths
from indexing.commands.search import add_retriever_options
from indexing.commands.shown import print_json
from indexing.errors import InputError
from indexing.files import sha256
from indexing.pipeline.specs import read_data_spec, read_index_spec
from indexing.precompute import DATA_SPEC
from indexing.retrievers import DEFAULT_RETRIEVER, is_remote, stored
from retro_core.commands.opening import open_datastore, open_reading
from retro_core.commands.settings import add_settings, read_settings
from retro_core.config import EvaluationConfig

if TYPE_CHECKING:
    from retro_core.evaluation.measure import Asked, Done, Questions, Subject, Swap, Working

BUNDLED_PROMPTS = paths.ASSETS / "evaluation" / "fact-swap.jsonl"


def add(commands: Any) -> None:
    command = commands.add_parser(
        "evaluate",
        help="does retrieval help, by how much, and why: held-out documents, sweeps, comparators, questions",
        description="Measure a model on held-out documents. With --out everything that is finished stays in "
        "a folder, with a report; the same command goes on after it was stopped.",
    )
    command.set_defaults(execute=_evaluate)
    source = command.add_mutually_exclusive_group()
    source.add_argument("--model", default=paths.DEMO_MODEL, help="name or folder of a model (%(default)s)")
    source.add_argument("--run", metavar="NAME", help="instead, a run's newest checkpoint")
    command.add_argument(
        "probes",
        metavar="NAME=FILE",
        nargs="*",
        help="held-out documents: a name and their data.spec.json; or, with --datastore, a .jsonl or .txt "
        "file or a folder of texts",
    )
    command.add_argument(
        "--datastore", metavar="NAME", help="look neighbours up in it instead of taking those of the SPEC"
    )
    add_retriever_options(command, leakage=True)
    add_settings(command, EvaluationConfig)
    chosen = command.add_mutually_exclusive_group()
    chosen.add_argument(
        "--parts", metavar="PART,…", help="only these of: readings, leakage, relations, k, size, nprobe, "
        "index, copying, in-context, knn-lm, questions, swap",
    )  # fmt: skip
    chosen.add_argument(
        "--quick", action="store_true", help="only the readings on, off and random, leakage and relations"
    )
    chosen.add_argument("--all", action="store_true", help="every part, as is the rule with --out")
    command.add_argument(
        "--readings", metavar="NAME,…", help="beside on and off, only these of: random, shuffled, bm25, "
        "n_only, f_only, oracle",
    )  # fmt: skip
    command.add_argument(
        "--questions", metavar="SET=FILE", action="append", default=[],
        help="questions with answers, JSON lines; looked up in --datastore; may be given several times",
    )  # fmt: skip
    command.add_argument(
        "--swap", metavar="FILE", type=Path, nargs="?", const=BUNDLED_PROMPTS,
        help="prompts that several datastores answer differently, JSON lines; without FILE the bundled ones "
        "about two editions of the Factbook",
    )  # fmt: skip
    command.add_argument("--out", metavar="DIR", type=Path, help="keep all results there, and a report")
    command.add_argument("--json", action="store_true", help="print the result as JSON")

    command = commands.add_parser("report", help="write the report of results again; several: side by side")
    command.set_defaults(execute=_report)
    command.add_argument("results", metavar="DIR", type=Path, nargs="+", help="folders that evaluate made")
    command.add_argument("--out", metavar="DIR", type=Path, help="where to (the folder itself)")


def _evaluate(arguments: argparse.Namespace) -> None:
    config = read_settings(arguments, EvaluationConfig)  # before the seconds that loading takes
    files = dict(_named(text, "NAME=FILE", "held=out/data.spec.json") for text in arguments.probes)
    sets = dict(_named(text, "SET=FILE", "squad=questions.jsonl") for text in arguments.questions)
    if not (files or sets or arguments.swap):
        raise InputError("There is nothing to measure on. Give NAME=FILE, --questions or --swap.")
    if arguments.out and (arguments.out.is_file() or arguments.out.suffix == ".json"):
        raise InputError(
            f"--out is a folder, got {arguments.out}. Name a folder; the result is a file in it."
        )
    _check_datastore(arguments, files, sets)

    from retro_core.evaluation.measure import Began, Done, Finished, Working, measure
    from retro_core.evaluation.report import write_report
    from retro_core.evaluation.verdicts import in_short

    subject = _subject(arguments)
    probes = [_asked(arguments, config, subject, name, path) for name, path in files.items()]
    questions = [_questions(arguments, subject, name, path) for name, path in sets.items()]
    swap = _swap(arguments.swap, subject) if arguments.swap else None
    parts, readings = _chosen(arguments)
    events = measure(
        subject, probes, config, parts=parts, names=readings, questions=questions, swap=swap,
        folder=arguments.out, command=shlex.join(["python", "-m", "retro_core", *arguments.argv]),
    )  # fmt: skip
    shown, result = _Shown(), {}
    try:
        for event in events:
            match event:
                case Began():
                    shown.began(event.of, event.part, event.number, event.count, event.kept)
                case Working():
                    shown.working(event)
                case Done():
                    shown.done(event)
                case Finished():
                    result = event.result
    except KeyboardInterrupt:
        if arguments.out:
            print(f"\nfinished parts are in {arguments.out}: the same command goes on", file=sys.stderr)
        raise
    if arguments.json:
        print_json(result)
    else:
        for name, probe in result["probes"].items():
            print(_line(name, probe))
        for sentence in in_short(result) if arguments.out else []:
            print(sentence)
    if arguments.out:
        print(f"report: {write_report(result, arguments.out)[-1]}", file=sys.stderr)


def _report(arguments: argparse.Namespace) -> None:
    from retro_core.evaluation.report import write_comparison, write_report
    from retro_core.evaluation.result import load_result

    results = [load_result(folder) for folder in arguments.results]
    out = arguments.out
    if len(results) == 1:
        folder = arguments.results[0]
        written = write_report(results[0], out or (folder if folder.is_dir() else folder.parent))
    elif out is None:
        raise InputError("Several results make a report of their own. Say where with --out DIR.")
    else:
        written = write_comparison(results, out)
    print(written[-1])


# What is measured


def _subject(arguments: argparse.Namespace) -> "Subject":
    from retro_core.checkpoint import fingerprint, load_model
    from retro_core.evaluation.measure import Subject
    from retro_core.training import load_run, run_tokenizer

    steps: dict[str, Any] = {}
    if arguments.run:
        model, settings, step, tokens = load_run(arguments.run)
        tokenizer, name, identity = run_tokenizer(settings), arguments.run, fingerprint(model)
        steps = {"run": arguments.run, "steps": step, "training_tokens": tokens}
    else:
        loaded = load_model(arguments.model)
        model, tokenizer, name, identity = loaded.model, loaded.tokenizer, loaded.name, loaded.fingerprint
    config = model.config
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "chunk_size": config.chunk_size,
        "cca_layers": list(config.dec_cca_layers),
        "mode": config.mode,
        "tokenizer": tokenizer.fingerprint,
        **steps,
    }
    return Subject(name, identity, model, tokenizer, facts)


def _asked(
    arguments: argparse.Namespace, config: EvaluationConfig, subject: "Subject", name: str, path: Path
) -> "Asked":
    from retro_core.evaluation.held_out import HeldOut
    from retro_core.evaluation.measure import Asked
    from retro_core.evaluation.searching import Searchable

    tokenizer, sizes, k = subject.tokenizer, subject.model.config, config.num_neighbours
    windows = {"window": config.max_len, "stride": config.stride or None}
    live = bool(arguments.datastore) or is_remote(arguments.retriever)
    datastore = retriever = None
    if live:
        datastore, retriever = open_reading(arguments, tokenizer, sizes.chunk_size, subject.name)
        datastore = None if is_remote(arguments.retriever) else datastore
    if path.suffix != ".json" and not (path / DATA_SPEC).is_file():
        documents = list(corpus.read_files([path]))
        held_out = HeldOut.from_texts(name, documents, sizes, tokenizer, datastore, k, retriever, **windows)
        made_from: dict[str, Any] = {"documents": sorted(_hashes(path))}
    else:
        spec = path if path.suffix == ".json" else path / DATA_SPEC
        held_out = HeldOut.from_spec(
            name, spec, sizes, tokenizer, num_neighbours=None if live else k, **windows
        )
        made_from = _spec_facts(spec)
        if live:
            held_out = held_out.reading_from(datastore, k, retriever)
    searchable = None
    if datastore is not None:
        searchable = lambda: Searchable.of_datastore(datastore, tokenizer, sizes.chunk_size)  # noqa: E731
        made_from["datastore"] = stored(datastore).fingerprint
    elif not live and _has_embeddings(spec):
        searchable = lambda: Searchable.of_spec(spec, tokenizer)  # noqa: E731
    made_from["retriever"] = [
        arguments.retriever, sorted(arguments.only), sorted(arguments.exclude), arguments.leakage,
    ]  # fmt: skip
    return Asked(held_out, searchable, made_from)


def _questions(arguments: argparse.Namespace, subject: "Subject", name: str, path: Path) -> "Questions":
    from retro_core.evaluation.measure import Questions

    m = subject.model.config.chunk_size
    datastore, retriever = open_reading(arguments, subject.tokenizer, m, subject.name)
    made_from = {
        "file": _hash(path),
        "datastore": None if is_remote(arguments.retriever) else stored(datastore).fingerprint,
        "retriever": [arguments.retriever, sorted(arguments.only), sorted(arguments.exclude)],
    }
    return Questions(name, path, retriever, made_from)


def _swap(path: Path, subject: "Subject") -> "Swap":
    from retro_core.evaluation.measure import Swap
    from retro_core.evaluation.swap import read_prompts

    names = read_prompts(path)[0].answers
    opened = {
        name: open_datastore(name, subject.tokenizer, subject.model.config.chunk_size, subject.name)
        for name in names
    }
    facts = {"file": _hash(path), **{name: stored(one).fingerprint for name, one in opened.items()}}
    return Swap(path, opened, facts)


def _chosen(arguments: argparse.Namespace) -> tuple[Sequence[str], Sequence[str]]:
    """Parts and readings."""
    from retro_core.evaluation.measure import PARTS, QUICK, QUICK_READINGS, READINGS

    few = arguments.quick or not (arguments.out or arguments.all or arguments.parts)
    parts = [*PARTS]
    if arguments.parts:
        parts = [part.strip() for part in arguments.parts.split(",")]
    elif few:
        parts = [*(QUICK if arguments.quick else ("readings",)), "questions", "swap"]
    readings: Sequence[str] = QUICK_READINGS if few else READINGS
    if arguments.readings is not None:
        readings = [name.strip() for name in arguments.readings.split(",") if name.strip()]
    return parts, readings


def _check_datastore(arguments: argparse.Namespace, files: dict[str, Path], sets: dict[str, Path]) -> None:
    texts = [f"{name}={path}" for name, path in files.items() if not _is_spec(path)]
    if texts and is_remote(arguments.retriever):
        raise InputError(
            f"{texts[0]} would have to be left out of its own neighbours, which a service cannot do. Name a "
            "datastore of yours."
        )
    if arguments.datastore or is_remote(arguments.retriever):
        return
    if (arguments.retriever, arguments.only, arguments.exclude, arguments.leakage) != (
        DEFAULT_RETRIEVER, [], [], None,
    ):  # fmt: skip
        raise InputError(
            "Neighbours of a SPEC are taken as they are; a retriever and what it leaves out need a datastore "
            "to look into. Name one with --datastore."
        )
    if texts or sets:
        what = texts[0] if texts else f"--questions {next(iter(sets))}"
        raise InputError(f"{what} has no neighbours of its own. Name what to look into with --datastore.")


def _is_spec(path: Path) -> bool:
    return path.suffix == ".json" or (path / DATA_SPEC).is_file()


def _named(text: str, form: str, example: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f"Expected {form}, got {text!r}. Write for example {example}.")
    return name, Path(path)


def _spec_facts(spec: Path) -> dict[str, Any]:
    """What a data spec's documents and neighbours are: small files by content, large ones by size."""
    shards, index_spec = read_data_spec(spec)
    indexed = read_index_spec(index_spec, ("chunks", "seq2chunk"))
    return {
        "asking": [[sha256(shard["chunks"]), sha256(shard["neighbours"])] for shard in shards],
        "index": [[shard["chunks"].stat().st_size, sha256(shard["seq2chunk"])] for shard in indexed],
    }


def _has_embeddings(spec: Path) -> bool:
    """On both sides, so that something else can be looked up."""
    shards, index_spec = read_data_spec(spec)
    asking = [shard.get("embeddings", shard["chunks"].with_name("embeddings.npy")) for shard in shards]
    entries = json.loads(index_spec.read_text(encoding="utf-8"))
    return all(path.is_file() for path in asking) and all(entry.get("embeddings") for entry in entries)


def _hashes(path: Path) -> list[str]:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return [_hash(file) for file in files]


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}. Check the path.") from error


# What is shown


class _Shown:
    """Progress on stderr: overwritten on a terminal, a line now and then in a log."""

    def __init__(self) -> None:
        self._head, self._begun, self._last = "", 0.0, 0.0
        self._pause = 0.2 if sys.stderr.isatty() else 10.0

    def began(self, of: str, part: str, number: int, count: int, kept: bool) -> None:
        self._head = f"[{number}/{count}] {of + ': ' if of else ''}{part}"
        self._begun = self._last = time.monotonic()
        if kept:
            print(f"{self._head}: was made before", file=sys.stderr)

    def working(self, event: "Working") -> None:
        now = time.monotonic()
        if now - self._last < self._pause:
            return
        self._last = now
        share = event.done / event.total if event.total else 0.0
        left = f", {_duration((now - self._begun) * (1 / share - 1))} left in it" if share > 0.05 else ""
        end = "\r" if sys.stderr.isatty() else "\n"
        line = f"{self._head}: {event.stage} {event.done:,} of {event.total:,}{left}"
        print(f"{line:<78}", end=end, file=sys.stderr, flush=True)

    def done(self, event: "Done") -> None:
        left = f"; about {_duration(event.left)} for the rest" if event.left else ""
        line = f"{self._head}: took {_duration(event.seconds)}{left}"
        print(f"{line:<78}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _line(name: str, probe: dict[str, Any]) -> str:
    """For example held: 28 documents, 9,411 tokens, nats per token: on 1.9, off 2.2; on minus off -0.3 …"""
    if "readings" not in probe:
        return f"{name}: {', '.join(part for part in probe if part != 'skipped')}"
    nats = ", ".join(f"{reading} {found['nats']:.4f}" for reading, found in probe["readings"].items())
    change = probe["differences"]["on-off"]
    between = ""
    if change["ci95"]:
        between = " (95 % of resamples from {:+.4f} to {:+.4f})".format(*change["ci95"])
    return (
        f"{name}: {probe['documents']:,} documents, {probe['tokens']:,} tokens, nats per token: {nats}; "
        f"on minus off {change['nats']:+.4f}{between}"
    )
