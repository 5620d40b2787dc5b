"""Commands for a datastore's life after it was built."""

import argparse
import dataclasses
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from indexing.build import append, repair
from indexing.bundle import SUFFIX, export, import_bundle
from indexing.commands import reading
from indexing.commands.declaring import add_json, declare
from indexing.commands.index import index_after
from indexing.commands.shown import follow, print_json
from indexing.datastore import Datastore
from indexing.upkeep import compact, copy, delete, remove, rename, verify

_DOCUMENTS_SHOWN = 100


def add(commands) -> None:
    def command(name: str, does: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        parser = declare(commands, name, run, does)
        parser.add_argument("name", metavar="NAME", help="a datastore")
        return parser

    parser = command("append", "add documents to a datastore", _append)
    reading.add_files(parser)

    parser = command("documents", "show which documents a datastore has", _documents)
    add_json(parser)
    parser.add_argument(
        "--first", metavar="N", type=int, default=_DOCUMENTS_SHOWN, help="show so many at most (%(default)s)"
    )

    parser = command("delete", "take documents out of a datastore", _delete)
    parser.add_argument("ids", metavar="ID", nargs="+", help="ids of documents, see `documents`")

    command("compact", "free the room of deleted documents, and join segments", _compact)
    command("verify", "compare every byte of a datastore with what was written", _verify)
    command("repair", "make damaged embeddings of a datastore anew", _repair)

    parser = command("rename", "give a datastore another name", _rename)
    parser.add_argument("new_name", metavar="NEW-NAME", help="the name it gets")
    parser = command("copy", "make a datastore of your own of another one", _copy)
    parser.add_argument("new_name", metavar="NEW-NAME", help="the name it gets")
    command("remove", "remove a datastore and everything in it", _remove)

    parser = command("export", "write a datastore to one file", _export)
    parser.add_argument(
        "file", metavar="FILE", type=Path, nargs="?", help=f"the file to write (NAME{SUFFIX})"
    )
    parser = command("import", "make a datastore of an exported file", _import)
    parser.add_argument("file", metavar="FILE", type=Path, help="what `export` wrote")


def _append(arguments: argparse.Namespace) -> None:
    documents, report = reading.read(arguments)
    message = follow(append(arguments.name, documents))
    reading.tell(report)
    index_after(message, arguments.name)
    print(message)


def _documents(arguments: argparse.Namespace) -> None:
    datastore = Datastore.open(arguments.name)
    labels = list(islice(datastore.labels(), max(0, arguments.first)))
    if arguments.json:
        print_json([dataclasses.asdict(label) for label in labels])
        return
    for label in labels:
        print(f"{label.id}\t{label.title}\t{label.source}")
    if left := datastore.num_documents - len(labels):
        print(f"… and {left:,} more; see them with --first")


def _delete(arguments: argparse.Namespace) -> None:
    version = delete(arguments.name, arguments.ids)
    count = len(arguments.ids)
    print(f"Deleted {count} document{'' if count == 1 else 's'}; {arguments.name!r} is at version {version}.")


def _compact(arguments: argparse.Namespace) -> None:
    print(follow(compact(arguments.name)))


def _verify(arguments: argparse.Namespace) -> None:
    print(follow(verify(arguments.name)))


def _repair(arguments: argparse.Namespace) -> None:
    print(follow(repair(arguments.name)))


def _rename(arguments: argparse.Namespace) -> None:
    rename(arguments.name, arguments.new_name)
    print(f"{arguments.name!r} is {arguments.new_name!r} now.")


def _copy(arguments: argparse.Namespace) -> None:
    copy(arguments.name, arguments.new_name)
    print(f"Copied {arguments.name!r} to {arguments.new_name!r}.")


def _remove(arguments: argparse.Namespace) -> None:
    remove(arguments.name)
    print(f"Removed {arguments.name!r}.")


def _export(arguments: argparse.Namespace) -> None:
    print(follow(export(arguments.name, arguments.file or Path(f"{Path(arguments.name).name}{SUFFIX}"))))


def _import(arguments: argparse.Namespace) -> None:
    print(follow(import_bundle(arguments.file, arguments.name)))
