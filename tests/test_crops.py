import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from jaxft.data.crops import Box, central_box, crop, crop_weights, eval_box, mirror, resample, resample_one, sample_box
from jaxft.data.images import EvalCrop, eval_crop, to_canvas


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


@pytest.mark.parametrize("resize", ["short", "squash"])
@pytest.mark.parametrize("size", [(300, 300), (300, 403), (517, 300), (40, 300), (200, 150)])
def test_eval_box_is_what_torchvisions_resize_and_crop_leave(size, resize):
    side = 256
    short = min(size)
    resized = (side, side) if resize == "squash" else tuple(int(side * edge / short) for edge in size)
    starts = [round((edge - 224) / 2.0) for edge in resized]
    expected = [starts[i] * size[i] / resized[i] for i in (0, 1)] + [224 * size[i] / resized[i] for i in (0, 1)]
    np.testing.assert_allclose(eval_box(jnp.array(size), 224, resize), expected, rtol=1e-6)


@pytest.mark.parametrize("resize", ["short", "squash"])
def test_the_centre_crop_is_evaluations_where_the_canvas_holds_the_pixels(resize):
    pixels = picture(320, 320)
    expected = eval_crop(PIL.Image.fromarray(pixels), EvalCrop(224, resize)).astype(np.float64)
    size = jnp.array([320, 320])
    weights = crop_weights(320, size, eval_box(size, 224, resize), 224, beyond=True)
    difference = np.abs(np.asarray(resample_one(weights, jnp.asarray(pixels)), np.float64) - expected)
    assert difference.max() <= 1.51
    # As if the crop came first, the outermost pixels would see nothing beyond it.
    masked = crop_weights(320, size, eval_box(size, 224, resize), 224)
    assert np.abs(np.asarray(resample_one(masked, jnp.asarray(pixels)))[0] - expected[0]).max() > 3


@pytest.mark.parametrize("resize", ["short", "squash"])
@pytest.mark.parametrize("shape", [(240, 360), (500, 250)])
def test_the_centre_crop_of_other_shapes_is_near_to_evaluations(shape, resize):
    image = PIL.Image.fromarray(np.asarray(PIL.Image.fromarray(picture(32, 32)).resize(shape[::-1])))
    expected = eval_crop(image, EvalCrop(224, resize)).astype(np.float64)
    size, canvas = jnp.array(shape), to_canvas(image, 384)
    weights = crop_weights(384, size, eval_box(size, 224, resize), 224, beyond=True)
    assert np.abs(np.asarray(resample_one(weights, jnp.asarray(canvas))) - expected).mean() < 1


def test_mirrored_weights_mirror_the_image():
    pixels, size = jnp.asarray(picture(40, 40)), jnp.array([50, 70])
    weights = crop_weights(40, size, sample_box(jax.random.key(0), size), 32)
    plain = resample_one(weights, pixels)
    yes, no = jnp.asarray(True), jnp.asarray(False)
    rows, columns = weights.rows, weights.columns
    turned = resample_one(weights._replace(rows=mirror(rows, yes), columns=mirror(columns, no)), pixels)
    np.testing.assert_allclose(turned, plain[::-1], atol=1e-3)
    turned = resample_one(weights._replace(rows=mirror(rows, no), columns=mirror(columns, yes)), pixels)
    np.testing.assert_allclose(turned, plain[:, ::-1], atol=1e-3)


def test_a_batch_is_resampled_as_its_images_are():
    size = jnp.array([50, 70])
    keys = jax.random.split(jax.random.key(0), 3)
    weights = jax.vmap(lambda key: crop_weights(40, size, sample_box(key, size), 32))(keys)
    canvases = jnp.asarray(np.stack([picture(40, 40 + i)[:, :40] for i in range(3)]))
    expected = np.einsum("byh,bhwc,bxw->byxc", *(np.asarray(x, np.float64) for x in (weights[0], canvases, weights[1])))
    np.testing.assert_allclose(resample(weights, canvases), expected, atol=1e-3)
    np.testing.assert_allclose(jax.vmap(resample_one)(weights, canvases), expected, atol=1e-3)


def test_min_area_holds():
    size = jnp.array([300, 400])
    boxes = jax.vmap(lambda key: sample_box(key, size, 0.5))(jax.random.split(jax.random.key(0), 500))
    areas = np.asarray(boxes.height * boxes.width) / (300 * 400)
    assert 0.49 < areas.min() < 0.55
    assert areas.max() > 0.9
