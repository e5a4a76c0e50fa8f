"""What every image of a set is: facts, found by decoding it; the pixels are not kept."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxft.data.duplicates import thumbnail
from jaxft.data.images import BadImageError, Encoded, decode_sized, quiet
from jaxft.data.leakage import content
from jaxft.data.sources import Source, Splits
from jaxft.data.traits import kind_of
from jaxft.data.workers import AHEAD, in_order
from jaxft.host import num_cores

LEAST = 64  # Enough for a thumbnail: a large JPEG's decoder reads every byte, but need not make every pixel.


class Facts(NamedTuple):
    """What is kept of an image: upright (height, width) and so on. Of one that cannot be decoded, why: `bad`."""

    label: int
    format: str = ""
    size: tuple[int, int] = (0, 0)
    traits: tuple[str, ...] = ()
    digest: bytes = b""
    thumbnail: bytes = b""
    bad: str = ""


class Health(NamedTuple):
    """The facts of every image of both splits, in the order of their sources."""

    train: Sequence[Facts]
    test: Sequence[Facts]


def examine_splits(splits: Splits, progress: Callable[[str, int, int], None]) -> Health:
    """Decode every image of both splits on all cores; `progress(what, done, total)` is called as it goes."""
    train = examine_source(splits.train, partial(progress, "decoding training images"))
    return Health(train, examine_source(splits.test, partial(progress, "decoding test images")))


def examine_source(source: Source, progress: Callable[[int, int], None]) -> list[Facts]:
    """Decode every image of a source on all cores."""
    facts: list[Facts] = []
    threads = num_cores() + 2  # Some wait for the disk.
    with quiet():
        for each in in_order(
            lambda i: examine(*source.read(i)), 0, len(source), threads=threads, ahead=AHEAD * threads
        ):
            facts.append(each)
            progress(len(facts), len(source))
    return facts


def examine(item: Encoded, label: int) -> Facts:
    """Decode one image and note what it is; for threads, their starter inside `images.quiet`."""
    try:
        image, size = decode_sized(item, LEAST)
        digest = content(item)
        kind, traits = ("pixels", ()) if isinstance(item, np.ndarray) else kind_of(item)
    except BadImageError as error:
        return Facts(label, bad=str(error))
    except OSError as error:  # Gone or unreadable since it was decoded.
        return Facts(label, bad=error.strerror or str(error))
    return Facts(label, kind, size, traits, digest, thumbnail(image))
