"""The peer that a Flax user writes: a ResNet of nn.Conv and nn.BatchNorm, a TrainState, one jit; nothing else done.

Written anew along the lines of Flax's ImageNet example: SAME padding, the last scale of a block starts at zero, one
optimizer for all, weight decay in the loss. Input is normalised already, in the precision of the computation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training import train_state

from jaxft.errors import UserError

STAGES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
STAGES |= {"resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
BASIC = ("resnet18", "resnet34")
WEIGHT_DECAY = 1e-4


class TrainState(train_state.TrainState):
    """Flax's, and the statistics."""

    batch_stats: Any


class Block(nn.Module):
    """Convolutions of these kernels, the strided one and the widths given, plus the shortcut."""

    kernels: tuple[int, ...]
    features: int
    out_features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[b, h, w, c] to [b, h / stride, w / stride, out_features]."""
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        y, strided, last = x, self.kernels.index(3), len(self.kernels) - 1
        for i, kernel in enumerate(self.kernels):
            features = self.out_features if i == last else self.features
            strides = (self.stride, self.stride) if i == strided else (1, 1)
            y = conv(features, (kernel, kernel), strides)(y)
            y = norm(scale_init=nn.initializers.zeros if i == last else nn.initializers.ones)(y)
            if i < last:
                y = nn.relu(y)
        if x.shape != y.shape:
            x = norm()(conv(self.out_features, (1, 1), (self.stride, self.stride))(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Logits of normalised images."""

    arch: str
    num_classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[b, h, w, 3] to float32 [b, num_classes]."""
        kernels, expansion = ((3, 3), 1) if self.arch in BASIC else ((1, 3, 1), 4)
        x = nn.Conv(64, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], use_bias=False, dtype=self.dtype)(x)
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for i, num_blocks in enumerate(STAGES[self.arch]):
            for j in range(num_blocks):
                width = 64 * 2**i
                stride = 2 if i > 0 and j == 0 else 1
                x = Block(kernels, width, width * expansion, stride, self.dtype)(x, train)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x.mean((1, 2))).astype(jnp.float32)


def make_state(key: jax.Array, arch: str, num_classes: int, image_size: int, dtype: Any) -> TrainState:
    """A fresh network's state, with SGD.

    Raises:
        UserError: no such network here.
    """
    if arch not in STAGES:
        raise UserError(f"--arch {arch}: flax-imagenet-style has {', '.join(STAGES)}. Leave this peer out.")
    model = ResNet(arch, num_classes, dtype)
    images = jnp.zeros((1, image_size, image_size, 3), dtype)
    variables = jax.jit(lambda key: model.init(key, images, train=False))(key)
    return TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=optax.sgd(1e-3, momentum=0.9, nesterov=True),
    )


def make_steps() -> tuple[Callable, Callable]:
    """The jitted `train_step(state, batch) -> (state, metrics)` and `eval_step(state, batch) -> metrics`."""
    return jax.jit(train_step, donate_argnums=0), jax.jit(eval_step)


def train_step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update of everything."""

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updated = state.apply_fn(variables, batch["image"], train=True, mutable=["batch_stats"])
        decay = sum(jnp.sum(x**2) for x in jax.tree.leaves(params) if x.ndim > 1)
        return cross_entropy(logits, batch["label"]) + WEIGHT_DECAY * 0.5 * decay, (logits, updated)

    (_, (logits, updated)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    state = state.apply_gradients(grads=grads, batch_stats=updated["batch_stats"])
    return state, metrics(logits, batch["label"])


def eval_step(state: TrainState, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Loss and accuracy of a batch."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return metrics(state.apply_fn(variables, batch["image"], train=False), batch["label"])


def metrics(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Loss in nats and accuracy, means over the batch."""
    return {"loss": cross_entropy(logits, labels), "accuracy": jnp.mean(logits.argmax(-1) == labels)}


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The batch's mean, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
