"""3x3 convolutions with fewer products: Winograd's minimal filtering F(2x2, 3x3).

Two neighbouring pixels of the output take four products instead of six, of sums of pixels and sums of a kernel's
numbers; a square of four pixels takes 16 instead of 36. The rounding is about that of plain convolution. Sums are taken
along one axis and then along the other, behind a barrier: fused, they would take four times the code and as long to
compile.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, section 4.1.
"""

import operator
from collections.abc import Sequence
from functools import reduce

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxft.cpu.shared import in_turn, largest_divisor, zero_after

Images = Float[Array, "b h w c"]
Kernel = Float[Array, "3 3 c f"]
Output = Float[Array, "b h w f"]

OF_PIXELS = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
"""The paper's B transposed: four factors of four pixels."""
OF_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
"""The paper's G: four factors of a kernel's three numbers."""
OF_PRODUCTS = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
"""The paper's A transposed: two pixels of the output of four products."""
CHUNK_BYTES = 1 << 23
"""Of factors of pixels that are made at once: they should stay in the cache."""


def convolve(x: Images, kernel: Kernel) -> Output:
    """The convolution, at stride 1, of images that are padded by a pixel on each side."""
    return multiplied(x, two_ways(OF_KERNEL, kernel + zero_after(x)))


def images_grad(kernel: Kernel, grad: Output) -> Images:
    """The gradient of the images: a convolution with the kernel turned round, from features to channels."""
    return multiplied(grad, two_ways(OF_KERNEL, kernel[::-1, ::-1] + zero_after(grad)), across=True)


def multiplied(x: Images, of_kernel: Float[Array, "4 4 i o"], *, across: bool = False) -> Output:
    """Images whose factors are multiplied with a kernel's, over its channels or, `across`, its features."""
    height, width, channels = x.shape[1:]
    of_kernel = of_kernel.reshape(16, *of_kernel.shape[2:])
    over, features = (2, of_kernel.shape[1]) if across else (1, of_kernel.shape[2])

    def some(x: Images) -> Output:
        products = lax.dot_general(of_images(x), of_kernel, (((2,), (over,)), ((0,), (0,))))
        products = products.reshape(4, 4, -1, -(-height // 2), -(-width // 2), features)
        return joined(two_ways(OF_PRODUCTS, products))[:, :height, :width]

    return in_turn(some, x, chunk_size(x, channels))


def kernel_grad(x: Images, grad: Output) -> Kernel:
    """The gradient of the kernel."""
    channels, features = x.shape[-1], grad.shape[-1]

    def added(total: Array, images: tuple[Images, Output]) -> tuple[Array, None]:
        x, grad = images
        of_grad = two_ways(OF_PRODUCTS.T, parted(grad)).reshape(16, -1, features)
        return total + lax.dot_general(of_images(x), of_grad, (((1,), (1,)), ((0,), (0,)))), None

    chunk = chunk_size(x, channels + features)
    chunks = x.reshape(-1, chunk, *x.shape[1:]), grad.reshape(-1, chunk, *grad.shape[1:])
    total, _ = lax.scan(added, jnp.full((16, channels, features), zero_after(grad)), chunks)
    return two_ways(OF_KERNEL.T, total.reshape(4, 4, channels, features))


def of_images(x: Images) -> Float[Array, "16 t c"]:
    """The factors of each square of four by four pixels; the squares are two pixels apart."""
    height, width = (side + side % 2 for side in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), (1, 1 + height - x.shape[1]), (1, 1 + width - x.shape[2]), (0, 0)))
    rows = lax.optimization_barrier(jnp.stack(sums(OF_PIXELS, [padded[:, i : i + height - 1 : 2] for i in range(4)])))
    factors = jnp.stack(sums(OF_PIXELS, [rows[:, :, :, j : j + width - 1 : 2] for j in range(4)]), 1)
    return lax.optimization_barrier(factors.reshape(16, -1, x.shape[-1]))


def two_ways(matrix: np.ndarray, x: Float[Array, "i j ..."]) -> Float[Array, "a b ..."]:
    """The matrix times `x` times the matrix transposed, over the first two axes."""
    rows = lax.optimization_barrier(jnp.stack(sums(matrix, list(x))))
    return lax.optimization_barrier(jnp.stack(sums(matrix, list(rows.swapaxes(0, 1))), 1))


def sums(matrix: np.ndarray, parts: Sequence[Array]) -> list[Array]:
    """The matrix times the parts."""
    return [
        reduce(operator.add, (number * part for number, part in zip(row, parts, strict=True) if number))
        for row in matrix.tolist()
    ]


def parted(grad: Output) -> Float[Array, "2 2 b h2 w2 f"]:
    """Squares of four pixels, apart; where the sides are odd, pixels of zero fill them up."""
    n, height, width, features = grad.shape
    padded = jnp.pad(grad, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    return padded.reshape(n, -(-height // 2), 2, -(-width // 2), 2, features).transpose(2, 4, 0, 1, 3, 5)


def joined(squares: Float[Array, "2 2 b h2 w2 f"]) -> Output:
    """The images that `parted` took apart."""
    n, height, width, features = squares.shape[2:]
    return squares.transpose(2, 3, 0, 4, 1, 5).reshape(n, 2 * height, 2 * width, features)


def chunk_size(x: Images, channels: int) -> int:
    """As many images as fit CHUNK_BYTES if they have factors of so many channels."""
    n, height, width, _ = x.shape
    squares = -(-height // 2) * -(-width // 2)
    return largest_divisor(n, CHUNK_BYTES // (16 * squares * channels * x.dtype.itemsize))
