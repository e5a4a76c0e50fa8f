"""Boxes and crops of torchvision's training transform, and how far crops taken from a canvas are from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from jaxft.data.crops import Box, crop
from jaxft.data.images import Canvas, render

Edges = tuple[int, int, int, int]
"""Top, left, height, width, in whole pixels."""


class CanvasDifference(NamedTuple):
    """Absolute differences of the crops from canvases of one size, over all pixels and channels, in 1/255."""

    canvas: int
    mean: float
    p99: float
    largest: float


def torchvision_boxes(height: int, width: int, num: int) -> list[Edges]:
    """Boxes of RandomResizedCrop with its defaults, which are the chapter's, from torch's global generator."""
    transform, image = RandomResizedCrop(224), torch.empty(1, height, width)
    return [transform.get_params(image, transform.scale, transform.ratio) for _ in range(num)]


def as_box(edges: Sequence[Edges]) -> Box:
    """The boxes as one, to map over."""
    return Box(*map(jnp.asarray, np.array(edges, np.int32).T))


def canvas_differences(
    paths: Sequence[Path], canvases: Sequence[int], boxes_per_photo: int = 2, image_size: int = 224
) -> list[CanvasDifference]:
    """jaxft's training crops, file to pixels, against torchvision's of the whole photograph, for the same boxes.

    Torchvision's crops are rounded to whole pixel values, jaxft's are not: some 0.27 of the mean is that.
    """
    torch.manual_seed(0)
    boxes, sizes, expected = [], [], []
    for path in paths:
        with PIL.Image.open(path) as opened:
            photo = PIL.ImageOps.exif_transpose(opened).convert("RGB")
        boxes.append(torchvision_boxes(photo.height, photo.width, boxes_per_photo))
        sizes.append((photo.height, photo.width))
        expected.append(np.stack([resized_crop(photo, *edges, [image_size] * 2) for edges in boxes[-1]]))
    crops = jax.jit(jax.vmap(crop, (None, None, 0, None, None)), static_argnums=4)
    measured = []
    for canvas in canvases:
        differences = np.empty((len(paths), *expected[0].shape), np.float32)
        for i, path in enumerate(paths):
            pixels, size, bad = render(path, Canvas(canvas))
            assert size == sizes[i], f"{path}: {size} in place of {sizes[i]} ({bad})"
            got = crops(jnp.asarray(pixels), jnp.array(size), as_box(boxes[i]), jnp.asarray(False), image_size)
            differences[i] = np.abs(np.asarray(got) - expected[i])
        mean, largest = differences.mean(dtype=np.float64), differences.max()
        measured.append(CanvasDifference(canvas, float(mean), float(np.percentile(differences, 99)), float(largest)))
    return measured
