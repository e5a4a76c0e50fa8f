"""Evaluation is compiled once, beside the training, and what goes wrong there is told."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.beside import compiling_evaluation
from jaxft.build import Run, Stored
from jaxft.data.feed import Feed
from jaxft.parallel import local_devices, over_devices, put_batch, put_replicated, put_shared
from jaxft.step import AXIS

BATCH = np.arange(16, dtype=np.float32)
STATE = np.float32(3)


def feed():
    def test():
        yield BATCH

    return Feed(0, len(BATCH), lambda _: pytest.fail("a training batch"), test, host_bytes=0)


def run_of(step, mode):
    """A run that can evaluate, and nothing else."""
    devices = local_devices(4)
    nothing = dict.fromkeys(Run._fields)
    placed = {"state": put_replicated(STATE, devices), "eval_step": over_devices(step, devices, mode)}
    return Run(**nothing | placed | {"put": lambda batch: put_batch(batch, devices, mode), "devices": devices})


@pytest.mark.parametrize("mode", ["jit", "pmap"])
@pytest.mark.parametrize("stored", [False, True])
def test_it_is_compiled_once_and_elsewhere(mode, stored):
    traced_in = []

    def plain(state, batch):
        traced_in.append(threading.current_thread())
        return jax.lax.psum((state * batch).sum(), AXIS)

    def with_store(state, batch, store):
        return plain(state, batch) + store.sum()

    run = run_of(with_store if stored else plain, mode)
    if stored:
        run = run._replace(eval_step=Stored(run.eval_step, put_shared(jnp.ones(5), run.devices)))
    state = run.state
    donated = jax.tree.map(jnp.copy, state)
    with compiling_evaluation(run, feed()) as ready:
        state.delete()  # As the first training step does.
        results = [ready.eval_step(donated, run.put(BATCH)) for _ in range(2)]
    assert [float(result) for result in results] == [360 + 5 * stored] * 2
    assert len(traced_in) == 1
    assert traced_in[0] is not threading.current_thread()


def test_what_goes_wrong_is_raised_where_it_is_called():
    def broken(state, batch):
        raise ZeroDivisionError("of the step")

    with (
        compiling_evaluation(run_of(broken, "jit"), feed()) as ready,
        pytest.raises(ZeroDivisionError, match="of the step"),
    ):
        ready.eval_step(None, None)
