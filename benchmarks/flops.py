"""A network's layers, and its FLOPs counted from them: of convolutions and the classifier, a multiply-add as two."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxft.optim import rate_labels
from jaxft.paths import by_name
from jaxft.resnet import frozen_stages, make_resnet


class Flops(NamedTuple):
    """Of one image."""

    forward: float
    training: float
    """Forward, and backward as far as something trains."""


def model_flops(arch: str, image_size: int, num_classes: int, freeze: str = "none") -> Flops:
    """FLOPs of a network of jaxft's on an image of so many pixels.

    The backward pass of a layer that trains takes as many for its weights as the forward pass, and as many again for
    its input, unless nothing below trains.
    """
    model = make_resnet(arch, num_classes=num_classes, frozen=frozen_stages(freeze))
    forward, params = forward_flops(model, image_size)
    labels = by_name(rate_labels(params, model.frozen))
    trains = [name for name in forward if labels[f"{name}/kernel"] != "frozen"]
    lowest = trains[0].rpartition("/")[0]  # The block of the first layer that trains; none of the stem and the head.
    entrances = {trains[0], f"{lowest}/downsample_0"}
    backward = sum(forward[name] * (1 if name in entrances else 2) for name in trains)
    return Flops(sum(forward.values()), sum(forward.values()) + backward)


def forward_flops(model: nn.Module, image_size: int) -> tuple[Mapping[str, float], Any]:
    """FLOPs of each layer that has a kernel, by name, from the image upward; and the shapes of the parameters."""
    layers, params = layers_of(model, image_size)
    # An output value takes a multiply-add for each of its own filter's numbers.
    return {name: 2 * math.prod(each.outputs[:-1]) * math.prod(each.kernel) for name, each in layers.items()}, params


class Layer(NamedTuple):
    """Shapes of a layer that has a kernel, for one image."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: tuple[int, ...]


def layers_of(model: nn.Module, image_size: int) -> tuple[Mapping[str, Layer], Any]:
    """The layers that have a kernel, by name, from the image upward; and the shapes of the parameters."""
    found: dict[str, Layer] = {}

    def record(layer: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        made = layer(*args, **kwargs)
        kernel = context.module.variables.get("params", {}).get("kernel")
        if kernel is not None and context.method_name == "__call__":
            found["/".join(context.module.path)] = Layer(args[0].shape, made.shape, kernel.shape)
        return made

    images = jnp.zeros((1, image_size, image_size, 3))
    with nn.intercept_methods(record):
        shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    return found, shapes["params"]
