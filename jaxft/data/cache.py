"""Decoded pixels on disk: rows as .npy has them, then one JSON object and its SHA-256; whole, or not there at all."""

import errno
import hashlib
import json
import mmap
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.errors import UserError

GIGABYTE = 10**9
LIMIT_BYTES = 50 * GIGABYTE

BUILDING = ".building-"
ABANDONED_SECONDS = 24 * 3600
CHECKED_BYTES = 2 * GIGABYTE


class DamagedError(ValueError):
    """A cache file that is not what was written."""


def write(
    path: Path, row: tuple[int, ...], rows: Iterable[np.ndarray], num_rows: int, about: Callable[[], dict], limit: int
) -> None:
    """Write uint8 rows of this shape, at most `num_rows`, and then what `about` says, under another name until done.

    Older files in the folder make room where all of them would be larger than `limit` bytes.

    Raises:
        UserError: no room, or a folder that cannot be written.
    """
    building = path.parent / f"{BUILDING}{uuid.uuid4().hex}.npy"
    with _explaining(path.parent):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _make_room(path.parent, num_rows * int(np.prod(row)), limit)
            with building.open("wb") as file:
                _write_header(file, (num_rows, *row))
                start, sums = file.tell(), []
                for pixels in rows:
                    file.write(np.ascontiguousarray(pixels).data)
                    sums.append(checksum(pixels))
                tail = json.dumps({**about(), "sums": sums}).encode()
                file.write(tail + hashlib.sha256(tail).digest())
                file.seek(0)
                # Bad images were left out. NumPy pads headers, so that a smaller number takes as much space.
                _write_header(file, (len(sums), *row))
                assert file.tell() == start
            # Not flushed to the disk: what a power cut loses, the checksums notice.
            building.replace(path)
        finally:
            with suppress(OSError):
                building.unlink()


def read(path: Path, row: tuple[int, ...], *, check: bool = True) -> tuple[np.ndarray, dict[str, Any]]:
    """The rows, mapped into memory, and what was said about them; the file counts as used now.

    Raises:
        DamagedError: it is not what was written. With `check`, the pixels are looked at too; of a large file, an
            evenly spread part of them.
        FileNotFoundError: there is none.
    """
    try:
        images = np.load(path, mmap_mode="r")
        assert isinstance(images, np.memmap)
        with path.open("rb") as file:
            file.seek(images.offset + images.nbytes)
            tail, digest = (rest := file.read())[:-32], rest[-32:]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, AssertionError):
        raise DamagedError(path) from None
    if hashlib.sha256(tail).digest() != digest or images.shape[1:] != row:
        raise DamagedError(path)
    about = json.loads(tail)
    for i in _spread(len(images), row) if check else ():
        if checksum(images[i]) != about["sums"][i]:
            raise DamagedError(path)
        release(images)
    with suppress(OSError):
        os.utime(path)
    return images, about


def release(images: np.ndarray) -> None:
    """Give back the memory of rows that were read from a map; the system still caches the file."""
    mapped = getattr(images, "_mmap", None)
    if mapped is not None and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


def checksum(row: np.ndarray) -> int:
    """The sum of a row's 64-bit words and of the bytes left over: as fast as memory is read."""
    flat = row.reshape(-1)
    whole = flat.size // 8 * 8
    return int(flat[:whole].view(np.uint64).sum()) + int(flat[whole:].sum())


def _spread(num_rows: int, row: tuple[int, ...]) -> list[int]:
    """Rows evenly spread over the file, of `CHECKED_BYTES` at most; all where there are no more."""
    most = max(1, CHECKED_BYTES // int(np.prod(row)))
    return np.unique(np.linspace(0, num_rows - 1, min(num_rows, most)).astype(int)).tolist()


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


@contextmanager
def _explaining(folder: Path) -> Iterator[None]:
    """A mishap in writing becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: the decoded images cannot be kept there ({error.strerror}). "
            "Make room, pass another --cache-dir, or pass --no-cache."
        ) from None


def _make_room(folder: Path, num_bytes: int, limit: int) -> None:
    """Remove what killed runs left, and files that no run has used for longest; refuse where that is not enough."""
    for left in folder.glob(f"{BUILDING}*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                left.unlink()
    if num_bytes > limit:
        raise UserError(
            f"{folder}: the decoded images take {num_bytes / 1e9:.2f} GB, and --cache-limit is {limit / 1e9:g} GB. "
            "Raise it, or pass --input stream."
        )
    files = sorted((_used(path), path) for path in folder.glob("*.npy") if not path.name.startswith(BUILDING))
    total, free = sum(size for (_, size), _ in files), shutil.disk_usage(folder).free
    if total + free < num_bytes:
        raise OSError(errno.ENOSPC, f"{num_bytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB free")
    for (_, size), path in files:
        if total + num_bytes <= limit and free >= num_bytes:
            break
        path.unlink(missing_ok=True)
        total, free = total - size, free + size


def _used(path: Path) -> tuple[float, int]:
    """When a file was used last, and its size in bytes."""
    try:
        stat = path.stat()
    except FileNotFoundError:  # Another run has just removed it.
        return 0.0, 0
    return stat.st_mtime, stat.st_size
