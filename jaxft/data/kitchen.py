"""The demo's drawn world: twelve foods as if photographed, and hot dog or not on posters. Rendered by code, no files.

The source world (`source_set`) is what the demo's network was pretrained on; the target world (`target_set`) is drawn
in another style, with things that the source has not, and few training images. The same seed gives the same picture.
"""

import colorsys
from collections.abc import Sequence
from typing import Literal

import numpy as np
import PIL.Image
import PIL.ImageChops
import PIL.ImageDraw
import PIL.ImageFilter
from jaxtyping import Int32, UInt8

from jaxft.data.kitchen_shapes import THINGS, Colour, Points, Rng, Shape, ellipse, stroke

Style = Literal["photo", "poster"]
Split = Literal["train", "test"]
Set = tuple[UInt8[np.ndarray, "n 80 80 3"], Int32[np.ndarray, " n"], tuple[str, ...]]

NEW_THINGS = ("eclair", "fish", "mug", "pencil")
SOURCE_CLASSES = tuple(sorted(set(THINGS) - set(NEW_THINGS)))
TARGET_CLASSES = ("hot_dog", "not_hot_dog")
NOT_HOT_DOGS = tuple(sorted(set(THINGS) - {"hot_dog"}))

SIZE = 80
SUPERSAMPLING = 2
SOURCE_PER_CLASS = {"train": 400, "test": 50}
TARGET_PER_CLASS = {"train": 100, "test": 200}
LOUDEST_NOISE = {"photo": 14, "poster": 11}
SEED_OF = {"photo": 1, "poster": 2, "train": 3, "test": 4}


def source_set(split: Split) -> Set:
    """Photographs of the twelve foods: images, labels, class names."""
    names = [name for name in SOURCE_CLASSES for _ in range(SOURCE_PER_CLASS[split])]
    labels = [SOURCE_CLASSES.index(name) for name in names]
    return draw_all(names, "photo", split), np.array(labels, np.int32), SOURCE_CLASSES


def target_set(split: Split) -> Set:
    """Posters, half of them of a hot dog, half of anything else: images, labels, class names."""
    num = TARGET_PER_CLASS[split]
    others = [NOT_HOT_DOGS[i % len(NOT_HOT_DOGS)] for i in range(num)]
    labels = np.repeat(np.arange(2, dtype=np.int32), num)
    return draw_all(["hot_dog"] * num + others, "poster", split), labels, TARGET_CLASSES


def draw_all(names: Sequence[str], style: Style, split: Split) -> UInt8[np.ndarray, "n 80 80 3"]:
    """A picture of each name; the splits never share a seed."""
    return np.stack([render(name, style, 2 * i + (split == "test")) for i, name in enumerate(names)])


def render(name: str, style: Style, seed: int, size: int = SIZE) -> UInt8[np.ndarray, "size size 3"]:
    """A thing of the kitchen in a style; pure in its arguments."""
    rng = np.random.default_rng([SEED_OF[style], seed])
    big = size * SUPERSAMPLING
    image = (photo if style == "photo" else poster)(name, rng, big)
    pixels = np.asarray(image.resize((size, size), PIL.Image.Resampling.BOX), np.float32)
    noise = rng.normal(0, rng.uniform(2, LOUDEST_NOISE[style]), pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def photo(name: str, rng: Rng, big: int) -> PIL.Image.Image:
    """On a plate or a table, with a shadow, in a light from one side."""
    image = table(rng, big)
    if rng.uniform() < 0.6:
        plate(image, rng)
    shapes = pose(THINGS[name](rng), rng, 0.62, 0.85)
    shadow = PIL.Image.new("L", image.size, 255)
    dark = PIL.ImageDraw.Draw(shadow)
    for shape in shapes:
        dark.polygon(to_pixels(shape.points + [0.05, 0.07], big), fill=120)
    shadow = shadow.filter(PIL.ImageFilter.GaussianBlur(big / 40))
    image = PIL.ImageChops.multiply(image, shadow.convert("RGB"))
    draw = PIL.ImageDraw.Draw(image)
    tint, turn = rng.normal(0, 10, 3), odd_hue(rng, 0.3)
    for shape in shapes:
        colour = jitter(turned(shape.colour, turn), rng, 10, tint)
        draw.polygon(to_pixels(shape.points, big), fill=scaled(colour, 0.75))
        draw.polygon(to_pixels(shrink(shape.points, 0.9) - [0.015, 0.02], big), fill=colour)
    crumbs(draw, rng, big)
    light = gradient(rng, big, rng.uniform(0.55, 0.85))
    image = PIL.ImageChops.multiply(image, light)
    return image.filter(PIL.ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6)))


