"""What torch.save writes, read without torch, which takes a second or more to import: a zip of tensors and a pickle."""

import io
import math
import operator
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from jaxft.errors import UserError

DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def read_tensors(path: Path) -> Any:
    """The content of a .pth file, its tensors as NumPy arrays; None where it takes torch to read it or to refuse it.

    That is a file of torch before 1.6, one cut short, and one that holds other objects than dictionaries, lists,
    numbers, strings and tensors of NumPy's types. No code in the file is run.

    Raises:
        UserError: bytes of the file have changed since it was written, which torch does not look for.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (pickled,) = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
            return _Reader(archive, pickled.removesuffix("data.pkl")).load()
    except UserError:
        raise
    except Exception:  # Whatever it is, torch knows better what to say of it.
        return None


def strided(
    storage: np.ndarray, offset: SupportsIndex, size: Sequence[SupportsIndex], stride: Sequence[SupportsIndex]
) -> np.ndarray:
    """A tensor of this size from its storage [n]; offset and stride in elements.

    Raises:
        TypeError: one of these is no whole number.
        ValueError: it would reach beyond the storage.
    """
    # Python's integers: NumPy's, which a file may hold, wrap around, and a bound that did would be none.
    first, lengths, steps = operator.index(offset), [*map(operator.index, size)], [*map(operator.index, stride)]
    last = first + sum((length - 1) * step for length, step in zip(lengths, steps, strict=True))
    if min(first, *lengths, *steps, 0) < 0 or (math.prod(lengths) and last >= len(storage)):
        raise ValueError(f"a tensor of size {lengths} and stride {steps} at {first}, of {len(storage)} elements")
    in_bytes = [step * storage.itemsize for step in steps]
    view = np.lib.stride_tricks.as_strided(storage[first:], lengths, in_bytes, writeable=False)
    return np.array(view, order="C")  # A copy, since the storage is the file's bytes, which cannot be written to.


class _Reader(pickle.Unpickler):
    """Knows what a state_dict is made of, and refuses everything else."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        self.archive, self.folder = archive, folder
        self.storages: dict[tuple[Any, ...], np.ndarray] = {}
        super().__init__(io.BytesIO(self.record("data.pkl")))
        if f"{folder}byteorder" in archive.namelist() and self.record("byteorder") != b"little":
            raise pickle.UnpicklingError("not little-endian")

    def record(self, name: str) -> bytes:
        """A file of the archive."""
        info = self.archive.getinfo(f"{self.folder}{name}")
        if info.compress_type != zipfile.ZIP_STORED:  # torch compresses nothing; a little file could be terabytes.
            raise pickle.UnpicklingError(f"{name} is compressed")
        try:
            return self.archive.read(info)
        except zipfile.BadZipFile as error:
            if not info.CRC:  # torch.serialization.set_crc32_options(False) leaves it out.
                raise
            file = self.archive.filename
            raise UserError(f"{file}: not a whole .pth file ({error}). Fetch it again.") from None

    def find_class(self, module: str, name: str) -> Any:
        """The few that there are."""
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """A storage [n], read once however many tensors share it."""
        _, dtype, key, _, length = pid
        if dtype not in DTYPES.values():
            raise pickle.UnpicklingError(f"a storage of {dtype}")
        if (dtype, key) not in self.storages:
            self.storages[dtype, key] = np.frombuffer(self.record(f"data/{key}"), dtype)
        if len(self.storages[dtype, key]) != length:
            raise pickle.UnpicklingError(f"storage {key} is not of {length} elements")
        return self.storages[dtype, key]


def _tensor(
    storage: np.ndarray,
    offset: SupportsIndex,
    size: Sequence[SupportsIndex],
    stride: Sequence[SupportsIndex],
    *rest: Any,
) -> np.ndarray:
    """torch's arguments: the rest is requires_grad, hooks and, where a tensor is a negated view, that."""
    if rest[2:] and rest[2]:
        raise pickle.UnpicklingError(f"a tensor with {rest[2]}")
    return strided(storage, offset, size, stride)


def _parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    """torch's arguments: the rest is requires_grad and hooks."""
    return data
