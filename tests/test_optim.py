import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxft.config import OptimConfig
from jaxft.optim import learning_rates, make_optimizer, numbers_of, rate_labels
from jaxft.paths import by_name
from jaxft.resnet import STAGES, frozen_stages, make_resnet

LR, DECAY = 0.05, 0.1


def tiny_params() -> dict:
    rng = np.random.default_rng(0)
    names = {"conv1": "kernel", "bn1": "scale", "fc": "kernel"} | {f"layer{i}_0": "kernel" for i in range(1, 5)}
    return {name: {leaf: rng.normal(size=(3, 4)).astype(np.float32)} for name, leaf in names.items()}


def torch_run(config: OptimConfig, params: dict, grads: list[dict], rates: dict | None = None) -> dict:
    """A group for each parameter in torch: `fc` at its own rate, the rest at the body's, or at those of `rates`."""
    tensors = {name: torch.nn.Parameter(torch.from_numpy(leaf.copy())) for name, leaf in by_name(params).items()}
    rates = {"fc": config.lr * config.head_lr_mult} | (rates or {})
    kept = {} if config.decay_norms else {"bn1/scale": {"weight_decay": 0.0}}
    groups = [
        {"params": [tensor], "lr": rates.get(name.split("/")[0], config.lr)} | kept.get(name, {})
        for name, tensor in tensors.items()
    ]
    if config.optimizer == "sgd":
        options = {"momentum": config.momentum, "nesterov": config.nesterov}
        optimizer = torch.optim.SGD(groups, lr=config.lr, weight_decay=config.weight_decay, **options)
    else:
        optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
    for grad in grads:
        for name, leaf in by_name(grad).items():
            tensors[name].grad = torch.from_numpy(leaf.copy())
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors.values(), config.clip_norm)
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "config",
    [
        OptimConfig(lr=LR, weight_decay=DECAY, momentum=0.0),
        OptimConfig(lr=LR, weight_decay=DECAY, momentum=0.9),
        OptimConfig(lr=LR, weight_decay=DECAY, momentum=0.9, nesterov=True),
        OptimConfig(lr=LR, weight_decay=DECAY, optimizer="adamw"),
        OptimConfig(lr=LR, weight_decay=0.0, momentum=0.9, head_lr_mult=1.0),
        OptimConfig(lr=LR, weight_decay=DECAY, decay_norms=False),
        OptimConfig(lr=LR, weight_decay=DECAY, decay_norms=False, optimizer="adamw"),
        OptimConfig(lr=LR, weight_decay=DECAY, clip_norm=1.0),
    ],
    ids=["sgd", "momentum", "nesterov", "adamw", "one rate", "kernels", "kernels adamw", "clipped"],
)
def test_updates_are_torchs(config):
    params, grads = tiny_params(), drawn_gradients(6)
    close(updated(config, params, grads), torch_run(config, params, grads))


def drawn_gradients(number: int) -> list[dict]:
    rng = np.random.default_rng(1)
    return [jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), tiny_params()) for _ in range(number)]


def updated(config: OptimConfig, params: dict, grads: list[dict], frozen: tuple = (), **options) -> dict:
    """By name, the parameters after so many updates."""
    tx = make_optimizer(config, rate_labels(params, frozen), **options)
    state = tx.init(params)
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return by_name(params)


def close(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, expected[name], rtol=2e-5, atol=2e-6, err_msg=name)


def test_stages_learn_at_rates_of_their_own():
    config = OptimConfig(lr=LR, weight_decay=DECAY, stage_lr_mult=("stem=0.1,layer1=0.2", "layer3=2"), layer_decay=0.5)
    stem, layer1, layer2, layer3 = LR * 0.1 / 16, LR * 0.2 / 8, LR / 4, LR * 2 / 2
    rates = {"conv1": stem, "bn1": stem, "layer1_0": layer1, "layer2_0": layer2, "layer3_0": layer3, "layer4_0": LR}
    params, grads = tiny_params(), drawn_gradients(4)
    close(updated(config, params, grads), torch_run(config, params, grads, rates))
    assert learning_rates(config) == pytest.approx(
        {"head": 10 * LR, "stem": stem, "layer1": layer1, "layer2": layer2, "layer3": layer3, "layer4": LR, "frozen": 0}
    )


