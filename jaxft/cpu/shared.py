"""What the rooms of this folder have in common."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def on_cpu(fast: Callable, general: Callable, *operands: Array) -> Any:
    """What `fast` makes of the operands where this is compiled for a CPU, and `general` for other devices."""
    return lax.platform_dependent(*operands, cpu=fast, default=general)


def in_turn(function: Callable[[Array], Array], x: Array, chunk: int) -> Array:
    """The function of so many images at a time; `lax.map`, but for the place of the result: see `zero_after`."""
    part = jax.eval_shape(function, x[:chunk])

    def one(i: Array, done: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(
            done, function(lax.dynamic_slice_in_dim(x, i * chunk, chunk)), i * chunk, 0
        )

    return lax.fori_loop(0, len(x) // chunk, one, jnp.full((len(x), *part.shape[1:]), zero_after(x), part.dtype))


def zero_after(x: Array) -> Array:
    """A zero that is there no sooner than `x`.

    XLA's scheduler begins with all that waits for nothing: zeros to begin results with, and sums of kernels, would
    be made for all layers at the start of a step, and take memory until it is their turn.
    """
    first = lax.bitcast_convert_type(x.ravel()[0].astype(jnp.float32), jnp.uint32)
    return jnp.minimum(first >> jnp.uint32(1), 0).astype(x.dtype)


def output_size(side: int, size: int, stride: int, pad: int) -> int:
    """Height or width of what a convolution puts out."""
    return (side + 2 * pad - size) // stride + 1


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor that is no larger than `limit`, or 1."""
    return max(each for each in range(1, number + 1) if number % each == 0 and each <= max(limit, 1))
