"""Files, folders and archives -> documents."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipInfo

from indexing.corpus import archives, encodings, rows
from indexing.corpus.child import Child, Limits
from indexing.corpus.documents import (
    Document,
    StreamedDocument,
    clean,
    display_name,
    display_title,
    empty,
    label,
    refuse_binary,
    shown,
)
from indexing.corpus.report import Report
from indexing.corpus.rows import BadRows
from indexing.errors import CorpusError

TEXT_SUFFIXES = (".txt", ".md")
# Suffix -> the parser in `parse`.
PARSED_SUFFIXES = {".html": "html", ".htm": "html", ".pdf": "pdf", ".docx": "docx"}
JSONL_SUFFIX = ".jsonl"
TABLE_SUFFIXES = (JSONL_SUFFIX, ".csv", ".parquet")
SUFFIXES = (*TEXT_SUFFIXES, *PARSED_SUFFIXES, *TABLE_SUFFIXES, ".zip")

_HELD = 8_000_000  # bytes of a text file, up to which it is read at once
# Up to this size a text file is looked through before it is given on, so that a bad one is refused early.
_LOOKED_THROUGH = 128_000_000


@dataclass(frozen=True)
class File:
    """A file, or a member of an archive, and the name it is shown by."""

    path: Path
    name: str
    archive: archives.Archive | None = None
    member: ZipInfo | None = None

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix.lower()

    @property
    def size(self) -> int:
        return self.member.file_size if self.member else self.path.stat().st_size

    def open(self) -> BinaryIO:
        return self.archive.open(self.member) if self.archive else open(self.path, "rb")

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """A path that others can read it by: a member is put into a file of its own for the time being."""
        if not self.archive:
            yield self.path
            return
        with tempfile.NamedTemporaryFile(prefix="retro-member-") as copy:
            with self.open() as file:
                shutil.copyfileobj(file, copy, 1 << 20)
            copy.flush()
            yield Path(copy.name)


def read_files(
    paths: Iterable[Path | str],
    names: Sequence[str] | None = None,
    *,
    column: str = "text",
    bad_rows: BadRows = "few",
    together: bool = False,
    report: Report | None = None,
    limits: Limits | None = None,
) -> Iterator[Document | StreamedDocument]:
    """Documents of files, and of folders and .zip archives of them, in order; folders sorted by name.

    .txt .md .html .pdf .docx   one document each, called by its title if it has one and by its name else
    .jsonl .csv .parquet        one document a row: its text, and if there, "title" and "id"

    names     the files' names to show, where they differ from the paths'
    column    the field or column with the text
    bad_rows  "few" leaves out up to 1 % of a table's rows, "any" however many, "none" not one; see `rows`.
              With "none", a file in a folder or archive that cannot be read is refused too, not left out.
    together  the files are treated as those of one folder: one that cannot be read is left out and told, and
              refused only if there is no other
    report    told what was left out and what is worth knowing
    limits    of each file that is read in a process of its own

    A text file of more than 8 MB comes as a `StreamedDocument`. Raises CorpusError at the first file that
    cannot be used, naming it: before its first document if it can be known, after the good rows of a table
    that has too many bad ones.
    """
    paths = [Path(path) for path in paths]
    if not paths:
        raise CorpusError(f"Expected at least one file, got none. Give {either(SUFFIXES)} files.")
    names = [display_name(name) for name in (names or [path.name or str(path) for path in paths])]
    report = report if report is not None else Report()
    with Child(limits or Limits()) as child:
        reader = _Reader(child, column, bad_rows, report)
        sources = [reader.read(path, name) for path, name in zip(paths, names, strict=True)]
        for document in reader.read_all(sources) if together else chain.from_iterable(sources):
            report.documents += 1
            yield document


def read_text(text: str, title: str = "Pasted text") -> Document:
    """One document of `text` as it was typed or pasted. Raises CorpusError if there is nothing in it."""
    title = display_name(title) or "Pasted text"
    text, _ = clean(text)
    refuse_binary(text.encode(), "The text")
    if not text.strip():
        raise empty("The text")
    return Document(title, title, text, "pasted text")


class _Reader:
    """The kinds of file and how each is read."""

    def __init__(self, child: Child, column: str, bad_rows: BadRows, report: Report):
        self._child, self._column, self._bad_rows, self._report = child, column, bad_rows, report

    def read(self, path: Path, name: str) -> Iterator[Document | StreamedDocument]:
        with _errors_named(name):
            mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            yield from self._folder_or_archive(self._files_below(path, name), name)
        elif not stat.S_ISREG(mode):
            raise CorpusError(f"Cannot read {shown(name)}: it is not a regular file. Give files or folders.")
        elif Path(name).suffix.lower() == ".zip":
            yield from self._folder_or_archive(self._members(path, name), name)
        else:
            yield from self._read_file(File(path, name))

    def _folder_or_archive(self, files: Iterable[File], name: str) -> Iterator[Document | StreamedDocument]:
        nothing = True
        for document in self.read_all(map(self._member, files)):
            nothing = False
            yield document
        if nothing:
            raise CorpusError(
                f"Cannot read {shown(name)}: there are no files in it that can be read. "
                f"Expected {either(SUFFIXES)} files."
            )

    def _member(self, file: File) -> Iterator[Document | StreamedDocument]:
        if file.suffix == ".zip" and not file.archive:
            return self._folder_or_archive(self._members(file.path, file.name), file.name)
        return self._read_file(file)

    def read_all(
        self, sources: Iterable[Iterator[Document | StreamedDocument]]
    ) -> Iterator[Document | StreamedDocument]:
        """Documents of files kept together: one that cannot be read does not keep the others out. Raises its
        CorpusError if there are no others."""
        nothing = True
        first: CorpusError | None = None
        for documents in sources:
            begun = False
            try:
                for document in documents:
                    begun, nothing = True, False
                    yield document
            except CorpusError as error:
                if begun or self._bad_rows == "none":
                    raise
                first = first or error
                self._report.files_skipped.add(str(error))
        if nothing and first:
            raise first

    def _files_below(self, folder: Path, name: str) -> Iterator[File]:
        """Depth first and sorted; what is hidden or reached through a link is not read."""
        waiting = [(folder, name)]
        while waiting:
            path, shown_as = waiting.pop()
            try:
                if path.is_dir():
                    entries = sorted(os.scandir(path), key=lambda entry: entry.name, reverse=True)
                else:
                    yield File(path, shown_as)
                    continue
            except OSError as error:
                if path == folder:
                    raise _cannot_read(shown_as, error) from error
                self._report.files_skipped.add(str(_cannot_read(shown_as, error)))
                continue
            for entry in entries:
                label_of_entry = f"{shown_as}/{display_name(entry.name)}"
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                    self._report.files_skipped.add(
                        f"Cannot read {shown(label_of_entry)}: links and devices in folders are not followed."
                    )
                    continue
                waiting.append((Path(entry.path), label_of_entry))

    def _members(self, path: Path, name: str) -> Iterator[File]:
        with _errors_named(name):
            archive = archives.Archive(path, name)
        for member in archive.members:
            parts = [display_name(part) for part in member.filename.replace("\\", "/").split("/") if part]
            if any(part.startswith(".") or part == "__MACOSX" for part in parts):
                continue
            yield File(path, "/".join([name, *parts]), archive, member)

    def _read_file(self, file: File) -> Iterator[Document | StreamedDocument]:
        if file.suffix == ".zip":
            raise CorpusError(
                f"Cannot read {shown(file.name)}: it is an archive in another. Unpack it first."
            )
        if file.suffix not in SUFFIXES:
            raise CorpusError(
                f"Cannot read {shown(file.name)}: expected a {either(SUFFIXES)} file. "
                "Save it as plain text first."
            )
        with _errors_named(file.name):
            if file.suffix in TEXT_SUFFIXES:
                yield self._text(file)
            elif file.suffix in PARSED_SUFFIXES:
                yield self._parsed(file, PARSED_SUFFIXES[file.suffix])
            else:
                yield from self._rows(file)
        self._report.files += 1

    def _text(self, file: File) -> Document | StreamedDocument:
        if file.size > _HELD:
            return self._streamed(file)
        with file.open() as opened:
            data = opened.read()
        text, encoding, guessed = encodings.decode(data, file.name)
        self._note_encoding(file, encoding, guessed)
        return self._document(file, text)

    def _streamed(self, file: File) -> StreamedDocument:
        with file.open() as opened:
            looked = encodings.look_through(opened, file.name, _LOOKED_THROUGH)
        self._note_encoding(file, looked.encoding, looked.guessed)
        size = file.size
        return StreamedDocument(
            id=file.name,
            title=file.name,
            source=file.name,
            characters=looked.characters if looked.whole else size,
            digest=looked.digest + size.to_bytes(8, "little"),
            encoding=looked.encoding,
            open=file.open,
        )

    def _parsed(self, file: File, kind: str) -> Document:
        title, pieces = "", []
        with file.on_disk() as path, closing(self._child.answers(kind, path, file.name)) as answers:
            for answer in answers:
                title = answer.get("title", title)
                pieces.append(answer.get("piece", ""))
                if "note" in answer:
                    self._report.notes.add(f"{shown(file.name)}: {answer['note']}")
                if "encoding" in answer:
                    self._note_encoding(file, answer["encoding"], answer["guessed"])
        return self._document(file, "".join(pieces).strip(), title)

    def _document(self, file: File, text: str, title: str = "") -> Document:
        text, replaced = clean(text)
        self._report.replaced += replaced
        if not text.strip():
            if file.suffix == ".pdf":
                raise CorpusError(
                    f"Cannot read {shown(file.name)}: there is no text in it, only pictures perhaps. "
                    "Have their text recognised first."
                )
            raise empty(file.name)
        return Document(file.name, display_title(label(title)) or file.name, text, file.name)

    def _rows(self, file: File) -> Iterator[Document]:
        if file.suffix == ".parquet":
            with (
                file.on_disk() as path,
                closing(self._child.answers("parquet", path, file.name, self._column)) as answers,
            ):
                yield from self._documents_of(rows.parquet(answers, file.name, self._column), file)
            return
        with file.open() as opened:
            if file.suffix == JSONL_SUFFIX:
                table = rows.jsonl(opened, file.name, self._report)
            else:
                table = rows.comma_separated(opened, file.name, self._column, self._report)
            with closing(table):  # before the file is
                yield from self._documents_of(table, file)

    def _documents_of(self, table: Iterator[rows.Row | CorpusError], file: File) -> Iterator[Document]:
        return rows.documents_of(table, file.name, self._column, self._bad_rows, self._report)

    def _note_encoding(self, file: File, encoding: str, guessed: bool) -> None:
        self._report.encodings[encoding] += 1
        if guessed:
            self._report.guesses.add(f"{shown(file.name)} was read as {encoding}")


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cannot_read(name, error) from error


def _cannot_read(name: str, error: OSError) -> CorpusError:
    return CorpusError(
        f"Cannot read {shown(name)}: {error.strerror}. Check that the file exists and is yours to read."
    )


def either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
