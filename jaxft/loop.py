"""The run on one page: train, look, evaluate, keep. No compilation, files or terminal in here."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxft.build import Run
from jaxft.data.batches import epoch_ends
from jaxft.data.feed import Feed
from jaxft.parallel import put_ahead
from jaxft.step import EvalSums, Metrics, TrainState

WINDOWS_PER_EPOCH = 5  # The chapter's figure has five training points an epoch.
IN_FLIGHT = 2  # Steps that are queued on the devices, for each of them holds its batch there.


class Record(NamedTuple):
    """A line of metrics.jsonl: means over a window of training steps, or over the whole test set."""

    step: int
    epoch: float
    split: str
    loss: float
    """Nats."""
    accuracy: float
    """0 to 1."""
    images_per_second: float


class NonFiniteLossError(RuntimeError):
    """The loss became infinite or NaN at `step`."""

    def __init__(self, step: int):
        super().__init__(f"the loss became non-finite at step {step}")
        self.step = step


class Hooks(NamedTuple):
    """What the caller wants to hear of: each record, each epoch's state worth keeping, and whether to stop."""

    on_record: Callable[[Record], None]
    keep: Callable[[TrainState], None]
    should_stop: Callable[[], bool]


class Outcome(NamedTuple):
    """Where a run ended."""

    state: TrainState
    stopped: bool


def fit(run: Run, feed: Feed, *, batch_size: int, num_epochs: int, hooks: Hooks) -> Outcome:
    """Train from `run.state` to the end of the last epoch, evaluating after each.

    Raises:
        NonFiniteLossError: what was kept at the last epoch's end is still good.
        UserError: an image that cannot be read any more.
    """
    ends = epoch_ends(feed.num_train, batch_size, num_epochs)
    window_length = max(1, round(feed.num_train / batch_size / WINDOWS_PER_EPOCH))
    state, step = run.state, int(run.state.step)
    window: list[Metrics] = []
    started = time.perf_counter()
    with closing(feed.train(step)) as host_batches:
        batches = put_ahead(host_batches, run.put)
        while step < ends[-1]:
            state, metrics = run.train_step(state, next(batches), run.key)
            step += 1
            window.append(metrics)
            jax.block_until_ready(window[-1 - IN_FLIGHT : -IN_FLIGHT])
            stop = hooks.should_stop()
            if step in ends or stop or len(window) == window_length:
                epoch = step * batch_size / feed.num_train
                hooks.on_record(_window_record(window, step, epoch, batch_size, started))
                window, started = [], time.perf_counter()
            if step in ends:
                hooks.on_record(evaluate(run, state, feed, step, float(ends.index(step) + 1)))
                started = time.perf_counter()
            if step in ends or stop:
                hooks.keep(state)
            if stop and step < ends[-1]:
                return Outcome(state, stopped=True)
    return Outcome(state, stopped=False)


def evaluate(run: Run, state: TrainState, feed: Feed, step: int, epoch: float) -> Record:
    """Loss and accuracy over every image of the test set, each counted once."""
    started = time.perf_counter()
    sums: list[EvalSums] = []
    for batch in put_ahead(feed.test(), run.put):
        sums.append(run.eval_step(state, batch))
        jax.block_until_ready(sums[-1 - IN_FLIGHT : -IN_FLIGHT])
    loss, correct, images = np.asarray(jax.device_get(sums), np.float64).sum(0)
    rate = images / (time.perf_counter() - started)
    return Record(step, epoch, "test", float(loss / images), float(correct / images), float(rate))


def _window_record(window: list[Metrics], step: int, epoch: float, batch_size: int, started: float) -> Record:
    fetched: Any = np.asarray(jax.device_get(window), np.float64)
    finite = np.isfinite(fetched[:, 0])
    if not finite.all():
        raise NonFiniteLossError(step - len(window) + 1 + int(np.argmin(finite)))
    loss, accuracy = fetched.mean(0)
    rate = len(window) * batch_size / (time.perf_counter() - started)
    return Record(step, epoch, "train", float(loss), float(accuracy), float(rate))
