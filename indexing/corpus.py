"""Text files -> documents. Everything strange about people's files is met here and nowhere else.

A document is kept whole or refused with a sentence that names the file, the place in it and the remedy;
nothing is skipped in silence. File names are only ever shown: an upload's own name comes in as `names`,
apart from the path it was stored under.
"""

import codecs
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexing.errors import CorpusError

TEXT_SUFFIXES = (".txt", ".md")
JSONL_SUFFIX = ".jsonl"
SUFFIXES = (*TEXT_SUFFIXES, JSONL_SUFFIX)

_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\r\f")
_MAX_CONTROLS = 0.005  # share of control characters above which a text is taken for binary
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_JSON_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}


@dataclass(frozen=True)
class Document:
    """One text. `title` and `source` (file, and line of a .jsonl) are for people; `id` names it."""

    id: str
    title: str
    text: str
    source: str

    def pieces(self) -> Iterator[str]:
        """The text in order, in pieces that fit in memory many times over."""
        yield self.text


def read_files(paths: Iterable[Path | str], names: Sequence[str] | None = None) -> Iterator[Document]:
    """Documents of .txt and .md files (one each) and .jsonl files (one a line: "text", and if wanted
    "title" and "id"), in order.

    names  the files' names to show, where they differ from the paths'

    Raises CorpusError at the first file or line that cannot be used, naming it; mend it and read again.
    """
    paths = [Path(path) for path in paths]
    if not paths:
        raise CorpusError(f"Expected at least one file, got none. Give {_either(SUFFIXES)} files.")
    shown = [display_name(name) for name in (names or [path.name for path in paths])]
    for path, name in zip(paths, shown, strict=True):
        suffix = Path(name).suffix.lower()
        if suffix not in SUFFIXES:
            raise CorpusError(
                f"Cannot read {name}: expected a {_either(SUFFIXES)} file. Save it as plain text first."
            )
        try:
            if suffix == JSONL_SUFFIX:
                yield from _read_jsonl(path, name)
            else:
                text = _decode(path.read_bytes(), name)
                yield _document(text, name, id=name, title=name, source=name)
        except OSError as error:
            raise CorpusError(
                f"Cannot read {name}: {error.strerror}. Check that the file exists and is yours to read."
            ) from error


def read_text(text: str, title: str = "Pasted text") -> Document:
    """One document of `text` as it was typed or pasted. Raises CorpusError if there is nothing in it."""
    title = display_name(title) or "Pasted text"
    _refuse_binary(text.encode("utf-8", errors="replace"), "The text")
    return _document(text, "The text", id=title, title=title, source="pasted text")


def display_name(name: str) -> str:
    """`name` made fit to show: no folders, no control or direction-changing characters, 200 at most."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])
    name = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in name).strip()
    return name if len(name) <= 200 else f"{name[:180]}…{name[-19:]}"


def _read_jsonl(path: Path, name: str) -> Iterator[Document]:
    found = 0
    begin = 0  # byte of the file at which the line begins
    with open(path, "rb") as file:
        # A binary file ends lines at \n only; str.splitlines would also cut at U+2028 inside strings.
        for number, line in enumerate(file, start=1):
            text = _decode(line, name, begin)
            begin += len(line)
            if text.strip():
                yield _parse_line(text, name, number)
                found += 1
    if not found:
        raise _empty(name)


def _parse_line(line: str, name: str, number: int) -> Document:
    where = f"Line {number} of {name}"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"{where} is not valid JSON: {error.msg} at character {error.pos + 1}. "
            "Nothing was taken from the file; mend the line and try again."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of over 4300 digits; nesting without end
        raise CorpusError(f"{where} cannot be read as JSON: {error}. Mend the line and try again.") from error
    if not isinstance(row, dict):
        raise CorpusError(f'{where}: expected an object like {{"text": "…"}}, got {_kind(row)}.')
    if "text" not in row:
        keys = ", ".join(json.dumps(display_name(key)) for key in list(row)[:5]) or "no fields at all"
        raise CorpusError(f'{where} has no "text", only {keys}. Call the field with the text "text".')
    if not isinstance(row["text"], str):
        raise CorpusError(f'{where}: expected "text" to be a string, got {_kind(row["text"])}.')
    _refuse_binary(row["text"].encode("utf-8", errors="replace"), where)
    source = f"{name}, line {number}"
    return _document(
        row["text"],
        where,
        id=_label(row, "id", where) or f"{name}:{number}",
        title=_label(row, "title", where) or source,
        source=source,
    )


def _label(row: dict, key: str, where: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise CorpusError(f'{where}: expected "{key}" to be a string, got {_kind(value)}.')
    return " ".join(_clean(str(value)).split())


def _document(text: str, where: str, id: str, title: str, source: str) -> Document:
    text = _clean(text)
    if not text.strip():
        raise _empty(where)
    return Document(id, title, text, source)


def _clean(text: str) -> str:
    """Line ends as \\n, and U+FFFD for the lone surrogates that JSON allows and no encoder does."""
    return _LONE_SURROGATE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def _decode(data: bytes, name: str, begin: int = 0) -> str:
    """Strict UTF-8, with or without a byte order mark. `begin` is where in the file `data` begins."""
    if begin == 0:
        if data.startswith(_UTF16_MARKS):
            raise CorpusError(f"{name} is in UTF-16, expected UTF-8. Save it as UTF-8 and try again.")
        if data.startswith(codecs.BOM_UTF8):
            begin, data = len(codecs.BOM_UTF8), data[len(codecs.BOM_UTF8) :]
    _refuse_binary(data, name)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{name} is not UTF-8 text: byte {begin + error.start} is 0x{data[error.start]:02x}. "
            "It is probably in another encoding; save it as UTF-8 and try again."
        ) from error


def _refuse_binary(data: bytes, where: str) -> None:
    controls = len(data) - len(data.translate(None, _CONTROLS))
    if b"\0" in data or controls > 1 + _MAX_CONTROLS * len(data):
        raise CorpusError(
            f"{where} looks binary: it holds NUL bytes or control characters. Expected plain text in UTF-8."
        )


def _empty(where: str) -> CorpusError:
    return CorpusError(f"{where} is empty: expected some text. Put text in or leave it out.")


def _kind(value: object) -> str:
    return _JSON_KINDS.get(type(value), "a number")


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
