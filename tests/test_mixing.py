"""Mixing and erasing: the arithmetic in NumPy, the draws against torchvision's and the Beta distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.stats import beta, ks_2samp, kstest
from torchvision.transforms import RandomErasing
from torchvision.transforms.v2 import CutMix

from jaxft.data.mixing import Mix, between, cutmix, erase_mask, mix_images, mixup, one_of, partners

SIZE = 64
LEAST_P = 1e-4


def keys(num: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), num)


def edges(masks: np.ndarray) -> np.ndarray:
    """Top, left, height, width of rectangles [n, s, s], each checked to be one."""
    rows, columns = masks.any(2), masks.any(1)
    np.testing.assert_array_equal(masks, rows[:, :, None] & columns[:, None, :])
    return np.stack([rows.argmax(1), columns.argmax(1), rows.sum(1), columns.sum(1)], 1)


def same_distribution(ours: np.ndarray, theirs: np.ndarray) -> None:
    for name, a, b in zip(("top", "left", "height", "width"), ours.T, theirs.T, strict=True):
        assert ks_2samp(a, b, method="asymp").pvalue > LEAST_P, name
    area, expected = ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]
    assert ks_2samp(area, expected, method="asymp").pvalue > LEAST_P


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixups_shares_are_beta(alpha):
    mix = jax.vmap(lambda key: mixup(key, alpha, 2))(keys(4000))
    share = np.asarray(mix.share)
    assert np.isfinite(share).all()
    # Next to 0 and 1 float32 has fewer values than the distribution.
    assert kstest(share, beta(alpha, alpha).cdf).pvalue > LEAST_P
    np.testing.assert_array_equal(mix.own, np.broadcast_to(share[:, None, None], (4000, 2, 2)))


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_cutmixs_rectangles_are_drawn_as_torchvisions(alpha):
    mix = jax.jit(jax.vmap(lambda key: cutmix(key, alpha, SIZE)))(keys(3000))
    own = np.asarray(mix.own)
    assert set(np.unique(own)) == {0.0, 1.0}
    np.testing.assert_allclose(mix.share, own.mean((1, 2)), atol=1e-6)
    torch.manual_seed(0)
    transform = CutMix(alpha=alpha, num_classes=2)
    drawn = [transform.make_params([torch.zeros(2, 3, SIZE, SIZE)]) for _ in range(3000)]
    theirs = np.array([params["box"] for params in drawn])  # left, top, right, bottom
    expected = np.stack([theirs[:, 1], theirs[:, 0], theirs[:, 3] - theirs[:, 1], theirs[:, 2] - theirs[:, 0]], 1)
    assert ks_2samp(np.asarray(mix.share), [p["lam_adjusted"] for p in drawn], method="asymp").pvalue > LEAST_P
    # Of an empty rectangle the mask does not say where it is.
    ours, empty = edges(own == 0), expected[:, 2:].min(1) == 0
    assert abs((ours[:, 2] == 0).mean() - empty.mean()) < 0.02
    same_distribution(ours[ours[:, 2] > 0], expected[~empty])


def test_partners_are_neighbours():
    np.testing.assert_array_equal(partners(jnp.arange(6)), [1, 0, 3, 2, 5, 4])
    np.testing.assert_array_equal(partners(jnp.arange(8).reshape(4, 2)), [[2, 3], [0, 1], [6, 7], [4, 5]])


def test_mixing_is_the_weighted_sum():
    rng = np.random.default_rng(0)
    images, own = rng.normal(size=(4, 8, 8, 3)), rng.uniform(size=(4, 8, 8))
    expected = own[..., None] * images + (1 - own[..., None]) * images[[1, 0, 3, 2]]
    mix = Mix(jnp.asarray(own, jnp.float32), jnp.ones(4))
    np.testing.assert_allclose(mix_images(mix, jnp.asarray(images, jnp.float32)), expected, atol=1e-6)


def test_one_of_two_mixes():
    mix, other = mixup(jax.random.key(0), 1.0, 4), cutmix(jax.random.key(1), 1.0, 4)
    for first, expected in ((True, mix), (False, other)):
        for got, wanted in zip(one_of(jnp.asarray(first), mix, other), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_between_leaves_out_its_end():
    np.testing.assert_array_equal(between(5, jnp.asarray(1), jnp.asarray(3)), [False, True, True, False, False])
    np.testing.assert_array_equal(between(3, jnp.asarray(-4), jnp.asarray(9)), [True] * 3)


def test_erased_boxes_are_drawn_as_torchvisions():
    masks = np.asarray(jax.jit(jax.vmap(lambda key: erase_mask(key, 1.0, SIZE)))(keys(4000)))
    torch.manual_seed(0)
    transform, image = RandomErasing(), torch.zeros(3, SIZE, SIZE)
    drawn = [transform.get_params(image, transform.scale, transform.ratio, [0.0])[:4] for _ in range(4000)]
    theirs = np.array(drawn)
    ours = edges(masks)
    assert (ours[:, 2:] > 0).all()
    same_distribution(ours, theirs)


def test_some_images_are_erased_none_or_all():
    erased = {}
    for p in (0.0, 0.25, 1.0):
        masks = jax.jit(jax.vmap(lambda key, p=p: erase_mask(key, p, SIZE)))(keys(2000))
        erased[p] = np.asarray(masks).any((1, 2)).mean()
    assert erased[0.0] == 0
    assert erased[1.0] == 1
    assert 0.22 < erased[0.25] < 0.28
