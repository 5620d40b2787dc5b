"""Which encoding a file is in: its byte order mark, else strict UTF-8, else a guess that must be sure."""

import codecs
import hashlib
import re
from dataclasses import dataclass
from typing import BinaryIO

from indexing.corpus import documents

SAMPLE = 1_000_000  # bytes that a guess looks at
_AT_ONCE = 1 << 20
# The longer mark first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WIDE = ("utf-16", "utf-32")  # whose bytes say nothing about control characters

# What a guess may answer, and how much better than others it must fit: the library's measures do not know
# that a French text is far likelier in Windows-1252 than in Baltic Windows-1257.
_COMMON = {
    "cp1252": 0.0, "cp1251": 0.0, "cp1250": 0.0, "cp1253": 0.0, "cp1254": 0.0, "cp1255": 0.0, "cp1256": 0.0,
    "gb18030": 0.0, "big5": 0.0, "cp932": 0.0, "euc_jp": 0.0, "cp949": 0.05, "koi8_r": 0.0, "cp866": 0.0,
    "iso8859_2": 0.0, "iso8859_5": 0.1, "iso8859_7": 0.1, "iso8859_15": 0.1, "mac_roman": 0.1, "cp850": 0.1,
    "cp1257": 0.1,
}  # fmt: skip
_FOREIGN = bytes(range(128, 256))
_MIN_FOREIGN = 6  # bytes beyond ASCII; fewer tell nothing about a language
_MAX_CHAOS = 0.15
_MARGIN = 0.03  # by which the best guess must lead those that would give another text

_WITHIN_WORDS = re.compile("(?<=[a-zß-ÿ])[ŠŽŒŸÀ-ÖØ-Þ‚ƒ„†‡ˆ‰‹•˜™›¡-¶¸-¿—…](?=[a-zß-ÿ])")
_MAX_GARBLED = 0.08
_MULTIBYTE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_HTML_CHARSET = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([a-zA-Z0-9_.:-]{2,40})""", re.IGNORECASE
)


@dataclass(frozen=True)
class Looked:
    """What looking through a file found. `characters` and `digest` are of what was looked through."""

    encoding: str
    guessed: bool
    characters: int
    digest: bytes
    whole: bool


def look_through(file: BinaryIO, name: str, most: int) -> Looked:
    """Find out the encoding of a seekable file by decoding up to `most` bytes of it, in bounded memory.

    Raises CorpusError if it is not text, or in no encoding that can be told, naming the first odd byte.
    """
    encoding = marked(file.read(4))
    try:
        return _decode_all(file, encoding or "utf-8", name, most, guessed=False)
    except _Odd as odd:
        if encoding is None:
            guess = _guess_around(file, odd.at)
            if guess:
                try:
                    return _decode_all(file, guess, name, most, guessed=True)
                except _Odd:
                    pass
        raise documents.not_encoded(name, encoding or "utf-8", odd.at, odd.error) from odd.error


def decode(data: bytes, name: str) -> tuple[str, str, bool]:
    """(text, encoding, whether that is a guess) of a whole file. Raises as `look_through`."""
    encoding = marked(data[:4])
    if encoding not in _WIDE:
        documents.refuse_binary(data, name)
    try:
        text = data.decode(encoding or "utf-8").removeprefix("\ufeff")
        if encoding in _WIDE:
            documents.refuse_binary(text.encode("utf-8", "replace"), name)
        return text, encoding or "utf-8", False
    except UnicodeDecodeError as error:
        guess = None if encoding else guess_encoding(_window(data, error.start))
        if guess:
            try:
                return data.decode(guess), guess, True
            except UnicodeDecodeError:
                pass
        raise documents.not_encoded(name, encoding or "utf-8", error.start, error) from error


def decode_html(data: bytes, name: str) -> tuple[str, str, bool]:
    """As `decode`, but believing a page that says its encoding, if that works out."""
    declared = _HTML_CHARSET.search(data[:4096])
    if declared and marked(data[:4]) is None:
        documents.refuse_binary(data, name)
        encoding = declared[1].decode("ascii").lower()
        # What browsers do: pages that call themselves Latin-1 are Windows-1252.
        encoding = "cp1252" if encoding in ("iso-8859-1", "latin1", "ascii", "us-ascii") else encoding
        try:
            return data.decode(encoding), encoding, False
        except (LookupError, UnicodeError):  # no such encoding, one that is no text encoding, or not true
            pass
    return decode(data, name)


def of_lines(head: bytes) -> tuple[str, bool]:
    """(encoding, whether that is a guess) of a file read line by line, from its beginning.

    What is in no encoding that can be told is taken for UTF-8: its odd lines are then refused one by one.
    """
    encoding = marked(head[:4])
    if encoding:
        return encoding, False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        guess = guess_encoding(_window(head, error.start))
        if guess:
            return guess, True
    return "utf-8", False


def marked(head: bytes) -> str | None:
    """The encoding that a byte order mark stands for."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)


