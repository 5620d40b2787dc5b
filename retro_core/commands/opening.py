"""Opening what neighbours come from, as the retriever options ask for it."""

import argparse
import sys
from typing import TYPE_CHECKING

from indexing.commands.shown import progress
from indexing.neighbours import Retriever
from indexing.retrievers import Filtered, Lookup, is_remote, open_retriever

if TYPE_CHECKING:
    from indexing.client import RemoteRetriever
    from indexing.datastore import Datastore
    from indexing.retokenised import RetokenisedDatastore
    from indexing.tokenizer import Tokenizer


def open_reading(
    arguments: argparse.Namespace, tokenizer: "Tokenizer", chunk_size: int, model: str
) -> "tuple[Datastore | RetokenisedDatastore | RemoteRetriever, Retriever]":
    """What neighbours come from, and what looks into it, for a model with this tokenizer and chunk size."""
    datastore = None
    if not is_remote(arguments.retriever):
        datastore = open_datastore(arguments.datastore, tokenizer, chunk_size, model)
    retriever = open_retriever(
        arguments.retriever,
        datastore,
        tokenizer=tokenizer,
        only=arguments.only,
        exclude=arguments.exclude,
        leakage=getattr(arguments, "leakage", None),
    )
    if isinstance(retriever, Lookup | Filtered):
        for event in retriever.prepare():
            progress("indexing words", event.done, event.total)
    if datastore is None:
        return retriever.retriever if isinstance(retriever, Filtered) else retriever, retriever
    return datastore, retriever


def open_datastore(
    name: str, tokenizer: "Tokenizer", chunk_size: int, model: str
) -> "Datastore | RetokenisedDatastore":
    """The datastore for a model to read from."""
    from indexing.retokenised import RetokenisedDatastore, open_for

    opened = open_for(name, tokenizer, chunk_size)
    if isinstance(opened, RetokenisedDatastore):
        print(
            f"datastore {opened.datastore.name!r} was built with the tokenizer "
            f"{opened.datastore.tokenizer_name!r}; its texts are read in the tokens of {model!r}",
            file=sys.stderr,
        )
    return opened
