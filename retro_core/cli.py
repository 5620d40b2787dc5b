"""python -m retro_core generate | score | train | runs | estimate | export | evaluate | report |
evaluate-reference | verify-reference | import-reference | presets

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 verify-reference found a
deviation beyond the tolerance, 2 an error said in one sentence, 130 stopped with Ctrl-C, 143 training that
was asked to stop.

torch is imported inside the commands, so that --help and a mistyped option answer at once.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexing import paths
from indexing.commands.search import add_retriever_options
from indexing.commands.shown import measured
from indexing.errors import InputError, RetroError
from indexing.files import write_json
from indexing.neighbours import NO_CHUNK, Neighbours
from retro_core.commands import evaluate_reference, evaluation, runs, training
from retro_core.commands.opening import open_reading
from retro_core.commands.settings import add_settings, read_settings
from retro_core.config import GenerationConfig, bounds
from retro_core.presets import PRESETS

if TYPE_CHECKING:
    from indexing.client import RemoteRetriever
    from indexing.datastore import Datastore
    from indexing.retokenised import RetokenisedDatastore
    from indexing.tokenizer import Tokenizer
    from retro_core.trace import Trace


def main(argv: Sequence[str]) -> int:
    """Run one command; the exit code. An unusable command line exits (SystemExit 2) as argparse does."""
    arguments = _parser().parse_args(argv)
    arguments.argv = [*argv]
    try:
        return arguments.execute(arguments) or 0
    except RetroError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m retro_core", description="The RETRO language model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("generate", help="continue a text, reading neighbours from a datastore")
    command.set_defaults(execute=_generate)
    command.add_argument("prompt", metavar="TEXT", help="the beginning; - reads it from standard input")
    command.add_argument("--model", default=paths.DEMO_MODEL, help="name or folder of a model (%(default)s)")
    command.add_argument("--datastore", default=paths.DEMO_DATASTORE, help="what to read (%(default)s)")
    add_retriever_options(command)
    add_settings(command, GenerationConfig)
    command.add_argument("--json", action="store_true", help="print JSON for programs")
    command.add_argument("--trace", metavar="FILE", type=Path, help="save a .retro.json that the app opens")

    command = commands.add_parser("score", help="what retrieval changes in a text that is there already")
    command.set_defaults(execute=_score)
    command.add_argument("text", metavar="TEXT", help="the text; - reads it from standard input")
    command.add_argument("--model", default=paths.DEMO_MODEL, help="name or folder of a model (%(default)s)")
    command.add_argument("--datastore", default=paths.DEMO_DATASTORE, help="what to read (%(default)s)")
    _, _, count, words = bounds(GenerationConfig, "num_neighbours")
    command.add_argument("--num-neighbours", type=int, default=count, help=f"{words} (%(default)s)")
    add_retriever_options(command, leakage=True)
    command.add_argument(
        "--influence",
        action=argparse.BooleanOptionalAction,
        help="score again without each single neighbour; long texts only if asked for",
    )
    command.add_argument("--json", action="store_true", help="print JSON for programs")
    command.add_argument("--trace", metavar="FILE", type=Path, help="save a .retro.json that the app opens")

    training.add(commands)

    command = commands.add_parser("fetch", help="bring a base language model here, to be RETRO-fitted")
    command.set_defaults(execute=_fetch)
    command.add_argument("name", metavar="NAME", help="smollm2-135m, or owner/name of a Hugging Face model")
    command.add_argument("--yes", action="store_true", help="do not ask after showing size and licence")

    command = commands.add_parser(
        "models", help="list models and bases: which are here, which can be fetched"
    )
    command.set_defaults(execute=_models)
    command.add_argument("--json", action="store_true", help="print JSON for programs")

    evaluation.add(commands)

    command = commands.add_parser(
        "verify-reference", help="recompute numbers that the reference implementation made, and compare"
    )
    command.set_defaults(execute=_verify_reference)
    command.add_argument("folder", metavar="DIR", type=Path, help="where these numbers are")

    command = commands.add_parser(
        "import-reference", help="make a model of a checkpoint of the reference implementation"
    )
    command.set_defaults(execute=_import_reference)
    command.add_argument("weights", metavar="WEIGHTS", type=Path, help=".ckpt, .pt, .bin or .safetensors")
    command.add_argument("config", metavar="CONFIG", type=Path, help="its RetroConfig, JSON")
    command.add_argument("name", metavar="NAME", help="name of the new model, or a folder with a slash in it")
    command.add_argument(
        "--tokenizer", required=True, help="a model's name, or a folder that holds a tokenizer.json"
    )
    command.add_argument("--half", action="store_true", help="store weights in 16 bits instead of 32")
    command.add_argument("--card", metavar="FILE", type=Path, help="the model card, Markdown")

    command = commands.add_parser("presets", help="sizes of models that train --model knows by name")
    command.set_defaults(execute=_presets)
    command.add_argument(
        "--vocabulary", type=int, default=32128, metavar="N", help="tokens of the tokenizer (%(default)s)"
    )
    evaluate_reference.add(commands)
    runs.add(commands)
    return parser


def _generate(arguments: argparse.Namespace) -> None:
    config = read_settings(arguments, GenerationConfig)  # before the seconds that loading takes
    _check_trace_name(arguments.trace)
    if arguments.trace and config.retrieval and config.retrieval_step:
        raise InputError(
            "A trace shows one lookup for each chunk, so --trace and --retrieval-step do not go together. "
            "Leave one of them out."
        )
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt

    from retro_core.checkpoint import load_model
    from retro_core.generation import Finished, Prompted, Retrieved, Token, generate

    loaded = load_model(arguments.model)
    m = loaded.config.chunk_size
    datastore = retriever = None
    if config.retrieval:
        datastore, retriever = open_reading(arguments, loaded.tokenizer, m, loaded.name)
    tokens: list[dict[str, Any]] = []
    chunks: list[dict[str, Any]] = []
    neighbours = []
    started = 0
    finished: Finished | None = None
    for event in generate(loaded.model, loaded.tokenizer, prompt, retriever, config):
        text = ""
        match event:
            case Prompted():
                tokens = [
                    {"id": int(token), "text": piece, "logprob": None}
                    for token, piece in zip(event.tokens, event.texts, strict=True)
                ]
                started, text = len(tokens), "".join(event.texts)
            case Retrieved():
                neighbours.append(event.neighbours)
                found = _origins(datastore, event.neighbours, loaded.tokenizer, m)
                chunks.append({"chunk": event.chunk, "neighbours": found})
            case Token():
                tokens.append({"id": int(event.id), "text": event.text, "logprob": event.logprob})
                text = event.text
            case Finished():
                finished = event
        if text and not arguments.json:
            print(text, end="", flush=True)
    if arguments.json:
        written = "".join(token["text"] for token in tokens[started:])
        reason = {"reason": finished.reason, "seconds": finished.seconds} if finished else {}
        _print_json({"prompt": prompt, "text": written, **reason, "tokens": tokens, "chunks": chunks})
    else:
        print()
        for chunk in chunks:
            for found in chunk["neighbours"]:
                value = measured(found["measure"], found["distance"], found["score"])
                print(
                    f"chunk {chunk['chunk'] + 1} read {found['title']}, character {found['offset']}, {value}",
                    file=sys.stderr,
                )
    if arguments.trace:
        from retro_core.explain import explain

        trace = explain(
            loaded, [t["id"] for t in tokens], neighbours, datastore, config, prompt_tokens=started
        )
        _save_trace(arguments.trace, trace)


def _check_trace_name(path: Path | None) -> None:
    if path and not path.name.endswith(".retro.json"):
        raise InputError(f"A trace's name ends with .retro.json, got {path.name!r}. Change it.")


def _save_trace(path: Path, trace: "Trace") -> None:
    write_json(path, trace.to_json())
    print(f"saved {path}", file=sys.stderr)


def _score(arguments: argparse.Namespace) -> None:
    config = GenerationConfig(num_neighbours=arguments.num_neighbours)
    _check_trace_name(arguments.trace)
    text = sys.stdin.read() if arguments.text == "-" else arguments.text

    from retro_core.checkpoint import load_model
    from retro_core.explain import score

    loaded = load_model(arguments.model)
    m = loaded.config.chunk_size
    datastore, retriever = open_reading(arguments, loaded.tokenizer, m, loaded.name)
    trace = score(loaded, text, datastore, config, retriever=retriever, influence=arguments.influence)
    found = trace.scores()
    if arguments.json:
        _print_json(found)
    else:
        for chunk in found["chunks"]:
            _print_scored(chunk, trace.data["datastore"]["metric"])
        on, off = found["on"], found["off"]
        losses = f": on {on:.4f}, off {off:.4f}; difference {on - off:+.4f}" if found["scored"] else ""
        print(f"{found['scored']:,} tokens, nats per token{losses}")
    if arguments.trace:
        _save_trace(arguments.trace, trace)


def _print_scored(chunk: dict[str, Any], measure: str) -> None:
    """One chunk of a trace: a line for what read its neighbours, one for each of them."""
    count = chunk["read"][1] - chunk["read"][0]
    facts = [f"chunk {chunk['index'] + 1}, read by {count} tokens"]
    if chunk["gain"] is not None:
        facts += [f"gain {chunk['gain']:+.3f} nats per token", f"overlap {chunk['overlap']:.0%}"]
    print("   ".join(facts))
    for card in chunk["neighbours"]:
        facts = [f"  #{card['rank']}  {measured(measure, card['distance'], card['score'])}"]
        if card["share"] is not None:
            facts.append(f"attention {card['share']:4.0%}")
        if card["influence"]:
            own, later = card["influence"]["own"], card["influence"]["downstream"]
            after = "" if later is None else f", {later:+.3f} later"
            facts.append(f"influence {own:+.3f} here{after}")
        if card["copied"] is not None:
            facts.append(f"copied {card['copied']:4.0%}")
        print("   ".join([*facts, f"{card['title']}, character {card['offset']}"]))


def _origins(
    datastore: "Datastore | RetokenisedDatastore | RemoteRetriever | None",
    neighbours: Neighbours,
    tokenizer: "Tokenizer",
    chunk_size: int,
) -> list[dict[str, Any]]:
    """Where the neighbours of one chunk come from, nearest first."""
    origins = []
    for place, chunk_id in enumerate(neighbours.ids.ravel().tolist()):
        if datastore is not None and chunk_id != NO_CHUNK:
            distance = float(neighbours.distances.ravel()[place])
            own = neighbours.tokens.reshape(-1, neighbours.tokens.shape[-1])[place, :chunk_size]
            has_text = hasattr(datastore, "text")  # a service sends tokens
            origins.append(
                {
                    "chunk_id": chunk_id,
                    **dataclasses.asdict(datastore.provenance(chunk_id)),
                    "distance": distance if math.isfinite(distance) else None,
                    "measure": neighbours.measure,
                    "score": None if neighbours.scores is None else float(neighbours.scores.ravel()[place]),
                    "text": datastore.text(chunk_id) if has_text else tokenizer.decode(own),
                }
            )
    return origins


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


def _import_reference(arguments: argparse.Namespace) -> None:
    import torch

    from indexing.tokenizer import Tokenizer
    from retro_core.checkpoint import load_reference, model_folder, save_model

    folder = _new_model_folder(arguments.name)
    tokenizer = Tokenizer.load(model_folder(arguments.tokenizer))
    card = _read_text(arguments.card) if arguments.card else None
    model = load_reference(arguments.weights, arguments.config)
    save_model(folder, model, tokenizer, card, torch.float16 if arguments.half else None)
    print(f"{folder}: {model.num_parameters():,} parameters")


def _new_model_folder(name: str) -> Path:
    """Where a new model goes: a plain word is a name among the user's models, else it is a path."""
    return Path(name) if "/" in name else paths.models_dir() / paths.check_name(name)


