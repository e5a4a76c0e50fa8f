import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps

from jaxft.overlay import STRENGTH, inferno, overlay
from pictures import photo

SIDE = 48


def crop() -> np.ndarray:
    return np.asarray(photo(SIDE, SIDE))


def luma(pixels: np.ndarray) -> np.ndarray:
    """ITU-R 601-2, float64 [h, w, 1]."""
    return (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]


def test_the_colours_are_matplotlibs():
    heat = np.linspace(0, 1, 256)[None]
    np.testing.assert_allclose(inferno(heat), 255 * colormaps["inferno"](heat)[..., :3], atol=1.5)


def test_an_overlay_is_the_grey_crop_under_the_colours():
    """Against float64, with JAX's own bicubic and matplotlib's colours."""
    activation = np.random.default_rng(0).normal(1, 2, (3, 3)).astype(np.float32)
    heat = np.asarray(jax.image.resize(jnp.asarray(activation), (SIDE, SIDE), "cubic"), np.float64).clip(0)
    heat /= heat.max()
    share = STRENGTH * heat[..., None]
    expected = (1 - share) * luma(crop()) + share * 255 * colormaps["inferno"](heat)[..., :3]
    np.testing.assert_allclose(overlay(crop(), activation).astype(float), expected, atol=3)


def test_a_hot_corner_is_the_same_corner():
    activation = np.zeros((4, 6), np.float32)
    activation[0, 5] = 1
    changed = abs(overlay(crop(), activation) - luma(crop())).max(-1) > 10
    rows, columns = np.nonzero(changed)
    assert rows.max() < SIDE / 2
    assert columns.min() > SIDE / 2


def test_its_scale_does_not_matter_and_without_evidence_all_is_grey():
    activation = np.random.default_rng(1).normal(size=(2, 2)).astype(np.float32)
    np.testing.assert_array_equal(overlay(crop(), activation), overlay(crop(), activation * 1024))
    for nothing in (np.zeros((2, 2), np.float32), -abs(activation)):
        assert abs(overlay(crop(), nothing) - luma(crop())).max() <= 1
