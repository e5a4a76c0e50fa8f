"""What jaxft.cpu brings: each convolution of a ResNet, its gradients, and the max-pool, against XLA's own.

    python benchmarks/cpu_ops.py

Both sides are compiled alone, get the same arrays and take turns. `--arch resnet50 --image-size 96 --batch 8` measure
another network.
"""

import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flops import layers_of
from jaxft.cpu.convolution import convolve, xla_convolve
from jaxft.cpu.max_pool import max_pool, xla_max_pool
from jaxft.resnet import ARCHS, make_resnet
from results import command, conditions, table, take_turns, write_section

Function = Callable[..., Any]


class Convolution(NamedTuple):
    """Of square images with a square kernel, padded by half of it."""

    side: int
    channels: int
    features: int
    size: int
    stride: int


def main() -> None:
    """Measure, print, and write the section."""
    parser = ArgumentParser(description="Each convolution of a network by jaxft.cpu and by XLA alone.")
    parser.add_argument("--arch", default="resnet18", choices=sorted(ARCHS))
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    if jax.default_backend() != "cpu":
        parser.error(f"this is for CPUs; here is a {jax.default_backend()}: JAX_PLATFORMS=cpu keeps off it")
    layers = convolutions(arguments.arch, arguments.image_size)
    rows = [row for layer, count in layers.items() for row in layer_rows(layer, count, arguments)]
    pool_shape = (arguments.batch, arguments.image_size // 2, arguments.image_size // 2, 64)
    rows += pool_rows(pool_shape, arguments.turns)
    text = f"""Milliseconds of one call; {arguments.arch}, batch {arguments.batch}, {arguments.image_size} pixels.

{table(["layer", "what", "calls", "XLA", "jaxft.cpu", "ratio"], rows)}

{conditions()}; n = {arguments.turns}, median (least to most).

    {command()}"""
    print(text)
    write_section(f"CPU: convolutions of {arguments.arch} at {arguments.image_size} pixels", text)


def convolutions(arch: str, image_size: int) -> Counter[Convolution]:
    """The network's ungrouped convolutions and how often it has each, from the image upward."""
    layers, _ = layers_of(make_resnet(arch), image_size)
    return Counter(
        Convolution(side, channels, features, kernel[0], side // outputs[1])
        for (_, side, _, channels), outputs, (*kernel, taken, features) in (
            layer for layer in layers.values() if len(layer.kernel) == 4
        )
        if taken == channels
    )


def layer_rows(layer: Convolution, count: int, arguments: Any) -> list[list[str]]:
    """Forward, and the two gradients."""
    pad = layer.size // 2
    rng = np.random.default_rng(0)
    x = uniform(rng, arguments.batch, layer.side, layer.side, layer.channels)
    kernel = uniform(rng, layer.size, layer.size, layer.channels, layer.features)
    fast = partial(convolve, stride=layer.stride, pad=pad)
    plain = partial(xla_convolve, stride=layer.stride, pad=pad)
    grad = uniform(rng, *jax.eval_shape(plain, x, kernel).shape)
    name = f"{layer.size}x{layer.size}/{layer.stride} {layer.channels} to {layer.features}, {layer.side}²"
    whats = [
        ("forward", *(of(f, 0) for f in (plain, fast))),
        ("gradient of images", *(of(f, 1) for f in (plain, fast))),
        ("gradient of kernel", *(of(f, 2) for f in (plain, fast))),
    ]
    return [measured(name, what, count, arguments.turns, xla, ours, x, kernel, grad) for what, xla, ours in whats]


def of(function: Function, which: int) -> Function:
    """The function, or its gradient by the first or second argument."""
    if which == 0:
        return lambda x, kernel, grad: function(x, kernel)
    return lambda x, kernel, grad: jax.vjp(function, x, kernel)[1](grad)[which - 1]


def pool_rows(shape: tuple[int, ...], turns: int) -> list[list[str]]:
    """The max-pool forward, and its gradient."""
    x = uniform(np.random.default_rng(0), *shape)
    grad = x[:, ::2, ::2]
    name = f"max-pool, {shape[1]}²"

    def gradient(function: Function) -> Function:
        return lambda x, grad: jax.vjp(function, x)[1](grad)[0]

    forward = measured(name, "forward", 1, turns, lambda x, _: xla_max_pool(x), lambda x, _: max_pool(x), x, grad)
    back = measured(name, "gradient", 1, turns, gradient(xla_max_pool), gradient(max_pool), x, grad)
    return [forward, back]


def measured(
    name: str, what: str, count: int, turns: int, xla: Function, ours: Function, *operands: jax.Array
) -> list[str]:
    """A row of the table."""
    theirs, mine = take_turns(
        turns, *(timed(jax.jit(each).lower(*operands).compile(), operands) for each in (xla, ours))
    )
    return [name, what, str(count), str(theirs), str(mine), f"{theirs.median / mine.median:.2f}"]


def timed(function: Function, operands: tuple[jax.Array, ...]) -> Callable[[], float]:
    """Milliseconds of one call."""

    def once() -> float:
        started = time.perf_counter()
        jax.block_until_ready(function(*operands))
        return 1000 * (time.perf_counter() - started)

    return once


def uniform(rng: np.random.Generator, *shape: int) -> jax.Array:
    """Random numbers in float32."""
    return jnp.asarray(rng.uniform(-1, 1, shape).astype(np.float32))


if __name__ == "__main__":
    main()
