"""What training sees of a few photographs: which are shown, and each as it is drawn anew each time."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from jaxtyping import UInt8

from jaxft.config import Config
from jaxft.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augmented, Batch, make_augment
from jaxft.data.canvas import Photo
from jaxft.errors import UserError

LOOKED_AT = 20
"""So many candidates for each image that is shown, so that every class gets its turn."""

T = TypeVar("T")


Shares = tuple[tuple[str, int], ...]


class View(NamedTuple):
    """One draw of a photograph, and where it is mixed its classes with their percentages."""

    pixels: UInt8[np.ndarray, "s s 3"]
    shares: Shares


def in_turn(label_of: Callable[[int], int], num: int, num_shown: int, seed: int) -> list[int]:
    """Rows of a set of `num` images by the seed, of each class in turn: candidates for `num_shown`."""
    order = np.random.default_rng(seed).permutation(num)[: LOOKED_AT * num_shown]
    seen: dict[int, int] = {}
    turns = []
    for i in map(int, order):
        label = label_of(i)
        seen[label] = seen.get(label, 0) + 1
        turns.append((seen[label], label, i))
    return [i for _, _, i in sorted(turns)]


def first_good(photos: Iterable[T | None], num_shown: int) -> list[T]:
    """The first that are there, `num_shown` or one more: an even number, so that each has a partner to mix with."""
    good = list(islice((photo for photo in photos if photo is not None), num_shown + num_shown % 2))
    return good[: len(good) // 2 * 2]


def draw_views(photos: Sequence[Photo], class_names: Sequence[str], config: Config, num_views: int) -> list[list[View]]:
    """Of each photograph, a canvas, what the training step makes of it at steps 0, 1, 2 and so on."""
    images = config.images
    # For a few images, quick to compile matters more than quick to run.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    augment = jax.jit(make_augment(images.augment, images.image_size, images.eval_resize), compiler_options=options)
    batch = Batch(
        jnp.asarray(np.stack([pixels_of(photo) for photo in photos])),
        jnp.asarray(np.array([photo.size for photo in photos], np.int32)),
        jnp.asarray(np.array([photo.label for photo in photos], np.int32)),
        jnp.arange(len(photos), dtype=jnp.int32),
    )
    key = jax.random.key(config.seed)
    drawn = [augment(jax.random.fold_in(key, step), batch) for step in range(num_views)]
    pixels = [displayable(augmented) for augmented in drawn]
    return [
        [View(pixels[k][i], shares_of(drawn[k], i, photo.label, class_names)) for k in range(num_views)]
        for i, photo in enumerate(photos)
    ]


def displayable(augmented: Augmented) -> UInt8[np.ndarray, "b s s 3"]:
    """What the network sees, back to uint8 colours."""
    images = np.asarray(augmented.images) * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)
    return np.clip(images * 255, 0, 255).round().astype(np.uint8)


def unsquashed(photo: Photo) -> UInt8[np.ndarray, "h w 3"]:
    """The canvas in its photograph's proportions, as large as it was at most."""
    canvas, (height, width) = pixels_of(photo), photo.size
    scale = len(canvas) / max(height, width)
    sides = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(PIL.Image.fromarray(canvas).resize(sides, PIL.Image.Resampling.LANCZOS))


def pixels_of(photo: Photo) -> UInt8[np.ndarray, "s s 3"]:
    """The pixels of an image that could be decoded before.

    Raises:
        UserError: it cannot be any more.
    """
    if photo.pixels is None:
        raise UserError(f"{photo.name}: {photo.bad}.")
    return photo.pixels


def shares_of(augmented: Augmented, i: int, label: int, class_names: Sequence[str]) -> Shares:
    """The classes in a view with their percentages, its own first; none where nothing is mixed."""
    if augmented.share is None or augmented.other_labels is None:
        return ()
    other, share = int(augmented.other_labels[i]), round(100 * float(augmented.share[i]))
    if other == label or share in (0, 100):
        return ((class_names[other if share == 0 else label], 100),)
    return ((class_names[label], share), (class_names[other], 100 - share))
