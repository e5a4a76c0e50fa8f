"""What a report's numbers are, against scikit-learn, SciPy and plain loops in float64."""

import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics

from jaxft.report.evaluation import (
    calibration,
    class_scores,
    confused_pairs,
    confusion_matrix,
    least_sure,
    row_shares,
    surest_mistakes,
    surest_rights,
    wilson,
)


def drawn(num: int, num_classes: int, seed: int, *, labelled: int | None = None):
    """Probabilities as a network gives them, and labels that often agree, of the first `labelled` classes alone."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (num, num_classes)).astype(np.float32)
    labels = rng.integers(0, labelled or num_classes, num).astype(np.int32)
    logits[np.arange(num), labels] += 2
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True), labels


@pytest.fixture(params=[(500, 2, None), (300, 7, None), (40, 12, 9), (3, 4, 2)])
def tested(request):
    num, num_classes, labelled = request.param
    return drawn(num, num_classes, 0, labelled=labelled)


def test_the_confusion_matrix_is_scikit_learns(tested):
    probabilities, labels = tested
    num_classes, predicted = probabilities.shape[1], probabilities.argmax(1)
    ours = confusion_matrix(labels, predicted, num_classes)
    np.testing.assert_array_equal(ours, metrics.confusion_matrix(labels, predicted, labels=range(num_classes)))
    seen = ours.sum(1) > 0
    shares = metrics.confusion_matrix(labels, predicted, labels=range(num_classes), normalize="true")
    np.testing.assert_allclose(row_shares(ours)[seen], shares[seen])
    assert np.isnan(row_shares(ours)[~seen]).all()


def test_scores_of_each_class_are_scikit_learns(tested):
    probabilities, labels = tested
    num_classes, predicted = probabilities.shape[1], probabilities.argmax(1)
    theirs = metrics.precision_recall_fscore_support(
        labels,
        predicted,
        labels=range(num_classes),
        zero_division=np.nan,  # pyright: ignore[reportArgumentType]
    )
    for our, their in zip(class_scores(labels, predicted, num_classes), theirs, strict=True):
        np.testing.assert_allclose(our, np.asarray(their, np.float64), atol=1e-12)


@pytest.mark.parametrize("num_bins", [15, 10, 1])
def test_calibration_is_that_of_a_plain_loop(tested, num_bins):
    probabilities, labels = tested
    found = calibration(probabilities, labels, num_bins)
    bins = [[] for _ in range(num_bins)]
    for row, label in zip(probabilities.astype(np.float64), labels, strict=True):
        bins[math.ceil(max(row) * num_bins) - 1].append((max(row), float(np.argmax(row) == label)))
    error = 0.0
    for i, members in enumerate(bins):
        assert found.counts[i] == len(members)
        if not members:
            assert np.isnan(found.accuracy[i])
            continue
        confidence, accuracy = (math.fsum(column) / len(members) for column in zip(*members, strict=True))
        assert found.confidence[i] == pytest.approx(confidence, abs=1e-12)
        assert found.accuracy[i] == pytest.approx(accuracy, abs=1e-12)
        error += len(members) / len(labels) * abs(confidence - accuracy)
    assert found.error == pytest.approx(error, abs=1e-12)


def test_a_bin_holds_its_upper_edge():
    probabilities = np.array([[0.2, 0.8], [0.8, 0.2], [0.79, 0.21], [1.0000001, 0.0]])
    found = calibration(probabilities, np.array([1, 1, 0, 0]), 5)
    assert found.counts.tolist() == [0, 0, 0, 3, 1]
    assert found.error == pytest.approx(3 / 4 * abs(2 / 3 - (0.8 + 0.8 + 0.79) / 3), abs=1e-6)


@pytest.mark.parametrize(("right", "total"), [(0, 10), (10, 10), (1, 1), (140, 153), (7, 9), (43210, 50000)])
def test_the_interval_is_scipys(right, total):
    theirs = scipy.stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson(right, total) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_confusions_are_counted(tested):
    probabilities, labels = tested
    predicted = probabilities.argmax(1)
    counts = Counter((int(a), int(b)) for a, b in zip(labels, predicted, strict=True) if a != b)
    pairs = confused_pairs(labels, predicted, probabilities.shape[1], 1000)
    assert {(pair.truth, pair.guess): pair.images for pair in pairs} == counts
    assert all(pair.share == pair.images / np.sum(labels == pair.truth) for pair in pairs)
    keys = [(-pair.images, -pair.share) for pair in pairs]
    assert keys == sorted(keys)
    assert confused_pairs(labels, predicted, probabilities.shape[1], 2) == pairs[:2]


def test_no_confusion_where_all_is_right():
    labels = np.array([0, 1, 2])
    assert confused_pairs(labels, labels, 3, 5) == []
    assert class_scores(labels, labels, 3).f1.tolist() == [1, 1, 1]


def test_pictures_are_picked_by_sorting(tested):
    probabilities, labels = tested
    rows = range(len(labels))
    sure, guess = probabilities.max(1), probabilities.argmax(1)
    wrong = sorted((i for i in rows if guess[i] != labels[i]), key=lambda i: -sure[i])
    assert surest_mistakes(probabilities, labels, 12) == wrong[:12]
    assert least_sure(probabilities, 12) == sorted(rows, key=lambda i: sure[i])[:12]
    right = sorted((i for i in rows if guess[i] == labels[i]), key=lambda i: -sure[i])
    picked = surest_rights(probabilities, labels, len(labels))
    assert sorted(picked) == sorted(right)
    # The first of every class come before any second, each class's own in order.
    kinds = {int(labels[i]) for i in right}
    assert {int(labels[i]) for i in picked[: len(kinds)]} == kinds
    for kind in kinds:
        assert [i for i in picked if labels[i] == kind] == [i for i in right if labels[i] == kind]
