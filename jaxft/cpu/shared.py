"""What the rooms of this folder have in common."""

from collections.abc import Callable
from typing import Any

from jax import lax
from jaxtyping import Array


def on_cpu(fast: Callable, general: Callable, *operands: Array) -> Any:
    """What `fast` makes of the operands where this is compiled for a CPU, and `general` for other devices."""
    return lax.platform_dependent(*operands, cpu=fast, default=general)


def output_size(side: int, size: int, stride: int, pad: int) -> int:
    """Height or width of what a convolution puts out."""
    return (side + 2 * pad - size) // stride + 1


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor that is no larger than `limit`, or 1."""
    return max(each for each in range(1, number + 1) if number % each == 0 and each <= max(limit, 1))
