"""Convolutions as a CPU computes them fastest; other devices take XLA's own, as they are.

XLA's CPU backend is as fast as a matrix product where a convolution is of stride 1 and its images are large, and slow
elsewhere: small images (smaller than the kernel, it computes them in a plain loop, 100 times slower), gradients through
a stride, and gradients of kernels. Here 3x3 convolutions of stride 1 take fewer products (winograd.py), and the others
are products with patches of the images (patches.py) where that is faster; the results differ by rounding. Where
there is little to compute, neither Winograd's way nor a faster gradient of the kernel is worth its time to compile.
`benchmarks/cpu_ops.py` measures what each brings.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxft.cpu import patches, winograd
from jaxft.cpu.shared import on_cpu, output_size

Images = Float[Array, "b h w c"]
Kernel = Float[Array, "k k c f"]
Output = Float[Array, "b h2 w2 f"]

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
SQUARES = 128
"""Of four pixels, in a batch, from which on Winograd's way is faster: below, the kernel's part outweighs it."""
SMALL = 49
"""Pixels of the output up to which a convolution is faster by patches; measured at 4, 16, 49, 64 and 196."""
LARGE = 1 << 26
"""Multiplications of a convolution from which on it is worth the time to compile that Winograd's way, and the
gradient of a kernel by patches, take more than XLA's."""


def conv_general_dilated(
    lhs: Images,
    rhs: Float[Array, "k k g f"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    feature_group_count: int,
    precision: Any,
    **options: Any,
) -> Output:
    """`jax.lax.conv_general_dilated` as `flax.linen.Conv` calls it; square kernels of one group take the ways here."""
    if feature_group_count == 1 and precision is None:
        return convolve(lhs, rhs, window_strides[0], padding[0][0])
    options |= {"feature_group_count": feature_group_count, "precision": precision}
    general = partial(lax.conv_general_dilated, window_strides=window_strides, padding=padding, **options)
    return on_cpu(widened(general), general, lhs, rhs) if is_half(lhs) else general(lhs, rhs)


def is_half(x: Images) -> bool:
    """Whether the numbers are of half precision."""
    return jnp.finfo(x.dtype).bits < 32


def widened(function: Callable) -> Callable:
    """The function with half precision computed in float32, which is what XLA's CPU backend does.

    It stands behind a barrier: XLA would put two convolutions in a row into one program, which gives NaN (jax 0.12).
    """

    def wide(*operands: Array) -> Any:
        if not is_half(operands[0]):
            return function(*operands)
        results = lax.optimization_barrier(function(*(each.astype(jnp.float32) for each in operands)))
        return jax.tree.map(lambda each: each.astype(operands[0].dtype), results)

    return wide


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: Images, kernel: Kernel, stride: int, pad: int) -> Output:
    """The convolution of images, padded by `pad` pixels on each side, with a square kernel."""
    general = partial(xla_convolve, stride=stride, pad=pad)
    way = way_of(x, kernel, stride, pad)
    if way == "xla" and not is_half(x):
        return general(x, kernel)
    by_patches = partial(patches.convolve, stride=stride, pad=pad)
    fast = {"winograd": winograd.convolve, "patches": by_patches, "xla": general}[way]
    return on_cpu(widened(fast), general, x, kernel)


def way_of(x: Images, kernel: Kernel, stride: int, pad: int) -> Literal["winograd", "patches", "xla"]:
    """How a CPU computes the convolution of these images fastest."""
    size, (n, height, width, _) = len(kernel), x.shape
    squares = n * -(-height // 2) * -(-width // 2) if isinstance(n, int) else 0  # Exported for any number.
    if fits_winograd(size, stride, pad) and squares >= SQUARES and is_large(x, kernel, stride, pad):
        return "winograd"
    return "patches" if size > 1 and output_pixels(x, size, stride, pad) <= SMALL else "xla"


def fits_winograd(size: int, stride: int, pad: int) -> bool:
    """Whether winograd.py knows such convolutions."""
    return (size, stride, pad) == (3, 1, 1)


def is_large(x: Images, kernel: Kernel, stride: int, pad: int) -> bool:
    """Whether the convolution takes LARGE multiplications."""
    return x.shape[0] * output_pixels(x, len(kernel), stride, pad) * kernel.size >= LARGE


def output_pixels(x: Images, size: int, stride: int, pad: int) -> int:
    """Of an image that a convolution puts out."""
    return math.prod(output_size(side, size, stride, pad) for side in x.shape[1:3])


def convolve_forward(x: Images, kernel: Kernel, stride: int, pad: int) -> tuple[Output, tuple[Images, Kernel]]:
    """The convolution, and what its gradients need."""
    return convolve(x, kernel, stride, pad), (x, kernel)


def convolve_backward(stride: int, pad: int, saved: tuple[Images, Kernel], grad: Output) -> tuple[Images, Kernel]:
    """The gradients of the images and of the kernel."""

    def xla(x: Images, kernel: Kernel, grad: Output) -> tuple[Images, Kernel]:
        return jax.vjp(partial(xla_convolve, stride=stride, pad=pad), x, kernel)[1](grad)

    def fast(x: Images, kernel: Kernel, grad: Output) -> tuple[Images, Kernel]:
        return fast_images_grad(x, kernel, grad, stride, pad), fast_kernel_grad(x, kernel, grad, stride, pad)

    return on_cpu(widened(fast), xla, *saved, grad)


convolve.defvjp(convolve_forward, convolve_backward)


def fast_images_grad(x: Images, kernel: Kernel, grad: Output, stride: int, pad: int) -> Images:
    """The gradient of the images, as a CPU computes it fastest."""
    size = len(kernel)
    way = way_of(x, kernel, stride, pad)
    if way == "winograd":
        return winograd.images_grad(kernel, grad)
    by = patches.convolve if way == "patches" or (size == 3 and stride > 1) else xla_convolve
    return jax.vjp(lambda x: by(x, kernel, stride, pad), x)[1](grad)[0]


def fast_kernel_grad(x: Images, kernel: Kernel, grad: Output, stride: int, pad: int) -> Kernel:
    """The gradient of the kernel, as a CPU computes it fastest."""
    size, large = len(kernel), is_large(x, kernel, stride, pad)
    if large and fits_winograd(size, stride, pad):
        return winograd.kernel_grad(x, grad)
    if large and output_pixels(x, size, stride, pad) >= size**2:
        return patches.kernel_grad(x, grad, size, stride, pad)
    by = patches.convolve if large else xla_convolve
    return jax.vjp(lambda kernel: by(x, kernel, stride, pad), kernel)[1](grad)[0]


def xla_convolve(x: Images, kernel: Kernel, stride: int, pad: int) -> Output:
    """The convolution as XLA does it."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=DIMENSIONS)
