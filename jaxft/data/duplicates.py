"""Pictures that are there twice: the same bytes, or nearly the same picture by a difference hash."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float, UInt8, UInt64

NEAR_BITS = 10
NEAR_CORRELATION = 0.97
"""Of the 3.9 million pairs of 2,800 photographs (hot dogs and others) 54 are within 10 bits; the correlation leaves 4,
which a person calls the same picture too."""
CLEAR_STEP = 2
CLEAR_BITS = 24
"""A hash says little of a picture of one colour or of stripes: at least 24 of its 64 steps must be of 2 grey levels."""
BLOCK = 64  # Rows of hashes compared at once: 50,000 images wide that is 26 MB.
THUMBNAIL = (9, 8)


class Near(NamedTuple):
    """Picture `i` looks nearly like picture `other`: their hashes differ in `bits` of 64."""

    i: int
    other: int
    bits: int


def same_content(digests: Sequence[bytes]) -> list[list[int]]:
    """The places that hold the same bytes, two and more together; an empty digest is none."""
    places: dict[bytes, list[int]] = defaultdict(list)
    for i, digest in enumerate(digests):
        if digest:
            places[digest].append(i)
    return [found for found in places.values() if len(found) > 1]


def thumbnail(image: PIL.Image.Image) -> bytes:
    """The picture in 8 rows of 9 grey levels, all that is kept of it."""
    return image.convert("L").resize(THUMBNAIL, PIL.Image.Resampling.BOX).tobytes()


def thumbnails(kept: Sequence[bytes]) -> UInt8[np.ndarray, "n 8 9"]:
    """What `thumbnail` gave, as one array."""
    return np.frombuffer(b"".join(kept), np.uint8).reshape(-1, *THUMBNAIL[::-1])


def difference_hashes(thumbs: UInt8[np.ndarray, "n 8 9"]) -> tuple[UInt64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """64 bits a picture: whether the grey grows from each cell to the next on its right. And whether it says enough."""
    steps = np.diff(thumbs.astype(np.int16), axis=2).reshape(len(thumbs), 64)
    hashes = np.packbits(steps > 0, axis=1).view(np.uint64)[:, 0]
    return hashes, (np.abs(steps) >= CLEAR_STEP).sum(axis=1) >= CLEAR_BITS


def near(thumbs: UInt8[np.ndarray, "n 8 9"], among: UInt8[np.ndarray, "m 8 9"] | None = None) -> list[Near]:
    """For each picture the one most like it `among` others, or before it, where the two are nearly the same.

    Nearly the same: at most 10 bits of the hash differ, and the thumbnails are correlated by 0.97 or more, so that
    brightness, contrast and most colour changes are forgiven. Time is quadratic, memory is not.
    """
    found: list[Near] = []
    (hashes, clear), earlier = difference_hashes(thumbs), among is None
    others, others_clear = (hashes, clear) if among is None else difference_hashes(among)
    places, other_places = np.flatnonzero(clear), np.flatnonzero(others_clear)
    a, b = standardised(thumbs[places]), standardised((thumbs if among is None else among)[other_places])
    for start in range(0, len(places), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(places)))
        columns = rows[-1] if earlier else len(other_places)
        if not columns:
            continue
        bits = np.bitwise_count(hashes[places[rows], None] ^ others[None, other_places[:columns]])
        if earlier:
            bits[rows[:, None] <= np.arange(columns)[None]] = 64
        best = bits.argmin(axis=1)
        close = bits[np.arange(len(rows)), best] <= NEAR_BITS
        alike = (a[rows] * b[best]).mean(axis=1) >= NEAR_CORRELATION
        for k in np.flatnonzero(close & alike):
            found.append(Near(int(places[rows[k]]), int(other_places[best[k]]), int(bits[k, best[k]])))
    return found


def standardised(thumbs: UInt8[np.ndarray, "n 8 9"]) -> Float[np.ndarray, "n 72"]:
    """Each picture's grey levels with mean 0 and standard deviation 1; none may be of one level."""
    levels = thumbs.reshape(len(thumbs), 72).astype(np.float32)
    levels -= levels.mean(axis=1, keepdims=True)
    return levels / levels.std(axis=1, keepdims=True)