def _fetch(arguments: argparse.Namespace) -> int:
    from retro_core.bases import Converting, Fetched, Fetching, Offered, fetch

    for event in fetch(arguments.name):
        match event:
            case Offered(info) if info.state == "can be fetched":
                print(
                    f"{info.title}, licence {info.licence}, from the {info.source}: "
                    f"{_bytes(info.download)} to download, {_bytes(info.disk)} on the disk in {info.folder}",
                    file=sys.stderr,
                )
                if not arguments.yes and not _agreed():
                    print("nothing was fetched", file=sys.stderr)
                    return 0
            case Fetching():
                _progress("fetching", event.done / 1e6, event.total / 1e6, "MB")
            case Converting():
                _progress("converting", event.done, event.total, "tensors")
            case Fetched():
                print(event.folder)
    return 0


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise InputError("Nobody is here to be asked. Give --yes to fetch without a question.")
    print("Fetch it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _progress(what: str, done: float, total: float, unit: str) -> None:
    """One line, overwritten on a terminal; in a log only the last."""
    if sys.stderr.isatty() or done >= total > 0:
        end = "\r" if done < total else "\n"
        print(f"{what}: {done:,.0f} of {total:,.0f} {unit}", end=end, file=sys.stderr, flush=True)


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count else "nothing"


def _models(arguments: argparse.Namespace) -> None:
    from retro_core.bases import list_bases, list_models

    found = {"models": list_models(), "bases": list_bases()}
    if arguments.json:
        _print_json({kind: [_as_json(info) for info in infos] for kind, infos in found.items()})
        return
    for model in found["models"]:
        kind = f"RETRO-fit of {model.base}" if model.base else "RETRO"
        kind = kind if model.fitted else "a base: neighbours change nothing until it is fitted"
        state = model.state if model.state == "here" else f"needs its base: fetch {model.base}"
        print(f"model  {model.name:<20} {_bytes(model.disk):>8}  {kind}; {state}")
    for base in found["bases"]:
        size = base.disk if base.state == "here" else base.download or base.disk
        print(f"base   {base.name:<20} {_bytes(size):>8}  {base.title}; licence {base.licence}; {base.state}")


def _as_json(info: Any) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in dataclasses.asdict(info).items()
    }


def _presets(arguments: argparse.Namespace) -> None:
    from retro_core.presets import count_parameters, preset

    print(f"{'name':<17}  {'layers':>6}  {'width':>5}  {'no embeddings':>13}  {'parameters':>13}  CCA layers")
    for name in PRESETS:
        config = preset(name, arguments.vocabulary)
        inner, all_in_all = count_parameters(config)
        layers = ", ".join(map(str, config.dec_cca_layers))
        print(
            f"{name:<17}  {config.dec_num_layers:>6}  {config.dec_hidden_dim:>5,}  {inner:>13,}  "
            f"{all_in_all:>13,}  {layers}"
        )
    print(
        f"CCA layers count from 0; parameters for a vocabulary of {arguments.vocabulary:,}.", file=sys.stderr
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}. Give a UTF-8 text file.") from error


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
