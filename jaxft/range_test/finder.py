"""The range test of a config: a run's first updates, at a learning rate that rises."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jaxft.build import Run
from jaxft.compiled import keep_compiled
from jaxft.config import Config, ScheduleConfig
from jaxft.console import Display, Terminal
from jaxft.course import Course, plan_course
from jaxft.data.feed import Feed
from jaxft.data.sources import ArraySource, Splits
from jaxft.errors import UserError
from jaxft.frozen import with_training_features
from jaxft.options import Options
from jaxft.parallel import all_devices, copied, make_deterministic, put_ahead
from jaxft.range_test.curve import Curve, has_diverged, read_curve
from jaxft.range_test.ramp import FEWEST, Ramp
from jaxft.report.words import plural
from jaxft.schedule import Schedule
from jaxft.training import Opened, open_run, open_sources


def find_lr(
    config: Config,
    *,
    data: Splits | None = None,
    lr_from: float = Ramp.lr_from,
    lr_to: float = Ramp.lr_to,
    steps: int = Ramp.steps,
    verbose: bool = True,
    options: Options | None = None,
) -> Curve:
    """Try learning rates as `python -m jaxft.lrfind` does: train from the run's start while the rate rises.

    The rate is the body's, `config.optim.lr`, and rises by the same factor at each update; all others keep their ratio
    to it (`head_lr_mult`, `stage_lr_mult`, `layer_decay`). Batches, augmentation, decay and all else are the run's. Its
    schedule is left aside; of a run in parts (`head_epochs`, `unfreeze_epochs`) the last part is tested, in which all
    trains that ever will, from the run's start. The test ends where the smoothed loss is above 4 times its lowest and
    above where it began, or where a loss is not finite. Nothing is evaluated, and nothing but decoded images and
    compiled steps is kept. See `jaxft.range_test.curve.read_curve` for the suggestion.

    Args:
        config: what the run is; its own `optim.lr` is not used.
        data: images of your own, in place of those that `config.data` names; those to test on are not read.
        lr_from: the rate at the first update.
        lr_to: the rate at the last update.
        steps: updates.
        verbose: print what the command prints meanwhile.
        options: the command's options about caches; the others are not used.

    Raises:
        UserError: what can be mended, as the command says it; several processes, for the test is for one.
    """
    ramp = Ramp(lr_from, lr_to, steps)
    if config.deterministic:
        make_deterministic()
    console = Terminal(soft_wrap=True, quiet=not verbose)
    with Display(console, config.epochs) as display:
        return run_test(config, ramp, options or Options(), display, data)


def run_test(config: Config, ramp: Ramp, options: Options, display: Display, splits: Splits | None = None) -> Curve:
    """The range test, from a config to the curve.

    Raises:
        UserError: as `find_lr`.
    """
    check_alone(jax.process_count())
    if options.cache:
        keep_compiled(options.cache_folder)
    config = replace(config, optim=replace(config.optim, lr=ramp.lr_to))
    devices = all_devices(config.devices)
    splits, pretrained = open_sources(config, options, splits, len(devices))
    opened = open_run(config, options, untested(splits), pretrained, devices, display, course_under(ramp))
    announce(config, ramp, opened, display)
    losses = sweep(opened.run, opened.feed, ramp, display.decoding)
    if len(losses) < min(FEWEST, ramp.steps):
        raise UserError(
            f"--lr-from {ramp.lr_from:g}: the loss explodes within {plural(len(losses) + 1, 'update', 'updates')}, "
            "which is no curve. Pass a smaller --lr-from."
        )
    return read_curve(ramp, losses)


def check_alone(num_processes: int) -> None:
    """Raise a UserError where the test is not started in one process."""
    if num_processes > 1:
        raise UserError(
            f"a range test is for one process, and this is one of {num_processes}. Start it in one, such as by srun "
            "--ntasks=1; the rate that it finds is that of the same --batch-size on any number of devices."
        )


def untested(splits: Splits) -> Splits:
    """The same to train on, and one blank image to test on: nothing else need be decoded."""
    blank = np.zeros((1, 8, 8, 3), np.uint8)
    return splits._replace(test=ArraySource(blank, [0], splits.train.class_names), val=None)


def course_under(ramp: Ramp) -> Callable[[Config, int], Course]:
    """The course of a test in place of the run's: its last part, with the rising rate for a schedule."""

    def plan(config: Config, num_train: int) -> Course:
        *_, last = plan_course(config, num_train).parts
        return Course([last._replace(first_step=0)], rising(ramp))

    return plan


def rising(ramp: Ramp) -> Schedule:
    """The factor of `lr_to` at each update."""
    ratio, last = ramp.lr_from / ramp.lr_to, ramp.steps - 1

    def factor(step: Num[Array, ""] | float) -> Float[Array, ""]:
        return jnp.float32(ratio) ** (1 - jnp.asarray(step, jnp.float32) / last)

    return factor


def sweep(run: Run, feed: Feed, ramp: Ramp, progress: Callable[[str, int, int], None]) -> list[float]:
    """The finite loss of each batch, until the ramp or the training is at its end; the run's state stays as it is.

    `progress(what, done, total)` is called before each update, and for features that are computed before.

    Raises:
        UserError: an image that cannot be read any more.
    """
    run = with_training_features(run, feed, progress)
    state, losses = copied(run.state), []
    with closing(feed.train(0)) as host_batches:
        for batch in islice(put_ahead(host_batches, run.put), ramp.steps):
            state, metrics = run.train_step(state, batch, run.key)
            losses.append(float(metrics.loss))
            progress("trying learning rates", len(losses), ramp.steps)
            if has_diverged(np.array(losses), ramp.steps):
                break
    return losses if np.isfinite(losses[-1]) else losses[:-1]


def announce(config: Config, ramp: Ramp, opened: Opened, display: Display) -> None:
    """Say at the start what is tested."""
    run, features, stages = opened.run, opened.features, config.stages
    parts = [f"--{name.replace('_', '-')}" for name in ("head_epochs", "unfreeze_epochs") if getattr(stages, name)]
    for line in (
        *opened.data.notes,
        f"{config.model.arch} (weights {config.model.weights}) on {len(opened.data.train.labels)} training images of "
        f"{len(opened.data.class_names)} classes; {len(run.devices)} x {run.devices[0].device_kind}, {config.parallel}",
        *(() if features.note is None else (features.note,)),
        *(() if config.schedule == ScheduleConfig() else ("the schedule is left aside: its rate is what is tested",)),
        *((f"{' and '.join(parts)}: the last part is tested, from the run's start",) if parts else ()),
        f"--lr from {ramp.lr_from:g} to {ramp.lr_to:g} over {ramp.steps} updates of {config.images_per_step} images",
    ):
        display.say(line)
