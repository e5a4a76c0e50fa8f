"""Which arm wins, if one does: in numbers, and in a sentence."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxft.comparison.chance import Difference, difference
from jaxft.report.words import plural

ArmHits = Mapping[int, Bool[np.ndarray, " n"]]
"""By seed, which test images an arm's model classifies rightly."""


class Pair(NamedTuple):
    """The best arm and another one, and how they differ over the seeds that both have."""

    best: str
    other: str
    seeds: Sequence[int]
    difference: Difference


class Verdict(NamedTuple):
    """What a comparison says."""

    winner: str | None
    """The arm that is better than each other one by more than chance."""
    sentence: str
    method: str
    pairs: Sequence[Pair]
    """The others from the best to the worst."""


def judge(arms: Mapping[str, ArmHits], test_per_train: float | None) -> Verdict:
    """The verdict over arms that have a seed each at least; `test_per_train` as in jaxft.comparison.chance.

    To be taken for the best, a worse arm must seem better than the truly best one: as many chances to be wrong as there
    are others (Hsu's multiple comparisons with the best, 1984), over which the confidence is shared out.
    """
    accuracies = {name: float(np.mean([row.mean() for row in hits.values()])) for name, hits in arms.items()}
    best, *others = sorted(arms, key=lambda name: -accuracies[name]) or [""]
    paired = [other for other in others if arms[best].keys() & arms[other].keys()]
    pairs = [compare_pair(best, other, arms, len(others), test_per_train) for other in paired]
    if not pairs:
        return Verdict(None, "No verdict: no two arms have a seed in common that ended well.", "", pairs)
    near = [pair for pair in pairs if pair.difference.low <= 1]
    wins = not near and len(paired) == len(others)
    told = (near or pairs)[0]
    worse = [pair.other for pair in pairs if pair.difference.low > 1]
    sentence = winning_sentence(told, accuracies) if wins else undecided_sentence(told, accuracies, worse)
    num_images = len(arms[best][told.seeds[0]])
    return Verdict(best if wins else None, sentence, method(told, num_images, len(others), test_per_train), pairs)


def compare_pair(
    best: str, other: str, arms: Mapping[str, ArmHits], num_others: int, test_per_train: float | None
) -> Pair:
    """Two arms over the seeds that both have."""
    seeds = sorted(arms[best].keys() & arms[other].keys())
    rows = ([arms[name][seed] for seed in seeds] for name in (best, other))
    return Pair(best, other, seeds, difference(*rows, num_comparisons=num_others, test_per_train=test_per_train))


def winning_sentence(pair: Pair, accuracies: Mapping[str, float]) -> str:
    """That an arm is better than the next best, and so than all."""
    best, other, _, found = pair
    rest = "" if len(accuracies) == 2 else ", and so it is against each of the others"
    return (
        f"{best} wins: test accuracy {accuracies[best]:.3f} against {accuracies[other]:.3f} of {other}, "
        f"{found.accuracy:.3f} more, {odds_words(found)}: more than chance{rest}."
    )


def undecided_sentence(pair: Pair, accuracies: Mapping[str, float], worse: Sequence[str]) -> str:
    """That the best arm may be the best by chance, and which arms are worse than it by more."""
    best, other, _, found = pair
    rest = f" Worse than {best} by more than chance: {', '.join(worse)}." if worse else ""
    return (
        f"No clear winner: {best} has test accuracy {accuracies[best]:.3f} and {other} {accuracies[other]:.3f}, "
        f"{odds_words(found)}: that may be chance.{rest}"
    )


def odds_words(found: Difference) -> str:
    """The odds ratio with its interval."""
    interval = f"{shortened(found.low)} to {shortened(found.high)}"
    return f"the odds of a hit {shortened(found.odds_ratio)} times as high (95 % interval {interval})"


def shortened(ratio: float) -> str:
    """A ratio in two or three figures; one out of all proportion, by a bound."""
    if not 0.01 <= ratio <= 1000:
        return "under 0.01" if ratio < 1 else "over 1,000"
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def method(pair: Pair, num_images: int, num_others: int, test_per_train: float | None) -> str:
    """What chance was taken to be, and by which method."""
    num_seeds, df = len(pair.seeds), pair.difference.df
    if num_seeds == 1:
        how = (
            f"Chance is that of the {num_images:,} test images alone (paired, as in McNemar's test): another seed may "
            "tell otherwise."
        )
    elif test_per_train is None:
        how = (
            f"Chance is that of {num_seeds} seeds and of {num_images:,} test images (paired by both; two-way random "
            f"effects, {df:.1f} degrees of freedom)."
        )
    else:
        how = (
            f"Chance is that of {num_seeds} seeds, each with other test images (paired by seed; Nadeau and Bengio's "
            f"corrected t test, {plural(round(df), 'degree', 'degrees')} of freedom)."
        )
    return how if num_others == 1 else f"{how} The interval allows for {num_others} others (Hsu; Bonferroni)."
