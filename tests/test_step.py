import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.build import Pretrained, build
from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig
from jaxft.data.augment import Batch
from jaxft.head import imagenet_classes
from jaxft.paths import by_name
from jaxft.resnet import make_resnet

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


def pretrained(num_classes: int = 12) -> Pretrained:
    model = make_resnet("resnet18", num_classes=num_classes, width=WIDTH)
    variables = model.init(jax.random.key(1), jnp.zeros((1, 64, 64, 3)), train=False)
    return Pretrained(variables, imagenet_classes() if num_classes == 1000 else None)


def frozen_run(freeze: str, **model):
    config = Config(
        model=ModelConfig(width=WIDTH, freeze=freeze, **model),
        images=ImageConfig(image_size=64),
        optim=OptimConfig(lr=0.01, weight_decay=0.1),
        devices=1,
    )
    return build(config, CLASSES, pretrained(1000 if model else 12))


def flops(freeze: str) -> float:
    run = frozen_run(freeze)
    lowered = run.train_step.lower(run.state, run.put(random_batch()), run.key)
    return lowered.compile().cost_analysis()["flops"]


def test_a_frozen_body_costs_a_forward_pass_only():
    full, half, head = flops("none"), flops("layer2"), flops("backbone")
    # A forward pass, and two of its size backward for what trains; augmentation is part of each.
    assert head < 0.45 * full
    assert head < half < 0.9 * full


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
