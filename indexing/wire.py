"""The reference implementation's wire format between a retrieval service and its client.

    POST /query?k=K     body: one .npy, float32 (n, d)
    answer              ZIP (stored) of `distances` float32 (n, k), `indices` int64 (n, k) and `embeddings`
                        float32 (n, k, d), each a complete .npy, nearest first

An answer has fewer than K columns where fewer neighbours exist: the reference's client takes -1 for a row.

Both sides read what strangers send, so nothing is unpickled, and no array or member is made before its size
is known to be what was expected.
"""

import io
import math
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

MEMBERS = ("distances", "indices", "embeddings")
# Bytes of a .npy header; ours have 118, numpy's own for any plain array fit into 128.
_MAX_HEADER = 512
_MAGIC = b"\x93NUMPY"


def dump_array(array: np.ndarray) -> bytes:
    """The bytes `np.save` writes."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def parse_array(data: bytes) -> np.ndarray:
    """An array of plain numbers out of a complete .npy. Raises ValueError, what is wrong in a clause."""
    # np.load would open a ZIP as well, and make room for whatever shape a header claims.
    if not data.startswith(_MAGIC):
        raise ValueError("it does not begin like a .npy file")
    buffer = io.BytesIO(data)
    readers: dict[tuple[int, int], Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        read_header = readers[np.lib.format.read_magic(buffer)]
        shape, by_columns, dtype = read_header(buffer, max_header_size=_MAX_HEADER)
    except Exception as error:  # numpy evaluates a literal here, which fails in a dozen ways
        raise ValueError("its .npy header cannot be read") from error
    if dtype.kind not in "fiu":
        raise ValueError(f"it holds {dtype.name} instead of numbers")
    values = data[buffer.tell() :]
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError(f"its shape {list(shape)} does not fit to {len(values):,} bytes of {dtype.name}")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if by_columns else "C")


def pack_answer(distances: np.ndarray, indices: np.ndarray, embeddings: np.ndarray) -> bytes:
    """(n, k), (n, k), (n, k, d) -> the ZIP. Equal arrays give equal bytes."""
    arrays = (
        distances.astype(np.float32, copy=False),
        indices.astype(np.int64, copy=False),
        embeddings.astype(np.float32, copy=False),
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in zip(MEMBERS, arrays, strict=True):
            member = zipfile.ZipInfo(name)  # of 1980, so that no answer depends on the clock
            member.external_attr = 0o600 << 16  # the rights that the reference's server leaves
            archive.writestr(member, dump_array(np.ascontiguousarray(array)))
    return buffer.getvalue()


def unpack_answer(
    data: bytes, num_queries: int, num_neighbours: int, dim: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ZIP -> distances (n, k'), indices (n, k'), embeddings (n, k', d) with k' <= `num_neighbours`.

    Raises ValueError saying in a clause what is wrong: members, sizes, shapes, types, numbers that are none.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise ValueError("it is not a ZIP file") from error
    with archive:
        members = {member.filename: member for member in archive.infolist()}
        if sorted(members) != sorted(MEMBERS) or len(archive.infolist()) != len(MEMBERS):
            raise ValueError(f"it holds {_some(list(members))} instead of {', '.join(MEMBERS)}")
        # What the directory claims is what zipfile reads at most.
        largest = {
            name: num_queries * num_neighbours * width * size + _MAX_HEADER
            for name, width, size in zip(MEMBERS, (1, 1, dim), (4, 8, 4), strict=True)
        }
        arrays = {}
        for name in MEMBERS:
            if members[name].file_size > largest[name]:
                raise ValueError(f"{name} has {members[name].file_size:,} bytes, more than was asked for")
            try:
                arrays[name] = parse_array(archive.read(members[name]))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            except Exception as error:  # zlib's, zipfile's, or of an encrypted member
                raise ValueError(f"{name} cannot be unpacked") from error
    distances, indices, embeddings = (arrays[name] for name in MEMBERS)
    for name, dtype in zip(MEMBERS, ("float32", "int64", "float32"), strict=True):
        if arrays[name].dtype != dtype:
            raise ValueError(f"{name} holds {arrays[name].dtype.name} instead of {dtype}")
    found = indices.shape[1] if indices.ndim == 2 else -1
    if indices.shape != (num_queries, found) or found > num_neighbours:
        raise ValueError(
            f"indices has shape {list(indices.shape)} instead of {[num_queries, num_neighbours]}"
        )
    if distances.shape != indices.shape or embeddings.shape != (*indices.shape, dim):
        raise ValueError(
            f"shapes {list(distances.shape)}, {list(indices.shape)} and {list(embeddings.shape)} differ"
        )
    if not (np.isfinite(distances) | (indices < 0)).all() or not np.isfinite(embeddings).all():
        raise ValueError("some distances or embeddings are not numbers")
    return distances, indices, embeddings


def _some(names: Sequence[str]) -> str:
    """At most four names, short and printable, for a message."""
    return ", ".join(ascii(name[:20]) for name in names[:4]) or "nothing"
