"""What the commands that take people's files share: how files are named, read and told of."""

import argparse
import sys
from collections.abc import Iterator
from typing import get_args

from indexing import corpus
from indexing.corpus.duplicates import noting_repeats
from indexing.corpus.rows import BadRows


def add_files(command: argparse.ArgumentParser) -> None:
    kinds = ", ".join(corpus.SUFFIXES)
    command.add_argument("files", metavar="FILE", nargs="+", help=f"{kinds} files, or folders of them")
    command.add_argument(
        "--text-column",
        metavar="NAME",
        default="text",
        help="column or field of .csv, .parquet and .jsonl files that holds the text (%(default)s)",
    )
    command.add_argument(
        "--bad-rows",
        choices=get_args(BadRows),
        default="few",
        help="how many bad rows may be left out: at most 1 %% of a file (few, the default), none, or any",
    )


def read(arguments: argparse.Namespace) -> tuple[Iterator[corpus.Document], corpus.Report]:
    """(the documents, a report that is complete after the last of them)."""
    report = corpus.Report()
    documents = corpus.read_files(
        arguments.files, column=arguments.text_column, bad_rows=arguments.bad_rows, report=report
    )
    return noting_repeats(documents, report), report


def tell(report: corpus.Report) -> None:
    for sentence in report.sentences():
        print(sentence, file=sys.stderr)
