"""Evaluation crops, training crops and the boxes of the latter against torchvision's, on real photographs."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as F
from scipy.stats import ks_2samp
from torchvision.models import ResNet18_Weights

from jaxft.data.augment import normalise
from jaxft.data.crops import central_box, crop, sample_box
from jaxft.data.images import EvalCrop, eval_crop, render, to_canvas
from parity.images import Edges, as_box, canvas_differences, torchvision_boxes

PRESET = ResNet18_Weights.IMAGENET1K_V1.transforms()


@pytest.fixture(scope="module")
def photographs(shared) -> dict[Path, tuple[int, int]]:
    """The photographs of ants and bees by path, with their (height, width)."""
    sizes = {}
    for path in sorted((shared / "data" / "hymenoptera").glob("*/*/*.jpg")):
        with PIL.Image.open(path) as opened:
            sizes[path] = (opened.height, opened.width)
    return sizes


def load(path: Path) -> PIL.Image.Image:
    """As torchvision's loader does it."""
    with PIL.Image.open(path) as opened:
        return opened.convert("RGB")


def spread(paths: list[Path], num: int) -> list[Path]:
    return [paths[i] for i in np.linspace(0, len(paths) - 1, num).astype(int)]


def cut(image: PIL.Image.Image, height: int, width: int) -> PIL.Image.Image:
    """A piece from the middle."""
    top, left = (image.height - height) // 2, (image.width - width) // 2
    assert min(top, left) >= 0
    return image.crop((left, top, left + width, top + height))


# Evaluation.

EVAL_SIDES = {224: 256, 128: 146, 299: 342}
"""By image size, the side that torchvision resizes to before the centre crop, in the proportion of 256 to 224."""

CUTS = [(40, 500), (3, 480), (500, 40), (480, 2)]  # Very wide and very tall.
CUTS += [(200, 150), (150, 223), (223, 223), (224, 224)]  # Nothing to cut off before the resize.
CUTS += [(225, 300), (400, 240), (255, 255), (256, 256), (257, 256)]  # About the side of the resize.
CUTS += [(97, 31), (13, 16), (7, 5), (2, 60), (60, 1), (1, 1)]


def torchvisions(size: int, resize: str) -> T.Compose:
    side = EVAL_SIDES[size]
    return T.Compose([T.Resize(side if resize == "short" else [side, side]), T.CenterCrop(size)])


@pytest.mark.parametrize("size", EVAL_SIDES)
@pytest.mark.parametrize("resize", ["short", "squash"])
def test_eval_crops_of_photographs_are_torchvisions_bit_for_bit(size, resize, photographs):
    by_aspect = sorted(photographs, key=lambda path: photographs[path][1] / photographs[path][0])
    by_area = sorted(photographs, key=lambda path: photographs[path][0] * photographs[path][1])
    paths = [*spread(list(photographs), 16), *by_aspect[:3], *by_aspect[-3:], *by_area[:2], by_area[-1]]
    heights, widths = np.array([photographs[path] for path in paths]).T
    assert (widths / heights).max() > 3
    assert (heights / widths).max() > 1.5
    assert np.minimum(heights, widths).min() < 146
    assert np.minimum(heights, widths).max() > 1000
    for path in paths:
        pixels, found, bad = render(path, EvalCrop(size, resize))
        assert (found, bad) == (photographs[path], None)
        np.testing.assert_array_equal(pixels, np.asarray(torchvisions(size, resize)(load(path))), str(path))


@pytest.mark.parametrize("size", EVAL_SIDES)
@pytest.mark.parametrize("resize", ["short", "squash"])
def test_eval_crops_of_pieces_of_photographs_are_torchvisions_bit_for_bit(size, resize, photographs):
    roomy = [path for path, sides in photographs.items() if min(sides) >= 500]
    for i, shape in enumerate(CUTS):
        image = cut(load(roomy[i % len(roomy)]), *shape)
        expected = np.asarray(torchvisions(size, resize)(image))
        np.testing.assert_array_equal(eval_crop(image, EvalCrop(size, resize)), expected, str(shape))


# The training crop, of the same box.


def boxes_of(canvas: int) -> list[Edges]:
    """Torchvision's draws, the whole, and small ones at the edges."""
    return [
        *torchvision_boxes(canvas, canvas, 8),
        (0, 0, canvas, canvas),
        (canvas - 33, canvas - 17, 33, 17),
        (0, 90, 20, 30),
    ]


