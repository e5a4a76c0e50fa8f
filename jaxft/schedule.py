"""Learning-rate schedules as closed forms: the factor of every rate at each update."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxft.optim_config import ScheduleConfig

Schedule = Callable[..., Float[Array, ""]]
"""The factor at update t, counted from 0."""

RISE, START, END = 0.3, 1 / 25, 1 / 25e4
"""Of one-cycle, as torch.optim.lr_scheduler.OneCycleLR has them: the share of updates that rise, first and last factor.
"""


def make_schedule(config: ScheduleConfig, num_updates: int, updates_per_epoch: float) -> Schedule:
    """The schedule of a run, or of one of its stages, of so many updates.

    After a warm-up that rises in equal steps, so that its last update has the whole rate, the rest of the updates
    follow the shape: `cosine` and `linear` fall from 1 and would reach 0 one update after the last; `step` falls by
    `decay_factor` every `decay_epochs`, counted from the warm-up's end; `one-cycle` rises and falls by cosines
    (Smith and Topin, arXiv:1708.07120).
    """
    warmup = min(round(config.warmup_epochs * updates_per_epoch), num_updates)
    rest = max(num_updates - warmup, 1)

    def factor(step: Num[Array, ""] | float) -> Float[Array, ""]:
        t = jnp.asarray(step, jnp.float32)
        since = jnp.clip(t - warmup, 0, rest)
        done = since / rest
        match config.schedule:
            case "cosine":
                shape = fall(1.0, 0.0, done)
            case "linear":
                shape = 1 - done
            case "step":
                # Half an update more, so that no rounding moves a fall to the next one.
                shape = config.decay_factor ** jnp.floor((since + 0.5) / updates_per_epoch / config.decay_epochs)
            case "one-cycle":
                top = max(RISE * num_updates - 1, 1.0)
                falling = jnp.clip((t - top) / max(num_updates - 1 - top, 1.0), 0, 1)
                shape = jnp.where(t <= top, fall(START, 1.0, t / top), fall(1.0, END, falling))
            case _:
                shape = jnp.ones(())
        return jnp.where(t < warmup, (t + 1) / max(warmup, 1), shape)

    return factor


def fall(start: float, end: float, done: Float[Array, ""]) -> Float[Array, ""]:
    """From start to end along half a cosine, of which a share is done."""
    return end + (start - end) * (1 + jnp.cos(jnp.pi * done)) / 2
