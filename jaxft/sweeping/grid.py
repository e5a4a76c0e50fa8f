"""A sweep's recipes: flags with several values, and every combination of these."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.arguments import taken
from jaxft.checks import check
from jaxft.config import Config, by_flag, swept_flags
from jaxft.config_file import with_flags

Grid = Mapping[str, Sequence[Any]]
"""The values of each flag that has several."""

DIGITS = 4
"""Of rates that are computed."""


def take_grid(words: Sequence[str]) -> tuple[Grid, list[str]]:
    """The flags whose values are several, `0,1e-4` or `1e-4:1e-1:8`, and the words without them.

    Raises:
        UserError: a range or a list that is none.
    """
    grid: dict[str, Sequence[Any]] = {}
    for flag in swept_flags():
        value, without = taken(words, flag)
        if value is not None and ("," in value or ":" in value):
            grid[flag], words = parse_values(flag, value), without
    return grid, list(words)


def parse_values(flag: str, text: str) -> Sequence[Any]:
    """`0,1e-4,1e-3` as it stands, `1e-4:1e-1:8` as eight values with the same ratio from each to the next.

    Raises:
        UserError: neither.
    """
    if ":" not in text:
        values = [parse_value(word) for word in text.split(",") if word]
        check(len(set(values)) == len(values) > 0, f"{flag} {text}: no value may be there twice. Leave one out.")
        return values
    parts = [parse_value(word) for word in text.split(":")]
    ends = parts[:2]
    check(
        len(parts) == 3
        and all(isinstance(end, int | float) and math.isfinite(end) and end > 0 for end in ends)
        and isinstance(parts[2], int)
        and parts[2] >= 2
        and ends[0] != ends[1],
        f"{flag} {text}: no range. Write FROM:TO:HOW_MANY, two positive numbers and at least 2, e.g. 1e-4:1e-1:8, or a "
        "list, e.g. 0,1e-4,1e-3.",
    )
    return [rounded(value) for value in np.geomspace(ends[0], ends[1], parts[2])]


def rounded(value: float) -> float:
    """To a few digits."""
    return float(f"{value:.{DIGITS}g}")


def parse_value(word: str) -> Any:
    """A number where it is one, None, or else the word."""
    if word == "None":
        return None
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def recipes_of(base: Config, grid: Grid) -> list[Config]:
    """Every combination of the grid's values; those of the last flag change fastest.

    Raises:
        UserError: one that cannot be.
    """
    return [with_flags(base, dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values())]


def changes_of(config: Config, grid: Grid) -> dict[str, Any]:
    """What the grid's flags are in a config."""
    values = by_flag(config)
    return {flag: values[flag] for flag in grid}


def in_words(changes: Mapping[str, Any]) -> str:
    """`--lr 0.001 --weight-decay 0`."""
    return " ".join(
        f"{flag} {value:g}" if isinstance(value, float) else f"{flag} {value}" for flag, value in changes.items()
    )
