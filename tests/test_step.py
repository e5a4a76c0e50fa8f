import dataclasses
import functools
import re
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import DEMO
from convert.pretrained import load_pretrained
from jaxft.build import Pretrained, Run, build
from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig
from jaxft.data.augment import Augmented, Batch, make_augment, normalise
from jaxft.data.batches import Share, share_of, shuffled_order
from jaxft.data.canvas import Canvas, Decoded, decode_set
from jaxft.data.feed import mapped_feed
from jaxft.data.kitchen import TARGET_CLASSES, target_set
from jaxft.data.sources import ArraySource
from jaxft.errors import UserError
from jaxft.head import imagenet_classes
from jaxft.optim import make_optimizer, rate_labels
from jaxft.parallel import over_devices, put_batch, put_replicated
from jaxft.paths import by_name
from jaxft.resnet import Architecture, ResNet, frozen_stages, make_resnet
from jaxft.step import (
    Metrics,
    TrainState,
    cross_entropies,
    init_state,
    larger_labels,
    make_train_step,
    training_loss,
    unless_nonfinite,
)
from marks import FULL

WIDTH = 16
CLASSES = ("ants", "bees", "rest")


def random_batch() -> Batch:
    rng = np.random.default_rng(0)
    return Batch(
        rng.integers(0, 256, (16, 72, 72, 3), dtype=np.uint8),
        rng.integers(30, 90, (16, 2)).astype(np.int32),
        rng.integers(0, 3, 16).astype(np.int32),
        np.arange(16, dtype=np.int32),
    )


@functools.cache
def pretrained(num_classes: int = 12) -> Pretrained:
    model = make_resnet("resnet18", num_classes=num_classes, width=WIDTH)
    variables = jax.jit(lambda key: model.init(key, jnp.zeros((1, 64, 64, 3)), train=False))(jax.random.key(1))
    return Pretrained(variables, imagenet_classes() if num_classes == 1000 else None)


def frozen_config(freeze: str, accumulate: int = 1, **model) -> Config:
    return Config(
        model=ModelConfig(width=WIDTH, freeze=freeze, **model),
        images=ImageConfig(image_size=64),
        optim=OptimConfig(lr=0.01, weight_decay=0.1),
        batch_size=16 // accumulate,
        accumulate=accumulate,
        devices=1,
    )


def frozen_run(freeze: str, accumulate: int = 1, **model) -> Run:
    return build(frozen_config(freeze, accumulate, **model), CLASSES, pretrained(1000 if model else 12))


@functools.cache
def compiled(freeze: str, accumulate: int = 1):
    run = frozen_run(freeze, accumulate)
    return run.train_step.lower(run.state, run.put(random_batch()), run.key).compile()


def flops(freeze: str, accumulate: int = 1) -> float:
    """Of a loop's body, as XLA counts, once."""
    return compiled(freeze, accumulate).cost_analysis()["flops"]


@pytest.mark.slow
def test_a_frozen_body_costs_a_forward_pass_only():
    full, half, head = flops("none"), flops("layer2"), flops("backbone")
    # A forward pass, and two of its size backward for what trains; augmentation is part of each.
    assert head < 0.45 * full
    assert head < half < 0.9 * full
    assert flops("backbone", accumulate=2) < 0.45 * flops("none", accumulate=2)


