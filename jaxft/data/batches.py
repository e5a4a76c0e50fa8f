"""Which images make batch t of a run, as a pure function of (seed, t): to resume at step t is to ask for batch t."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import grain
import numpy as np

from jaxft.errors import UserError

Order = Callable[[int], np.ndarray]
"""From a step t to the rows of its batch, int32 [b]."""

CACHED = 16


def shuffled_order(num_images: int, batch_size: int, seed: int) -> Order:
    """A new shuffle each epoch; batches straddle epochs, so that no image is dropped."""
    order = grain.MapDataset.range(num_images).shuffle(seed=seed).repeat().batch(batch_size)
    return lru_cache(CACHED)(lambda step: np.asarray(order[step], np.int32))


def balanced_order(labels: np.ndarray, batch_size: int, seed: int) -> Order:
    """Every class equally often: in rounds of one image a class, each class going through its own images in turn.

    An epoch still has as many images as the set, so that it sees those of large classes in part, of small ones again.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rounds = grain.MapDataset.range(len(members)).shuffle(seed=seed).repeat()
    images = [
        grain.MapDataset.source(rows.tolist()).shuffle(seed=(seed + 1 + i) % 2**32).repeat()
        for i, rows in enumerate(members)
    ]

    def row(place: int) -> Any:
        label: Any = rounds[place]
        return images[label][place // len(members)]

    def order(step: int) -> np.ndarray:
        return np.array([row(place) for place in range(step * batch_size, (step + 1) * batch_size)], np.int32)

    return lru_cache(CACHED)(order)


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """A weight a class, in inverse proportion to its number of images: float32 [k], 1 on average over the images."""
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0).astype(np.float32)


def check_batch_fits(num_images: int, batch_size: int) -> None:
    """Raise a UserError where a batch is larger than the training set."""
    if batch_size > num_images:
        raise UserError(
            f"--batch-size {batch_size} is larger than the training set ({num_images} images). "
            f"Pass --batch-size {num_images} or less."
        )


def eval_rows(num_images: int, batch_size: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows int32 [b] and weights float32 [b] of an evaluation batch; the last one is filled up at weight 0."""
    rows = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)
    return np.minimum(rows, num_images - 1), (rows < num_images).astype(np.float32)


def num_eval_batches(num_images: int, batch_size: int) -> int:
    """Batches that hold every image once."""
    return math.ceil(num_images / batch_size)


def epoch_ends(num_images: int, batch_size: int, num_epochs: int) -> list[int]:
    """The number of steps after which each epoch's images have all been seen."""
    return [math.ceil(epoch * num_images / batch_size) for epoch in range(1, num_epochs + 1)]