@pytest.mark.parametrize("canvas", [256, 512])
def test_training_crops_are_torchvisions_where_the_canvas_holds_the_pixels(canvas, photographs):
    torch.manual_seed(0)
    mean, std = list(PRESET.mean), list(PRESET.std)
    crops = jax.jit(jax.vmap(lambda *args: normalise(crop(*args, 224)), (None, None, 0, 0)))
    from_image, from_tensor, sides = [], [], []
    for path in spread([path for path, size in photographs.items() if min(size) >= canvas], 6):
        photo = cut(load(path), canvas, canvas)
        pixels = to_canvas(photo, canvas)
        np.testing.assert_array_equal(pixels, np.asarray(photo))
        boxes = boxes_of(canvas)
        flips = np.arange(2 * len(boxes)) >= len(boxes)
        ours = crops(jnp.asarray(pixels), jnp.array([canvas, canvas]), as_box([*boxes, *boxes]), jnp.asarray(flips))
        for source, apart in ((photo, from_image), (F.to_tensor(photo), from_tensor)):
            cropped = [F.resized_crop(source, *box, [224, 224], antialias=True) for box in boxes]
            tensors = [x if torch.is_tensor(x) else F.to_tensor(x) for x in (*cropped, *map(F.hflip, cropped))]
            theirs = F.normalize(torch.stack(tensors), mean, std).numpy().transpose(0, 2, 3, 1)
            apart.append(np.abs(np.asarray(ours, np.float64) - theirs) * std * 255)
        sides += [box[2:] for box in boxes]
    assert any(max(side) < 224 for side in sides)
    assert any(min(side) > 224 for side in sides)
    of_image, of_tensor = np.concatenate(from_image), np.concatenate(from_tensor)
    # PIL rounds to whole pixel values between its two passes and after them.
    assert of_image.mean((1, 2, 3)).max() < 0.35
    assert of_image.max() < 1.1
    # Float32 holds a place near pixel 500 to 3e-5 of a pixel; across an edge of 255 that is 0.008.
    assert of_tensor.mean((1, 2, 3)).max() < 1e-3
    assert of_tensor.max() < 0.015


# The training crop from a canvas, file to pixels.

MEANS = {
    "of all shapes": {224: 2.66, 288: 1.87, 384: 1.17, 512: 0.87},
    "scaled by the JPEG decoder": {224: 1.86, 288: 1.25, 384: 0.79},
}
"""Measured with Pillow 13.0.0. A canvas made with bilinear in place of Lanczos gives 1.2 to 1.4 times as much."""


@pytest.mark.parametrize("which", MEANS)
def test_crops_from_a_canvas_come_the_closer_to_torchvisions_the_larger_it_is(which, photographs):
    by_aspect = sorted(photographs, key=lambda path: photographs[path][1] / photographs[path][0])
    large = [path for path, size in photographs.items() if min(size) >= 4 * 288]
    assert len(large) == 2
    shapes = [*spread(list(photographs), 12), by_aspect[-1], by_aspect[0]]
    paths, num = (shapes, 2) if which == "of all shapes" else (large, 8)
    measured = canvas_differences(paths, list(MEANS[which]), boxes_per_photo=num)
    assert [entry.canvas for entry in measured] == list(MEANS[which])
    for entry in measured:
        assert entry.mean < 1.08 * MEANS[which][entry.canvas]
        assert entry.mean < entry.p99 < entry.largest
    for smaller, larger in itertools.pairwise(measured):
        assert larger.mean < 0.8 * smaller.mean
        assert larger.p99 < 0.8 * smaller.p99


# The boxes.

NUM_DRAWS = 20_000
LEAST_P = 1e-4
"""Two samples of one distribution fall below it once in 10,000 comparisons, and there are 55 here."""

OFTEN_FALLS_BACK = (100, 500)


def statistics(boxes: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
    """What is compared of boxes [n, 4]."""
    top, left, crop_height, crop_width = boxes.T
    free_rows, free_columns = height - crop_height, width - crop_width
    movable = (free_rows > 0) & (free_columns > 0)
    down, right = top[movable] / free_rows[movable], left[movable] / free_columns[movable]
    area, aspect = crop_height * crop_width / (height * width), crop_width / crop_height
    return {
        "area": area,
        "aspect": aspect,
        "height": crop_height,
        "width": crop_width,
        "top": top,
        "left": left,
        "top in the free room": down,
        "left in the free room": right,
        # Each may be distributed rightly and yet follow another.
        "top with left": down + right,
        "top with area": down + area[movable],
        "left with aspect": right + aspect[movable],
    }


# In the last one a pixel more or less and the way of rounding show.
@pytest.mark.parametrize("size", [(150, 400), (500, 333), (256, 256), OFTEN_FALLS_BACK, (12, 9)], ids=str)
def test_boxes_are_distributed_as_torchvisions(size):
    torch.manual_seed(sum(size))
    theirs = np.array(torchvision_boxes(*size, NUM_DRAWS))
    keys = jax.random.split(jax.random.key(sum(size)), NUM_DRAWS)
    ours = np.stack(jax.jit(jax.vmap(sample_box, (0, None)))(keys, jnp.array(size)), 1)
    assert (ours >= [0, 0, 1, 1]).all()
    assert (ours[:, 0] + ours[:, 2] <= size[0]).all()
    assert (ours[:, 1] + ours[:, 3] <= size[1]).all()
    if size == OFTEN_FALLS_BACK:
        fallback = (theirs == np.array(central_box(jnp.array(size)))).all(1)
        assert 0.1 < fallback.mean() < 0.9
    expected = statistics(theirs, *size)
    for name, values in statistics(ours, *size).items():
        assert ks_2samp(values, expected[name], method="asymp").pvalue > LEAST_P, name
