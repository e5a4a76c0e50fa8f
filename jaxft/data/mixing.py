"""Two images in one, and a piece of one erased: mixup, cutmix and random erasing of normalised images.

An image mixes with its neighbour in the shuffled global batch: places 0 and 1, 2 and 3, and so on. So the partner does
not depend on the number of devices, as long as each has an even number of images.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Shaped

ERASE_AREA = (0.02, 0.33)
ERASE_ASPECT = (0.3, 3.3)
ERASE_ATTEMPTS = 10


class Mix(NamedTuple):
    """How much of each pixel is the image's own, the rest being its partner's; and of the label."""

    own: Float[Array, "*b s s"]
    share: Float[Array, "*b"]


def mixup(key: Key[Array, ""], alpha: float, size: int) -> Mix:
    """Both images laid over each other (arXiv:1710.09412), the own one with a share from Beta(alpha, alpha)."""
    share = jax.random.beta(key, alpha, alpha)
    return Mix(jnp.broadcast_to(share, (size, size)), share)


def cutmix(key: Key[Array, ""], alpha: float, size: int) -> Mix:
    """A rectangle of the partner pasted in (arXiv:1905.04899); the share is the area that is left.

    The rectangle has the image's proportions and 1 - Beta(alpha, alpha) of its area, lies anywhere, and what is beyond
    the edges is lost. Source: torchvision/transforms/v2/_augment.py.
    """
    share_key, y_key, x_key = jax.random.split(key, 3)
    half = (0.5 * jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha)) * size).astype(jnp.int32)
    centres = jax.random.randint(y_key, (), 0, size), jax.random.randint(x_key, (), 0, size)
    rows, columns = (between(size, centre - half, centre + half) for centre in centres)
    return Mix(
        1 - (rows[:, None] & columns[None, :]).astype(jnp.float32),
        1 - rows.mean() * columns.mean(),
    )


def one_of(first: Bool[Array, ""], mix: Mix, other: Mix) -> Mix:
    """The one mix or the other."""
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), mix, other)


def between(size: int, start: Shaped[Array, ""], stop: Shaped[Array, ""]) -> Bool[Array, " s"]:
    """Which of `size` places lie in start to stop, that one left out."""
    places = jnp.arange(size)
    return (places >= start) & (places < stop)


def partners(rows: Shaped[Array, "b ..."]) -> Shaped[Array, "b ..."]:
    """For each image of the batch, what its partner has here: rows 0 and 1 change places, 2 and 3, and so on."""
    return rows.reshape(-1, 2, *rows.shape[1:])[:, ::-1].reshape(rows.shape)


def mix_images(mix: Mix, images: Float[Array, "b s s 3"]) -> Float[Array, "b s s 3"]:
    """Each image with its partner in it."""
    own = mix.own[..., None]
    return own * images + (1 - own) * partners(images)


def erase_mask(key: Key[Array, ""], probability: float, size: int) -> Bool[Array, "{size} {size}"]:
    """What torchvision's RandomErasing erases: 2 to 33 % of the area, aspect ratio 0.3 to 3.3, ten tries, else nothing.

    Source: torchvision.transforms.RandomErasing, with its defaults but for the probability.
    """
    erase_key, area_key, aspect_key, top_key, left_key = jax.random.split(key, 5)
    low, high = ERASE_AREA
    area = size * size * jax.random.uniform(area_key, (ERASE_ATTEMPTS,), minval=low, maxval=high)
    log_low, log_high = jnp.log(jnp.asarray(ERASE_ASPECT))
    aspect = jnp.exp(jax.random.uniform(aspect_key, (ERASE_ATTEMPTS,), minval=log_low, maxval=log_high))
    heights = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (heights < size) & (widths < size)
    first = jnp.argmax(fits)
    height, width = heights[first], widths[first]
    top = jax.random.randint(top_key, (), 0, jnp.maximum(size - height, 0) + 1)
    left = jax.random.randint(left_key, (), 0, jnp.maximum(size - width, 0) + 1)
    box = between(size, top, top + height)[:, None] & between(size, left, left + width)[None, :]
    return box & fits.any() & jax.random.bernoulli(erase_key, probability)
