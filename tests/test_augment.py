"""The ops put together: draws, devices, and what a spec leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from jaxft.data.augment import (
    DRAWS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Batch,
    check_pairs,
    make_augment,
    mixes_of,
    normalise,
)
from jaxft.data.augment_spec import OPS, PRESETS, parse_augment
from jaxft.data.colour import jitter, randaugment
from jaxft.data.crops import crop, sample_box
from jaxft.data.images import EvalCrop, eval_crop, to_canvas
from jaxft.data.mixing import erase_mask, partners
from jaxft.errors import UserError
from jaxft.parallel import over_devices, put_batch

KEY = jax.random.key(7)
EVERYTHING = ("crop", "flip", "vflip", "jitter", "randaugment", "erase=0.5", "mixup", "cutmix")


def photo(height: int, width: int, seed: int = 0) -> PIL.Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)


def make_batch(num: int = 8) -> Batch:
    sizes = np.array([(60 + 5 * i, 100 - 3 * i) for i in range(num)], np.int32)
    canvases = np.stack([to_canvas(photo(*map(int, size), seed=i), 48) for i, size in enumerate(sizes)])
    positions = jnp.arange(num, dtype=jnp.int32)
    return Batch(jnp.asarray(canvases), jnp.asarray(sizes), jnp.arange(num, dtype=jnp.int32) % 3, positions)


def run(spec, batch: Batch | None = None, key=KEY, size: int = 32, **options):
    return jax.jit(make_augment(spec, size, **options))(key, make_batch() if batch is None else batch)


def image_keys(num: int = 8):
    return [jax.random.fold_in(KEY, i) for i in range(num)]


def plain_crops() -> list[jax.Array]:
    """The default's crops in 0 to 255, one by one."""
    batch, crops = make_batch(), []
    for i, key in enumerate(image_keys()):
        box_key, flip_key = jax.random.split(key)
        box = sample_box(box_key, batch.sizes[i])
        crops.append(crop(batch.images[i], batch.sizes[i], box, jax.random.bernoulli(flip_key), 32))
    return crops


def test_normalise_is_torchvisions():
    pixels = np.asarray(photo(8, 9))
    expected = (pixels / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(normalise(jnp.asarray(pixels)), expected, atol=1e-6)


# Each op in its place.


def test_the_default_draws_crop_and_flip_from_the_examples_key():
    got = run(("crop", "flip"))
    assert got.other_labels is None
    assert got.share is None
    np.testing.assert_allclose(got.images, normalise(jnp.stack(plain_crops())), atol=1e-4)


def test_colours_change_between_crop_and_normalisation():
    for name, change in (
        ("jitter", lambda key, image: jitter(key, image, 0.4, 0.4, 0.4, 0.1)),
        ("randaugment", lambda key, image: randaugment(key, image, 2, 9)),
    ):
        keys = [jax.random.fold_in(key, DRAWS[name]) for key in image_keys()]
        changed = jax.jit(jax.vmap(change))(jnp.stack(keys), jnp.stack(plain_crops()))
        # Where posterizing cuts is up to rounding.
        apart = np.abs(np.asarray(run(("crop", "flip", name)).images - normalise(changed)))
        assert (apart > 2e-3).mean() < (0.01 if name == "randaugment" else 1e-9), name


def test_what_is_erased_is_zero_after_normalisation():
    masks = [erase_mask(jax.random.fold_in(key, DRAWS["erase"]), 0.6, 32) for key in image_keys()]
    expected = np.where(np.stack(masks)[..., None], 0.0, run(("crop", "flip")).images)
    got = run(("crop", "flip", "erase=0.6"))
    assert 0 < np.mean([mask.any() for mask in masks]) < 1
    np.testing.assert_allclose(got.images, expected, atol=1e-5)
    assert (np.asarray(got.images)[np.stack(masks)] == 0).all()


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_neighbours_mix_after_everything_else(name):
    plain, got = np.asarray(run(("crop", "flip", "jitter")).images), run(("crop", "flip", "jitter", name))
    mix = mixes_of(parse_augment((name,)), jnp.stack(image_keys()), 32)
    own = np.asarray(mix.own)[..., None]
    np.testing.assert_allclose(got.images, own * plain + (1 - own) * plain[[1, 0, 3, 2, 5, 4, 7, 6]], atol=1e-4)
    np.testing.assert_allclose(got.share, mix.share, atol=1e-5)
    np.testing.assert_array_equal(got.other_labels, partners(make_batch().labels))
    assert len(set(np.asarray(got.share).tolist())) > 4


def test_with_both_each_image_has_one_kind_of_mix():
    keys = jax.random.split(KEY, 400)
    both, mixup, cutmix = (
        mixes_of(parse_augment(spec), keys, 32) for spec in (("mixup", "cutmix"), ("mixup",), ("cutmix",))
    )
    from_mixup = np.asarray(both.own == mixup.own).all((1, 2))
    from_cutmix = np.asarray(both.own == cutmix.own).all((1, 2))
    assert (from_mixup | from_cutmix).all()
    assert 0.4 < from_mixup.mean() < 0.6
    np.testing.assert_array_equal(both.share, np.where(from_mixup, mixup.share, cutmix.share))


@pytest.mark.parametrize("resize", ["short", "squash"])
def test_without_a_crop_it_is_evaluations(resize):
    image = photo(300, 440)
    batch = Batch(
        jnp.asarray(to_canvas(image, 384))[None], jnp.array([[300, 440]]), jnp.zeros(1, jnp.int32), jnp.arange(1)
    )
    got = run(("none",), batch, size=224, eval_resize=resize).images[0]
    expected = normalise(jnp.asarray(eval_crop(image, EvalCrop(224, resize))))
    assert np.abs(np.asarray(got - expected)).mean() < 0.02
    other = normalise(jnp.asarray(eval_crop(image, EvalCrop(224, "short" if resize == "squash" else "squash"))))
    assert np.abs(np.asarray(got - other)).mean() > 0.1


def test_never_and_always():
    batch = make_batch()
    centre = np.asarray(run(("none",)).images)
    np.testing.assert_array_equal(run(("flip=0", "vflip=0", "erase=0", "jitter=0,0,0,0")).images, centre)
    np.testing.assert_allclose(run(("flip=1",)).images, centre[:, :, ::-1], atol=1e-4)
    np.testing.assert_allclose(run(("vflip=1",)).images, centre[:, ::-1], atol=1e-4)
    np.testing.assert_array_equal(run(("none",), batch, jax.random.key(8)).images, centre)
    assert (np.asarray(run(("erase=1",)).images) == 0).any((1, 2, 3)).all()


@pytest.mark.parametrize("name", ["flip", "vflip"])
def test_half_of_the_images_are_mirrored(name):
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 64, 3))
    ramp = ramp if name == "flip" else ramp.transpose(1, 0, 2)
    num = 1000
    batch = Batch(
        jnp.broadcast_to(ramp, (num, *ramp.shape)), jnp.full((num, 2), 64), jnp.zeros(num, jnp.int32), jnp.arange(num)
    )
    images = np.asarray(run((name,), batch).images)
    assert 0.45 < (images[:, 0, 0, 0] > images[:, -1, -1, 0]).mean() < 0.55


