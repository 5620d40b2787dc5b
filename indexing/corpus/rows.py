"""Tables, a document a row: .jsonl, .csv and .parquet; and what is done about rows that cannot be used."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Literal

from indexing.corpus import encodings
from indexing.corpus.documents import Document, clean, display_name, label, refuse_binary, shown
from indexing.corpus.report import Report
from indexing.errors import CorpusError

BadRows = Literal["few", "none", "any"]

_FEW = 0.01  # share of a file's rows that may be left out without asking
_HOPELESS = 1_000  # bad rows before the first good one, after which the others are not tried
_LONGEST_ROW = 32_000_000  # bytes
_LONGEST_FIELD = 16_000_000  # characters of a .csv; an unclosed quote swallows no more than this
_MOST_RESCUES = 100  # of rows behind an unclosed quote, each of which reads them again
_DENSE = 0.1  # share of commas and brackets, above which a long line of JSON would fill the memory
_SEPARATORS = ",;\t|"
_ODD_BYTE = re.compile("[\udc80-\udcff]")  # how an undecodable byte is kept until its row is looked at
_JSON_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}


class Empty(CorpusError):
    """A row without text: left out and counted, and no mistake of the table."""


@dataclass(frozen=True)
class Row:
    """What stands in one row. `where` names it in a sentence, `source` to people, `key` in an id."""

    where: str
    source: str
    key: str
    fields: dict


def documents_of(
    rows: Iterator[Row | CorpusError], name: str, column: str, bad_rows: BadRows, report: Report
) -> Iterator[Document]:
    """The documents in `rows`, which yields an error in the place of a row that could not be taken apart.

    bad_rows  "none" refuses the file at its first bad or empty row; "few" leaves out up to 1 % of the rows,
              and "any" all that are bad. Rows without text are left out and never count as bad.

    Raises CorpusError, after the good rows, if there were too many bad ones, or if no good one was there.
    """
    first: CorpusError | None = None
    good = bad = 0
    for row in rows:
        try:
            if isinstance(row, CorpusError):
                raise row
            document = _document(row, column, report)
        except Empty as error:
            if bad_rows == "none":
                raise
            report.empty_rows += 1
            first = first or error
        except CorpusError as error:
            first = error if bad == 0 else first
            bad += 1
            if bad_rows == "none" or (not good and bad >= _HOPELESS):
                raise first from None
            report.bad_rows.add(str(error))
        else:
            good += 1
            report.rows += 1
            yield document
    if first and (not good or (bad > _FEW * (good + bad) and bad_rows != "any")):
        if bad < 2 or not good:
            raise first
        raise CorpusError(
            f"{_first_sentence(str(first))} {bad - 1:,} more of {good + bad:,} rows are bad too."
        )
    if not good:
        raise CorpusError(f"{shown(name)} is empty: expected some text. Put text in or leave it out.")


def _first_sentence(text: str) -> str:
    return text if len(text) < 150 else text[:150].rsplit(". ", 1)[0].rstrip(".") + "."


def _document(row: Row, column: str, report: Report) -> Document:
    if column not in row.fields:
        keys = _quoted(list(row.fields))
        raise CorpusError(
            f'{row.where} has no "{column[:30]}", only {keys or "no fields at all"}. '
            f'Call the field with the text "{column[:30]}".'
        )
    text = row.fields[column]
    if not isinstance(text, str):
        raise CorpusError(f'{row.where}: expected "{column[:30]}" to be a string, got {_kind(text)}.')
    text, replaced = clean(text)
    refuse_binary(text.encode(), row.where)
    if not text.strip():
        raise Empty(f"{row.where} is empty: expected some text. Put text in or leave it out.")
    document = Document(
        id=_label(row, "id") or row.key,
        title=_label(row, "title") or row.source,
        text=text,
        source=row.source,
    )
    report.replaced += replaced
    return document


def _label(row: Row, key: str) -> str:
    value = row.fields.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise CorpusError(f'{row.where}: expected "{key}" to be a string, got {_kind(value)}.')
    return label(str(value))


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(json.dumps(display_name(name)[:20], ensure_ascii=False) for name in names[:3])


def _kind(value: object) -> str:
    return _JSON_KINDS.get(type(value), "a number")


def jsonl(file: BinaryIO, name: str, report: Report) -> Iterator[Row | CorpusError]:
    """A row for each line with something on it; ends of lines are \\n and nothing else."""
    encoding = _encoding(file, name, report)
    for number, at, line in _lines(file, encoding):
        where = f"Line {number} of {shown(name)}"
        if isinstance(line, CorpusError):
            yield CorpusError(f"{where} {line}")
            continue
        try:
            text = line if isinstance(line, str) else line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield CorpusError(
                f"{where} is not UTF-8 text: byte {at + error.start} is 0x{line[error.start]:02x}. "
                "It is probably in another encoding; save it as UTF-8 and try again."
            )
            continue
        if not text.strip():
            continue
        if isinstance(line, str) and _ODD_BYTE.search(text):
            yield _not_encoded(where, encoding)
            continue
        try:
            refuse_binary(line if isinstance(line, bytes) else text.encode("utf-8", "replace"), where)
            fields = _parse(text, where)
        except CorpusError as error:
            yield error
            continue
        yield Row(where, f"{name}, line {number}", f"{name}:{number}", fields)


def _not_encoded(where: str, encoding: str) -> CorpusError:
    return CorpusError(f"{where} is not {encoding.upper()} text. Save the file as UTF-8 and try again.")


@contextmanager
def _as_text(file: BinaryIO, encoding: str, newline: str) -> Iterator[io.TextIOWrapper]:
    """`file` as text, without closing it at the end. A byte that is not in the encoding becomes a lone
    surrogate (where there are units of bytes), so that its row can be refused and the others be read."""
    errors = "replace" if encoding in ("utf-16", "utf-32") else "surrogateescape"
    text = io.TextIOWrapper(file, encoding=encoding, errors=errors, newline=newline)
    try:
        yield text
    finally:
        text.detach()


def _lines(file: BinaryIO, encoding: str) -> Iterator[tuple[int, int, bytes | str | CorpusError]]:
    """(number, byte at which it begins, the line: bytes of UTF-8, or text of other encodings)."""
    too_long = CorpusError(f"has more than {_LONGEST_ROW:,} bytes. Split the text and try again.")
    if encoding != "utf-8":
        with _as_text(file, encoding, "\n") as text:
            number = 0
            while line := text.readline(_LONGEST_ROW):
                number += 1
                yield number, 0, too_long if _skip_rest(text, line) else line.removeprefix("\ufeff")
        return
    at = number = 0
    while line := file.readline(_LONGEST_ROW):
        number += 1
        begin, at = at, at + len(line)
        if skipped := _skip_rest(file, line):
            at += skipped
            yield number, begin, too_long
        elif begin == 0 and line.startswith(b"\xef\xbb\xbf"):
            yield number, 3, line[3:]
        else:
            yield number, begin, line


def _skip_rest(file: BinaryIO | io.TextIOWrapper, line: bytes | str) -> int:
    """Read on to the end of a line that `readline` has cut off; how much that was, 0 if it was not cut."""
    skipped = 0
    ends = ("\n", "\r") if isinstance(line, str) else (b"\n",)
    while line and not line.endswith(ends):
        line = file.readline(1 << 20)
        skipped += len(line)
    return skipped


def _parse(line: str, where: str) -> dict:
    if len(line) > 1_000_000 and sum(map(line.count, ",[{")) > _DENSE * len(line):
        raise CorpusError(f"{where} holds too many values. Expected an object with a text; split the line.")
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"{where} is not valid JSON: {error.msg} at character {error.pos + 1}. "
            "Mend the line and try again."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of over 4300 digits; nesting without end
        raise CorpusError(
            f"{where} cannot be read as JSON: a number is too long or lists are in lists without end. "
            "Mend the line and try again."
        ) from error
    if not isinstance(row, dict):
        raise CorpusError(f'{where}: expected an object like {{"text": "…"}}, got {_kind(row)}.')
    return row


def comma_separated(file: BinaryIO, name: str, column: str, report: Report) -> Iterator[Row | CorpusError]:
    """A row for each record below the line of column names. Fields are parted by commas, semicolons, tabs or
    bars: by the one that finds the wanted column. Raises CorpusError if none does."""
    csv.field_size_limit(_LONGEST_FIELD)
    encoding = _encoding(file, name, report)
    with _as_text(file, encoding, "") as text:
        yield from _records(_Lines(text), name, column, encoding)


def _records(lines: "_Lines", name: str, column: str, encoding: str) -> Iterator[Row | CorpusError]:
    head = next(lines, "").removeprefix("\ufeff")
    if not head.strip():
        return
    refuse_binary(head.encode("utf-8", "replace"), name)
    separator, names = _columns(head, name, column)
    rescues = 0
    records = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        lines.forget()
        begin = lines.number + 1
        where = f"Line {begin} of {shown(name)}"
        try:
            record = next(records, None)
        except csv.Error as error:
            # One bad quote may have swallowed good rows: only the line it is on is lost.
            reason = (
                "a field is too long" if "limit" in str(error) else "a quote is not closed or not doubled"
            )
            bad = CorpusError(f"{where} cannot be taken apart: {reason}. Mend the line and try again.")
            if len(lines.taken) > 1:
                rescues += 1
                if rescues > _MOST_RESCUES:
                    raise bad from error
                lines.give_back_all_but_first()
            yield bad
            records = csv.reader(lines, delimiter=separator, strict=True)
            continue
        if record is None:
            return
        if not any(field.strip() for field in record):
            continue
        if len(record) != len(names):
            yield CorpusError(
                f"{where} has {len(record):,} fields, expected {len(names):,} as in the first line. "
                "Put quotes around texts with separators in them."
            )
            continue
        if any(_ODD_BYTE.search(field) for field in record):
            yield _not_encoded(where, encoding)
            continue
        fields = dict(zip(names, record, strict=True))
        yield Row(where, f"{name}, line {begin}", f"{name}:{begin}", fields)


class _Lines:
    """Lines of a text file, each of bounded length, that can be given back."""

    def __init__(self, text: io.TextIOWrapper):
        self._text = text
        self._again: list[str] = []  # in reverse
        self.taken: list[str] = []  # since `forget`
        self.number = 0  # of the last one taken

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else self._text.readline(_LONGEST_FIELD)
        if not line:
            raise StopIteration
        self.taken.append(line)
        self.number += 1
        if _skip_rest(self._text, line):
            raise csv.Error("a line is beyond the limit")
        return line

    def forget(self) -> None:
        self.taken = []

    def give_back_all_but_first(self) -> None:
        self.number -= len(self.taken) - 1
        self._again += reversed(self.taken[1:])
        self.taken = []


def _columns(head: str, name: str, column: str) -> tuple[str, list[str]]:
    found: list[str] = []
    for separator in _SEPARATORS:
        try:
            record = next(csv.reader([head], delimiter=separator), [])
        except csv.Error:
            continue
        names = [field.strip() for field in record]
        if column in names:
            return separator, names
        found = max(found, names, key=len)
    raise no_column(name, column, found)


def no_column(name: str, column: str, columns: Sequence[str]) -> CorpusError:
    keys = _quoted(columns)
    return CorpusError(
        f'{shown(name)} has no column "{column[:30]}", only {keys or "none"}. '
        'Call the column with the text "text", or say what it is called.'
    )


def parquet(answers: Iterator[dict], name: str, column: str) -> Iterator[Row | CorpusError]:
    """Rows of what `parse` answers. Raises CorpusError if the column is not there."""
    names: list[str] = []
    for answer in answers:
        if "columns" in answer:
            names = answer["has"]
            if column not in names:
                raise no_column(name, column, answer["columns"])
        for number, *values in answer.get("rows", ()):
            where = f"Row {number} of {shown(name)}"
            fields = dict(zip(names, values, strict=True))
            if fields[column] is None:
                yield Empty(f"{where} is empty: expected some text. Put text in or leave it out.")
            else:
                yield Row(where, f"{name}, row {number}", f"{name}:{number}", fields)


def _encoding(file: BinaryIO, name: str, report: Report) -> str:
    encoding, guessed = encodings.of_lines(file.read(encodings.SAMPLE))
    file.seek(0)
    report.encodings[encoding] += 1
    if guessed:
        report.guesses.add(f"{shown(name)} was read as {encoding}")
    return encoding
