"""What a corpus is made of: documents, and the names and texts that are fit to show."""

import codecs
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from indexing.errors import CorpusError

# Characters. A tokenizer that is given a text of 50 MB at once takes minutes and gigabytes, and during one
# piece nobody can stop the work.
PIECE = 500_000

_MAX_CONTROLS = 0.005  # share of control characters above which a text is taken for binary
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\r\f")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_BEGIN_OF_BLANKS = re.compile(r"(?<=\S)\s")
_SHOWN_NAME = 48  # characters of a file's name within a sentence


@dataclass(frozen=True)
class Document:
    """One text. `title` and `source` (file, and line or row of a table) are for people; `id` names it."""

    id: str
    title: str
    text: str
    source: str

    @property
    def characters(self) -> int:
        return len(self.text)

    def pieces(self) -> Iterator[str]:
        """The text in pieces of at most `PIECE` characters, see `cut_pieces`."""
        return cut_pieces(self.text[at : at + PIECE] for at in range(0, len(self.text), PIECE))


@dataclass(frozen=True)
class StreamedDocument:
    """A `Document` of a file too long to hold: each call of `pieces` reads the file again.

    characters   how many; of a file too long to be looked through beforehand, the bytes: never fewer
    digest       of the file's bytes, for finding the same file again
    """

    id: str
    title: str
    source: str
    characters: int
    digest: bytes
    encoding: str
    open: Callable[[], BinaryIO] = field(repr=False, compare=False)

    @property
    def text(self) -> str:
        """All of it at once: for those who know that it fits into memory."""
        return "".join(self.pieces())

    def pieces(self) -> Iterator[str]:
        """As `Document.pieces`. Raises CorpusError if the file has changed or ends its encoding midway."""
        with self.open() as file:
            yield from cut_pieces(decoded_blocks(file, self.encoding, self.title))


def cut_pieces(blocks: Iterable[str]) -> Iterator[str]:
    """The same text in pieces of at most `PIECE` characters, which together are the text; nothing for none.

    Cuts are before blanks where there are any: byte-level tokenizers cut there too, so that a text has the
    same tokens whole and in pieces. They do not depend on the blocks.
    """
    rest = ""
    for block in blocks:
        rest += block
        while len(rest) > PIECE:
            at = _last_begin_of_blanks(rest)
            yield rest[:at]
            rest = rest[at:]
    if rest:
        yield rest


def _last_begin_of_blanks(text: str) -> int:
    """Where to cut within the first `PIECE` characters: as late as possible."""
    for width in (1000, 30_000, PIECE):
        begins = [match.start() for match in _BEGIN_OF_BLANKS.finditer(text, PIECE - width, PIECE + 1)]
        if begins:
            return begins[-1]
    return PIECE


def decoded_blocks(file: BinaryIO, encoding: str, name: str) -> Iterator[str]:
    """The text of a file, strictly decoded, with \\n as line ends; a byte order mark is left out.

    Raises CorpusError, naming the byte, where the bytes are not in this encoding.
    """
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    ends = io.IncrementalNewlineDecoder(None, translate=True)
    read, first = 0, True
    while True:
        data = file.read(PIECE)
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise not_encoded(name, encoding, read - waiting + error.start, error) from error
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        text = ends.decode(text, final=not data)
        if text:
            yield text
        if not data:
            return
        read += len(data)


def not_encoded(where: str, encoding: str, at: int, error: UnicodeDecodeError) -> CorpusError:
    label = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
    byte = error.object[error.start]
    return CorpusError(
        f"{shown(where)} is not {label} text: byte {at} is 0x{byte:02x}. "
        "It is probably in another encoding; save it as UTF-8 and try again."
    )


def clean(text: str) -> tuple[str, int]:
    """(`text` with \\n as line ends and U+FFFD for lone surrogates, how many of those there were). JSON
    allows lone surrogates and no encoder does."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return (text, 0) if text.isascii() else _LONE_SURROGATE.subn("\ufffd", text)


def label(text: str) -> str:
    """`text` on one line, fit for a title or an id."""
    return " ".join(clean(text)[0].split())


def controls(data: bytes) -> int:
    """How many bytes are control characters that no text holds."""
    return len(data) - len(data.translate(None, _CONTROLS))


def refuse_binary(data: bytes, where: str) -> None:
    """Raise CorpusError if `data`, in ASCII or an extension of it, is no text."""
    if b"\0" in data or looks_binary(controls(data), len(data)):
        raise binary(where)


def looks_binary(num_controls: int, size: int) -> bool:
    return num_controls > 1 + _MAX_CONTROLS * size


def binary(where: str) -> CorpusError:
    return CorpusError(
        f"{shown(where)} looks binary: it holds NUL bytes or control characters. "
        "Expected plain text in UTF-8."
    )


def empty(where: str) -> CorpusError:
    return CorpusError(f"{shown(where)} is empty: expected some text. Put text in or leave it out.")


def display_name(name: str) -> str:
    """`name` made fit to show: no folders, no control or direction-changing characters, 200 at most."""
    return display_title(name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])


def display_title(title: str) -> str:
    """As `display_name`, but a title may have slashes."""
    title = unicodedata.normalize("NFC", title)
    title = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in title).strip()
    return title if len(title) <= 200 else f"{title[:180]}…{title[-19:]}"


def shown(name: str) -> str:
    """`name` as it stands within a sentence: a long one loses its middle."""
    half = _SHOWN_NAME // 2
    return name if len(name) <= _SHOWN_NAME else f"{name[:half]}…{name[-half + 1 :]}"
