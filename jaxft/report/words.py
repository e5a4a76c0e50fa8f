"""Numbers as people read them."""

import math
from collections.abc import Sequence
from itertools import groupby

NBSP = "\u00a0"
UNDEFINED = "–"
HUGE = 1e9  # No count is, and a loss only of a network that fell apart.


def percent(share: float, digits: int = 1) -> str:
    """A share of 1: "91.5 %"."""
    return UNDEFINED if math.isnan(share) else f"{100 * share:.{digits}f}{NBSP}%"


def chance(probability: float) -> str:
    """A probability; what is nearly certain is not written as if it were certain."""
    if 0 < probability < 0.0005:
        return f"<{NBSP}0.1{NBSP}%"
    return f">{NBSP}99.9{NBSP}%" if 0.9995 <= probability < 1 else percent(probability)


def number(value: float, digits: int | None = None) -> str:
    """A number with so many digits behind the point; without, as few as it needs, two at most."""
    if math.isnan(value):
        return UNDEFINED
    if abs(value) >= HUGE:
        return f"{value:.1e}"
    return f"{value:,.{digits}f}" if digits is not None else f"{value:.2f}".rstrip("0").rstrip(".")


def digits_for(step: float) -> int:
    """Digits behind the point that tell numbers a step apart."""
    return max(0, -math.floor(math.log10(step) + 1e-9))


def duration(seconds: float) -> str:
    """Seconds, as "23 s", "4 min 10 s" or "2 h 13 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60}{NBSP}s"
    return f"{whole // 3600:,}{NBSP}h {whole % 3600 // 60}{NBSP}min"


def counted(things: Sequence[str]) -> str:
    """Equal things once, with their number: "2 × A100, 1 × H100"."""
    return ", ".join(f"{len(list(same))} × {name}" for name, same in groupby(sorted(things)))


def plural(count: int, one: str, many: str) -> str:
    """A count and its noun: "1 mistake", "12 mistakes"."""
    return f"{count:,} {one if count == 1 else many}"