@functools.cache
def temporary_bytes(freeze: str, accumulate: int = 1) -> int:
    """Of a step of 32 images of 224 pixels."""
    images = np.broadcast_to(np.uint8(0), (32, 224, 224, 3))
    batch = jax.eval_shape(lambda: Batch(images, np.zeros((32, 2), np.int32), *np.zeros((2, 32), np.int32)))
    model = make_resnet("resnet18", num_classes=3, frozen=frozen_stages(freeze))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    tx = make_optimizer(OptimConfig(), rate_labels(variables["params"], model.frozen))
    state = jax.eval_shape(lambda v: init_state(v["params"], v["batch_stats"], tx), variables)
    train_step = make_train_step(model, tx, lambda _, batch: Augmented(normalise(batch.images)), accumulate=accumulate)
    step = over_devices(train_step, jax.local_devices()[:1], "jit", donate=True)
    return step.lower(state, batch, jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_a_frozen_body_takes_the_memory_of_a_forward_pass_only():
    # A backward pass needs every layer's output; the largest two are all that is left.
    assert temporary_bytes("backbone") < 0.2 * temporary_bytes("none")


@pytest.mark.slow
def test_accumulation_takes_the_memory_of_a_part():
    assert temporary_bytes("none", accumulate=2) < 0.85 * temporary_bytes("none")


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["none", "backbone"])
def test_a_step_does_not_wait_for_the_host(freeze):
    program = compiled(freeze).as_text()
    assert "ENTRY" in program
    assert re.findall(r"(infeed|outfeed|send|recv|host_callback|python\w*callback)", program) == []


@pytest.mark.parametrize("freeze", ["layer2", "backbone"])
def test_what_is_frozen_does_not_move_at_all(freeze):
    run = frozen_run(freeze)
    before = jax.device_get((run.state.params, run.state.batch_stats))
    state, _ = run.train_step(run.state, run.put(random_batch()), run.key)
    after = (state.params, state.batch_stats)
    stages = ("conv1", "bn1", "layer1", "layer2", *(("layer3", "layer4") if freeze == "backbone" else ()))
    for ours, theirs in zip(before, after, strict=True):
        for (name, was), now in zip(by_name(ours).items(), by_name(theirs).values(), strict=True):
            assert np.array_equal(was, now) == name.startswith(stages), name


def test_reused_rows_reach_the_model():
    run = frozen_run("none", head="reuse")
    assert [row.source_index for row in run.head_rows] == [310, 309, None]
    source = pretrained(1000).variables["params"]["fc"]
    np.testing.assert_array_equal(run.state.params["fc"]["kernel"][:, :2], source["kernel"][:, [310, 309]])
    np.testing.assert_array_equal(run.state.params["fc"]["bias"][:2], source["bias"][jnp.array([310, 309])])


