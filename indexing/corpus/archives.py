"""Zip archives, read member by member without ever unpacking to a name of the archive's choice."""

import io
import re
import stat
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from indexing.corpus.documents import display_title, shown
from indexing.errors import CorpusError

MAX_ENTRIES = 1_000
MAX_UNPACKED = 200_000_000  # bytes of all members together
_MAX_RATIO = 100  # unpacked to packed
_FREE_OF_RATIO = 10_000_000  # bytes that may come of however little
_MAX_DIRECTORY = 1_000_000  # bytes; each entry read costs memory, whatever their number is said to be
_LEAVING = re.compile(r"^/|^[a-zA-Z]:|(^|/)\.\.(/|$)")
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OverflowError)


class Archive:
    """An open zip whose members' names, kinds and sizes have been looked at; what they hold has not.

    Raises CorpusError if it is none, or one that is refused: encrypted, too large, too many members, a
    member that is a link or whose name leads out of the folder.
    """

    def __init__(self, path: Path, name: str):
        self.name = name
        _look_at_end(path, name)
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise _refused(name, "it is damaged or no zip archive. Pack it again") from error
        self.members = [member for member in self._zip.infolist() if not member.is_dir()]
        for member in self.members:
            _check(member, name)
        unpacked = sum(member.file_size for member in self.members)
        if unpacked > MAX_UNPACKED:
            size = f"{unpacked:,} bytes, the most is {MAX_UNPACKED:,}"
            raise _refused(name, f"unpacked it has {size}. Unpack it and give the folder")
        packed = sum(member.compress_size for member in self.members)
        if unpacked > max(_FREE_OF_RATIO, _MAX_RATIO * min(packed, path.stat().st_size)):
            raise _refused(name, "unpacked it is over 100 times as large, as if made to do harm")

    def open(self, member: zipfile.ZipInfo) -> BinaryIO:
        """What a member holds, for reading; it may be opened again. Reading raises CorpusError if the bytes
        are not what the archive says of them."""
        try:
            return io.BufferedReader(_Member(self._zip.open(member), member, self.name))
        except (*_DAMAGE, RuntimeError) as error:  # RuntimeError: encrypted, said in one of two places only
            raise _damaged(self.name, member) from error


class _Member(io.RawIOBase):
    """Counts what really comes, and says in a sentence what goes wrong."""

    def __init__(self, file: BinaryIO, member: zipfile.ZipInfo, name: str):
        self._file, self._member, self._name = file, member, name
        self._read = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            self._read = self._file.seek(offset, whence)
        except _DAMAGE as error:
            raise _damaged(self._name, self._member) from error
        return self._read

    def tell(self) -> int:
        return self._read

    def readinto(self, buffer) -> int:
        try:
            data = self._file.read(len(buffer))
        except _DAMAGE as error:
            raise _damaged(self._name, self._member) from error
        self._read += len(data)
        if self._read > self._member.file_size or (not data and self._read != self._member.file_size):
            raise _damaged(self._name, self._member)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _look_at_end(path: Path, name: str) -> None:
    """Refuse an archive by what its last record says, before every entry is read into memory."""
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        begin = max(0, size - 65_557 - 20)  # the longest comment, and the record before
        file.seek(begin)
        end = file.read()
    at = end.rfind(b"PK\5\6")
    if at < 0 or len(end) - at < 22:
        raise _refused(name, "it is damaged or no zip archive. Pack it again")
    entries = int.from_bytes(end[at + 10 : at + 12], "little")
    directory = int.from_bytes(end[at + 12 : at + 16], "little")
    # The record of the larger kind of archive, zip64, would overrule this one.
    if entries > MAX_ENTRIES or directory > _MAX_DIRECTORY or end[max(0, at - 20) : at].startswith(b"PK\6\7"):
        raise _refused(name, f"it has over {MAX_ENTRIES:,} entries. Unpack it and give the folder")


def _check(member: zipfile.ZipInfo, name: str) -> None:
    inside = f'"{shown(display_title(member.filename))}" in it'
    if member.flag_bits & 0x1:
        raise _refused(name, f"{inside} is encrypted. Pack it without a password")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise _refused(name, f"{inside} is a symbolic link. Pack the file itself")
    if _LEAVING.search(member.filename.replace("\\", "/")):
        raise _refused(name, f"{inside} leads out of the folder. Pack it again")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(name, f"{inside} is not packed as zips usually are. Pack it again")


def _refused(name: str, why: str) -> CorpusError:
    return CorpusError(f"Cannot read {shown(name)}: {why}.")


def _damaged(name: str, member: zipfile.ZipInfo) -> CorpusError:
    inside = shown(display_title(member.filename))
    return _refused(name, f'"{inside}" in it is damaged, or not as long as it says. Pack it again')
