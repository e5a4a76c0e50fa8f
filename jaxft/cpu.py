"""Convolutions and the stem's max-pool as a CPU computes them fastest; other devices take XLA's own, as they are.

XLA's CPU backend is as fast as a matrix product where a convolution is of stride 1 and its images are large, and slow
elsewhere: small images (smaller than the kernel, it computes them in a plain loop, 100 times slower), gradients through
a stride, gradients of kernels, and max-pools. Here each of these is put as products of matrices with patches of the
images, or an image at a time; the results differ by rounding. `benchmarks/cpu_ops.py` measures what each brings.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, UInt8

Images = Float[Array, "b h w c"]
Kernel = Float[Array, "k k c f"]
Output = Float[Array, "b h2 w2 f"]
Pooled = Float[Array, "*b h2 w2 c"]
Winners = UInt8[Array, "*b h2 w2 c"]
"""Of a pooling window's nine pixels, counted row by row."""

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
ROWS_BYTES = 5 << 19
PATCHES_BYTES = 1 << 23
"""Of patches, of a kernel's rows and whole ones, that are made at once: they should stay in the cache."""
SMALL = 49
"""Pixels of the output up to which a convolution is faster by patches; measured at 4, 16, 49, 64 and 196."""


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
    if feature_group_count == 1 and precision is None and jnp.finfo(lhs.dtype).bits >= 32:
        return convolve(lhs, rhs, window_strides[0], padding[0][0])
    options |= {"feature_group_count": feature_group_count, "precision": precision}
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


def on_cpu(fast: Callable, general: Callable, *operands: Array) -> Any:
    """What `fast` makes of the operands where this is compiled for a CPU, and `general` for other devices."""
    return lax.platform_dependent(*operands, cpu=fast, default=general)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: Images, kernel: Kernel, stride: int, pad: int) -> Output:
    """The convolution of images, padded by `pad` pixels on each side, with a square kernel."""
    fast, general = (partial(by, stride=stride, pad=pad) for by in (convolve_patches, xla_convolve))
    pixels = math.prod(output_size(side, len(kernel), stride, pad) for side in x.shape[1:3])
    return on_cpu(fast, general, x, kernel) if is_small(len(kernel), pixels) else general(x, kernel)


def is_small(size: int, pixels: int) -> bool:
    """Whether a convolution with a kernel of `size` puts out so few pixels of an image that patches are faster."""
    return size > 1 and pixels <= SMALL


def convolve_forward(x: Images, kernel: Kernel, stride: int, pad: int) -> tuple[Output, tuple[Images, Kernel]]:
    """The convolution, and what its gradients need."""
    return convolve(x, kernel, stride, pad), (x, kernel)


def convolve_backward(stride: int, pad: int, saved: tuple[Images, Kernel], grad: Output) -> tuple[Images, Kernel]:
    """The gradients of the images and of the kernel."""

    def xla(x: Images, kernel: Kernel, grad: Output) -> tuple[Images, Kernel]:
        return jax.vjp(partial(xla_convolve, stride=stride, pad=pad), x, kernel)[1](grad)

    def fast(x: Images, kernel: Kernel, grad: Output) -> tuple[Images, Kernel]:
        size, pixels = len(kernel), math.prod(grad.shape[1:3])
        by = convolve_patches if is_small(size, pixels) or (size == 3 and stride > 1) else xla_convolve
        if pixels < size**2:
            return jax.vjp(partial(by, stride=stride, pad=pad), x, kernel)[1](grad)
        (images_grad,) = jax.vjp(lambda x: by(x, kernel, stride, pad), x)[1](grad)
        return images_grad, kernel_grad(x, grad, size, stride, pad)

    return on_cpu(fast, xla, *saved, grad)


convolve.defvjp(convolve_forward, convolve_backward)


def xla_convolve(x: Images, kernel: Kernel, stride: int, pad: int) -> Output:
    """The convolution as XLA does it."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=DIMENSIONS)


def convolve_patches(x: Images, kernel: Kernel, stride: int, pad: int) -> Output:
    """The convolution as products of whole patches, a few images at a time."""
    size, features = len(kernel), kernel.shape[-1]
    height, width = (output_size(side, size, stride, pad) for side in x.shape[1:3])
    matrix = kernel.reshape(-1, features)

    def product(x: Images) -> Output:
        padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        taps = [
            padded[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
            for i in range(size)
            for j in range(size)
        ]
        patches = lax.optimization_barrier(jnp.concatenate(taps, 3).reshape(-1, len(matrix)))
        return (patches @ matrix).reshape(-1, height, width, features)

    n = x.shape[0]
    if not isinstance(n, int):  # Being exported for any number.
        return product(x)
    chunk = largest_divisor(n, PATCHES_BYTES // (height * width * len(matrix) * x.dtype.itemsize))
    return lax.map(product, x.reshape(-1, chunk, *x.shape[1:])).reshape(n, height, width, features)


def output_size(side: int, size: int, stride: int, pad: int) -> int:
    """Height or width of what a convolution puts out."""
    return (side + 2 * pad - size) // stride + 1


def kernel_grad(x: Images, grad: Output, size: int, stride: int, pad: int) -> Kernel:
    """The gradient of the kernel: for each of its rows a product of patches, a few images at a time, added up."""
    n, height, width, features = grad.shape
    channels = x.shape[-1]
    narrow = size * channels < features
    unit = stride if narrow else 1  # Pixels that are copied together, for few channels are slow to copy.
    taps = -(-size // unit)
    row = taps * unit * channels
    right = pad + -(x.shape[2] + 2 * pad) % unit
    step = stride // unit
    chunk = largest_divisor(n, ROWS_BYTES // ((x.shape[1] + 2 * pad) * width * row * x.dtype.itemsize))

    def added(total: Array, images: tuple[Images, Output]) -> tuple[Array, None]:
        x, grad = images
        padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, right), (0, 0)))
        units = padded.reshape(*padded.shape[:2], -1, unit * channels)
        patches = jnp.concatenate([units[:, :, j : j + step * (width - 1) + 1 : step] for j in range(taps)], 3)
        rows = [patches[:, i : i + stride * (height - 1) + 1 : stride].reshape(-1, row) for i in range(size)]
        grads = grad.reshape(-1, features)
        if narrow:
            return total + jnp.stack([each.T @ grads for each in rows]), None
        grads = transposed(grads)
        return total + jnp.stack([grads @ each for each in rows]), None

    chunks = (x.reshape(-1, chunk, *x.shape[1:]), grad.reshape(-1, chunk, *grad.shape[1:]))
    total, _ = lax.scan(added, jnp.zeros((size, row, features) if narrow else (size, features, row), x.dtype), chunks)
    total = total if narrow else total.swapaxes(1, 2)
    return total.reshape(size, taps * unit, channels, features)[:, :size]


def transposed(matrix: Float[Array, "m n"]) -> Float[Array, "n m"]:
    """The transpose in memory: a product that has to read a matrix across is half as fast."""
    return lax.optimization_barrier(matrix.T)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor that is no larger than `limit`, or 1."""
    return max(each for each in range(1, number + 1) if number % each == 0 and each <= max(limit, 1))


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
