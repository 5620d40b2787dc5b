"""python -m indexing search, and the options of every command that lets its user choose a retriever."""

import argparse
import dataclasses
from collections.abc import Iterable

from indexing.commands.declaring import add_json, declare
from indexing.commands.shown import measured, print_json, progress
from indexing.datastore import Datastore
from indexing.retrievers import DEFAULT_RETRIEVER, RETRIEVERS, Found, allowed_chunks, is_remote, open_lookup


def add(commands) -> None:
    command = declare(commands, "search", _search, "find the chunks nearest to a text")
    command.add_argument("name", metavar="NAME", help="a datastore")
    command.add_argument("text", metavar="TEXT", help="what to look for, one query whatever its length")
    command.add_argument("--k", metavar="N", type=int, default=3, help="chunks to find (%(default)s)")
    # The other forms look into no datastore of ours.
    local = [form for form in RETRIEVERS if form != "off" and not is_remote(form)]
    add_retriever_options(command, forms=local)
    add_json(command)


def add_retriever_options(
    command: argparse.ArgumentParser, leakage: bool = False, forms: Iterable[str] = RETRIEVERS
) -> None:
    """--retriever, --only and --exclude; --leakage where it is known what will be predicted."""
    meanings = "; ".join(f"{form}: {RETRIEVERS[form]}" for form in forms)
    command.add_argument(
        "--retriever",
        metavar="FORM",
        default=DEFAULT_RETRIEVER,
        help=f"which neighbours are found (%(default)s). {meanings}",
    )
    documents = {"metavar": "DOC", "default": [], "action": "append"}
    words = "id of a document; may be given several times"
    command.add_argument("--only", help=f"find neighbours in this document alone: {words}", **documents)
    command.add_argument("--exclude", help=f"find no neighbours in this document: {words}", **documents)
    if leakage:
        command.add_argument(
            "--leakage",
            metavar="SHARE",
            type=float,
            help="leave out neighbours that have a run of more than this share of the tokens that are to be "
            "predicted, e.g. 0.125",
        )


def _search(arguments: argparse.Namespace) -> None:
    datastore = Datastore.open(arguments.name)
    lookup = open_lookup(arguments.retriever, datastore)
    allowed = None
    if arguments.only or arguments.exclude:
        allowed = allowed_chunks(datastore, arguments.only, arguments.exclude)
    for event in lookup.prepare():
        progress("indexing words", event.done, event.total)
    hits = lookup.search(arguments.text, arguments.k, allowed)
    if arguments.json:
        print_json([_as_json(hit) for hit in hits])
        return
    for rank, hit in enumerate(hits, start=1):
        value = measured(hit.measure, hit.distance, hit.score)
        print(f"{rank}. {hit.title}, character {hit.offset}, {value}")
        print(f"   {' '.join(hit.text.split())}")
        if hit.continuation:
            print(f"   … {' '.join(hit.continuation.split())}")


def _as_json(hit: Found) -> dict:
    fields = dataclasses.asdict(hit)
    return {"document": fields.pop("document_id"), **fields}
