"""Batches of a data set, three ways: named for a set in device memory, gathered from a map, or decoded on the fly.

All three give the same images, bit for bit, and make a few before they are asked for, in threads. Each makes the rows
of its share alone: batch t has the images `order(t)[share.train]`.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from jaxft.data.augment import Batch, EvalBatch
from jaxft.data.batches import Order, Rows, Share, eval_rows, num_eval_batches
from jaxft.data.cache import release
from jaxft.data.canvas import Decoded, Photo, decode_one
from jaxft.data.images import Recipe, quiet
from jaxft.data.resident import EvalPicks, Picks
from jaxft.data.sources import Source
from jaxft.data.workers import AHEAD, in_order
from jaxft.errors import UserError
from jaxft.host import num_cores

FOREVER = 2**62
ALIGNMENT = 64  # Bytes; what lies otherwise is copied once more.
BATCHES_AHEAD = 2
FILLING = Photo(None, (0, 0), 0, "", None)
GATHERERS = 2  # Threads: one copies while the other waits for the disk.

Batches = Generator[Any, None, None]


def nothing() -> Batches:
    """No batches."""
    yield from ()


class Streamed(NamedTuple):
    """A set that is decoded anew each time it is read."""

    source: Source
    recipe: Recipe
    labels: Int32[np.ndarray, " n"]


class Feed(NamedTuple):
    """Batches on the host: `train(t)` from step t on, without end; `test()` and `val()` a whole set once. Close all."""

    num_train: int
    num_test: int
    train: Callable[[int], Batches]
    test: Callable[[], Batches]
    host_bytes: int
    """The most that training images take of the host's memory on their way, the batch being copied included."""
    once: "Once | None" = None
    """Where the batches are picks of features: the images of which these are made."""
    num_val: int = 0
    """Held-out images."""
    val: Callable[[], Batches] = nothing


class Once(NamedTuple):
    """The images of all sets, each once: batches of rows with what is there; rows beyond a set fill the last batch."""

    batch_size: int
    """Over all devices."""
    train: Callable[[], Batches]
    """(int32 [b], Batch)"""
    test: Callable[[], Batches]
    """(int32 [b], EvalBatch)"""
    val: Callable[[], Batches]
    """(int32 [b], EvalBatch)"""


def resident_feed(
    num_train: int, num_test: int, order: Order, share: Share, draws: Order | None = None, num_val: int = 0
) -> Feed:
    """Picks of stores that are on the devices already (see jaxft.data.resident); one has test, then held-out images.

    With `draws`, what each image's draws follow from is theirs, and not its place in the batch; so in all three ways.
    """
    positions = _positions(draws, share)

    def train(step: int) -> Batches:
        return _ahead(lambda t: Picks._make((order(t)[share.train], positions(t))), step, FOREVER, threads=1)

    def evaluated(first: int, num: int) -> Batches:
        for step in range(num_eval_batches(num, share.eval_batch_size)):
            rows, weights = eval_rows(num, share, step)
            yield EvalPicks._make((first + rows, weights))

    test, val = partial(evaluated, 0, num_test), partial(evaluated, num_test, num_val)
    return Feed(num_train, num_test, train, test, host_bytes=0, num_val=num_val, val=val)


def mapped_feed(
    train: Decoded, test: Decoded, order: Order, share: Share, draws: Order | None = None, val: Decoded | None = None
) -> Feed:
    """Batches gathered from decoded sets."""
    positions = _positions(draws, share)

    def train_batch(step: int) -> Batch:
        rows = order(step)[share.train]
        return Batch._make((_gather(train.images, rows), train.sizes[rows], train.labels[rows], positions(step)))

    def evaluated(data: Decoded) -> Batches:
        num = len(data.labels)

        def batch(step: int) -> EvalBatch:
            rows, weights = eval_rows(num, share, step)
            return EvalBatch._make((_gather(data.images, rows), data.labels[rows], weights))

        return _ahead(batch, 0, num_eval_batches(num, share.eval_batch_size), threads=GATHERERS)

    held = 0 if isinstance(train.images, np.memmap) else train.images.nbytes
    return Feed(
        len(train.labels),
        len(test.labels),
        lambda step: _ahead(train_batch, step, FOREVER, threads=GATHERERS),
        partial(evaluated, test),
        host_bytes=(BATCHES_AHEAD + 1 + GATHERERS) * len(share.train) * train.images[0].nbytes + held,
        num_val=0 if val is None else len(val.labels),
        val=nothing if val is None else partial(evaluated, val),
    )


