"""Convolutions as products of matrices with patches of the images, a few images at a time."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxft.cpu.shared import largest_divisor, output_size, zero_after

Images = Float[Array, "b h w c"]
Kernel = Float[Array, "k k c f"]
Output = Float[Array, "b h2 w2 f"]

ROWS_BYTES = 5 << 19
PATCHES_BYTES = 1 << 23
"""Of patches, of a kernel's rows and whole ones, that are made at once: they should stay in the cache."""


def convolve(x: Images, kernel: Kernel, stride: int, pad: int) -> Output:
    """The convolution of images, padded by `pad` pixels on each side, with a square kernel."""
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
    zeros = jnp.full((size, row, features) if narrow else (size, features, row), zero_after(grad))
    total, _ = lax.scan(added, zeros, chunks)
    total = total if narrow else total.swapaxes(1, 2)
    return total.reshape(size, taps * unit, channels, features)[:, :size]


def transposed(matrix: Float[Array, "m n"]) -> Float[Array, "n m"]:
    """The transpose in memory: a product that has to read a matrix across is half as fast."""
    return lax.optimization_barrier(matrix.T)
