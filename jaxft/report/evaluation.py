"""From probabilities and labels to what can be said of a classifier. NumPy alone."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Labels = Int[np.ndarray, " n"]
Probabilities = Float[np.ndarray, "n k"]

NUM_BINS = 15
"""Of equal width, as in Guo et al. (2017), On Calibration of Modern Neural Networks."""
Z95 = 1.959963984540054
"""A normal variable lies within so many standard deviations with probability 0.95."""


class ClassScores(NamedTuple):
    """Of each class; NaN where there is nothing to divide by: a class never predicted, or without a test image."""

    precision: Float[np.ndarray, " k"]
    """Of the images predicted to be of the class, the share that are."""
    recall: Float[np.ndarray, " k"]
    """Of the images of the class, the share predicted to be."""
    f1: Float[np.ndarray, " k"]
    """The harmonic mean of the two."""
    support: Int[np.ndarray, " k"]
    """Test images of the class."""


class Calibration(NamedTuple):
    """By bins of confidence, which is the largest probability; means are NaN in a bin without images."""

    edges: Float[np.ndarray, " bins+1"]
    counts: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    error: float
    """Expected calibration error (ECE): the mean over images of the gap between their bin's confidence and accuracy."""


class Pair(NamedTuple):
    """A class that is taken for another: how many of its test images, and which share of them."""

    truth: int
    guess: int
    images: int
    share: float


def confusion_matrix(labels: Labels, predicted: Labels, num_classes: int) -> Int[np.ndarray, "k k"]:
    """How many images of class i (row) are predicted to be of class j (column)."""
    cells = np.bincount(labels.astype(np.int64) * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def row_shares(confusion: Int[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Each count over its row's sum; NaN in the row of a class without a test image."""
    return _ratio(confusion, confusion.sum(1, keepdims=True))


def class_scores(labels: Labels, predicted: Labels, num_classes: int) -> ClassScores:
    """Precision, recall, F1 and support of each class."""
    right, support, guesses = (
        np.bincount(rows, minlength=num_classes) for rows in (labels[labels == predicted], labels, predicted)
    )
    return ClassScores(_ratio(right, guesses), _ratio(right, support), _ratio(2 * right, support + guesses), support)


def confused_pairs(labels: Labels, predicted: Labels, num_classes: int, most: int) -> Sequence[Pair]:
    """The largest mistakes by number of images, and among equals by share: at most `most`."""
    wrong, support = labels != predicted, np.bincount(labels, minlength=num_classes)
    found, counts = np.unique(np.stack([labels[wrong], predicted[wrong]]), axis=1, return_counts=True)
    shares = counts / support[found[0]]
    order = np.lexsort((-shares, -counts))[:most]
    return [Pair(int(found[0, i]), int(found[1, i]), int(counts[i]), float(shares[i])) for i in order]


def calibration(probabilities: Probabilities, labels: Labels, num_bins: int = NUM_BINS) -> Calibration:
    """How confidence and accuracy agree; a bin holds its upper edge and not its lower one."""
    confidence = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, num_bins + 1)
    # float32 probabilities may be a rounding above 1.
    bins = np.minimum(np.searchsorted(edges[1:], confidence), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    mean_confidence = _ratio(np.bincount(bins, confidence, num_bins), counts)
    accuracy = _ratio(np.bincount(bins, right, num_bins), counts)
    error = float(np.nansum(counts * np.abs(accuracy - mean_confidence)) / max(len(labels), 1))
    return Calibration(edges, counts, mean_confidence, accuracy, error)


def wilson(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) of a share of which `right` of `total` were seen."""
    share, spread = right / total, Z95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def surest_mistakes(probabilities: Probabilities, labels: Labels, most: int) -> Sequence[int]:
    """The rows of mistakes, those of the largest probability first: at most `most`."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:most].tolist()


def surest_rights(probabilities: Probabilities, labels: Labels, most: int) -> Sequence[int]:
    """The rows of what is right, of each class in turn, those of the largest probability first: at most `most`."""
    right = np.flatnonzero(probabilities.argmax(1) == labels)
    right = right[np.argsort(-probabilities[right].max(1), kind="stable")]
    turns = np.empty(len(right), np.int64)
    for label in np.unique(labels[right]):
        own = labels[right] == label
        turns[own] = np.arange(own.sum())
    return right[np.argsort(turns, kind="stable")][:most].tolist()


def least_sure(probabilities: Probabilities, most: int) -> Sequence[int]:
    """The rows whose largest probability is smallest: at most `most`."""
    return np.argsort(probabilities.max(1), kind="stable")[:most].tolist()


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """One over the other in float64; NaN where the other is 0."""
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)