def streamed_feed(
    train: Streamed,
    test: Streamed,
    order: Order,
    share: Share,
    draws: Order | None = None,
    val: Streamed | None = None,
    *,
    skip_bad: bool = False,
    report: Callable[[str], None] = print,
) -> Feed:
    """Batches decoded on the fly, on all cores.

    With `skip_bad`, the place of a training image that cannot be decoded is taken by the next one that can, one of
    another set is left out, and `report` is told, once an image; otherwise a UserError ends the run.
    """
    num_train, positions = len(train.labels), _positions(draws, share)
    told: set[str] = set()

    def read(data: Streamed, i: int) -> Photo:
        photo = decode_one(data.source, i, data.recipe)
        if photo.bad is None:
            return photo
        if not skip_bad:
            raise UserError(
                f"{photo.name}: {photo.bad}. Put it right and go on with --resume, or pass --skip-bad-images."
            )
        if photo.name not in told:
            told.add(photo.name)
            report(f"skipped {photo.name}: {photo.bad}")
        return photo

    def train_photo(nth: int) -> Photo:
        step, own = divmod(nth, len(share.train))
        first = order(step)[share.train[own]]
        photos = (read(train, int(first + i) % num_train) for i in range(num_train))
        found = next((photo for photo in photos if photo.bad is None), None)
        if found is None:
            raise UserError("none of the training images can be decoded. Mend them, or pass another --data.")
        return found

    def eval_photo(data: Streamed, nth: int) -> Photo:
        step, own = divmod(nth, len(share.test))
        row = step * share.eval_batch_size + int(share.test[own])
        return read(data, row) if row < len(data.labels) else FILLING

    def train_batches(step: int) -> Batches:
        num = len(share.train)
        for t, photos in enumerate(_grouped(train_photo, step * num, FOREVER, num), step):
            pixels, sizes, labels, _, _ = zip(*photos, strict=True)
            yield Batch._make((np.stack(pixels), np.array(sizes, np.int32), np.array(labels, np.int32), positions(t)))

    def evaluated(data: Streamed) -> Batches:
        num, size = len(share.test), data.recipe.size
        stop = num * num_eval_batches(len(data.labels), share.eval_batch_size)
        for photos in _grouped(partial(eval_photo, data), 0, stop, num):
            images, labels = np.zeros((num, size, size, 3), np.uint8), np.zeros(num, np.int32)
            weights = np.zeros(num, np.float32)
            for place, photo in enumerate(photos):
                if photo.pixels is not None:
                    images[place], labels[place], weights[place] = photo.pixels, photo.label, 1
            yield EvalBatch._make((images, labels, weights))

    host_bytes = (2 * len(share.train) + AHEAD * num_cores()) * 3 * train.recipe.size**2
    return Feed(
        num_train,
        len(test.labels),
        train_batches,
        partial(evaluated, test),
        host_bytes,
        num_val=0 if val is None else len(val.labels),
        val=nothing if val is None else partial(evaluated, val),
    )


def read_once(feed: Feed, share: Share) -> Once:
    """A feed of a set in its own order, as far as it goes; its share of training images is that of test images."""

    size = share.eval_batch_size

    def numbered(batches: Batches, num_images: int) -> Batches:
        with closing(batches):
            for step, batch in enumerate(islice(batches, num_eval_batches(num_images, size))):
                yield step * size + share.test, batch

    return Once(
        size,
        lambda: numbered(feed.train(0), feed.num_train),
        lambda: numbered(feed.test(), feed.num_test),
        lambda: numbered(feed.val(), feed.num_val),
    )


def _positions(draws: Order | None, share: Share) -> Callable[[int], Rows]:
    return lambda step: share.train if draws is None else draws(step)[share.train]


def _gather(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """These rows, copied to where JAX on a CPU takes them as they are."""
    num_bytes = len(rows) * images[0].nbytes
    memory = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    gathered = memory[start : start + num_bytes].reshape(len(rows), *images.shape[1:])
    # "clip" lets NumPy write straight into `out`; the rows are all there.
    np.take(images, rows, axis=0, out=gathered, mode="clip")
    release(images)
    return gathered


def _ahead(make: Callable[[int], Any], start: int, stop: int, *, threads: int) -> Batches:
    return in_order(make, start, stop, threads=threads, ahead=BATCHES_AHEAD)


def _grouped(make: Callable[[int], Photo], start: int, stop: int, size: int) -> Iterator[list[Photo]]:
    """Photographs decoded on all cores, in lists of `size`, one of them ahead."""
    cores = num_cores()
    with quiet(), closing(in_order(make, start, stop, threads=cores, ahead=size + AHEAD * cores)) as photos:
        while group := list(islice(photos, size)):
            yield group
