"""What a classifier says of a whole test set that a run has decoded, or streams."""

import math
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxft.classifier import BATCH_SIZE, IN_FLIGHT, Classifier, Scores
from jaxft.data.cache import release
from jaxft.data.canvas import Decoded, Photo, decode_one, name_of
from jaxft.data.feed import Streamed
from jaxft.data.images import quiet
from jaxft.data.sources import Images
from jaxft.errors import UserError

Split = Decoded | Streamed


class Scored(NamedTuple):
    """The images of a set that can be decoded: where each is in it, its label, and what the classifier says."""

    rows: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n k"]
    maps: Float[np.ndarray, "n h w"]
    """Each image's activation map of the class that is predicted."""


def score_split(classifier: Classifier, split: Split, *, skip_bad: bool) -> Scored:
    """What the classifier says of every image, computed on its devices.

    Raises:
        UserError: a streamed image that cannot be decoded, unless `skip_bad`; or none that can be.
    """
    if isinstance(split, Decoded):
        probabilities, maps = map(np.concatenate, zip(*score_crops(classifier, split.images), strict=True))
        return Scored(np.arange(len(split.labels)), split.labels, probabilities, maps)
    rows, found = [], []
    with closing(classifier.stream(Images(split.source), with_maps=True)) as predictions:
        for i, (probabilities, bad, _, maps) in enumerate(predictions):
            if probabilities is not None and maps is not None:
                rows.append(i)
                found.append((probabilities, maps[..., probabilities.argmax()]))
            elif not skip_bad:
                raise UserError(f"{name_of(split.source.read(i)[0], i)}: {bad}. Put it right.")
    if not found:
        raise UserError("none of the test images can be decoded.")
    return Scored(np.array(rows, np.int64), split.labels[rows], *map(np.stack, zip(*found, strict=True)))


def score_crops(
    classifier: Classifier, crops: UInt8[np.ndarray, "n s s 3"], most: int = BATCH_SIZE
) -> Iterator[tuple[Float[np.ndarray, "b k"], Float[np.ndarray, "b h w"]]]:
    """Probabilities and the predicted class's map, in batches of at most `most`."""
    # Batches of one size: one compilation.
    size = math.ceil(len(crops) / math.ceil(len(crops) / most))
    waiting: deque[tuple[Scores, int]] = deque()
    for start in range(0, len(crops), size):
        batch = np.zeros((size, *crops.shape[1:]), np.uint8)
        num = len(crops[start : start + size])
        batch[:num] = crops[start : start + num]
        release(crops)
        waiting.append((classifier.score(batch, size, with_maps=True), num))
        if len(waiting) > IN_FLIGHT:
            yield fetched(*waiting.popleft())
    yield from (fetched(*each) for each in waiting)


def fetched(scores: Scores, num: int) -> tuple[Float[np.ndarray, "b k"], Float[np.ndarray, "b h w"]]:
    """The first `num` rows of a batch on the host, of the maps those of the predicted classes."""
    probabilities, maps = (np.asarray(each)[:num] for each in scores)
    return probabilities, maps[np.arange(num), :, :, probabilities.argmax(1)]


def photo_at(split: Split, i: int) -> Photo:
    """Image i of a set, with its label and its name."""
    if isinstance(split, Decoded):
        height, width = split.sizes[i].tolist()
        return Photo(np.asarray(split.images[i]), (height, width), int(split.labels[i]), split.names[i], None)
    with quiet():
        return decode_one(split.source, i, split.recipe)