def guess_encoding(sample: bytes) -> str | None:
    """The encoding that makes `sample` a text, if one does so clearly better than all others."""
    if _foreign(sample) < _MIN_FOREIGN or _is_broken_utf8(sample):
        return None
    from charset_normalizer import from_bytes

    found: dict[str, tuple[float, str]] = {}
    for match in from_bytes(sample, cp_isolation=list(_COMMON)):
        if match.chaos > _MAX_CHAOS or _is_garbled(str(match)):
            continue
        for encoding in match.could_be_from_charset:
            if encoding in _COMMON:
                cost = match.chaos - match.coherence / 2 + _COMMON[encoding]
                found[encoding] = (cost, str(match))
    if not found:
        return None
    order = list(_COMMON)
    best = min(found, key=lambda encoding: (found[encoding][0], order.index(encoding)))
    cost, text = found[best]
    rivals = [other for other, (its, that) in found.items() if that != text and its < cost + _MARGIN]
    # Windows-1252 is by far the commonest of all: it needs no lead.
    return best if not rivals or best == "cp1252" else None


def _is_broken_utf8(sample: bytes) -> bool:
    """Whether most characters beyond ASCII are proper UTF-8: then the others are damage, and any guess
    would garble the proper ones."""
    rest, proper = _MULTIBYTE.subn(b"", sample)
    return proper > _foreign(rest)


def _is_garbled(text: str) -> bool:
    """Whether signs and capitals stand within words, as where a text of DOS is read as one of Windows."""
    foreign = sum(not character.isascii() for character in text)
    return len(_WITHIN_WORDS.findall(text)) > _MAX_GARBLED * foreign


def _foreign(data: bytes) -> int:
    """How many bytes are beyond ASCII."""
    return len(data) - len(data.translate(None, _FOREIGN))


class _Odd(Exception):
    """The byte `at` does not belong to the encoding."""

    def __init__(self, at: int, error: UnicodeDecodeError):
        super().__init__(at)
        self.at, self.error = at, error


def _decode_all(file: BinaryIO, encoding: str, name: str, most: int, guessed: bool) -> Looked:
    file.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    digest = hashlib.blake2b(digest_size=16)
    read = characters = num_controls = 0
    while read < most:
        data = file.read(_AT_ONCE)
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise _Odd(read - waiting + error.start, error) from error
        looked_at = text.encode("utf-8", "replace") if encoding in _WIDE else data
        if b"\0" in looked_at:
            raise documents.binary(name)
        num_controls += documents.controls(looked_at)
        characters += len(text)
        read += len(data)
        digest.update(data)
        if not data:
            break
    if documents.looks_binary(num_controls, read):
        raise documents.binary(name)
    return Looked(encoding, guessed, characters, digest.digest(), whole=read < most)


def _guess_around(file: BinaryIO, at: int) -> str | None:
    file.seek(0)
    head = file.read(SAMPLE // 2)
    if at >= len(head):
        file.seek(max(len(head), at - SAMPLE // 4))
        head = file.read(SAMPLE // 2)
    return guess_encoding(_whole_lines(head))


def _window(data: bytes, at: int) -> bytes:
    begin = max(0, at - SAMPLE // 2)
    return _whole_lines(data[begin : begin + SAMPLE]) if begin or len(data) > SAMPLE else data


def _whole_lines(sample: bytes) -> bytes:
    """Without the lines that are cut at either end, between whose bytes a character may be cut too."""
    first, last = sample.find(b"\n"), sample.rfind(b"\n")
    return sample[first + 1 : last] if 0 <= first < last else sample