def poster(name: str, rng: Rng, big: int) -> PIL.Image.Image:
    """Flat colours of any hue, ink outlines, a printed background, scraps behind and in front."""
    paper, ink = hue(rng, 0.25, 0.95), hue(rng, 0.7, rng.uniform(0.1, 0.35))
    image = PIL.Image.new("RGB", (big, big), paper)
    draw = PIL.ImageDraw.Draw(image)
    printed(draw, rng, big)
    for _ in range(rng.integers(0, 3)):
        scrap(draw, rng, big, ink)
    turn = odd_hue(rng, 0.06)
    width = int(rng.integers(1, 4))
    for shape in pose(THINGS[name](rng), rng, 0.68, 0.92):
        outline = to_pixels(shape.points, big)
        draw.polygon(outline, fill=turned(shape.colour, turn))
        draw.line([*outline, outline[0]], fill=ink, width=width, joint="curve")
    for _ in range(rng.integers(0, 3)):
        scrap(draw, rng, big, ink, small=True)
    return image


def pose(shapes: Sequence[Shape], rng: Rng, smallest: float, largest: float) -> list[Shape]:
    """Turned, mirrored, stretched and moved, all shapes alike."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.diag([rng.choice([-1.0, 1.0]), rng.uniform(0.8, 1.0)]) * rng.uniform(smallest, largest)
    move = rng.uniform(-0.18, 0.18, 2)
    return [Shape(shape.points @ stretch @ turn + move, shape.colour) for shape in shapes]


def to_pixels(points: Points, big: int) -> list[tuple[float, float]]:
    """From -1 to 1 to pixels, as PIL draws them."""
    return [(x, y) for x, y in ((points + 1) / 2 * big).tolist()]


def shrink(points: Points, factor: float) -> Points:
    """Toward the middle of the shape."""
    middle = points.mean(0)
    return middle + factor * (points - middle)


def table(rng: Rng, big: int) -> PIL.Image.Image:
    """Wood, cloth or stone: a colour, coarse spots and stripes."""
    colour = np.array(hue(rng, rng.uniform(0.1, 0.5), rng.uniform(0.35, 0.85)), np.float32)
    spots = rng.normal(0, 14, (10, 10)).astype(np.float32)
    coarse = np.asarray(PIL.Image.fromarray(spots).resize((big, big), PIL.Image.Resampling.BICUBIC))
    place = np.arange(big) / big * 2 * np.pi
    waves = rng.uniform(0, 14) * np.sin(rng.integers(2, 9) * place)
    checked = waves[None, :] + (rng.uniform() < 0.5) * waves[:, None]
    pixels = colour + (coarse + checked)[..., None]
    return PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def plate(image: PIL.Image.Image, rng: Rng) -> None:
    """A round plate with a rim."""
    draw = PIL.ImageDraw.Draw(image)
    x, y = rng.uniform(-0.15, 0.15, 2)
    colour = hue(rng, rng.uniform(0, 0.2), rng.uniform(0.75, 0.97))
    for radius, shade in ((0.95, 0.85), (0.92, 1.0), (0.7, 0.92), (0.67, 0.98)):
        draw.polygon(to_pixels(ellipse(x, y, radius, radius), image.width), fill=scaled(colour, shade))


def crumbs(draw: PIL.ImageDraw.ImageDraw, rng: Rng, big: int) -> None:
    """A few specks of any colour."""
    for _ in range(rng.integers(0, 7)):
        x, y = rng.uniform(-0.95, 0.95, 2)
        radius = rng.uniform(0.02, 0.06)
        draw.polygon(to_pixels(ellipse(x, y, radius, radius), big), fill=hue(rng, 0.6, rng.uniform(0.3, 0.9)))


def gradient(rng: Rng, big: int, darkest: float) -> PIL.Image.Image:
    """Light that falls off toward one side."""
    angle = rng.uniform(0, 2 * np.pi)
    side = np.linspace(-1, 1, big)
    slope = (np.cos(angle) * side[None, :] + np.sin(angle) * side[:, None]) / 2.83 + 0.5
    grey = (255 * (darkest + (1 - darkest) * slope)).astype(np.uint8)
    return PIL.Image.fromarray(grey).convert("RGB")


def printed(draw: PIL.ImageDraw.ImageDraw, rng: Rng, big: int) -> None:
    """Stripes, dots or rays on the paper."""
    colour, kind = hue(rng, 0.35, 0.85), rng.integers(3)
    step = rng.uniform(0.2, 0.5)
    for place in np.arange(-2, 2, step):
        if kind == 0:
            draw.polygon(to_pixels(stroke(np.linspace([place, -1], [place + 0.6, 1], 4), step / 5), big), fill=colour)
        elif kind == 1:
            for other in np.arange(-1, 1.1, step):
                draw.polygon(to_pixels(ellipse(place, other, step / 4, step / 4), big), fill=colour)
        else:
            ends = place * 3 + np.array([0, step])
            ray = np.concatenate([np.zeros((1, 2)), 2 * np.stack([np.cos(ends), np.sin(ends)], 1)])
            draw.polygon(to_pixels(ray, big), fill=colour)


def scrap(draw: PIL.ImageDraw.ImageDraw, rng: Rng, big: int, ink: Colour, small: bool = False) -> None:
    """A triangle, a disc or a bar of any colour: the colours of a hot dog tell nothing."""
    centre, size = rng.uniform(-0.9, 0.9, 2), rng.uniform(0.06, 0.12) if small else rng.uniform(0.1, 0.4)
    kind = rng.integers(3)
    if kind == 0:
        points = centre + size * rng.uniform(-1, 1, (3, 2))
    elif kind == 1:
        points = ellipse(centre[0], centre[1], size, size * rng.uniform(0.5, 1))
    else:
        points = stroke(np.linspace(centre, centre + size * rng.uniform(-2, 2, 2), 6), size * 0.3)
    outline = to_pixels(points, big)
    draw.polygon(outline, fill=hue(rng, rng.uniform(0.4, 0.9), rng.uniform(0.5, 0.95)))
    draw.line([*outline, outline[0]], fill=ink, width=1)


def hue(rng: Rng, saturation: float, value: float) -> Colour:
    """Any hue of this saturation and value, 0 to 1."""
    return to_colour(np.array(colorsys.hsv_to_rgb(rng.uniform(), saturation, value)) * 255)


def odd_hue(rng: Rng, share: float) -> float:
    """A part of a turn of the hue: a little for most, anything for a share, so that colour alone tells no food."""
    return rng.uniform(-0.06, 0.06) + (rng.uniform() < share) * rng.uniform(0, 1)


def turned(colour: Colour, turn: float) -> Colour:
    """The colour with its hue moved round by a part of a turn."""
    h, s, v = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
    return to_colour(np.array(colorsys.hsv_to_rgb((h + turn) % 1, s, v)) * 255)


def jitter(colour: Colour, rng: Rng, spread: float, tint: np.ndarray) -> Colour:
    """The colour, a little off."""
    return to_colour(np.array(colour) + rng.normal(0, spread, 3) + tint)


def scaled(colour: Colour, factor: float) -> Colour:
    """Darker or lighter."""
    return to_colour(np.array(colour) * factor)


def to_colour(channels: np.ndarray) -> Colour:
    """Three whole numbers of 0 to 255."""
    red, green, blue = np.clip(channels, 0, 255).astype(int).tolist()
    return red, green, blue
