"""What a classifier says of a whole test set that a run has decoded, or streams."""

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
    """The images of a set that can be decoded: where each is in it, its label, and each class's probability."""

    rows: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n k"]


def score_split(classifier: Classifier, split: Split, *, skip_bad: bool) -> Scored:
    """Every image's probabilities, computed on the classifier's devices.

    Raises:
        UserError: a streamed image that cannot be decoded, unless `skip_bad`; or none that can be.
    """
    if isinstance(split, Decoded):
        found = [np.asarray(scores.probabilities)[:num] for scores, num in score_crops(classifier, split.images)]
        return Scored(np.arange(len(split.labels)), split.labels, np.concatenate(found))
    rows, found = [], []
    with closing(classifier.stream(Images(split.source))) as predictions:
        for i, prediction in enumerate(predictions):
            if prediction.probabilities is not None:
                rows.append(i)
                found.append(prediction.probabilities)
            elif not skip_bad:
                raise UserError(f"{name_of(split.source.read(i)[0], i)}: {prediction.bad}. Put it right.")
    if not found:
        raise UserError("none of the test images can be decoded.")
    return Scored(np.array(rows, np.int64), split.labels[rows], np.stack(found))


def score_crops(
    classifier: Classifier, crops: UInt8[np.ndarray, "n s s 3"], batch_size: int = BATCH_SIZE
) -> Iterator[tuple[Scores, int]]:
    """Scores with maps in batches, and how many rows of each are images: the last is filled up with black ones."""
    waiting: deque[tuple[Scores, int]] = deque()
    for start in range(0, len(crops), batch_size):
        # One shape, with the maps that only a few images are asked for: one compilation.
        batch = np.zeros((batch_size, *crops.shape[1:]), np.uint8)
        num = len(crops[start : start + batch_size])
        batch[:num] = crops[start : start + num]
        release(crops)
        waiting.append((classifier.score(batch, batch_size, with_maps=True), num))
        if len(waiting) > IN_FLIGHT:
            yield waiting.popleft()
    yield from waiting


def photo_at(split: Split, i: int) -> Photo:
    """Image i of a set, with its label and its name."""
    if isinstance(split, Decoded):
        height, width = split.sizes[i].tolist()
        return Photo(np.asarray(split.images[i]), (height, width), int(split.labels[i]), split.names[i], None)
    with quiet():
        return decode_one(split.source, i, split.recipe)
