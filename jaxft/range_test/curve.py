"""What a range test finds: the loss at each learning rate, smoothed, and the rate that it suggests. No JAX in here.

The suggestions of seeds 0, 1 and so on, and what short runs reach, last epoch's test accuracy and loss as means over
seeds 0 and 1 (resnet18, 96 pixels for ants and bees, of which 153 to test on; 2 CPU cores, jaxft 0.1.0, jax 0.10.2):

    demo --epochs 5                                        suggested 0.0011 0.0028 0.0017
        --lr 0.0003  0.878 0.30   0.001  0.904 0.23   0.003  0.944 0.15   0.01  0.915 0.29   0.03  0.548 101
    ants and bees, --freeze backbone --augment none        suggested 0.00035 0.00053 0.00038
        --lr 0.00001 0.638 0.92   0.0001 0.784 0.64   0.0003 0.794 0.71   0.001 0.781 1.5    0.003 0.810 5.5
    ants and bees, everything, --epochs 3                  suggested 0.0019 0.0022
        --lr 0.0005  0.771 0.52   0.001  0.781 0.48   0.002  0.741 0.58   0.003 0.654 0.93   (0.003: seed 0 alone)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxft.range_test.ramp import FEWEST, Ramp

BEGINNING = 10
"""The loss begins as its mean over one in so many of the updates."""
WIDTH = 25
"""The smoothing's standard deviation is one in so many of the updates: a quarter of a decade, with six of them."""
DIVERGED = 4.0
"""Of its lowest, where the smoothed loss has left it for good; as fastai's lr_find has it."""
NOISE = 1.5
"""So many standard deviations of a batch's loss are no fall: the lowest of many means is that far down by chance."""


class Curve(NamedTuple):
    """A range test's result; `t` updates were made before it ended."""

    rates: Float[np.ndarray, " t"]
    """The body's learning rate at each update."""
    losses: Float[np.ndarray, " t"]
    """Of each batch, before its update, in nats."""
    smoothed: Float[np.ndarray, " t"]
    suggestion: float | None
    """A rate for the body, to two digits; None where the loss did not fall."""
    valley: tuple[float, float] | None
    """The rates between which it is the middle."""
    why: str
    """How it follows from the curve, or why there is none: sentences."""


def read_curve(ramp: Ramp, losses: Sequence[float]) -> Curve:
    """The curve of a test's losses, and the suggestion that it makes.

    It is the middle, on the log axis, of the range of rates at which the smoothed loss is more than half-way down from
    where it began to its lowest. Smith (arXiv:1506.01186, 3.3) takes the two ends of such a range, where the loss
    begins to fall and where it becomes ragged, as the bounds of a cycle; fastai's lr_find suggests the middle of the
    longest descent ("valley"), the steepest point or a tenth of the lowest point's rate. The last two are read off the
    curve at one point, and move with the noise of single batches, most of all where the bottom is flat; the two sides
    of the valley are where the curve crosses a level, and are better known.
    """
    found = np.array(losses)
    rates, smoothed = ramp.rates()[: len(found)], smooth(found, ramp.steps)
    lowest, first = int(smoothed.argmin()), beginning(found, ramp.steps)
    fall = first - smoothed[lowest]
    # Of the differences between neighbours, for a curve that falls spreads without any noise.
    spread = np.sqrt(np.mean(np.square(np.diff(found[: max(lowest, FEWEST)]))) / 2)
    if fall <= NOISE * spread or lowest < ramp.steps // BEGINNING:
        why = (
            f"The smoothed loss begins at {first:.3g} and is nowhere lower than {smoothed[lowest]:.3g}, at "
            f"{rates[lowest]:.1e}; batches spread by {spread:.2g}: that is no fall."
        )
        return Curve(rates, found, smoothed, None, None, why)
    above = np.flatnonzero(smoothed > first - fall / 2)
    low, high = above[above < lowest].max(initial=-1) + 1, above[above > lowest].min(initial=len(found)) - 1
    valley = float(rates[low]), float(rates[high])
    suggestion = float(f"{np.sqrt(valley[0] * valley[1]):.2g}")
    why = (
        f"The smoothed loss falls from {first:.3g} to {smoothed[lowest]:.3g} and is in the lower half of that from "
        f"{valley[0]:.1e} to {valley[1]:.1e}; {suggestion:g} is the middle of this range on the log axis."
    )
    if high == ramp.steps - 1:
        why += f" It has not risen again at {ramp.lr_to:g}: a larger --lr-to would suggest a larger rate."
    if low == 0:
        why += f" It is there from the first update on: a smaller --lr-from than {ramp.lr_from:g} tells more."
    return Curve(rates, found, smoothed, suggestion, valley, why)


def has_diverged(losses: Float[np.ndarray, " t"], steps: int) -> bool:
    """Whether a test may end: a loss is not finite, or smoothed above 4 times its lowest and above where it began."""
    if not np.isfinite(losses[-1]):
        return True
    smoothed = smooth(losses, steps)
    return bool(smoothed[-1] > max(DIVERGED * smoothed.min(), beginning(losses, steps)))


def beginning(losses: Float[np.ndarray, " t"], steps: int) -> float:
    """Where the loss begins: its mean over the first tenth of the updates."""
    return float(losses[: max(steps // BEGINNING, 1)].mean())


def smooth(losses: Float[np.ndarray, " t"], steps: int) -> Float[np.ndarray, " t"]:
    """Means weighted by a Gaussian around each update; at the ends, of what is there.

    Unlike a moving average it does not lag, which would move what is read off the curve to larger rates. A loss counts
    as 4 times the first at most, for one that explodes would fill the valley before it.
    """
    width = max(steps / WIDTH, 1.0)
    reach = round(4 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    capped = np.minimum(losses, DIVERGED * beginning(losses, steps))
    sums, weights = (np.convolve(values, kernel)[reach:-reach] for values in (capped, np.ones(len(losses))))
    return sums / weights
