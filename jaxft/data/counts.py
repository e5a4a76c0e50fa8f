"""How many images each class has, and what of it a user should read."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jaxft.data.sources import Source, labels_of

NAMED_CLASSES = 8
UNBALANCED = 5
BALANCE = "--balance weights or --balance sampler makes up for it."


def class_counts(source: Source) -> Int[np.ndarray, " k"]:
    """The images of each class."""
    return np.bincount(labels_of(source), minlength=len(source.class_names))


def count_notes(train: Source, *, balanced: bool = False) -> tuple[str, ...]:
    """Lines on the classes of a training set: how many images each has, and a hint where they differ much.

    The hint names --balance; with `balanced`, which says that the run balances already, it is left out.
    """
    names, counts = train.class_names, class_counts(train)
    if not len(counts):
        return ()
    hint = "" if balanced else unbalanced(names, counts)
    return (summary(names, counts), *((f"{hint} {BALANCE}",) if hint else ()))


def summary(names: Sequence[str], counts: Int[np.ndarray, " k"]) -> str:
    """The counts of few classes one by one; of many, the range and its ends."""
    if len(names) <= NAMED_CLASSES:
        return f"classes: {', '.join(f'{name} {count:,}' for name, count in zip(names, counts, strict=True))}"
    few, most = int(counts.argmin()), int(counts.argmax())
    each = f"{counts[few]:,}" if counts[few] == counts[most] else f"{counts[few]:,} to {counts[most]:,}"
    line = f"{len(names):,} classes, {each} training images each"
    if counts[few] == counts[most]:
        return line
    return f"{line} (median {np.median(counts):,.0f}): fewest {names[few]}, most {names[most]}"


def unbalanced(names: Sequence[str], counts: Int[np.ndarray, " k"]) -> str:
    """A sentence where the largest class has at least 5 times the images of the smallest; empty otherwise."""
    few, most = int(counts.argmin()), int(counts.argmax())
    if counts[few] == 0 or counts[most] < UNBALANCED * counts[few]:
        return ""
    return (
        f"unbalanced: {names[most]} has {counts[most] / counts[few]:,.0f} times the training images of {names[few]} "
        f"({counts[most]:,} and {counts[few]:,})."
    )
