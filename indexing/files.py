"""Files and folders that appear whole or not at all: write beside, fsync, rename."""

import hashlib
import io
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import filelock

# Half-made folders carry this prefix; readers skip them and `new_folder` sweeps old ones away.
UNFINISHED = ".unfinished-"
# A folder that is making way for its replacement; `recover` brings it back if that never came.
PREVIOUS = ".previous-"
_SYNC_EVERY = 64 << 20  # bytes


def sync(path: Path) -> None:
    """Ask the operating system to put a file or folder entry on the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step; a crash leaves the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=UNFINISHED, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    sync(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield the path of a file that becomes `path` when the block ends well and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    os.close(descriptor)
    try:
        yield Path(name)
        sync(Path(name))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def save_array(path: Path, array: np.ndarray) -> None:
    """`numpy.save` followed by fsync. Never pickles."""
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def write_steadily(file: BinaryIO, data: bytes) -> None:
    """Write to a file that may become long, and have it put on the disk from time to time: one fsync at the
    end would stand still for as long as the disk takes, without progress or a way to stop."""
    before = file.tell() // _SYNC_EVERY
    file.write(data)
    if file.tell() // _SYNC_EVERY > before:
        file.flush()
        os.fsync(file.fileno())


class ArrayWriter:
    """Rows appended to a .npy file whose number of rows is not known beforehand; in memory is one batch.

    The finished file is byte for byte what `numpy.save` writes of the whole. Use it as a context manager: the
    header tells the true number of rows, and the file is on the disk, once the block has ended well.

    keep  rows that an unfinished file has already, to go on after them; whatever follows them is cut off.
          Raises ValueError if the file does not have as many.
    """

    def __init__(
        self, path: Path, dtype: np.typing.DTypeLike, row_shape: tuple[int, ...] = (), keep: int = 0
    ):
        self.dtype, self.row_shape = np.dtype(dtype), tuple(row_shape)
        self._rows = keep
        header = self._header()
        size = len(header) + keep * self.dtype.itemsize * math.prod(self.row_shape)
        if keep and (not path.is_file() or path.stat().st_size < size):
            raise ValueError(f"{path.name} has fewer than {keep} rows")
        self._file = open(path, "r+b" if keep else "wb")  # noqa: SIM115 - closed by `close`
        self._file.write(header)
        self._file.truncate(size)
        self._file.seek(size)

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: np.ndarray) -> None:
        """rows (n, *row_shape), of a type that the file's holds exactly. Raises ValueError if it does not."""
        rows = np.asarray(rows)
        if rows.shape[1:] != self.row_shape or not np.can_cast(rows.dtype, self.dtype, "same_kind"):
            raise ValueError(f"expected rows {self.row_shape} of {self.dtype}, got {rows.shape} {rows.dtype}")
        write_steadily(self._file, rows.astype(self.dtype, order="C", copy=False).tobytes())
        self._rows += len(rows)

    def sync(self) -> None:
        """Put the rows so far on the disk, so that `keep` finds them after a crash."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write the header anew and put everything on the disk."""
        self._file.seek(0)
        self._file.write(self._header())
        self.sync()
        self._file.close()

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()

    def _header(self) -> bytes:
        """numpy leaves room in a header for the first axis to grow, so its length is always the same."""
        header = io.BytesIO()
        facts = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(header, {**facts, "shape": (self._rows, *self.row_shape)})
        return header.getvalue()


def read_rows(path: Path, start: int, stop: int) -> np.ndarray:
    """The rows start ... stop - 1 of a .npy, which there must be, without mapping it."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        width = math.prod(shape[1:])
        file.seek(start * width * dtype.itemsize, os.SEEK_CUR)
        return np.fromfile(file, dtype, (stop - start) * width).reshape(stop - start, *shape[1:])


def array_blocks(path: Path, rows: int) -> Iterator[np.ndarray]:
    """The rows of a .npy in order, `rows` at a time. In memory is one block; of a memory map it would be, by
    and by, the file. Raises ValueError if it is none."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            raise ValueError(f"{path.name} holds objects")
        width = math.prod(shape[1:])
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            yield np.fromfile(file, dtype, count * width).reshape(count, *shape[1:])


@contextmanager
def new_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends well and vanishes otherwise.

    The block may be interrupted at any point, SIGKILL included: `target` is then what it was before, and
    the remains are removed by the next `new_folder` of the same target.

    replace  whether an existing `target` gives way at the end. Whoever wants that holds the `lock`; readers
             call `recover_abandoned` on a missing target, because a crash between the two renames leaves
             the old folder aside.

    Raises FileExistsError if `target` exists when the block ends and is not to be replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    for old in _unfinished(target):
        if not _in_use(old):
            shutil.rmtree(old, ignore_errors=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{UNFINISHED}{target.name}-{os.getpid()}-"))
    try:
        yield work
        for path in sorted(work.rglob("*")):  # folders too: their entries are theirs to put on the disk
            sync(path)
        sync(work)
        work.chmod(0o755)
        if target.exists():
            if not replace:
                raise FileExistsError(str(target))
            os.rename(target, _previous(target))
        os.rename(work, target)
        try:
            sync(target.parent)
        except BaseException:
            os.rename(target, work)  # who is told of an error finds nothing changed
            raise
    except BaseException:
        recover(target)
        shutil.rmtree(work, ignore_errors=True)
        raise
    recover(target)


def clear_away(target: Path) -> None:
    """`recover`, and remove every unfinished folder of `target`. Only for who knows that nobody makes one."""
    recover(target)
    for old in _unfinished(target):
        shutil.rmtree(old, ignore_errors=True)


def recover(target: Path) -> None:
    """Finish a replacement of `target` that was cut off: the old folder comes back if there is no new one,
    and goes otherwise."""
    previous = _previous(target)
    if target.exists():
        shutil.rmtree(previous, ignore_errors=True)
    elif previous.exists():
        with suppress(OSError):  # read-only, or somebody else was quicker
            os.rename(previous, target)


def recover_abandoned(target: Path) -> bool:
    """`recover`, unless somebody is replacing `target` at this moment; whether somebody is."""
    if not _previous(target).exists():
        return False
    try:
        with lock(target):
            recover(target)
    except TimeoutError:
        return True
    except OSError:  # not ours to write
        return False
    return False


def lock(target: Path) -> "filelock.BaseFileLock":
    """To be the only one, of all processes and threads, who changes `target`; raises TimeoutError at once if
    another is. It is a file beside `target`, which can so be replaced or renamed under it; the system lets go
    of it when a process is killed."""
    import filelock

    # Not bound to a thread: a generator may be resumed in another one than it was begun in.
    return filelock.FileLock(target.parent / f".{target.name}.lock", timeout=0, thread_local=False)


def _previous(target: Path) -> Path:
    return target.parent / f"{PREVIOUS}{target.name}"


def _unfinished(target: Path) -> list[Path]:
    """Folders that `new_folder(target)` began; not those of a target whose name only begins like it."""
    own = re.compile(re.escape(f"{UNFINISHED}{target.name}-") + r"\d+-[a-z0-9_]+")
    return [path for path in target.parent.iterdir() if own.fullmatch(path.name)]


def _in_use(folder: Path) -> bool:
    """Whether the process that made this unfinished folder (its id is in the name) still lives."""
    process = folder.name.rsplit("-", 2)[-2]
    if not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
