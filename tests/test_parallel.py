import dataclasses
import functools
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import DEMO
from convert.pretrained import load_pretrained
from jaxft.build import Run, build
from jaxft.data.augment import Batch, EvalBatch
from jaxft.data.batches import share_of, shuffled_order
from jaxft.data.canvas import Canvas, Decoded, decode_set
from jaxft.data.feed import mapped_feed
from jaxft.data.kitchen import TARGET_CLASSES, target_set
from jaxft.data.sources import ArraySource
from jaxft.errors import UserError
from jaxft.parallel import Mode, check_batch_size, local_devices
from jaxft.step import TrainState

STEPS = 5


def small_run(parallel: Mode = "jit", devices: int = 1, **changes) -> Run:
    """The demo: a trained network, for in a fresh one rounding flips ReLUs and soon tells."""
    config = dataclasses.replace(DEMO, parallel=parallel, devices=devices, precision="float32", **changes)
    return build(config, TARGET_CLASSES, load_pretrained(config.model, Path("unused")))


@functools.cache
def posters() -> Decoded:
    return decode_set(ArraySource(*target_set("train")), Canvas(80), cache_dir=None)


@functools.cache
def batches() -> Sequence[Batch]:
    order = shuffled_order(len(posters().labels), DEMO.batch_size, seed=0)
    return list(islice(mapped_feed(posters(), posters(), order, share_of(DEMO.batch_size)).train(0), STEPS))


def train(run: Run) -> tuple[list[float], TrainState]:
    state, losses = run.state, []
    for step in range(STEPS):
        state, metrics = run.train_step(state, run.put(batches()[step]), run.key)
        losses.append(float(metrics.loss))
    return losses, jax.device_get(state)


@pytest.fixture(scope="module")
def reference() -> tuple[list[float], TrainState]:
    return train(small_run())


@pytest.mark.parametrize(("parallel", "devices"), [("pmap", 1), ("jit", 8), ("pmap", 8)])
def test_jit_and_pmap_on_1_and_8_devices_are_one_run(reference, parallel, devices):
    losses, state = train(small_run(parallel, devices))
    np.testing.assert_allclose(losses, reference[0], rtol=0, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(reference[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-4)


def test_unsynchronised_batch_norm_is_another_run(reference):
    losses, _ = train(small_run("jit", 8, sync_bn=False))
    assert abs(losses[0] - reference[0][0]) > 1e-3


@pytest.mark.parametrize(("parallel", "devices"), [("jit", 1), ("jit", 8), ("pmap", 8)])
def test_evaluation_leaves_out_what_only_fills_the_batch(parallel, devices):
    run = small_run(parallel, devices)
    batch = jax.tree.map(lambda rows: rows[:16], batches()[0])
    images = batch.images[:, :64, :64]
    weights = np.array([1.0] * 11 + [0.0] * 5, np.float32)
    sums = run.eval_step(run.state, run.put(EvalBatch(images, batch.labels, weights)))
    variables = {"params": run.state.params, "batch_stats": run.state.batch_stats}
    pixels = (images[:11] / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    logits = np.asarray(run.model.apply(variables, jnp.asarray(pixels, jnp.float32), train=False), np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert sums.images == 11
    assert sums.correct == (logits.argmax(1) == batch.labels[:11]).sum()
    np.testing.assert_allclose(sums.loss, -log_probs[np.arange(11), batch.labels[:11]].sum(), rtol=1e-4)


def test_state_is_donated():
    run = small_run()
    run.train_step(run.state, run.put(batches()[0]), run.key)
    assert run.state.params["conv1"]["kernel"].is_deleted()


def test_uneven_batches_name_the_nearest_sizes():
    with pytest.raises(UserError, match=r"--batch-size 30 does not split over 8 devices. Pass --batch-size 24 or "):
        check_batch_size(30, 8)
    with pytest.raises(UserError, match=r"Pass --batch-size 8\."):
        check_batch_size(3, 8)


def test_more_devices_than_there_are():
    with pytest.raises(UserError, match=r"--devices 9: this machine has 8. Pass --devices 8 or fewer."):
        local_devices(9)