# Draws.


def test_augmentation_follows_the_example_not_the_machine():
    batch = make_batch()
    whole = run(EVERYTHING, batch)
    half = run(EVERYTHING, jax.tree.map(lambda rows: rows[4:], batch))
    for ours, theirs in zip(half, whole, strict=True):
        np.testing.assert_allclose(ours, theirs[4:], atol=1e-4)
    other = run(EVERYTHING, batch, jax.random.key(8))
    assert (np.abs(np.asarray(whole.images - other.images)).max((1, 2, 3)) > 0.05).all()
    same = jax.tree.map(lambda rows: jnp.broadcast_to(rows[:1], rows.shape), batch)
    images = np.asarray(run(EVERYTHING, same._replace(positions=batch.positions)).images)
    assert np.abs(images[0] - images[1]).max() > 0.05


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_eight_devices_draw_as_one(mode):
    batch = jax.tree.map(np.asarray, make_batch(16))
    # Where RandAugment solarizes is up to rounding, and then shows in an image's mean.
    spec = tuple(name for name in EVERYTHING if name != "randaugment")
    augment = make_augment(spec, 32)

    def gathered(state, batch):
        return jax.tree.map(lambda rows: jax.lax.all_gather(rows, "data", tiled=True), augment(KEY, batch))

    devices = jax.local_devices()
    compiled = over_devices(gathered, devices, mode, donate=False)
    many = compiled(jnp.zeros(()), put_batch(batch, devices, mode))
    for ours, theirs in zip(many, run(spec, batch), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_no_op_changes_anothers_draws():
    alone = run(("crop", "flip", "mixup"))
    together = run(EVERYTHING[:-1])
    np.testing.assert_array_equal(alone.share, together.share)
    # Erasing shows through whatever is done to the colours before it.
    erased = [np.asarray(run(spec).images) == 0 for spec in (("erase=0.5",), EVERYTHING[:-2])]
    assert erased[0].any()
    np.testing.assert_array_equal(*(mask.all(-1) for mask in erased))


def test_every_op_has_keys_of_its_own():
    key = jax.random.key(3)
    keys = [*jax.random.split(key), *(jax.random.fold_in(key, constant) for constant in DRAWS.values())]
    assert len({tuple(jax.random.key_data(each).tolist()) for each in keys}) == len(keys) == len(DRAWS) + 2
    assert set(DRAWS) - {"which mix"} == set(OPS) - {"crop", "flip"}


def test_ops_are_done_in_one_order_whatever_the_spec_says():
    for ours, theirs in zip(run(EVERYTHING), run(EVERYTHING[::-1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_run(name):
    got = run((name,))
    assert got.images.dtype == jnp.float32
    assert np.isfinite(got.images).all()
    assert (got.share is not None) == (name == "strong")


# Mistakes.


def test_pairs_need_even_numbers():
    check_pairs(8, 4)
    message = r"need an even number of images a device: --batch-size 24 on 8 devices gives 3. Pass --batch-size 16"
    with pytest.raises(UserError, match=message):
        check_pairs(24, 8)
    with pytest.raises(UserError, match=r"--batch-size 7 gives 7. Pass --batch-size 6 or --batch-size 8."):
        check_pairs(7, 1)
    with pytest.raises(UserError, match=r"--batch-size 1 gives 1. Pass --batch-size 2."):
        check_pairs(1, 1)
    with pytest.raises(UserError, match=r"need an even number of images a device"):
        run(("mixup",), make_batch(3))


def test_a_spec_that_cannot_be_is_told_at_once():
    with pytest.raises(UserError, match="--augment crp: no such op"):
        make_augment(("crp",), 32)
