"""python -m indexing build | search | list | …

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 2 an error said in one sentence,
130 stopped with Ctrl-C.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

from indexing import paths
from indexing.build import build, check_free
from indexing.chunking import CHUNK_SIZE
from indexing.commands import (
    embedding,
    index,
    pipeline,
    reading,
    search,
    serve,
    training_sets,
    upkeep,
)
from indexing.commands.declaring import add_first_chunk_weight, add_json, declare
from indexing.commands.shown import follow, print_json, progress
from indexing.datastore import Datastore, list_datastores
from indexing.embedder import DEFAULT_EMBEDDER, open_embedder
from indexing.errors import RetroError
from indexing.manifest import check_files
from indexing.precompute import DATA_SPEC, precompute_neighbours
from indexing.tokenizer import Tokenizer


def main(argv: Sequence[str]) -> int:
    """Run one command; the exit code. An unusable command line exits (SystemExit 2) as argparse does."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except RetroError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was changed", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m indexing",
        description="Text in, neighbours out.",
        epilog="COMMAND --help tells more of each. From tokenize-and-chunk on they are the reference "
        "implementation's scripts, see docs/coming-from-the-reference.md.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = declare(commands, "build", _build, "make a datastore of documents")
    command.add_argument("name", metavar="NAME", help="name of the new datastore, e.g. my-notes")
    reading.add_files(command)
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--model", metavar="MODEL", default=paths.DEMO_MODEL, help="use this model's tokenizer (%(default)s)"
    )
    source.add_argument("--tokenizer", metavar="DIR", help="use the tokenizer.json of this folder instead")
    command.add_argument("--embedder", metavar="NAME", default=DEFAULT_EMBEDDER, help=embedding.HELP)
    command.add_argument(
        "--chunk-size", metavar="N", type=int, default=CHUNK_SIZE, help="tokens of a chunk (%(default)s)"
    )
    command.add_argument("--replace", action="store_true", help="replace a datastore of the same name")
    add_json(command)

    search.add(commands)

    command = declare(commands, "list", _list, "show which datastores there are")
    add_json(command)

    command = declare(commands, "inspect", _inspect, "show what a datastore was made of")
    command.add_argument("name", metavar="NAME", help="a datastore")
    command.add_argument(
        "--verify", action="store_true", help="check every file's sha256 even if it takes a while"
    )
    add_json(command)

    upkeep.add(commands)
    index.add(commands)
    serve.add(commands)

    command = declare(commands, "neighbours", _neighbours, "find the neighbours of datastores to train on")
    command.add_argument(
        "--query", metavar="DIR", type=Path, nargs="+", required=True, help="datastores or shards that ask"
    )
    command.add_argument(
        "--index", metavar="DIR", type=Path, nargs="+", required=True, help="datastores or shards that answer"
    )
    command.add_argument(
        "--k", metavar="N", type=int, default=2, help="neighbours of each chunk (%(default)s)"
    )
    add_first_chunk_weight(command)
    command.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    training_sets.add(commands)
    pipeline.add(commands)
    return parser


def _build(arguments: argparse.Namespace) -> None:
    # What may be wrong is looked at before the embedder is loaded, which takes seconds.
    if not arguments.replace:
        check_free(arguments.name)
    tokenizer = Tokenizer.load(arguments.tokenizer or paths.model_dir(arguments.model))
    documents, report = reading.read(arguments)
    first = list(islice(documents, 1))
    embedding.introduce(arguments.embedder)
    events = build(
        arguments.name,
        chain(first, documents),
        tokenizer,
        open_embedder(arguments.embedder),
        chunk_size=arguments.chunk_size,
        replace=arguments.replace,
    )
    message = follow(events)
    reading.tell(report)
    index.index_after(message, arguments.name)
    if arguments.json:
        print_json(_info(arguments.name))
    else:
        print(message)


def _list(arguments: argparse.Namespace) -> None:
    infos = list_datastores()
    if arguments.json:
        print_json([{**dataclasses.asdict(info), "path": str(info.path)} for info in infos])
        return
    for info in infos:
        kind = "bundled" if info.bundled else info.created
        print(f"{info.name:<24} {info.num_documents:>7,} documents {info.num_chunks:>9,} chunks  {kind}")
    if not infos:
        print("There are no datastores yet: python -m indexing build NAME FILE…")


def _inspect(arguments: argparse.Namespace) -> None:
    info = _info(arguments.name, arguments.verify)
    if arguments.json:
        print_json(info)
        return
    print(f"{info['name']}  ({info['path']})")
    print(
        f"  {info['num_documents']:,} documents, {info['num_chunks']:,} chunks of {info['chunk_size']} tokens"
    )
    if info["version"] > 1:
        print(
            f"  version {info['version']}: {info['segments']} segments, {info['deleted']:,} documents deleted"
        )
    print(f"  built {info['created']}, {sum(file['bytes'] for file in info['files'].values()):,} bytes")
    for part in ("tokenizer", "embedder"):
        print(f"  {part} {info[part]['name']} ({info[part]['fingerprint'][:8]})")
    print(f"  distance: {info['metric']}; fingerprint {info['fingerprint'][:8]}")
    print("  all files are as they were built" if info["verified"] else "  all files have the right size")


def _info(name: str, verify: bool = False) -> dict:
    datastore = Datastore.open(name)
    return {
        "name": datastore.name,
        "path": str(datastore.path),
        "fingerprint": datastore.fingerprint,
        "version": datastore.version,
        "verified": check_files(datastore.path, datastore.manifest, hash_all=verify),
        "segments": len(datastore.segments),
        "deleted": int(datastore.deleted.sum()),
        **{name: value for name, value in datastore.manifest.items() if name != "state"},
    }


def _neighbours(arguments: argparse.Namespace) -> None:
    events = precompute_neighbours(
        arguments.query, arguments.index, arguments.k, arguments.out, arguments.first_chunk_weight
    )
    for event in events:
        progress(event.shard, event.done, event.total)
    print(arguments.out / DATA_SPEC)