def test_the_seed_draws_the_head():
    heads = [
        np.asarray(
            build(Config(model=ModelConfig(width=WIDTH), seed=seed), CLASSES, pretrained()).state.params["fc"]["kernel"]
        )
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(heads[0], heads[1])
    assert not np.array_equal(heads[0], heads[2])


# Mixed labels and weighted classes.


def reference_loss(logits, labels, others, share, weights):
    logits = np.asarray(logits, np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rows = np.arange(len(labels))
    own, other = -log_probs[rows, labels], -log_probs[rows, others]
    return np.mean(share * weights[labels] * own + (1 - share) * weights[others] * other)


def test_the_loss_mixes_and_weighs():
    rng = np.random.default_rng(0)
    logits, share = rng.normal(size=(6, 3)).astype(np.float32), rng.uniform(size=6).astype(np.float32)
    labels, others = rng.integers(0, 3, 6), rng.integers(0, 3, 6)
    weights, even = np.array([0.5, 1.0, 2.5], np.float32), np.ones(3)
    images = jnp.zeros((6, 4, 4, 3))
    plain, mixed = Augmented(images), Augmented(images, jnp.asarray(others), jnp.asarray(share))
    for augmented, part in ((plain, np.ones(6)), (mixed, share)):
        for given, used in ((None, even), (jnp.asarray(weights), weights)):
            got = training_loss(jnp.asarray(logits), jnp.asarray(labels), augmented, given)
            np.testing.assert_allclose(got, reference_loss(logits, labels, others, part, used), rtol=1e-6)


def test_accuracy_counts_the_larger_share():
    images, labels, others = jnp.zeros((3, 4, 4, 3)), jnp.array([0, 1, 2]), jnp.array([1, 2, 0])
    np.testing.assert_array_equal(larger_labels(labels, Augmented(images)), [0, 1, 2])
    mixed = Augmented(images, others, jnp.array([0.7, 0.4, 0.5]))
    np.testing.assert_array_equal(larger_labels(labels, mixed), [0, 2, 2])


def bare_step(model, tx, augment):
    """The step of a run that neither mixes nor weighs, and no more."""

    def step(state, batch, key):
        images = augment(jax.random.fold_in(key, state.step), batch).images

        def loss_fn(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
            return cross_entropies(logits, batch.labels).mean(), (logits, updated["batch_stats"])

        (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        accuracy = (logits.argmax(-1) == batch.labels).mean()
        grads, batch_stats, metrics = jax.lax.pmean((grads, batch_stats, Metrics(loss, accuracy)), "data")
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return step


def test_who_does_not_mix_pays_nothing_for_it():
    model = make_resnet("resnet18", num_classes=3, width=4)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    tx = make_optimizer(OptimConfig(), rate_labels(variables["params"], ()))
    state = jax.eval_shape(lambda v: init_state(v["params"], v["batch_stats"], tx), variables)

    def cost(step) -> float:
        compiled = over_devices(step, jax.local_devices()[:1], "jit", donate=False)
        return compiled.lower(state, random_batch(), jax.random.key(0)).compile().cost_analysis()["flops"]

    plain = make_augment(("crop", "flip"), 64)
    assert cost(make_train_step(model, tx, plain)) == cost(bare_step(model, tx, plain))
    mixing = make_augment(("crop", "flip", "mixup"), 64)
    assert cost(make_train_step(model, tx, mixing)) > cost(bare_step(model, tx, plain))


@pytest.mark.slow
def test_class_weights_reach_the_step():
    model = make_resnet("resnet18", num_classes=3, width=4)
    variables = jax.jit(lambda key: model.init(key, jnp.zeros((1, 64, 64, 3)), train=False))(jax.random.key(0))
    tx = make_optimizer(OptimConfig(), rate_labels(variables["params"], ()))
    state, batch = init_state(variables["params"], variables["batch_stats"], tx), random_batch()
    batch = batch._replace(labels=np.ones(16, np.int32))

    def loss(weights) -> float:
        step = make_train_step(model, tx, make_augment(("none",), 64), weights)
        return float(
            over_devices(step, jax.local_devices()[:2], "jit", donate=False)(state, batch, jax.random.key(0))[1].loss
        )

    np.testing.assert_allclose(loss(jnp.array([1.0, 0.25, 1.75])), 0.25 * loss(None), rtol=1e-5)


@pytest.mark.slow
def test_a_run_augments_as_its_config_says():
    def losses(*augment: str, **options) -> float:
        images = ImageConfig(image_size=64, augment=augment, **options)
        config = Config(model=ModelConfig(width=WIDTH), images=images, devices=1, batch_size=16)
        run = build(config, CLASSES, pretrained())
        return float(run.train_step(run.state, run.put(random_batch()), run.key)[1].loss)

    different = [losses("chapter"), losses("none"), losses("none", eval_resize="squash"), losses("cutmix")]
    assert len(set(different)) == 4
    assert losses("crop", "flip") == different[0]


def test_mixing_needs_pairs_on_every_device():
    config = Config(images=ImageConfig(augment=("mixup",)), devices=8, batch_size=24)
    with pytest.raises(UserError, match=r"--batch-size 24 on 8 devices gives 3. Pass --batch-size 16 or"):
        build(config, CLASSES, None)


# Several batches an update.

STEPS = 4


@functools.cache
def posters() -> Decoded:
    return decode_set(ArraySource(*target_set("train")), Canvas(80), cache_dir=None)


@functools.cache
def demo_run(**changes) -> Run:
    """The demo: a trained network, for in a fresh one rounding flips ReLUs and soon tells."""
    freeze = changes.pop("freeze", "none")
    config = dataclasses.replace(DEMO, model=dataclasses.replace(DEMO.model, freeze=freeze), **changes)
    return build(config, TARGET_CLASSES, load_pretrained(config.model, Path("unused")))


def losses_and_state(run: Run, share: Share) -> tuple[list[float], TrainState]:
    feed = mapped_feed(posters(), posters(), shuffled_order(len(posters().labels), len(share.train), 0), share)
    state, losses = put_replicated(run.state, run.devices), []
    for batch in islice(feed.train(0), STEPS):
        state, metrics = run.train_step(state, run.put(batch), run.key)
        losses.append(tuple(map(float, metrics)))
    return losses, jax.device_get(state)


def assert_one_run(ours: tuple[list[float], TrainState], theirs: tuple[list[float], TrainState]) -> None:
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-5)
    for our, their in zip(jax.tree.leaves(ours[1]), jax.tree.leaves(theirs[1]), strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-3, atol=2e-4)


def frozen_demo(**changes) -> Run:
    images = dataclasses.replace(DEMO.images, augment=("crop", "flip", "jitter", "cutmix"))
    return demo_run(freeze="backbone", images=images, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "devices"), [FULL("jit", 1), FULL("pmap", 1), ("jit", 4), ("pmap", 4)])
def test_with_frozen_batch_norm_accumulation_is_a_larger_batch(parallel, devices):
    larger = losses_and_state(frozen_demo(batch_size=32, devices=1), share_of(32))
    run = frozen_demo(batch_size=8, accumulate=4, devices=devices, parallel=parallel)
    assert_one_run(losses_and_state(run, share_of(8, accumulate=4, num_devices=devices)), larger)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", FULL("pmap")])
def test_accumulation_on_1_and_4_devices_is_one_run(parallel):
    one = losses_and_state(demo_run(batch_size=16, accumulate=2, devices=1), share_of(16, accumulate=2))
    four = demo_run(batch_size=16, accumulate=2, devices=4, parallel=parallel)
    assert_one_run(losses_and_state(four, share_of(16, accumulate=2, num_devices=4)), one)


TINY = ResNet(Architecture("basic", (1, 1, 1, 1)), num_classes=3, width=4)
SGD = optax.sgd(1.0, 0.9)


@functools.cache
def tiny_state() -> TrainState:
    variables = jax.jit(lambda key: TINY.init(key, jnp.zeros((1, 64, 64, 3)), train=False))(jax.random.key(0))
    return jax.device_get(init_state(variables["params"], variables["batch_stats"], SGD))


def tiny_step(weights=None, *, parallel="jit", devices: int = 1, **options):
    """The step of a small network with per-device statistics, from host to host."""
    own = jax.local_devices()[:devices]
    step = over_devices(make_train_step(TINY, SGD, plain, weights, **options), own, parallel, donate=True)

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return jax.device_get(step(put_replicated(state, own), put_batch(batch, own, parallel), jax.random.key(0)))

    return update


def plain(key, batch: Batch) -> Augmented:
    return Augmented(normalise(batch.images[:, :64, :64]))


@pytest.mark.slow
def test_batch_statistics_go_from_microbatch_to_microbatch_and_gradients_are_averaged():
    accumulated, single, state = tiny_step(accumulate=2), tiny_step(), tiny_state()
    updated, metrics = accumulated(state, random_batch())
    first, first_metrics = single(state, jax.tree.map(lambda x: x[:8], random_batch()))
    then = state._replace(batch_stats=first.batch_stats)
    second, second_metrics = single(then, jax.tree.map(lambda x: x[8:], random_batch()))
    np.testing.assert_allclose(metrics, np.mean([first_metrics, second_metrics], 0), rtol=1e-6)
    expected = jax.tree.map(lambda a, b: (a + b) / 2, first.params, second.params)
    for ours, theirs in ((updated.params, expected), (updated.batch_stats, second.batch_stats)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("axis_name", ["data", None])
def test_every_device_holds_the_same_state(axis_name):
    own = jax.local_devices()[:4]
    model = TINY.clone(axis_name=axis_name)
    step = over_devices(make_train_step(model, SGD, plain), own, "jit", donate=True)
    state, batch = put_replicated(tiny_state(), own), put_batch(random_batch(), own, "jit")
    for _ in range(3):
        state, _ = step(state, batch, jax.random.key(0))
    for leaf in jax.tree.leaves(state):
        first, *others = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        assert len(others) == 3
        assert all(np.array_equal(first, other) for other in others)


# Updates that are left out. Class 2 is the poison; the other batch has none of it.

GOOD = random_batch()._replace(labels=np.arange(16, dtype=np.int32) % 2)
POISONED = GOOD._replace(labels=np.where(np.arange(16) == 13, 2, GOOD.labels).astype(np.int32))


def assert_left_out(state: TrainState, updated: TrainState) -> None:
    assert updated.step == state.step + 1
    assert jax.tree.structure(updated) == jax.tree.structure(state)
    for name, ours, theirs in zip(state._fields[1:], updated[1:], state[1:], strict=True):
        assert all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs))), name


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "devices", "accumulate"), [FULL("jit", 1, 1), ("jit", 2, 2), FULL("pmap", 2, 2)])
def test_an_update_that_is_not_finite_is_left_out(parallel, devices, accumulate):
    weights = jnp.array([1, 1, jnp.nan])
    update = tiny_step(weights, parallel=parallel, devices=devices, accumulate=accumulate, skip_nonfinite=True)
    state, metrics = update(tiny_state(), GOOD)
    assert np.isfinite(metrics.loss)
    skipped, metrics = update(state, POISONED)
    assert np.isnan(metrics.loss)
    assert_left_out(state, skipped)
    went_on, _ = update(skipped, GOOD)
    expected, _ = update(state._replace(step=state.step + 1), GOOD)
    jax.tree.map(np.testing.assert_array_equal, went_on, expected)
    assert not np.array_equal(went_on.params["fc"]["kernel"], state.params["fc"]["kernel"])


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("where", ["loss", "params", "batch_stats", "opt_state"])
def test_whatever_is_not_finite_an_update_is_left_out(where, value):
    before = TrainState(
        np.int32(3), {"a": np.ones(2), "b": np.ones(3)}, {"mean": np.zeros(2)}, (np.int32(1), np.ones(2))
    )
    after = jax.tree.map(lambda x: x + 1, before)
    kept, metrics = unless_nonfinite(before, after, Metrics(jnp.float32(0.5), jnp.float32(0.25)))
    jax.tree.map(np.testing.assert_array_equal, (kept, metrics), (after, Metrics(0.5, 0.25)))
    loss = jnp.float32(value if where == "loss" else 0.5)
    if where != "loss":
        jax.tree.leaves(getattr(after, where))[-1][-1] = value
    kept, metrics = unless_nonfinite(before, after, Metrics(loss, jnp.float32(0.25)))
    assert_left_out(before, kept)
    assert np.isnan(metrics.loss)


@pytest.mark.slow
def test_a_run_skips_as_its_config_says_and_what_is_frozen_still_costs_nothing():
    config = dataclasses.replace(frozen_config("backbone"), on_nonfinite="skip")
    run = build(config, CLASSES, pretrained(), class_weights=np.array([np.nan] * 3, np.float32))
    state, batch = jax.device_get(run.state), run.put(random_batch())
    step = run.train_step.lower(run.state, batch, run.key).compile()
    assert step.cost_analysis()["flops"] < 1.01 * flops("backbone")
    skipped, metrics = jax.device_get(step(run.state, batch, run.key))
    assert np.isnan(metrics.loss)
    assert_left_out(state, skipped)
