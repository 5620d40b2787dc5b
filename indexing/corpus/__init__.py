"""Files -> documents. Everything strange about people's files is met here and nowhere else.

A document is kept whole or refused with a sentence that names the file, the place in it and the remedy;
what is left out instead stands in the `Report`. File names are only ever shown: an upload's own name comes
in as `names`, apart from the path it was stored under.

reading     files, folders and archives, and which reader each kind has
rows        tables: .jsonl, .csv, .parquet, and what is done about bad rows
parse       web pages, PDF, Word and Parquet files, in a `child` process with limits
archives    .zip
encodings   which one a file is in
duplicates  documents that repeat earlier ones; apart, so that the child need not import numpy
"""

from indexing.corpus.child import Limits
from indexing.corpus.documents import Document, StreamedDocument, display_name
from indexing.corpus.reading import JSONL_SUFFIX, SUFFIXES, TABLE_SUFFIXES, read_files, read_text
from indexing.corpus.report import Report

__all__ = [
    "JSONL_SUFFIX",
    "SUFFIXES",
    "TABLE_SUFFIXES",
    "Document",
    "Limits",
    "Report",
    "StreamedDocument",
    "display_name",
    "read_files",
    "read_text",
]
