"""The learning rates of a range test. No JAX in here."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxft.checks import check

FEWEST = 10
"""Updates: fewer make no curve."""


@dataclass(frozen=True)
class Ramp:
    """A learning rate that rises exponentially, by the same factor at each update."""

    lr_from: float = 1e-6
    """The body's learning rate at the first update."""
    lr_to: float = 1.0
    """The body's learning rate at the last update, where the loss has not told enough before."""
    steps: int = 100
    """Updates."""

    def __post_init__(self) -> None:
        for name in ("lr_from", "lr_to"):
            value = getattr(self, name)
            check(
                math.isfinite(value) and value > 0,
                f"--{name.replace('_', '-')} {value}: must be a positive number, e.g. {getattr(type(self), name)}.",
            )
        check(
            self.lr_from < self.lr_to,
            f"--lr-from {self.lr_from} and --lr-to {self.lr_to}: the rate has to rise. Pass a smaller --lr-from, or a "
            "larger --lr-to.",
        )
        check(
            self.steps >= FEWEST,
            f"--steps {self.steps}: too few to make a curve. Pass --steps {FEWEST} or more, such as 100.",
        )

    def rates(self) -> Float[np.ndarray, " {self.steps}"]:
        """The rate at each update: `lr_from * (lr_to / lr_from) ** (t / (steps - 1))`."""
        return self.lr_from * (self.lr_to / self.lr_from) ** (np.arange(self.steps) / (self.steps - 1))
