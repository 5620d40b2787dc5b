"""What reading a corpus met on the way, to be told when it is done."""

from collections import Counter
from dataclasses import dataclass, field

_EXAMPLES = 20  # of each kind are listed; all are counted


@dataclass
class Told:
    """Sentences of one kind: how many, and the first few."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, sentence: str) -> None:
        self.count += 1
        if len(self.first) < _EXAMPLES:
            self.first.append(sentence)


@dataclass
class Report:
    """Filled while documents are read; complete after the last of them.

    files, documents  how many were read
    rows              rows of tables that were taken, whatever their file
    bad_rows          sentences on rows that cannot be used; they were left out
    empty_rows        how many rows had no text; they were left out
    files_skipped     sentences on files of folders and archives, or given together, that were left out
    notes             sentences on what was left out of a document, such as a page
    encodings         encoding -> files in it, of the files that are text
    guesses           sentences on files whose encoding was guessed
    replaced          lone surrogates that became U+FFFD
    repeats           sentences on documents with the text of an earlier one
    near_repeats      sentences on documents with nearly the text of an earlier one
    compared          documents that were compared with earlier ones
    """

    files: int = 0
    documents: int = 0
    rows: int = 0
    bad_rows: Told = field(default_factory=Told)
    empty_rows: int = 0
    files_skipped: Told = field(default_factory=Told)
    notes: Told = field(default_factory=Told)
    encodings: Counter[str] = field(default_factory=Counter)
    guesses: Told = field(default_factory=Told)
    replaced: int = 0
    repeats: Told = field(default_factory=Told)
    near_repeats: Told = field(default_factory=Told)
    compared: int = 0

    def sentences(self, examples: int = _EXAMPLES) -> list[str]:
        """Plain text for people: what was left out or is worth a look, of each kind so many in detail;
        nothing if there is nothing."""
        told = []
        for kind, one, many in (
            (self.files_skipped, "file was left out", "files were left out"),
            (self.bad_rows, "row was left out", "rows were left out"),
            (self.notes, "part of a document was left out", "parts of documents were left out"),
            (self.guesses, "encoding was guessed", "encodings were guessed"),
            (self.repeats, "document repeats an earlier one", "documents repeat earlier ones"),
            (
                self.near_repeats,
                "document nearly repeats an earlier one",
                "documents nearly repeat earlier ones",
            ),
        ):
            detailed = kind.first[:examples]
            if kind.count:
                told.append(f"{kind.count:,} {one if kind.count == 1 else many}{':' if detailed else '.'}")
                told += [f"– {sentence}" for sentence in detailed]
            if detailed and kind.count > len(detailed):
                told.append(f"– and {kind.count - len(detailed):,} more")
        if self.empty_rows:
            told.append(f"{_count(self.empty_rows, 'row')} without text: left out.")
        if self.replaced:
            told.append(f"{_count(self.replaced, 'broken character')}: replaced by U+FFFD.")
        return told


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
