import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from jaxft.data.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Batch,
    Box,
    augment,
    central_box,
    crop,
    normalise,
    random_resized_crop_flip,
    sample_box,
)


def picture(height: int, width: int) -> np.ndarray:
    """Smooth colours with detail on top, as photographs have."""
    rng = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("box", [(10, 20, 150, 200), (0, 0, 256, 256), (3, 5, 40, 30), (200, 1, 56, 255)])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_is_torchvisions_where_the_canvas_holds_the_pixels(box, flip):
    pixels = picture(256, 256)
    expected = np.asarray(resized_crop(PIL.Image.fromarray(pixels), *box, [224, 224]), np.float64)
    if flip:
        expected = expected[:, ::-1]
    got = crop(jnp.asarray(pixels), jnp.array([256, 256]), Box(*map(jnp.int32, box)), jnp.asarray(flip), 224)
    difference = np.abs(np.asarray(got, np.float64) - expected)
    # PIL rounds to whole numbers between its two passes and after them.
    assert difference.max() <= 1.51
    assert difference.mean() < 0.5


def test_crop_keeps_the_photographs_geometry():
    # A photograph twice as wide as high, left half black and right half white, squeezed into a square.
    canvas = np.zeros((64, 64, 3), np.uint8)
    canvas[:, 32:] = 255
    right_half = Box(jnp.int32(0), jnp.int32(100), jnp.int32(100), jnp.int32(100))
    got = crop(jnp.asarray(canvas), jnp.array([100, 200]), right_half, jnp.asarray(False), 32)
    np.testing.assert_allclose(got, 255, rtol=1e-6)


@pytest.mark.parametrize("size", [(10, 1000), (11, 997), (1000, 6), (1, 50)])
def test_fallback_is_torchvisions_central_crop(size):
    # No crop of 8 % of so long a photograph fits into it, so that torchvision always falls back.
    expected = RandomResizedCrop.get_params(PIL.Image.new("RGB", size[::-1]), [0.08, 1.0], [3 / 4, 4 / 3])
    assert tuple(int(edge) for edge in central_box(jnp.array(size))) == expected
    assert tuple(int(edge) for edge in sample_box(jax.random.key(0), jnp.array(size))) == expected


def test_normalise_is_torchvisions():
    pixels = picture(8, 9)
    expected = (pixels / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(normalise(jnp.asarray(pixels)), expected, atol=1e-6)


def test_augmentation_follows_the_example_not_the_machine():
    canvases = jnp.asarray(np.stack([picture(48, 48)] * 4))
    batch = Batch(canvases, jnp.full((4, 2), 60), jnp.zeros(4, jnp.int32), jnp.arange(4))
    key = jax.random.key(7)
    whole = augment(key, batch, 32)
    half = augment(key, jax.tree.map(lambda x: x[2:], batch), 32)
    np.testing.assert_allclose(whole[2:], half, atol=1e-5)
    assert np.abs(np.asarray(whole[0] - whole[1])).max() > 0.1
    assert np.abs(np.asarray(whole[0] - augment(jax.random.key(8), batch, 32)[0])).max() > 0.1


def test_half_of_the_images_are_mirrored():
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 64, 3))
    keys = jax.random.split(jax.random.key(0), 1000)
    images = jax.vmap(random_resized_crop_flip, (0, None, None, None))(keys, jnp.asarray(ramp), jnp.array([64, 64]), 32)
    mirrored = np.asarray(images[:, 0, 0, 0] > images[:, 0, -1, 0])
    assert 0.45 < mirrored.mean() < 0.55
