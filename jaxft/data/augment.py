"""Augmentation on the device: pure functions of (key, canvas, size of the photograph it was made from).

A canvas is the photograph squeezed into a square; `size` is its height and width before that, so that crops keep the
photograph's own geometry. Source of the crop's distribution: torchvision.transforms.RandomResizedCrop.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num, UInt8

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CROP_AREA = (0.08, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10


class Batch(NamedTuple):
    """Training images: canvases, the sizes of their photographs, labels, and their places in the global batch."""

    images: UInt8[Array, "b c c 3"]
    sizes: Int[Array, "b 2"]
    labels: Int[Array, " b"]
    positions: Int[Array, " b"]


class EvalBatch(NamedTuple):
    """Images cropped for evaluation; weight 0 marks those that only fill the batch."""

    images: UInt8[Array, "b s s 3"]
    labels: Int[Array, " b"]
    weights: Float[Array, " b"]


class Box(NamedTuple):
    """A crop of a photograph, in its own whole pixels, from the top left."""

    top: Num[Array, ""]
    left: Num[Array, ""]
    height: Num[Array, ""]
    width: Num[Array, ""]


def normalise(images: Num[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """Pixels of 0 to 255 to ImageNet's zero mean and unit variance, in float32."""
    mean, std = jnp.asarray(IMAGENET_MEAN), jnp.asarray(IMAGENET_STD)
    shape = (1,) * (images.ndim - 1) + (3,)
    return (images.astype(jnp.float32) / 255 - mean.reshape(shape)) / std.reshape(shape)


def sample_box(key: Key[Array, ""], size: Int[Array, "2"]) -> Box:
    """A random crop as torchvision draws it: area 8 to 100 %, aspect ratio 3/4 to 4/3, ten tries, else the centre."""
    area_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
    height, width = size[0], size[1]
    area = (height * width) * jax.random.uniform(area_key, (CROP_ATTEMPTS,), minval=CROP_AREA[0], maxval=CROP_AREA[1])
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


def resample_weights(canvas: int, out: int, start: Float[Array, ""], length: Float[Array, ""]) -> Float[Array, "out c"]:
    """Rows that resample canvas pixels [start, start + length) to `out` pixels: PIL's antialiased bilinear filter.

    As in PIL, a triangle as wide as one output pixel (or one input pixel when enlarging) that sees nothing outside the
    crop.
    """
    scale = length / out
    radius = jnp.maximum(scale, 1.0)
    centres = start + (jnp.arange(out, dtype=jnp.float32) + 0.5) * scale
    pixels = jnp.arange(canvas, dtype=jnp.float32) + 0.5
    triangle = jnp.maximum(1 - jnp.abs(pixels[None, :] - centres[:, None]) / radius, 0.0)
    inside: Bool[Array, " c"] = (pixels > start) & (pixels < start + length)
    weights = jnp.where(inside[None, :], triangle, 0.0)
    return weights / weights.sum(1, keepdims=True)


def crop(
    canvas: UInt8[Array, "c c 3"], size: Int[Array, "2"], box: Box, flip: Bool[Array, ""], out: int
) -> Float[Array, "out out 3"]:
    """The box of the photograph, mirrored where `flip`, resampled once from the canvas to out x out; 0 to 255."""
    scale_y, scale_x = canvas.shape[0] / size[0], canvas.shape[1] / size[1]
    rows = resample_weights(canvas.shape[0], out, box.top * scale_y, box.height * scale_y)
    columns = resample_weights(canvas.shape[1], out, box.left * scale_x, box.width * scale_x)
    columns = jnp.where(flip, columns[::-1], columns)
    pixels = canvas.astype(jnp.float32)
    return jnp.einsum("yh,hwc,xw->yxc", rows, pixels, columns, precision="highest")


def random_resized_crop_flip(
    key: Key[Array, ""], canvas: UInt8[Array, "c c 3"], size: Int[Array, "2"], out: int
) -> Float[Array, "out out 3"]:
    """The chapter's training augmentation of one image, before normalisation: 0 to 255."""
    box_key, flip_key = jax.random.split(key)
    return crop(canvas, size, sample_box(box_key, size), jax.random.bernoulli(flip_key), out)


def augment(key: Key[Array, ""], batch: Batch, image_size: int) -> Float[Array, "b s s 3"]:
    """A training batch as the network sees it. An image's draw depends on the key and its place in the global batch."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.positions)
    images = jax.vmap(random_resized_crop_flip, (0, 0, 0, None))(keys, batch.images, batch.sizes, image_size)
    return normalise(images)
