"""Augmentation on the device, put together: a function of (key, batch), made from what `--augment` says.

Crops and mirrorings are in crops.py, pixel values in colour.py, mixing and erasing in mixing.py; each works on one
image. Randomness follows the example: an image's draws come from the key and its place in the global batch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num, UInt8

from jaxft.config import EvalResize
from jaxft.data.augment_spec import Ops, mixes, parse_augment
from jaxft.data.colour import jitter, randaugment
from jaxft.data.crops import Weights, crop_weights, eval_box, mirror, resample, sample_box
from jaxft.data.mixing import Mix, cutmix, erase_mask, mix_images, mixup, one_of, partners
from jaxft.errors import UserError, nearest_batch_sizes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

DRAWS = {"vflip": 2, "jitter": 3, "randaugment": 4, "erase": 5, "mixup": 6, "cutmix": 7, "which mix": 8}
"""A constant for each op's key, so that adding an op changes no other's draws. 0 and 1 are crop and flip: `split` gives
the same two keys."""

Keys = Key[Array, " b"]


class Batch(NamedTuple):
    """Training images."""

    images: UInt8[Array, "b c c 3"]
    """Canvases."""
    sizes: Int[Array, "b 2"]
    """Height and width of their photographs, so that crops keep their shape."""
    labels: Int[Array, " b"]
    positions: Int[Array, " b"]
    """Places in the global batch, from which each image's draws follow."""


class EvalBatch(NamedTuple):
    """Images cropped for evaluation."""

    images: UInt8[Array, "b s s 3"]
    labels: Int[Array, " b"]
    weights: Float[Array, " b"]
    """1, or 0 for images that only fill the batch."""


class Augmented(NamedTuple):
    """Images as the network sees them."""

    images: Float[Array, "b s s 3"]
    """Normalised by ImageNet's mean and standard deviation."""
    other_labels: Int[Array, " b"] | None = None
    """Where images are mixed, their partners' labels."""
    share: Float[Array, " b"] | None = None
    """Where images are mixed, the share of the own label, 0 to 1."""


Augment = Callable[[Key[Array, ""], Batch], Augmented]
"""A pure function of the step's key and one device's part of a batch."""


def normalise(images: Num[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """Pixels of 0 to 255 to ImageNet's zero mean and unit variance, in float32."""
    mean, std = jnp.asarray(IMAGENET_MEAN), jnp.asarray(IMAGENET_STD)
    shape = (1,) * (images.ndim - 1) + (3,)
    return (images.astype(jnp.float32) / 255 - mean.reshape(shape)) / std.reshape(shape)


def make_augment(spec: Sequence[str], image_size: int, eval_resize: EvalResize = "short") -> Augment:
    """What `--augment SPEC…` does to a batch: crops of `image_size` pixels, changed by the ops, normalised.

    It is pure, and made for inside the compiled step; what the spec leaves out is not computed.

    Args:
        spec: a preset, `("light",)`, or ops in any order, `("crop=0.35", "flip")`; `ImageConfig.augment` lists both.
        image_size: side of the square that the network sees, in pixels.
        eval_resize: without `crop` among the ops, the crop is evaluation's, after this.

    Raises:
        UserError: no such op, or a value that it cannot have; in use, an odd number of images to mix.
    """
    ops = parse_augment(spec)

    def augment(key: Key[Array, ""], batch: Batch) -> Augmented:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.positions)
        weights = jax.vmap(crop_of(ops, batch.images.shape[1], image_size, eval_resize))(keys, batch.sizes)
        images = resample(weights, batch.images)
        if "jitter" in ops:
            images = jax.vmap(lambda key, image: jitter(key, image, *ops["jitter"]))(draws(keys, "jitter"), images)
        if "randaugment" in ops:
            num, magnitude = map(int, ops["randaugment"])
            many = jax.vmap(lambda key, image: randaugment(key, image, num, magnitude))
            images = many(draws(keys, "randaugment"), images)
        images = normalise(images)
        if "erase" in ops:
            erased = jax.vmap(lambda key: erase_mask(key, ops["erase"][0], image_size))(draws(keys, "erase"))
            images = jnp.where(erased[..., None], 0.0, images)
        if not mixes(spec):
            return Augmented(images)
        check_pairs(len(batch.labels), 1)
        mix = mixes_of(ops, keys, image_size)
        return Augmented(mix_images(mix, images), partners(batch.labels), mix.share)

    return augment


def draws(keys: Keys, op: str) -> Keys:
    """Each image's key for an op."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, DRAWS[op])


def crop_of(
    ops: Ops, canvas: int, image_size: int, eval_resize: EvalResize
) -> Callable[[Key[Array, ""], Int[Array, "2"]], Weights]:
    """How one image's canvas is resampled, from its key and its photograph's size: crop and mirrorings in one."""

    def weights(key: Key[Array, ""], size: Int[Array, "2"]) -> Weights:
        box_key, flip_key = jax.random.split(key)
        if "crop" in ops:
            rows, columns = crop_weights(canvas, size, sample_box(box_key, size, *ops["crop"]), image_size)
        else:
            box = eval_box(size, image_size, eval_resize)
            rows, columns = crop_weights(canvas, size, box, image_size, beyond=True)
        if "flip" in ops:
            columns = mirror(columns, jax.random.bernoulli(flip_key, ops["flip"][0]))
        if "vflip" in ops:
            vflip_key = jax.random.fold_in(key, DRAWS["vflip"])
            rows = mirror(rows, jax.random.bernoulli(vflip_key, ops["vflip"][0]))
        return Weights(rows, columns)

    return weights


def mixes_of(ops: Ops, keys: Keys, image_size: int) -> Mix:
    """Each image's mix; with both mixup and cutmix, a draw of each image picks one."""
    found = {
        name: jax.vmap(lambda key, make=make, name=name: make(key, *ops[name], image_size))(draws(keys, name))
        for name, make in (("mixup", mixup), ("cutmix", cutmix))
        if name in ops
    }
    if len(found) == 1:
        return next(iter(found.values()))
    picked = jax.vmap(jax.random.bernoulli)(draws(keys, "which mix"))
    return jax.vmap(one_of)(picked, found["mixup"], found["cutmix"])


def check_pairs(batch_size: int, num_devices: int) -> None:
    """Raise a UserError, naming the nearest batch sizes, where a device would have an odd number of images to mix."""
    if batch_size % (2 * num_devices):
        nearest = nearest_batch_sizes(batch_size, 2 * num_devices)
        devices = f" on {num_devices} devices" if num_devices > 1 else ""
        raise UserError(
            f"--augment mixup and cutmix need an even number of images a device: --batch-size {batch_size}{devices} "
            f"gives {batch_size / num_devices:g}. Pass {nearest}."
        )
