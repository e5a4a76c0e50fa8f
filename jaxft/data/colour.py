"""Pixel values changed in place: functions of one image [h, w, 3] in 0 to 255, and of a factor.

Each is torchvision's function of the same name on a float image (torchvision.transforms.v2.functional), of which white
is 1 and here 255: nothing is rounded to whole values in between.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Image = Float[Array, "h w 3"]
Factor = Float[Array, ""] | float

WHITE = 255.0
GREY_WEIGHTS = (0.2989, 0.587, 0.114)

MOST_MAGNITUDE = 30  # Of RandAugment's, which are 31.


def blend(image: Image, other: Float[Array, "#h #w _"], factor: Factor) -> Image:
    """All of the image at factor 1, all of the other at 0, beyond either outside; cut off at black and white."""
    return jnp.clip(factor * image + (1 - factor) * other, 0.0, WHITE)


def grey(image: Image) -> Float[Array, "h w 1"]:
    """Luminance."""
    # Not a product with the weights: on a GPU that would be rounded to fewer bits.
    red, green, blue = (image[..., i : i + 1] * GREY_WEIGHTS[i] for i in range(3))
    return red + green + blue


def adjust_brightness(image: Image, factor: Factor) -> Image:
    """0 black, 1 as it is."""
    return jnp.clip(image * factor, 0.0, WHITE)


def adjust_contrast(image: Image, factor: Factor) -> Image:
    """0 the mean luminance all over, 1 as it is."""
    return blend(image, grey(image).mean().reshape(1, 1, 1), factor)


def adjust_saturation(image: Image, factor: Factor) -> Image:
    """0 grey, 1 as it is."""
    return blend(image, grey(image), factor)


def adjust_hue(image: Image, shift: Factor) -> Image:
    """Turned around the wheel of colours by `shift` turns, in -0.5 to 0.5."""
    value, low = image.max(-1), image.min(-1)
    spread = value - low
    distance = (value[..., None] - image) / jnp.where(spread > 0, spread, 1.0)[..., None]
    red, green, blue = distance[..., 0], distance[..., 1], distance[..., 2]
    # Not whether it equals the value: XLA may compute either twice, and round differently.
    red_leads, green_leads = (red <= green) & (red <= blue), green <= blue
    sector = jnp.where(red_leads, blue - green, jnp.where(green_leads, 2 + red - blue, 4 + green - red))
    hue = jnp.where(spread > 0, sector, 0.0) + 6 * shift
    # Each channel is a trapezium over the wheel of six sectors: full around its own, none across.
    places = (hue[..., None] + jnp.array([5.0, 3.0, 1.0]).reshape(1, 1, 3)) % 6
    return value[..., None] - spread[..., None] * jnp.clip(jnp.minimum(places, 4 - places), 0.0, 1.0)


def adjust_sharpness(image: Image, factor: Factor) -> Image:
    """0 smoothed over 3 x 3 pixels but for the outermost, 1 as it is, 2 sharpened."""
    if min(image.shape[:2]) <= 2:
        return image
    tall = image[:-2] + image[1:-1] + image[2:]
    square = tall[:, :-2] + tall[:, 1:-1] + tall[:, 2:]
    smooth = image.at[1:-1, 1:-1].set((square + 4 * image[1:-1, 1:-1]) / 13)
    return blend(image, smooth, factor)


def solarize(image: Image, threshold: Factor) -> Image:
    """What is as bright as the threshold (0 to 255) or brighter, inverted."""
    return jnp.where(image >= threshold, WHITE - image, image)


def posterize(image: Image, bits: int) -> Image:
    """2 to the power of `bits` values a channel, each step's lowest."""
    levels = 2.0**bits
    return jnp.clip(jnp.floor(image * (levels / WHITE)), 0.0, levels - 1) * (WHITE / levels)


def autocontrast(image: Image) -> Image:
    """Each channel stretched from its darkest to its brightest pixel over 0 to 255; a flat one stays.

    Flat is what spans less than one of the 255 steps, where torchvision would blow up the rounding of a resampling.
    """
    low, high = image.min((0, 1), keepdims=True), image.max((0, 1), keepdims=True)
    flat = high - low < 1
    scale = WHITE / jnp.where(flat, WHITE, high - low)
    return jnp.clip((image - jnp.where(flat, 0.0, low)) * scale, 0.0, WHITE)


def jitter(
    key: Key[Array, ""], image: Image, brightness: float, contrast: float, saturation: float, hue: float
) -> Image:
    """torchvision's ColorJitter, always in this order: brightness, contrast, saturation, hue.

    torchvision draws the order too, for which a device would have to do every order and choose. Factors are even over
    1 - x to 1 + x, not below 0, and the hue's shift over -x to x; what is 0 is left out.
    """
    keys = jax.random.split(key, 4)
    adjusts = (adjust_brightness, adjust_contrast, adjust_saturation)
    for i, (adjust, reach) in enumerate(zip(adjusts, (brightness, contrast, saturation), strict=True)):
        if reach:
            factor = jax.random.uniform(keys[i], (), minval=max(0.0, 1 - reach), maxval=1 + reach)
            image = adjust(image, factor)
    return adjust_hue(image, jax.random.uniform(keys[3], (), minval=-hue, maxval=hue)) if hue else image


def randaugment(key: Key[Array, ""], image: Image, num_ops: int, magnitude: int) -> Image:
    """RandAugment (arXiv:1909.13719) of the ops that cost little on a device: `num_ops` of `randaugment_op`, drawn.

    torchvision's others move pixels (shear, translate, rotate) or sort them (equalize).
    """
    for i in range(num_ops):
        index_key, sign_key = jax.random.split(jax.random.fold_in(key, i))
        index = jax.random.randint(index_key, (), 0, len(RANDAUGMENT))
        sign = jnp.where(jax.random.bernoulli(sign_key), 1.0, -1.0)
        image = randaugment_op(index, sign, image, magnitude)
    return image


RANDAUGMENT = (
    *("identity", "brightness", "colour", "contrast"),
    *("sharpness", "posterize", "solarize", "autocontrast"),
)


def randaugment_op(index: Int[Array, ""], sign: Float[Array, ""], image: Image, magnitude: int) -> Image:
    """The op of `RANDAUGMENT` at `index`, with torchvision's magnitudes; the first of them that have one take its sign.

    Source: torchvision/transforms/v2/_auto_augment.py.
    """
    share = magnitude / MOST_MAGNITUDE
    factor = 1 + sign * 0.9 * share
    branches = (
        lambda image: image,
        lambda image: adjust_brightness(image, factor),
        lambda image: adjust_saturation(image, factor),
        lambda image: adjust_contrast(image, factor),
        lambda image: adjust_sharpness(image, factor),
        lambda image: posterize(image, bits=round(8 - 4 * share)),
        lambda image: solarize(image, WHITE * (1 - share)),
        autocontrast,
    )
    return jax.lax.switch(index, branches, image)
