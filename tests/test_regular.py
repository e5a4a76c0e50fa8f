"""Label smoothing, dropout, moving averages and stored statistics, in the step that has them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxft.data.augment import Augmented, Batch, EvalBatch, normalise
from jaxft.parallel import over_devices, put_batch, put_replicated
from jaxft.resnet import Architecture, ResNet, dropped
from jaxft.step import Metrics, TrainState, cross_entropies, init_state, make_eval_step, make_train_step, variables_of

NETWORK = ResNet(Architecture("basic", (1, 1, 1, 1)), num_classes=3, width=4, axis_name="data")
SGD = optax.sgd(0.3, 0.9)
SIDE = 32


@pytest.fixture(scope="module")
def variables():
    return jax.device_get(
        jax.jit(lambda key: NETWORK.init(key, jnp.zeros((1, SIDE, SIDE, 3)), train=False))(jax.random.key(0))
    )


def batch() -> Batch:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)
    return Batch(
        images, np.full((8, 2), SIDE, np.int32), np.arange(8, dtype=np.int32) % 3, np.arange(8, dtype=np.int32)
    )


def steps(variables, model: ResNet, number: int, num_devices: int = 1, **options) -> list[tuple[TrainState, Metrics]]:
    """The state and the metrics after each of so many steps on the same images."""
    own = jax.local_devices()[:num_devices]
    step = over_devices(
        make_train_step(model, SGD, lambda _, batch: Augmented(normalise(batch.images)), **options),
        own,
        "jit",
        donate=True,
    )
    state = put_replicated(init_state(**variables, tx=SGD, average="ema" in options), own)
    found = []
    for _ in range(number):
        state, metrics = step(state, put_batch(batch(), own, "jit"), jax.random.key(7))
        found.append(jax.device_get((state, metrics)))
    return found


def close(found, expected, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothed_labels_have_torchs_loss(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)).astype(np.float32), rng.integers(0, 4, 6)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), reduction="none", label_smoothing=smoothing
    )
    np.testing.assert_allclose(
        cross_entropies(jnp.asarray(logits), jnp.asarray(labels), smoothing), expected, rtol=1e-5
    )


def test_a_step_trains_on_smoothed_labels(variables):
    (_, plain), (_, smooth) = steps(variables, NETWORK, 1)[0], steps(variables, NETWORK, 1, label_smoothing=0.5)[0]
    images = normalise(jnp.asarray(batch().images))
    stored = jax.tree.map(jnp.asarray, variables)
    logits, _ = NETWORK.clone(axis_name=None).apply(stored, images, train=True, mutable=["batch_stats"])
    log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64)
    own = -log_probs[np.arange(8), batch().labels]
    np.testing.assert_allclose(plain.loss, own.mean(), rtol=1e-5)
    np.testing.assert_allclose(smooth.loss, (0.5 * own - 0.5 * log_probs.mean(1)).mean(), rtol=1e-5)
    assert plain.accuracy == smooth.accuracy


def test_moving_averages_are_those_of_every_state(variables):
    found = steps(variables, NETWORK, 4, ema=0.25)
    expected = jax.tree.map(lambda x: np.asarray(x, np.float64), (variables["params"], variables["batch_stats"]))
    for t, (state, _) in enumerate(found):
        keep = min(0.25, (1 + t) / (10 + t))
        expected = jax.tree.map(
            lambda old, new, keep=keep: keep * old + (1 - keep) * new, expected, (state.params, state.batch_stats)
        )
        close(state.average, expected)
    plain = steps(variables, NETWORK, 4)
    close([state._replace(average=()) for state, _ in found], [state for state, _ in plain])
    last, without = found[-1][0], plain[-1][0]
    assert variables_of(last)["params"] is last.average[0]
    assert variables_of(without) == {"params": without.params, "batch_stats": without.batch_stats}


def test_averages_of_what_is_frozen_are_what_it_was_to_the_bit(variables):
    state = steps(variables, NETWORK.clone(frozen=("stem", "layer1")), 4, ema=0.9)[-1][0]
    for averages, start in zip(state.average, (variables["params"], variables["batch_stats"]), strict=True):
        for name in {"conv1", "bn1", "layer1_0"} & set(start):
            jax.tree.map(np.testing.assert_array_equal, averages[name], start[name])
        assert np.any(jax.tree.leaves(averages["layer4_0"])[0] != jax.tree.leaves(start["layer4_0"])[0])


def test_the_averages_are_what_is_evaluated(variables):
    state = steps(variables, NETWORK, 2, ema=0.9)[-1][0]
    own = jax.local_devices()[:1]
    evaluate = over_devices(make_eval_step(NETWORK), own, "jit", donate=False)
    images = put_batch(EvalBatch(batch().images, batch().labels, np.ones(8, np.float32)), own, "jit")
    found = evaluate(put_replicated(state, own), images)
    logits = NETWORK.apply(variables_of(state), normalise(jnp.asarray(batch().images)), train=False)
    np.testing.assert_allclose(found.loss, cross_entropies(logits, jnp.asarray(batch().labels)).sum(), rtol=1e-4)


def test_stored_statistics_stay_and_everything_else_trains(variables):
    stored = NETWORK.clone(stored_statistics=True)
    state, metrics = steps(variables, stored, 1)[0]
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, variables["batch_stats"])
    logits = NETWORK.apply(variables, normalise(jnp.asarray(batch().images)), train=False)
    np.testing.assert_allclose(metrics.loss, cross_entropies(logits, jnp.asarray(batch().labels)).mean(), rtol=1e-5)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, variables["params"])
    assert all(jax.tree.leaves(moved))


def test_dropout_leaves_out_a_share_and_keeps_the_mean():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(400))
    x = jnp.broadcast_to(jnp.linspace(1, 2, 50), (400, 50))
    found = np.asarray(dropped(x, 0.3, keys))
    assert abs((found == 0).mean() - 0.3) < 0.01
    np.testing.assert_allclose(found[found != 0], np.asarray(x)[found != 0] / 0.7, rtol=1e-6)
    np.testing.assert_array_equal(found[3:5], dropped(x[3:5], 0.3, keys[3:5]))
    assert np.any(found[0] != found[1])


def test_dropout_is_drawn_anew_in_each_step_and_the_same_on_any_devices(variables):
    half = NETWORK.clone(dropout=0.5)
    one, four = steps(variables, half, 2), steps(variables, half, 2, num_devices=4)
    for (_, ours), (_, theirs) in zip(one, four, strict=True):
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-4)
    still = optax.set_to_zero()
    own = jax.local_devices()[:1]
    step = over_devices(
        make_train_step(half, still, lambda _, batch: Augmented(normalise(batch.images)), redraw=False),
        own, "jit", donate=True,
    )  # fmt: skip
    state = put_replicated(init_state(**variables, tx=still), own)
    losses = []
    for _ in range(3):
        state, metrics = step(state, put_batch(batch(), own, "jit"), jax.random.key(7))
        losses.append(float(metrics.loss))
    assert len(set(losses)) == 3
    images = normalise(jnp.asarray(batch().images))
    np.testing.assert_array_equal(
        half.apply(variables, images, train=False), NETWORK.apply(variables, images, train=False)
    )
