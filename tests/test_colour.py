"""Each op on pixel values against torchvision's on float images."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from scipy.stats import kstest
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import ColorJitter, RandAugment

from jaxft.data import colour

FACTORS = [0.0, 0.37, 1.0, 1.6, 2.5]


def images() -> dict[str, np.ndarray]:
    """In 0 to 255: noise, flat, a narrow range, grey, whole values, one channel flat, and nearly nothing."""
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 255, (24, 31, 3))
    partly = noise.copy()
    partly[..., 1] = 90
    return {
        "noise": noise,
        "flat": np.full(noise.shape, 77.0),
        "narrow": 100 + noise / 10,
        "grey": np.repeat(noise[..., :1], 3, -1),
        "whole": np.floor(noise),
        "partly flat": partly,
        "tiny": noise[:2, :5],
    }


def compare(ours, theirs, *, atol: float = 1e-3, but: float = 0.0) -> None:
    """Our op and torchvision's in float64 on every image; a share `but` of the values may sit on another step."""
    for name, pixels in images().items():
        expected = theirs(torch.from_numpy(pixels.transpose(2, 0, 1) / 255)).numpy().transpose(1, 2, 0) * 255
        apart = np.abs(np.asarray(ours(jnp.asarray(pixels, jnp.float32))) - expected)
        assert (apart > atol).mean() <= but, (name, apart.max())


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness"])
def test_adjusting_is_torchvisions(name, factor):
    ours, theirs = getattr(colour, f"adjust_{name}"), getattr(F, f"adjust_{name}")
    compare(lambda image: ours(image, factor), lambda image: theirs(image, factor))


@pytest.mark.parametrize("shift", [-0.5, -0.31, -0.1, 0.0, 0.07, 0.25, 0.5])
def test_hue_is_torchvisions(shift):
    compare(lambda image: colour.adjust_hue(image, shift), lambda image: F.adjust_hue(image, shift), atol=3e-3)


def test_hue_is_that_of_the_standard_library():
    pixels = images()["noise"]
    ours = np.asarray(colour.adjust_hue(jnp.asarray(pixels, jnp.float32), 0.2))
    for rgb, got in zip(pixels.reshape(-1, 3), ours.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb / 255)
        np.testing.assert_allclose(got, np.array(colorsys.hsv_to_rgb(hue + 0.2, saturation, value)) * 255, atol=3e-3)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_solarize_is_torchvisions(threshold):
    compare(lambda image: colour.solarize(image, 255 * threshold), lambda image: F.solarize(image, threshold))


@pytest.mark.parametrize("bits", [1, 4, 7, 8])
def test_posterize_is_torchvisions(bits):
    # Which step a value on an edge falls on is up to rounding.
    compare(lambda image: colour.posterize(image, bits), lambda image: F.posterize(image, bits), but=0.01)


def test_autocontrast_is_torchvisions():
    compare(colour.autocontrast, F.autocontrast)


def test_autocontrast_leaves_rounding_alone():
    nearly_flat = 200 + jnp.asarray(images()["noise"], jnp.float32) * 1e-6
    np.testing.assert_allclose(colour.autocontrast(nearly_flat), nearly_flat, atol=1e-3)


# The draws.


def test_jitter_does_what_it_draws_in_the_order_it_says():
    key, image = jax.random.key(3), jnp.asarray(images()["noise"], jnp.float32)
    factors = [float(jax.random.uniform(each, (), minval=0.6, maxval=1.4)) for each in jax.random.split(key, 4)[:3]]
    shift = float(jax.random.uniform(jax.random.split(key, 4)[3], (), minval=-0.1, maxval=0.1))
    expected = torch.from_numpy(images()["noise"].transpose(2, 0, 1) / 255)
    for adjust, factor in zip((F.adjust_brightness, F.adjust_contrast, F.adjust_saturation), factors, strict=True):
        expected = adjust(expected, factor)
    expected = F.adjust_hue(expected, shift).numpy().transpose(1, 2, 0) * 255
    np.testing.assert_allclose(colour.jitter(key, image, 0.4, 0.4, 0.4, 0.1), expected, atol=5e-3)


