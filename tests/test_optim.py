import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxft.config import OptimConfig
from jaxft.optim import make_optimizer, rate_labels
from jaxft.paths import by_name
from jaxft.resnet import STAGES, frozen_stages, make_resnet

LR, DECAY = 0.05, 0.1


def tiny_params() -> dict:
    rng = np.random.default_rng(0)
    names = {"conv1": "kernel", "bn1": "scale", "fc": "kernel"} | {f"layer{i}_0": "kernel" for i in range(1, 5)}
    return {name: {leaf: rng.normal(size=(3, 4)).astype(np.float32)} for name, leaf in names.items()}


def torch_run(config: OptimConfig, params: dict, grads: list[dict]) -> dict:
    """The chapter's two groups in torch: `fc` at its own rate, the rest at the body's."""
    tensors = {name: torch.nn.Parameter(torch.from_numpy(leaf.copy())) for name, leaf in by_name(params).items()}
    head = [tensor for name, tensor in tensors.items() if name.startswith("fc/")]
    body = [tensor for name, tensor in tensors.items() if not name.startswith("fc/")]
    groups = [{"params": body}, {"params": head, "lr": config.lr * config.head_lr_mult}]
    if config.optimizer == "sgd":
        options = {"momentum": config.momentum, "nesterov": config.nesterov}
        optimizer = torch.optim.SGD(groups, lr=config.lr, weight_decay=config.weight_decay, **options)
    else:
        optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
    for grad in grads:
        for name, leaf in by_name(grad).items():
            tensors[name].grad = torch.from_numpy(leaf.copy())
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
    ],
    ids=["sgd", "momentum", "nesterov", "adamw", "one rate"],
)
def test_updates_are_torchs(config):
    params = tiny_params()
    rng = np.random.default_rng(1)
    grads = [jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params) for _ in range(6)]
    expected = torch_run(config, params, grads)
    tx = make_optimizer(config, rate_labels(params, ()))
    state = tx.init(params)
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    for name, leaf in by_name(params).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("freeze", ["none", "stem", "layer2", "backbone"])
def test_every_parameter_of_a_network_is_labelled(freeze):
    shapes = jax.eval_shape(
        lambda: make_resnet("resnet50").init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )
    frozen = frozen_stages(freeze)
    for name, label in by_name(rate_labels(shapes["params"], frozen)).items():
        stage = "stem" if name.startswith(("conv1/", "bn1/")) else name.split("_")[0]
        expected = "head" if name.startswith("fc/") else "frozen" if stage in frozen else "backbone"
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