def test_a_schedule_scales_every_update():
    params, grads = tiny_params(), drawn_gradients(3)
    config = OptimConfig(lr=LR, weight_decay=0.0, momentum=0.0)
    found = updated(config, params, grads, schedule=lambda step: 1.0 - step / 4)
    for name, leaf in by_name(params).items():
        rate = LR * (10 if name.startswith("fc/") else 1)
        expected = leaf - rate * sum((1 - t / 4) * by_name(grad)[name] for t, grad in enumerate(grads))
        np.testing.assert_allclose(found[name], expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_l2_sp_decays_the_body_toward_its_start_and_the_head_toward_zero(optimizer):
    params, strength = tiny_params(), 0.3
    config = OptimConfig(optimizer=optimizer, lr=LR, weight_decay=DECAY, momentum=0.0, l2_sp=strength)
    still = [jax.tree.map(np.zeros_like, params)] * 5
    found = updated(config, params, still)
    for name, start in by_name(params).items():
        expected = start.astype(np.float64)
        for _ in still:
            pull = 0 if name.startswith("fc/") else strength * (expected - start)
            expected = expected - LR * (10 if name.startswith("fc/") else 1) * (DECAY * expected + pull)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, err_msg=name)


def test_clipping_counts_what_trains_alone():
    params, config = tiny_params(), OptimConfig(lr=LR, weight_decay=0.0, momentum=0.0, head_lr_mult=1.0, clip_norm=0.5)
    (grad,) = drawn_gradients(1)
    trains = ("layer4_0/kernel", "fc/kernel")
    norm = np.sqrt(sum(np.square(by_name(grad)[name]).sum() for name in trains))
    found = updated(config, params, [grad], frozen_stages("layer3"))
    for name, start in by_name(params).items():
        step = LR * 0.5 / norm * by_name(grad)[name] if name in trains else 0
        np.testing.assert_allclose(found[name], start - step, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_held_stages_wait_with_their_state_and_go_on_as_if_they_began(optimizer):
    config = OptimConfig(optimizer=optimizer, lr=LR, weight_decay=DECAY, head_lr_mult=1.0, clip_norm=2.0)
    params, (first, second) = tiny_params(), drawn_gradients(2)
    labels = rate_labels(params, ())
    holding = make_optimizer(config, labels, held=STAGES)
    updates, state = holding.update(first, holding.init(params), params)
    assert {name for name, leaf in by_name(updates).items() if np.any(leaf)} == {"fc/kernel"}
    tx = make_optimizer(config, labels)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))
    after, _ = tx.update(second, state, params)
    fresh, _ = tx.update(second, tx.init(params), params)
    for name, leaf in by_name(after).items():
        assert np.array_equal(leaf, by_name(fresh)[name]) == (name != "fc/kernel"), name


@pytest.mark.parametrize("freeze", ["none", "stem", "layer2", "backbone"])
def test_every_parameter_of_a_network_is_labelled(freeze):
    shapes = jax.eval_shape(
        lambda: make_resnet("resnet50").init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )
    frozen = frozen_stages(freeze)
    for name, label in by_name(rate_labels(shapes["params"], frozen)).items():
        stage = "stem" if name.startswith(("conv1/", "bn1/")) else name.split("_")[0]
        expected = "head" if name.startswith("fc/") else "frozen" if stage in frozen else stage
        assert label == expected, name
        assert expected == "head" or stage in STAGES


def test_what_is_frozen_gets_no_update_decay_or_momentum():
    params = tiny_params()
    tx = make_optimizer(OptimConfig(lr=LR, weight_decay=DECAY), rate_labels(params, frozen_stages("layer3")))
    state = tx.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = tx.update(grads, state, params)
    moved = {name for name, leaf in by_name(updates).items() if np.any(leaf)}
    assert moved == {"layer4_0/kernel", "fc/kernel"}
    assert len(jax.tree.leaves(state)) == 2  # One momentum each.


@pytest.mark.parametrize(
    "config",
    [
        OptimConfig(lr=LR, weight_decay=DECAY, momentum=0.9, l2_sp=0.3, clip_norm=0.5, layer_decay=0.5),
        OptimConfig(lr=LR, weight_decay=DECAY, optimizer="adamw", clip_norm=0.5),
    ],
    ids=["sgd", "adamw"],
)
def test_numbers_that_are_traced_train_as_those_of_the_config(config):
    params, grads = tiny_params(), drawn_gradients(3)
    labels = rate_labels(params, frozen_stages("stem"))
    other = OptimConfig(lr=9.0, weight_decay=9.0, optimizer=config.optimizer)

    def trained(numbers):
        tx = make_optimizer(other, labels, numbers=numbers)
        state, now = tx.init(params), params
        for grad in grads:
            updates, state = tx.update(grad, state, now)
            now = optax.apply_updates(now, updates)
        return now

    numbers = jax.tree.map(jnp.float32, numbers_of(config))
    close(by_name(jax.jit(trained)(numbers)), updated(config, params, grads, frozen_stages("stem")))
