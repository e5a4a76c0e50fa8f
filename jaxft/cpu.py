"""Convolutions and the stem's max-pool as a CPU computes them fastest; other devices take XLA's own, as they are.

XLA's CPU backend is as fast as a matrix product where a convolution is wide, of stride 1 and larger than its kernel,
and slow elsewhere: gradients of kernels, gradients through a stride, images smaller than the kernel (which it computes
in a plain loop, 60 times slower), and the gradient of a max-pool. Here each of these is put as products of matrices or
as convolutions of the fast kind; the results differ by rounding. `benchmarks/cpu_ops.py` measures what each brings.
"""

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
CHUNK_BYTES = 5 << 19
"""Of patches that a kernel's gradient makes at once: they should stay in the cache between two cores and memory."""


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
    xla = partial(xla_convolve, stride=stride, pad=pad)
    if is_tiny(x, kernel):
        return on_cpu(partial(convolve_tiny, stride=stride, pad=pad), xla, x, kernel)
    return xla(x, kernel)


def is_tiny(x: Images, kernel: Kernel) -> bool:
    """Whether the images are smaller than the kernel."""
    return min(x.shape[1:3]) < len(kernel)


def convolve_forward(x: Images, kernel: Kernel, stride: int, pad: int) -> tuple[Output, tuple[Images, Kernel]]:
    """The convolution, and what its gradients need."""
    return convolve(x, kernel, stride, pad), (x, kernel)


def convolve_backward(stride: int, pad: int, saved: tuple[Images, Kernel], grad: Output) -> tuple[Images, Kernel]:
    """The gradients of the images and of the kernel."""

    def xla(x: Images, kernel: Kernel, grad: Output) -> tuple[Images, Kernel]:
        return jax.vjp(partial(xla_convolve, stride=stride, pad=pad), x, kernel)[1](grad)

    def fast(x: Images, kernel: Kernel, grad: Output) -> tuple[Images, Kernel]:
        tiny = is_tiny(x, kernel)
        if stride > 1 and len(kernel) == 3 and not tiny:
            images_grad = strided_images_grad(grad, kernel, x.shape[1], x.shape[2], stride, pad)
        else:
            forward = convolve_tiny if tiny else xla_convolve
            (images_grad,) = jax.vjp(lambda x: forward(x, kernel, stride, pad), x)[1](grad)
        return images_grad, kernel_grad(x, grad, len(kernel), stride, pad)

    return on_cpu(fast, xla, *saved, grad)


convolve.defvjp(convolve_forward, convolve_backward)


def xla_convolve(x: Images, kernel: Kernel, stride: int, pad: int) -> Output:
    """The convolution as XLA does it."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=DIMENSIONS)


def convolve_tiny(x: Images, kernel: Kernel, stride: int, pad: int) -> Output:
    """The convolution of images smaller than the kernel: one product with all that goes from a pixel to a pixel."""
    size, (height, width) = len(kernel), x.shape[1:3]
    out_height, out_width = (output_size(side, size, stride, pad) for side in (height, width))
    outside = jnp.zeros_like(kernel[0, 0])

    def tap(row: int, column: int) -> Float[Array, "c f"]:
        return kernel[row, column] if 0 <= row < size and 0 <= column < size else outside

    rows = [
        jnp.concatenate(
            [tap(y - i * stride + pad, x - j * stride + pad) for i in range(out_height) for j in range(out_width)], 1
        )
        for y in range(height)
        for x in range(width)
    ]
    flat = x.reshape(x.shape[0], -1) @ jnp.concatenate(rows)
    return flat.reshape(x.shape[0], out_height, out_width, kernel.shape[-1])


def output_size(side: int, size: int, stride: int, pad: int) -> int:
    """Height or width of what a convolution puts out."""
    return (side + 2 * pad - size) // stride + 1


def kernel_grad(x: Images, grad: Output, size: int, stride: int, pad: int) -> Kernel:
    """The gradient of the kernel: for each of its rows a product of patches, a few images at a time, added up."""
    n, height, width, features = grad.shape
    channels = x.shape[-1]
    row = size * channels
    narrow = row < features
    chunk = largest_divisor(n, CHUNK_BYTES // ((x.shape[1] + 2 * pad) * width * row * x.dtype.itemsize))

    def added(total: Array, images: tuple[Images, Output]) -> tuple[Array, None]:
        x, grad = images
        padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        patches = jnp.concatenate([padded[:, :, j : j + stride * (width - 1) + 1 : stride] for j in range(size)], 3)
        rows = [patches[:, i : i + stride * (height - 1) + 1 : stride].reshape(-1, row) for i in range(size)]
        grads = grad.reshape(-1, features)
        if narrow:
            return total + jnp.stack([transposed(each) @ grads for each in rows]), None
        grads = transposed(grads)
        return total + jnp.stack([grads @ each for each in rows]), None

    chunks = (x.reshape(-1, chunk, *x.shape[1:]), grad.reshape(-1, chunk, *grad.shape[1:]))
    total, _ = lax.scan(added, jnp.zeros((size, row, features) if narrow else (size, features, row), x.dtype), chunks)
    total = total if narrow else total.swapaxes(1, 2)
    return total.reshape(size, size, channels, features)


def transposed(matrix: Float[Array, "m n"]) -> Float[Array, "n m"]:
    """The transpose in memory: a product that has to read a matrix across is half as fast."""
    return lax.optimization_barrier(matrix.T)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor that is no larger than `limit`, or 1."""
    return max(each for each in range(1, number + 1) if number % each == 0 and each <= max(limit, 1))


def strided_images_grad(grad: Output, kernel: Kernel, height: int, width: int, stride: int, pad: int) -> Images:
    """The gradient of the images through a stride: each phase of the pixels is a convolution of stride 1."""
    taps = -(-len(kernel) // stride)
    phases = range(stride)
    parts = [[phase_grad(grad, kernel[i::stride, j::stride], taps) for j in phases] for i in phases]
    interleaved = jnp.stack([jnp.stack(row, 3) for row in parts], 2)
    padded = interleaved.reshape(len(grad), stride * interleaved.shape[1], -1, kernel.shape[2])
    missing = [max(0, pad + side - found) for side, found in zip((height, width), padded.shape[1:3], strict=True)]
    padded = jnp.pad(padded, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    return padded[:, pad : pad + height, pad : pad + width]


def phase_grad(grad: Output, kernel: Float[Array, "t u c f"], taps: int) -> Float[Array, "b h3 w3 c"]:
    """What every stride-th pixel gets from the taps that reach it; `taps` of the widest phase set the size."""
    height, width = kernel.shape[:2]
    if 0 in (height, width):
        n, rows, columns, _ = grad.shape
        return jnp.zeros((n, rows + taps - 1, columns + taps - 1, kernel.shape[2]), grad.dtype)
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    pads = [(height - 1, taps - 1), (width - 1, taps - 1)]
    return lax.conv_general_dilated(grad, turned, (1, 1), pads, dimension_numbers=DIMENSIONS)


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
