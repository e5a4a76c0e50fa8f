import jax
import jax.numpy as jnp
import numpy as np

from jaxft.build import Run
from jaxft.data.batches import share_of, shuffled_order
from jaxft.data.feed import resident_feed
from jaxft.loop import Hooks, fit
from jaxft.parallel import local_devices, put_batch
from jaxft.step import EvalSums, Metrics, TrainState


class OnDevice:
    """A number that notes when the host reads it."""

    def __init__(self, value: float, read: list[int], now: list[int]):
        self.value, self.read, self.now = value, read, now

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        self.read.append(len(self.now))
        return np.asarray(self.value, dtype)

    def __float__(self) -> float:
        return float(np.asarray(self))

    def block_until_ready(self) -> "OnDevice":
        return self


def test_the_host_reads_metrics_only_where_it_records_them():
    read: list[int] = []
    steps: list[int] = []
    records = []

    def train_step(state, batch, key):
        assert batch.rows.devices()
        steps.append(len(steps))
        return state._replace(step=state.step + 1), Metrics(OnDevice(0.5, read, steps), OnDevice(0.25, read, steps))

    def eval_step(state, batch):
        return EvalSums(OnDevice(1.0, read, steps), OnDevice(2.0, read, steps), OnDevice(4.0, read, steps))

    devices = local_devices(1)
    run = Run(
        model=None,
        labels=None,
        head_rows=None,
        state=TrainState(jnp.zeros((), jnp.int32), {}, {}, ()),
        train_step=train_step,
        eval_step=eval_step,
        put=lambda batch: put_batch(batch, devices),
        key=jax.random.key(0),
        devices=devices,
    )
    feed = resident_feed(80, 8, shuffled_order(80, 4, 0), share_of(4))
    fit(run, feed, images_per_step=4, num_epochs=2, hooks=Hooks(records.append))
    training = [record for record in records if record.split == "train"]
    assert len(steps) == 40
    assert [record.step for record in training] == [*range(4, 41, 4)]
    assert [record.step for record in records if record.split == "test"] == [20, 40]
    # Two numbers of each of four steps; at an epoch's end also three of two evaluation batches.
    assert read == [at for record in training for at in [record.step] * (8 + 6 * (record.step % 20 == 0))]
