"""The course of a run: which stages train from which update on, and how the learning rates change."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxft.config import Config, OptimConfig
from jaxft.data.batches import epoch_ends
from jaxft.optim_config import STAGES, ScheduleConfig
from jaxft.resnet import frozen_stages
from jaxft.schedule import Schedule, make_schedule


class Part(NamedTuple):
    """A part of a run."""

    first_step: int
    """Before its first update, so many have been made."""
    waiting: tuple[str, ...] = ()
    """Stages that do not train yet, from the image upward, beside the frozen ones."""
    new_head: bool = True
    """The head learns at its own rate, and not at the body's."""

    def of(self, config: OptimConfig) -> OptimConfig:
        """The optimizer's config in this part; its state has the same shape in all of them."""
        return config if self.new_head else replace(config, head_lr_mult=1.0)


class Course(NamedTuple):
    """The parts of a run, one after the other, and its schedule; None where every rate stays as it is."""

    parts: Sequence[Part] = (Part(0),)
    schedule: Schedule | None = None


def plan_course(config: Config, num_train: int) -> Course:
    """The course of a run on so many training images.

    With `--head-epochs K`, the head alone trains for K epochs, and the rest of the epochs are a second part, with a
    schedule that begins anew, in which the head learns as fast as the body (Kumar et al., arXiv:2202.10054). With
    `--unfreeze-epochs U`, stages join in that part from the top down, one every U epochs, layer4 from its beginning
    (Howard and Ruder, arXiv:1801.06146).
    """
    ends, head = (0, *epoch_ends(num_train, config.images_per_step, config.epochs)), config.stages.head_epochs
    parts = [
        Part(ends[epoch], waiting, new_head=epoch < head or not head) for epoch, waiting in stages_by_epoch(config)
    ]
    if config.schedule == ScheduleConfig():
        return Course(parts)
    per_epoch, second = num_train / config.images_per_step, ends[head]
    body = make_schedule(config.schedule, ends[-1] - second, per_epoch)
    return Course(parts, after(second, make_schedule(config.schedule, second, per_epoch), body) if head else body)


def stages_by_epoch(config: Config) -> list[tuple[int, tuple[str, ...]]]:
    """After how many epochs each part begins, and the stages that wait in it, from the image upward."""
    head, each = config.stages.head_epochs, config.stages.unfreeze_epochs
    trained = tuple(stage for stage in STAGES if stage not in frozen_stages(config.model.freeze))
    parts = [(0, trained)] if head else []
    waiting = () if each is None else trained[:-1]
    for epoch in range(head, config.epochs, each or config.epochs):
        parts.append((epoch, waiting))
        if not waiting:
            break
        waiting = waiting[:-1]
    return parts


def after(step: int, first: Schedule, second: Schedule) -> Schedule:
    """One schedule, and from an update on another that begins there."""

    def joined(t: Num[Array, ""] | float) -> Float[Array, ""]:
        return jnp.where(t < step, first(t), second(t - step))

    return joined
