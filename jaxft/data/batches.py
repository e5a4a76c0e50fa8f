"""Batch t of a run, as a pure function of (seed, t): to resume at step t is to ask for batch t."""

import math
from collections.abc import Callable, Iterator

import grain
import numpy as np

from jaxft.data.augment import Batch, EvalBatch
from jaxft.data.canvas import Decoded
from jaxft.errors import UserError


def batch_order(num_images: int, batch_size: int, seed: int) -> Callable[[int], np.ndarray]:
    """The indices of batch t: a new shuffle each epoch; batches straddle epochs, so that no image is dropped."""
    order = grain.MapDataset.range(num_images).shuffle(seed=seed).repeat().batch(batch_size)
    return lambda step: np.asarray(order[step])


def check_batch_fits(num_images: int, batch_size: int) -> None:
    """Raise a UserError where a batch is larger than the training set."""
    if batch_size > num_images:
        raise UserError(
            f"--batch-size {batch_size} is larger than the training set ({num_images} images). "
            f"Pass --batch-size {num_images} or less."
        )


def train_batches(decoded: Decoded, batch_size: int, seed: int) -> Callable[[int], Batch]:
    """Batch t of a training set of canvases.

    Raises:
        UserError: a batch larger than the set.
    """
    num_images = len(decoded.labels)
    check_batch_fits(num_images, batch_size)
    order = batch_order(num_images, batch_size, seed)
    positions = np.arange(batch_size, dtype=np.int32)

    def batch(step: int) -> Batch:
        rows = order(step)
        return Batch._make((decoded.images[rows], decoded.sizes[rows], decoded.labels[rows], positions))

    return batch


def eval_batches(decoded: Decoded, batch_size: int) -> Iterator[EvalBatch]:
    """Every image once, in order; the last batch is filled up with copies of weight 0."""
    num_images = len(decoded.labels)
    for start in range(0, num_images, batch_size):
        rows = np.arange(start, start + batch_size)
        weights = (rows < num_images).astype(np.float32)
        rows = np.minimum(rows, num_images - 1)
        yield EvalBatch._make((decoded.images[rows], decoded.labels[rows], weights))


def epoch_ends(num_images: int, batch_size: int, num_epochs: int) -> list[int]:
    """The number of steps after which each epoch's images have all been seen."""
    return [math.ceil(epoch * num_images / batch_size) for epoch in range(1, num_epochs + 1)]
