"""Where decoded images are kept while a run lasts: in device memory, in a memory map, or nowhere. By size."""

import shutil
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from jaxft.errors import UserError
from jaxft.host import free_host_memory

Way = Literal["resident", "mmap", "stream"]
WAYS = get_args(Way)
"""From the one that asks for the most memory to the least."""

RESIDENT_SHARE = 4  # The rest of a device's memory is the network's.
HOST_SHARE = 2


class Keep(NamedTuple):
    """Where decoded images may be kept between runs (None: nowhere), and how many bytes in all."""

    folder: Path | None
    limit: int


class Plan(NamedTuple):
    """How a run is fed, and why."""

    way: Way
    why: str


def plan_input(
    asked: Literal["auto", "resident", "mmap", "stream"], set_bytes: int, device_bytes: int, keep: Keep
) -> Plan:
    """The way that was asked for, or else the fastest that a set of so many bytes allows.

    Args:
        set_bytes: of all decoded images, training and test.
        device_bytes: free on each device.

    Raises:
        UserError: resident was asked for, and the set is larger than a device's memory.
    """
    size = f"{gigabytes(set_bytes)} of decoded images"
    room, where = _room(keep)
    if asked == "resident" and set_bytes > device_bytes:
        raise UserError(
            f"--input resident: {size}, and {gigabytes(device_bytes)} free on a device. Pass --input mmap or stream."
        )
    if asked != "auto":
        return Plan(asked, f"--input {asked} was given ({size})")
    if set_bytes > room:
        return Plan("stream", f"{size} are more than the {gigabytes(room)} {where}")
    if set_bytes <= device_bytes // RESIDENT_SHARE:
        return Plan("resident", f"{size} fit into a quarter of the {gigabytes(device_bytes)} free on a device")
    return Plan("mmap", f"{size} are more than a quarter of the {gigabytes(device_bytes)} free on a device")


def _room(keep: Keep) -> tuple[int, str]:
    """Bytes that decoded images may take, and where."""
    if keep.folder is None:
        return free_host_memory() // HOST_SHARE, "that half of the free memory holds"
    existing = next(folder for folder in (keep.folder, *keep.folder.absolute().parents) if folder.is_dir())
    evictable = sum(path.stat().st_size for path in keep.folder.glob("*.npy"))
    free = shutil.disk_usage(existing).free + evictable
    return (keep.limit, "of --cache-limit") if keep.limit < free else (free, f"free in {keep.folder}")


def gigabytes(num_bytes: int) -> str:
    """Bytes as people read them."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
