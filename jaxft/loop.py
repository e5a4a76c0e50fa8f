"""The run on one page: train, look, evaluate, keep. No compilation, files or terminal in here."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxft.build import Run
from jaxft.data.batches import epoch_ends
from jaxft.data.feed import Feed
from jaxft.frozen import with_features
from jaxft.parallel import put_ahead
from jaxft.records import Record
from jaxft.step import EvalSums, Metrics, TrainState

WINDOWS_PER_EPOCH = 5  # The chapter's figure has five training points an epoch.
SKIPPED_IN_A_ROW = 10  # So many updates left out, and nothing else, end a run.
IN_FLIGHT = 2  # Steps that are queued on the devices, for each of them holds its batch there.


class NonFiniteLossError(RuntimeError):
    """The loss became infinite or NaN at `step`."""

    def __init__(self, step: int):
        super().__init__(f"the loss became non-finite at step {step}")
        self.step = step


class Progress(NamedTuple):
    """Where a run stands between two steps: with the same feed, all that decides how it goes on."""

    state: TrainState
    window: Sequence[Metrics]
    """Of the steps since the last record."""


class Hooks(NamedTuple):
    """What the caller wants to hear of: each record, what is worth keeping, and whether to save or to stop now."""

    on_record: Callable[[Record], None] = lambda _: None
    progress: Callable[[str, int, int], None] = lambda *_: None
    """Is told of what goes before the first step: what it is, how many images of it are done, of how many."""
    keep: Callable[[Progress, bool], None] = lambda *_: None
    """Is told whether an epoch has ended, and been evaluated."""
    should_save: Callable[[], bool] = lambda: False
    should_stop: Callable[[int], bool] = lambda _: False
    """Is asked once a step, with its number."""
    is_over: Callable[[], bool] = lambda: False
    """Is asked at the start and after each epoch's evaluation: whether the run ends before its last epoch."""


class Outcome(NamedTuple):
    """Where a run ended."""

    state: TrainState
    stopped: bool


def fit(
    run: Run,
    feed: Feed,
    *,
    images_per_step: int,
    num_epochs: int,
    hooks: Hooks,
    window: Sequence[Metrics] = (),
    skip_nonfinite: bool = False,
) -> Outcome:
    """Train from `run.state` to the end of the last epoch, or until it is over, evaluating after each.

    `window` is that of the progress which is carried on. With `skip_nonfinite`, a loss that is not finite is one of an
    update that the step has left out: means are over the others, and a window that has none goes on to the next.

    Raises:
        NonFiniteLossError: what was kept before is still good.
        UserError: an image that cannot be read any more.
    """
    ends = epoch_ends(feed.num_train, images_per_step, num_epochs)
    records_at = window_ends(ends)
    state, step, window = run.state, int(run.state.step), list(window)
    clock, over = Clock(), hooks.is_over()
    if step < ends[-1] and not over:
        run, feed = with_features(run, feed, hooks.progress)
    with closing(feed.train(step)) as host_batches:
        batches = put_ahead(host_batches, run.put)
        while step < ends[-1] and not over:
            state, metrics = run.train_step_at(step)(state, next(batches), run.key)
            step += 1
            window.append(metrics)
            clock.images += images_per_step
            jax.block_until_ready(window[-1 - IN_FLIGHT : -IN_FLIGHT])
            stop = hooks.should_stop(step)
            if step in records_at:
                epoch = step * images_per_step / feed.num_train
                record = window_record(window, step, epoch, clock, skip_nonfinite=skip_nonfinite)
                if record is not None:
                    hooks.on_record(record)
                    window, clock = [], Clock()
            if step in ends:
                for split in ("val", "test") if feed.num_val else ("test",):
                    hooks.on_record(evaluate(run, state, feed, split, step, float(ends.index(step) + 1)))
                over, clock = hooks.is_over(), Clock()
            if step in ends or stop or hooks.should_save():
                hooks.keep(Progress(state, window), step in ends)
            if stop and step < ends[-1] and not over:
                return Outcome(state, stopped=True)
    return Outcome(state, stopped=False)


class Clock:
    """Images since now, and the time that they took."""

    def __init__(self):
        self.started, self.images = time.perf_counter(), 0

    def rate(self) -> float:
        """Images per second."""
        return self.images / (time.perf_counter() - self.started)


def window_ends(ends: Sequence[int]) -> set[int]:
    """The steps after which there is a record: some in each epoch, evenly spread, and its last."""
    found: set[int] = set()
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        length = max(1, round((end - start) / WINDOWS_PER_EPOCH))
        found |= {*range(start + length, end, length), end}
    return found


def evaluate(run: Run, state: TrainState, feed: Feed, split: str, step: int, epoch: float) -> Record:
    """Loss and accuracy over every image of the test set, or with `val` of those held out, each counted once.

    Raises:
        NonFiniteLossError: the loss is not finite: the last update was the one too many.
    """
    clock = Clock()
    batches = put_ahead(feed.val() if split == "val" else feed.test(), run.put)
    loss, correct, images = summed(run.eval_step, state, batches)
    if not np.isfinite(loss):
        raise NonFiniteLossError(step)
    clock.images = int(images)
    return Record(step, epoch, split, float(loss / images), float(correct / images), clock.rate())


def summed(eval_step: Callable[..., EvalSums], state: TrainState, batches: Iterator[Any]) -> np.ndarray:
    """The three sums over batches that are on the devices: float64 [3, …]."""
    sums: list[EvalSums] = []
    for batch in batches:
        sums.append(eval_step(state, batch))
        jax.block_until_ready(sums[-1 - IN_FLIGHT : -IN_FLIGHT])
    return np.asarray(jax.device_get(sums), np.float64).sum(0)


def window_record(
    window: Sequence[Metrics], step: int, epoch: float, clock: Clock, *, skip_nonfinite: bool = False
) -> Record | None:
    """The means over a window of steps that ends with `step`; None where every update was left out.

    Raises:
        NonFiniteLossError: a loss is not finite; with `skip_nonfinite`, none of so many is.
    """
    fetched = np.array(jax.device_get(window), np.float64)
    finite = np.isfinite(fetched[:, 0])
    if skip_nonfinite and not finite.any() and len(window) < SKIPPED_IN_A_ROW:
        return None
    if not (finite.any() if skip_nonfinite else finite.all()):
        raise NonFiniteLossError(step - len(window) + 1 + int(np.argmin(finite)))
    loss, accuracy = fetched[finite].mean(0)
    skipped = len(window) - int(finite.sum())
    return Record(step, epoch, "train", float(loss), float(accuracy), clock.rate(), skipped)
