"""Which images make batch t of a run, as a pure function of (seed, t): to resume at step t is to ask for batch t."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from jaxft.errors import UserError

Rows = Int32[np.ndarray, " b"]
Order = Callable[[int], Rows]
"""From a step t to the rows of its batch, int32 [b]."""

CACHED_STEPS = 16


class Share(NamedTuple):
    """What a process makes of each batch: places in the global batch, those of its first device first."""

    train: Int32[np.ndarray, " p"]
    test: Int32[np.ndarray, " q"]
    eval_batch_size: int
    """Places in a global evaluation batch."""


def shuffled_order(num_images: int, batch_size: int, seed: int) -> Order:
    """A new shuffle each epoch; batches straddle epochs, so that no image is dropped."""
    shuffles = lru_cache(2)(lambda epoch: shuffle(num_images, seed, epoch))

    def order(step: int) -> Rows:
        epochs, places = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), num_images)
        return np.concatenate([shuffles(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()])

    return lru_cache(CACHED_STEPS)(order)


def balanced_order(labels: Int[np.ndarray, " n"], batch_size: int, seed: int) -> Order:
    """Every class equally often: in rounds of one image a class, each class going through its own images in turn.

    An epoch still has as many images as the set, so that it sees those of large classes in part, of small ones again.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    num_classes = len(members)
    rounds = lru_cache(2 + batch_size // num_classes)(lambda turn: shuffle(num_classes, seed, 0, turn))
    shuffles = lru_cache(2 * num_classes)(lambda i, epoch: members[i][shuffle(len(members[i]), seed, 1 + i, epoch)])

    def row(place: int) -> int:
        turn, nth = divmod(place, num_classes)
        i = int(rounds(turn)[nth])
        epoch, own = divmod(turn, len(members[i]))
        return int(shuffles(i, epoch)[own])

    def order(step: int) -> Rows:
        return np.array([row(place) for place in range(step * batch_size, (step + 1) * batch_size)], np.int32)

    return lru_cache(CACHED_STEPS)(order)


def order_of_the_set(num_images: int, batch_size: int) -> Order:
    """Every image once, in the order of the set; the last one fills up the last batch."""
    return lambda step: np.minimum(
        np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32), num_images - 1
    )


def view_order(order: Order, num_images: int, batch_size: int, num_views: int) -> Order:
    """The order of an image's views: rows of a set's views, those of view 0 first; epoch e takes view e % num_views.

    A view's draws may follow from its row, and are then the same each time that it comes.
    """

    def views(step: int) -> Rows:
        epochs = np.arange(step * batch_size, (step + 1) * batch_size) // num_images
        return (epochs % num_views * num_images + order(step)).astype(np.int32)

    return views


def shuffle(num: int, *seeds: int) -> Int32[np.ndarray, " {num}"]:
    """0 to num - 1 in an order drawn by the seeds: the same on every machine and with every version of NumPy."""
    # Of its generators NumPy promises the raw bits alone to stay. Grain's shuffle takes 130 microseconds an index in a
    # set of 244, and so holds up the device.
    return np.random.PCG64(seeds).random_raw(num).argsort(kind="stable").astype(np.int32)


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """A weight a class, in inverse proportion to its number of images: float32 [k], 1 on average over the images."""
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0).astype(np.float32)


def check_batch_fits(num_images: int, batch_size: int, accumulate: int = 1) -> None:
    """Raise a UserError where the images of one update are more than the training set has."""
    if batch_size > num_images:
        raise UserError(
            f"--batch-size {batch_size} is larger than the training set ({num_images} images). "
            f"Pass --batch-size {num_images} or less."
        )
    if batch_size * accumulate > num_images:
        raise UserError(
            f"--accumulate {accumulate} times --batch-size {batch_size} is {batch_size * accumulate} images an update, "
            f"more than the training set has ({num_images}). Pass --accumulate {num_images // batch_size} or less."
        )


def device_positions(
    batch_size: int, accumulate: int, num_devices: int
) -> Int32[np.ndarray, " {batch_size*accumulate}"]:
    """Where in the global batch each row comes from, laid out device after device.

    A device's part is its parts of the `accumulate` microbatches, one after the other; microbatch k of all devices
    together is places k * batch_size to (k + 1) * batch_size, whatever their number.
    """
    places = np.arange(batch_size * accumulate, dtype=np.int32)
    return places.reshape(accumulate, num_devices, -1).transpose(1, 0, 2).reshape(-1)


def share_of(batch_size: int, *, accumulate: int = 1, num_devices: int = 1, own: Sequence[int] | None = None) -> Share:
    """What the devices at the places `own` in the row of all devices take of each batch; all of them when None."""
    devices = slice(None) if own is None else list(own)
    train = device_positions(batch_size, accumulate, num_devices).reshape(num_devices, -1)
    test = device_positions(batch_size, 1, num_devices).reshape(num_devices, -1)
    return Share(train[devices].reshape(-1), test[devices].reshape(-1), batch_size)


def eval_rows(num_images: int, share: Share, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows int32 [q] and weights float32 [q] of a share of an evaluation batch; weight 0 only fills the last one."""
    rows = step * share.eval_batch_size + share.test
    return np.minimum(rows, num_images - 1), (rows < num_images).astype(np.float32)


def num_eval_batches(num_images: int, batch_size: int) -> int:
    """Batches that hold every image once."""
    return math.ceil(num_images / batch_size)


def epoch_ends(num_images: int, batch_size: int, num_epochs: int) -> list[int]:
    """The number of steps after which each epoch's images have all been seen."""
    return [math.ceil(epoch * num_images / batch_size) for epoch in range(1, num_epochs + 1)]
