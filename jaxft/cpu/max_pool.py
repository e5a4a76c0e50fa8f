"""The stem's max-pool as a CPU computes it fastest: an image at a time, and a gradient from which pixel was largest.

Other devices take XLA's own.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, UInt8

from jaxft.cpu.shared import on_cpu, output_size

Images = Float[Array, "b h w c"]
Pooled = Float[Array, "*b h2 w2 c"]
Winners = UInt8[Array, "*b h2 w2 c"]
"""Of a pooling window's nine pixels, counted row by row."""


@jax.custom_vjp
def max_pool(x: Images) -> Pooled:
    """The stem's 3x3 max-pool of stride 2; padded with -inf, as torch's."""
    return on_cpu(lambda x: lax.map(winners, x)[0], xla_max_pool, x)


def max_pool_forward(x: Images) -> tuple[Pooled, tuple[Images, Winners]]:
    """The max-pool, and what its gradient needs: the winners on a CPU, the images elsewhere."""

    def xla(x: Images) -> tuple[Pooled, Winners]:
        largest = xla_max_pool(x)
        return largest, jnp.zeros(largest.shape, jnp.uint8)

    largest, winner = on_cpu(partial(lax.map, winners), xla, x)
    return largest, (x, winner)


def max_pool_backward(saved: tuple[Images, Winners], grad: Pooled) -> tuple[Images]:
    """The gradient of the images: a window's goes to the first pixel that is its largest."""

    def fast(x: Images, winner: Winners, grad: Pooled) -> Images:
        return spread(winner, grad)[:, : x.shape[1], : x.shape[2]]

    def xla(x: Images, winner: Winners, grad: Pooled) -> Images:
        return jax.vjp(xla_max_pool, x)[1](grad)[0]

    return (on_cpu(fast, xla, *saved, grad),)


max_pool.defvjp(max_pool_forward, max_pool_backward)


def xla_max_pool(x: Images) -> Pooled:
    """The max-pool as XLA does it."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]


def winners(image: Float[Array, "h w c"]) -> tuple[Pooled, Winners]:
    """The largest of each window, and which of its pixels that is."""
    height, width = (output_size(side, 3, 2, 1) for side in image.shape[:2])
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    largest = padded[: 2 * height - 1 : 2, : 2 * width - 1 : 2]
    winner = jnp.zeros(largest.shape, jnp.uint8)
    for place in range(1, 9):
        i, j = divmod(place, 3)
        pixel = padded[i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
        winner = jnp.where(pixel > largest, jnp.uint8(place), winner)
        largest = jnp.maximum(largest, pixel)
    return largest, winner


def spread(winner: Winners, grad: Pooled) -> Images:
    """Each window's gradient at the pixel that won it, for two rows and columns of pixels a window."""

    def won(i: int, j: int) -> Pooled:
        """The gradients of windows that their pixel of row i and column j won; i or j of 0 is the next window's."""
        gradient = jnp.where(winner == 3 * i + j, grad, 0)
        return jnp.pad(gradient, ((0, 0), (0, i == 0), (0, j == 0), (0, 0)))[:, i == 0 :, j == 0 :]

    even = jnp.stack([won(1, 1), won(1, 0) + won(1, 2)], 3)
    odd = jnp.stack([won(0, 1) + won(2, 1), won(0, 0) + won(0, 2) + won(2, 0) + won(2, 2)], 3)
    n, height, width, channels = grad.shape
    return jnp.stack([even, odd], 2).reshape(n, 2 * height, 2 * width, channels)
