"""Which part of a photograph is seen, and how it is resampled from its canvas: crops, mirrorings, evaluation's centre.

A canvas is the photograph squeezed into a square; `size` is its height and width before that, so that crops keep the
photograph's own geometry. Source of the random crop's distribution: torchvision.transforms.RandomResizedCrop.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num, UInt8

MIN_AREA = 0.08
CROP_ASPECT = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10


class Box(NamedTuple):
    """A crop of a photograph, in its own pixels, from the top left."""

    top: Num[Array, ""]
    left: Num[Array, ""]
    height: Num[Array, ""]
    width: Num[Array, ""]


class Weights(NamedTuple):
    """How a canvas is resampled: rows @ canvas @ columns.T, for each channel."""

    rows: Float[Array, "*b out c"]
    columns: Float[Array, "*b out c"]


def sample_box(key: Key[Array, ""], size: Int[Array, "2"], min_area: float = MIN_AREA) -> Box:
    """A random crop as torchvision draws it: area min_area to 1, aspect ratio 3/4 to 4/3; ten tries, or the centre."""
    area_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
    height, width = size[0], size[1]
    area = (height * width) * jax.random.uniform(area_key, (CROP_ATTEMPTS,), minval=min_area, maxval=1.0)
    log_low, log_high = jnp.log(jnp.asarray(CROP_ASPECT))
    aspect = jnp.exp(jax.random.uniform(aspect_key, (CROP_ATTEMPTS,), minval=log_low, maxval=log_high))
    widths = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    heights = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = jnp.argmax(fits)
    top = jax.random.randint(top_key, (), 0, jnp.maximum(height - heights[first], 0) + 1)
    left = jax.random.randint(left_key, (), 0, jnp.maximum(width - widths[first], 0) + 1)
    drawn = Box(top, left, heights[first], widths[first])
    return jax.tree.map(lambda a, b: jnp.where(fits.any(), a, b), drawn, central_box(size))


def central_box(size: Int[Array, "2"]) -> Box:
    """The largest centred crop whose aspect ratio lies within `CROP_ASPECT`: torchvision's fallback."""
    height, width = size[0], size[1]
    aspect = width / height
    low, high = CROP_ASPECT
    crop_width = jnp.where(aspect > high, jnp.round(height * high).astype(jnp.int32), width)
    crop_height = jnp.where(aspect < low, jnp.round(width / low).astype(jnp.int32), height)
    return Box((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def eval_box(size: Int[Array, "2"], out: int, resize: Literal["short", "squash"]) -> Box:
    """What torchvision's Resize (short side or both to 256/224 of `out`) and CenterCrop leave of the photograph.

    Its edges are those of the resized photograph's whole pixels, and so no whole pixels of the photograph itself.
    """
    side = round(out * 256 / 224)
    resized = jnp.full((2,), side) if resize == "squash" else size * side // jnp.min(size)
    scale = size / resized
    start, length = jnp.round((resized - out) / 2) * scale, out * scale
    return Box(start[0], start[1], length[0], length[1])


def resample_weights(
    canvas: int, out: int, start: Float[Array, ""], length: Float[Array, ""], *, beyond: bool = False
) -> Float[Array, "out c"]:
    """Rows that resample canvas pixels [start, start + length) to `out` pixels: PIL's antialiased bilinear filter.

    As in PIL, a triangle as wide as one output pixel (or one input pixel when enlarging). It sees nothing outside the
    crop, as if that came first; with `beyond` it does, as where the resize comes first.
    """
    scale = length / out
    radius = jnp.maximum(scale, 1.0)
    centres = start + (jnp.arange(out, dtype=jnp.float32) + 0.5) * scale
    pixels = jnp.arange(canvas, dtype=jnp.float32) + 0.5
    weights = jnp.maximum(1 - jnp.abs(pixels[None, :] - centres[:, None]) / radius, 0.0)
    if not beyond:
        inside: Bool[Array, " c"] = (pixels > start) & (pixels < start + length)
        weights = jnp.where(inside[None, :], weights, 0.0)
    return weights / weights.sum(1, keepdims=True)


def crop_weights(canvas: int, size: Int[Array, "2"], box: Box, out: int, *, beyond: bool = False) -> Weights:
    """The resampling of a photograph's box from its canvas to out x out; `beyond` as in `resample_weights`."""
    scale_y, scale_x = canvas / size[0], canvas / size[1]
    rows = resample_weights(canvas, out, box.top * scale_y, box.height * scale_y, beyond=beyond)
    columns = resample_weights(canvas, out, box.left * scale_x, box.width * scale_x, beyond=beyond)
    return Weights(rows, columns)


def mirror(weights: Float[Array, "out c"], flip: Bool[Array, ""]) -> Float[Array, "out c"]:
    """Rows upside down, or columns left to right, where `flip`: the image itself is not touched again."""
    return jnp.where(flip, weights[::-1], weights)


def resample_one(weights: Weights, canvas: UInt8[Array, "c c 3"]) -> Float[Array, "out out 3"]:
    """One canvas resampled, in 0 to 255: two matrix products, with all channels in each."""
    side, out = canvas.shape[0], weights.rows.shape[0]
    pixels = canvas.astype(jnp.float32).reshape(side, side * 3)
    rows = jnp.matmul(weights.rows, pixels, precision="highest")
    rows = rows.reshape(out, side, 3).transpose(0, 2, 1).reshape(out * 3, side)
    return jnp.matmul(rows, weights.columns.T, precision="highest").reshape(out, 3, out).transpose(0, 2, 1)


def resample(weights: Weights, canvases: UInt8[Array, "b c c 3"]) -> Float[Array, "b out out 3"]:
    """A batch of canvases resampled, in 0 to 255."""
    # XLA's batched product on CPU takes 1.8 times as long as its products one by one, which use all cores as well.
    return jax.lax.platform_dependent(
        weights,
        canvases,
        cpu=lambda *batch: jax.lax.map(lambda image: resample_one(*image), batch),
        default=jax.vmap(resample_one),
    )


def crop(
    canvas: UInt8[Array, "c c 3"], size: Int[Array, "2"], box: Box, flip: Bool[Array, ""], out: int
) -> Float[Array, "out out 3"]:
    """The box of the photograph, mirrored where `flip`, resampled once from the canvas to out x out; 0 to 255."""
    rows, columns = crop_weights(canvas.shape[0], size, box, out)
    return resample_one(Weights(rows, mirror(columns, flip)), canvas)