@pytest.mark.parametrize("reach", [0.4, 1.7])
def test_jitters_factors_are_drawn_as_torchvisions(reach):
    keys = jax.random.split(jax.random.key(0), 4000)
    # So dark a pixel is never cut off at white.
    dark = jax.vmap(lambda key: colour.jitter(key, jnp.full((3, 3, 3), 10.0), reach, 0, 0, 0))(keys)
    low, high = ColorJitter(brightness=reach).brightness
    assert kstest(np.asarray(dark[:, 0, 0, 0]) / 10, "uniform", (low, high - low)).pvalue > 1e-3


def test_jitter_of_nothing_is_nothing():
    image = jnp.asarray(images()["noise"], jnp.float32)
    np.testing.assert_array_equal(colour.jitter(jax.random.key(0), image, 0, 0, 0, 0), image)


randaugment_op = jax.jit(colour.randaugment_op, static_argnums=3)

OURS_AND_THEIRS = {
    "identity": "Identity",
    "brightness": "Brightness",
    "colour": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
}


@pytest.mark.parametrize("magnitude", [0, 9, 15, 30])
@pytest.mark.parametrize("name", colour.RANDAUGMENT)
def test_randaugments_magnitudes_are_torchvisions(name, magnitude):
    transform = RandAugment()
    theirs = OURS_AND_THEIRS[name]
    make, signed = transform._AUGMENTATION_SPACE[theirs]
    magnitudes = make(transform.num_magnitude_bins, 24, 31)
    index = jnp.asarray(colour.RANDAUGMENT.index(name))
    for sign in (1.0, -1.0):
        value = 0.0 if magnitudes is None else float(magnitudes[magnitude]) * (sign if signed else 1)

        def reference(image, value=value):
            return transform._apply_image_or_video_transform(image, theirs, value, InterpolationMode.NEAREST, {})

        def ours(image, sign=sign):
            return randaugment_op(index, jnp.asarray(sign), image, magnitude)

        compare(ours, reference, but=0.01 if name in ("posterize", "solarize") else 0.0)


def test_randaugment_draws_every_op_equally_often_and_both_signs():
    ops, counts = len(colour.RANDAUGMENT), {}
    image = jnp.asarray(images()["whole"], jnp.float32)
    one_by_one = [
        np.asarray(randaugment_op(jnp.asarray(i), jnp.asarray(sign), image, 9))
        for i in range(ops)
        for sign in (1.0, -1.0)
    ]
    many = jax.jit(jax.vmap(lambda key: colour.randaugment(key, image, 1, 9)))
    for got in np.asarray(many(jax.random.split(jax.random.key(1), 800))):
        nearest = int(np.argmin([np.abs(got - each).mean() for each in one_by_one]))
        counts[nearest] = counts.get(nearest, 0) + 1
    by_op = [counts.get(2 * i, 0) + counts.get(2 * i + 1, 0) for i in range(ops)]
    assert min(by_op) > 70
    assert max(by_op) < 135
    signed = ("brightness", "colour", "contrast", "sharpness")
    assert min(counts[2 * colour.RANDAUGMENT.index(name) + i] for name in signed for i in (0, 1)) > 25


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_randaugment_does_its_ops_one_after_the_other(seed):
    key, image = jax.random.key(seed), jnp.asarray(images()["noise"], jnp.float32)
    once = colour.randaugment(key, image, 1, 9)
    twice = colour.randaugment(key, image, 2, 9)
    index_key, sign_key = jax.random.split(jax.random.fold_in(key, 1))
    index = jax.random.randint(index_key, (), 0, len(colour.RANDAUGMENT))
    sign = jnp.where(jax.random.bernoulli(sign_key), 1.0, -1.0)
    np.testing.assert_allclose(twice, randaugment_op(index, sign, once, 9), atol=1e-3)
