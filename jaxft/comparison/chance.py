"""Whether one arm is better than another, or chance alone may have made it look so.

Chance comes in twice. The seed decides the new head, the order of the images and their augmentation: another seed,
another network. The test images are a sample too: others would have found each network better or worse, both arms'
alike. A t test over the seeds' accuracies sees the first alone, McNemar's test the second alone. Here both are seen:
for each seed and each test image, one arm's hit or miss is held against the other's, in a table of seeds by images. Its
mean has the variance of a two-way random-effects layout (Cornfield and Tukey, 1956), estimated from its mean squares,
no component below 0, with Satterthwaite's degrees of freedom (1946). Radiology compares diagnostic tests so, with
readers in place of seeds (Dorfman, Berbaum and Metz, 1992; Hillis, 2007).

What is compared is the odds, hits over misses. Their logarithm scatters evenly where an accuracy is squeezed against 1:
a network from scratch that fails with one seed would otherwise hide that it loses with every one. It is linear in the
images' hits by the delta method. One image that only the first arm hits and one that only the second hits are added
(Bonett and Price, 2012), so that neither odds nor variances are ever 0 or infinite.

With one seed only the images' chance is left, as in McNemar's test. Where the data have no test set of their own, each
seed keeps other images for testing: then the seeds' differences hold both kinds of chance, but their images overlap,
which is Nadeau and Bengio's corrected resampled t test (2003).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean with its standard error, and the degrees of freedom of that."""

    mean: float
    error: float
    df: float


class Difference(NamedTuple):
    """How much better one arm is than another."""

    accuracy: float
    """The one's test accuracy less the other's, as it was seen."""
    odds_ratio: float
    """The one's hits over misses, over the other's: 1 where they are equal."""
    low: float
    """Of the odds ratio's interval."""
    high: float
    log_error: float
    """The standard error of the odds ratio's natural logarithm."""
    df: float
    p: float
    """Two-sided, of an odds ratio of 1, times the number of comparisons (Bonferroni)."""


Hits = Sequence[Bool[np.ndarray, " _"]]
"""For each seed, which test images were classified rightly."""


def difference(a: Hits, b: Hits, *, num_comparisons: int = 1, test_per_train: float | None = None) -> Difference:
    """Arm `a` against arm `b`, with the same seeds in the same order.

    Args:
        a: one arm's hits.
        b: the other's.
        num_comparisons: over how many the confidence of 95 % is shared out.
        test_per_train: test images over training images where each seed has a split of its own; else None.
    """
    rows = [
        log_odds(np.append(one, [True, False])) - log_odds(np.append(other, [False, True]))
        for one, other in zip(a, b, strict=True)
    ]
    if test_per_train is None or len(rows) == 1:
        mean, error, df = crossed(np.stack(rows))
    else:
        mean, error, df = resampled(rows, test_per_train)
    half = error * float(stdtrit(df, 1 - (1 - CONFIDENCE) / num_comparisons / 2))
    ratio, low, high = (bounded_exp(x) for x in (mean, mean - half, mean + half))
    accuracy = float(np.mean([one.mean() - other.mean() for one, other in zip(a, b, strict=True)]))
    p = min(1.0, 2 * num_comparisons * float(stdtr(df, -abs(mean) / error)))
    return Difference(accuracy, ratio, low, high, error, df, p)


def log_odds(hits: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """A value for each image, whose mean is the logarithm of the odds and whose variance is that of its estimate."""
    share = hits.mean()
    return math.log(share / (1 - share)) + (hits - share) / (share * (1 - share))


def crossed(table: Float[np.ndarray, "seeds images"]) -> Estimate:
    """The mean of a two-way random-effects layout; of one row, of a simple sample."""
    num_seeds, num_images = table.shape
    mean, by_seed, by_image = float(table.mean()), table.mean(1, keepdims=True), table.mean(0)
    images = num_seeds * float(by_image.var(ddof=1))
    if num_seeds == 1:
        return Estimate(mean, math.sqrt(images / num_images), num_images - 1)
    degrees = num_seeds - 1, num_images - 1, (num_seeds - 1) * (num_images - 1)
    rest = float(((table - by_seed - by_image + mean) ** 2).sum()) / degrees[2]
    # A mean square below the residual's would make its component negative.
    terms = max(num_images * float(by_seed.var(ddof=1)), rest), max(images, rest), -rest
    total = sum(terms)
    df = total**2 / sum(term**2 / degree for term, degree in zip(terms, degrees, strict=True))
    return Estimate(mean, math.sqrt(total / table.size), df)


def resampled(rows: Sequence[Float[np.ndarray, " _"]], test_per_train: float) -> Estimate:
    """The mean over seeds that each have a test set of their own, drawn from the same images."""
    means = np.array([row.mean() for row in rows])
    within = float(np.mean([row.var(ddof=1) / len(row) for row in rows]))
    # The seeds' variance holds that of their images, and is below it by luck only.
    variance = max(float(means.var(ddof=1)), within)
    return Estimate(float(means.mean()), math.sqrt(variance * (1 / len(rows) + test_per_train)), len(rows) - 1)


def bounded_exp(x: float) -> float:
    """The exponential, finite: few seeds leave almost everything possible."""
    return math.exp(min(x, 700.0))
