"""python -m indexing training-set: a datastore made into something to train on."""

import argparse
import dataclasses
from typing import Any

from indexing.commands.declaring import add_first_chunk_weight, add_json, declare
from indexing.commands.shown import print_json, progress
from indexing.datastore import Datastore
from indexing.tokenizer import Tokenizer
from indexing.training_sets import NEIGHBOURS, make, training_set


def add(commands: Any) -> None:
    command = declare(
        commands,
        "training-set",
        _make,
        "make a datastore into something to train on",
    )
    command.add_argument("name", metavar="NAME", help="name of the new training set")
    command.add_argument("datastore", metavar="DATASTORE", help="name, or folder with a slash in it")
    command.add_argument("--tokenizer", metavar="DIR", help="cut anew with the tokenizer.json of this folder")
    command.add_argument(
        "--k", metavar="N", type=int, default=NEIGHBOURS, help="neighbours of each chunk (%(default)s)"
    )
    add_first_chunk_weight(command)
    command.add_argument("--seed", metavar="N", type=int, default=0, help="of what is held out (%(default)s)")
    add_json(command)


def _make(arguments: argparse.Namespace) -> None:
    datastore = Datastore.open(arguments.datastore)
    tokenizer = Tokenizer.load(arguments.tokenizer) if arguments.tokenizer else None
    events = make(
        arguments.name,
        datastore,
        tokenizer,
        num_neighbours=arguments.k,
        seed=arguments.seed,
        first_chunk_weight=arguments.first_chunk_weight,
    )
    for event in events:
        progress(event.stage, event.done, event.total)
    made = training_set(arguments.name)
    if arguments.json:
        print_json({**dataclasses.asdict(made), "folder": str(made.folder)})
        return
    print(
        f"{made.folder}: {made.documents:,} documents of {made.chunks:,} chunks to train on, "
        f"{made.held_out_documents:,} of {made.held_out_chunks:,} held out\n"
        f"--data-spec {made.data_spec} --validation {made.validation}"
    )
