"""What the kitchen holds: each thing as coloured polygons in a box of -1 to 1, y downward, drawn in order."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "n 2"]
Colour = tuple[int, int, int]
Rng = np.random.Generator

BUN, CRUST, DOUGH = (222, 164, 88), (196, 130, 60), (214, 150, 80)
SAUSAGE, MUSTARD, KETCHUP = (178, 66, 40), (246, 206, 40), (206, 36, 30)
YELLOW, ORANGE, RED, PINK = (250, 216, 70), (238, 128, 34), (212, 34, 48), (244, 140, 170)
GREEN, DARK_GREEN, LIME = (96, 160, 60), (40, 112, 48), (160, 200, 100)
BROWN, CHOCOLATE, CREAM, WHITE, BLACK = (124, 74, 36), (82, 46, 26), (250, 240, 214), (250, 250, 246), (40, 34, 30)


class Shape(NamedTuple):
    """A filled polygon."""

    points: Points
    colour: Colour


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 1.0) -> Float[np.ndarray, "_ 2"]:
    """Part of an ellipse, in turns from the right, clockwise on the screen."""
    angle = 2 * np.pi * np.linspace(start, end, 40)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def blob(rng: Rng, rx: float, ry: float, wobble: float) -> Float[np.ndarray, "_ 2"]:
    """A wobbly ellipse."""
    angle = 2 * np.pi * np.linspace(0, 1, 60)
    radius = 1 + sum(wobble / k * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5))
    return np.stack([rx * radius * np.cos(angle), ry * radius * np.sin(angle)], 1)


def spine(length: float, bend: float, num: int = 40) -> Float[np.ndarray, "_ 2"]:
    """A line along x of that length, bent into a parabola."""
    t = np.linspace(-0.5, 0.5, num)
    return np.stack([length * t, bend * (4 * t**2 - 0.5)], 1)


def stroke(line: Points, radius: float | Float[np.ndarray, " n"]) -> Float[np.ndarray, "_ 2"]:
    """A line of that half width, with round ends."""
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    radii = np.broadcast_to(np.asarray(radius, float), len(line))[:, None]
    turn = np.pi * np.linspace(0, 1, 12)[1:-1, None]
    end = line[-1] + radii[-1] * (np.cos(turn) * normal[-1] + np.sin(turn) * tangent[-1])
    start = line[0] - radii[0] * (np.cos(turn) * normal[0] + np.sin(turn) * tangent[0])
    return np.concatenate([line + radii * normal, end, (line - radii * normal)[::-1], start])


def ring(x: float, y: float, outer: float, inner: float) -> Float[np.ndarray, "_ 2"]:
    """A disc with a hole, cut open along a hair's breadth."""
    return np.concatenate([ellipse(x, y, outer, outer), ellipse(x, y, inner, inner)[::-1]])


def zigzag(line: Points, amplitude: float, waves: float) -> Float[np.ndarray, "_ 2"]:
    """A line with waves across it."""
    t = np.linspace(0, 1, 120)
    along = np.stack([np.interp(t, np.linspace(0, 1, len(line)), line[:, axis]) for axis in (0, 1)], 1)
    return along + np.stack([np.zeros_like(t), amplitude * np.sin(2 * np.pi * waves * t)], 1)


def scatter(rng: Rng, num: int, radius: float) -> Float[np.ndarray, "_ 2"]:
    """Points in a disc."""
    angle, distance = rng.uniform(0, 2 * np.pi, num), radius * np.sqrt(rng.uniform(0, 1, num))
    return np.stack([distance * np.cos(angle), distance * np.sin(angle)], 1)


def dots(centres: Points, radius: float, colour: Colour) -> list[Shape]:
    """A small disc at each point."""
    return [Shape(ellipse(x, y, radius, radius), colour) for x, y in centres]


def hot_dog(rng: Rng) -> list[Shape]:
    """A sausage in a bun, with mustard or ketchup in waves, at times with neither."""
    bend, fat = rng.uniform(-0.25, 0.25), rng.uniform(0.30, 0.42)
    length, sausage = rng.uniform(1.2, 1.5), rng.uniform(0.15, 0.2)
    line = spine(length, bend)
    inside = spine(length * rng.uniform(1.12, 1.3), bend * 1.2)
    shapes = [
        Shape(stroke(line, fat), BUN),
        Shape(stroke(line, fat * 0.72), CREAM),
        Shape(stroke(inside, sausage), SAUSAGE),
    ]
    if rng.uniform() < 0.85:
        sauce = zigzag(inside[4:-4], sausage * 0.7, rng.uniform(3, 6))
        shapes.append(Shape(stroke(sauce, 0.045), MUSTARD if rng.uniform() < 0.7 else KETCHUP))
    return shapes


def banana(rng: Rng) -> list[Shape]:
    """A yellow crescent with brown ends."""
    line = spine(1.6, rng.uniform(0.45, 0.8))
    radius = 0.06 + 0.2 * np.sin(np.pi * np.linspace(0, 1, len(line))) ** 0.7
    return [
        Shape(stroke(line, radius), YELLOW),
        Shape(stroke(line[8:-8], 0.02), CRUST),
        Shape(stroke(line[:3], 0.08), BROWN),
        Shape(stroke(line[-3:], 0.07), BROWN),
    ]


def broccoli(rng: Rng) -> list[Shape]:
    """A pale stalk under a green cloud."""
    stalk = np.array([[-0.2, 0.9], [0.2, 0.9], [0.32, 0.0], [-0.32, 0.0]])
    cloud = dots(np.array([[-0.5, -0.1], [0.5, -0.1], [0.0, -0.1], [-0.3, -0.45], [0.3, -0.45]]), 0.36, DARK_GREEN)
    florets = dots(scatter(rng, 14, 0.5) + [0, -0.25], 0.13, GREEN)
    return [Shape(stalk, LIME), *cloud, *florets]


def carrot(rng: Rng) -> list[Shape]:
    """An orange root that tapers, with leaves."""
    line = spine(1.5, rng.uniform(-0.15, 0.15)) + [-0.15, 0]
    radius = np.linspace(0.06, rng.uniform(0.24, 0.34), len(line))
    top = line[-1]
    leaves = [
        Shape(stroke(np.linspace(top + [0.15, 0], top + [rng.uniform(0.4, 0.55), dy], 8), 0.06), GREEN)
        for dy in (-0.3, -0.1, 0.1, 0.3)
    ]
    rings = [Shape(stroke(line[i] + np.outer(np.linspace(-1, 1, 5), [0, 0.12]), 0.015), CRUST) for i in (12, 20, 28)]
    return [*leaves, Shape(stroke(line, radius), ORANGE), *rings]


def doughnut(rng: Rng) -> list[Shape]:
    """A ring of dough with icing and sprinkles."""
    icing = [PINK, CHOCOLATE, WHITE][rng.integers(3)]
    angles = rng.uniform(0, 2 * np.pi, 16)
    places = rng.uniform(0.42, 0.68, (16, 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
    colours = [MUSTARD, RED, GREEN, ORANGE]
    sprinkles = [shape._replace(colour=colours[i % 4]) for i, shape in enumerate(dots(places, 0.045, RED))]
    return [Shape(ring(0, 0, 0.9, 0.28), DOUGH), Shape(ring(0, 0, 0.78, 0.36), icing), *sprinkles]


def fried_egg(rng: Rng) -> list[Shape]:
    """A yolk on a wobbly white."""
    x, y = rng.uniform(-0.2, 0.2, 2)
    radius = rng.uniform(0.3, 0.38)
    yolk = Shape(ellipse(x, y, radius, radius), (248, 180, 36))
    return [Shape(blob(rng, 0.85, 0.75, 0.13), WHITE), yolk, Shape(ellipse(x - 0.1, y - 0.1, 0.07, 0.07), CREAM)]


def hamburger(rng: Rng) -> list[Shape]:
    """Bun, patty, cheese, lettuce, bun."""
    wave = zigzag(spine(1.7, 0.0), 0.06, rng.uniform(4, 7))
    seeds = np.stack([rng.uniform(-0.5, 0.5, 8), rng.uniform(-0.6, -0.3, 8)], 1)
    return [
        Shape(stroke(spine(1.3, 0.0) + [0, 0.55], 0.2), BUN),
        Shape(stroke(spine(1.5, 0.0) + [0, 0.28], 0.15), CHOCOLATE),
        Shape(np.array([[-0.8, 0.05], [0.8, 0.05], [0.4, 0.3], [0.1, 0.12], [-0.3, 0.35]]), MUSTARD),
        Shape(stroke(wave + [0, 0.02], 0.08), GREEN),
        Shape(ellipse(0, -0.05, 0.82, 0.75, 0.5, 1.0), BUN),
        *dots(seeds, 0.035, CREAM),
    ]


def ice_cream(rng: Rng) -> list[Shape]:
    """Scoops on a cone."""
    flavours = [PINK, CREAM, CHOCOLATE, LIME]
    cone = Shape(np.array([[-0.4, 0.05], [0.4, 0.05], [0.0, 1.0]]), CRUST)
    lines = [Shape(stroke(np.linspace([x, 0.1], [x * 0.3, 0.7], 6), 0.02), BROWN) for x in (-0.2, 0.0, 0.2)]
    first, second = rng.choice(4, 2)
    scoops = [Shape(ellipse(0, -0.15, 0.45, 0.4), flavours[first])]
    if rng.uniform() < 0.6:
        scoops.append(Shape(ellipse(0, -0.62, 0.36, 0.34), flavours[second]))
    return [cone, *lines, *scoops]


def pizza(rng: Rng) -> list[Shape]:
    """A slice with crust, cheese and pepperoni."""
    slice_ = np.array([[-0.7, -0.6], [0.7, -0.6], [0.0, 0.95]])
    places = np.array([[-0.3, -0.3], [0.3, -0.25], [0.0, 0.1], [0.02, 0.5]]) + rng.normal(0, 0.05, (4, 2))
    return [
        Shape(slice_, (246, 200, 90)),
        Shape(stroke(np.linspace([-0.7, -0.65], [0.7, -0.65], 10), 0.15), CRUST),
        *dots(places[: rng.integers(3, 5)], 0.15, KETCHUP),
    ]


def smooth(knots: Points, per_knot: int = 12) -> Float[np.ndarray, "_ 2"]:
    """A Catmull-Rom spline through the knots."""
    before, start, end, after = (np.pad(knots, ((1, 1), (0, 0)), "edge")[i : i + len(knots) - 1] for i in range(4))
    t = np.linspace(0, 1, per_knot, endpoint=False)[None, :, None]
    a, b, c, d = (each[:, None, :] for each in (before, start, end, after))
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return curve.reshape(-1, 2)


def pretzel(rng: Rng) -> list[Shape]:
    """A rope of dough with two loops, crossed and laid down on itself."""
    half = np.array([[0.0, -0.42], [0.3, -0.78], [0.72, -0.72], [0.85, -0.25], [0.5, 0.25], [0.0, 0.4], [-0.55, 0.75]])
    half = half + rng.normal(0, 0.03, half.shape)
    half[0, 0] = 0
    right, left = smooth(half), smooth(half * [-1, 1])
    radius = rng.uniform(0.1, 0.14)
    salt = np.concatenate([right, left])[rng.integers(0, 2 * len(right), 14)]
    return [Shape(stroke(right, radius), BROWN), Shape(stroke(left, radius), BROWN), *dots(salt, 0.03, WHITE)]


def strawberry(rng: Rng) -> list[Shape]:
    """A red heart with seeds and leaves."""
    t = np.linspace(0, 2 * np.pi, 60)
    heart = np.stack([0.75 * np.sin(t) * (1 - 0.25 * np.cos(t)), -0.75 * np.cos(t) + 0.12 * np.cos(2 * t)], 1)
    heart[:, 1] *= rng.uniform(0.95, 1.15)
    heart[:, 0] *= np.clip(1.1 - 0.35 * heart[:, 1], 0.6, 1.3)
    tips = [(x, -0.8 + abs(x) * 0.5) for x in (-0.5, -0.2, 0.2, 0.5)]
    leaves = [Shape(stroke(np.linspace([0, -0.65], tip, 6), 0.09), GREEN) for tip in tips]
    return [Shape(heart, RED), *dots(scatter(rng, 16, 0.5), 0.035, MUSTARD), *leaves]


def watermelon(rng: Rng) -> list[Shape]:
    """A half disc: rind, white, red, seeds."""
    seeds = np.stack([rng.uniform(-0.5, 0.5, 8), rng.uniform(-0.2, 0.2, 8)], 1)
    return [
        Shape(ellipse(0, -0.35, 0.95, 0.95, 0.0, 0.5), DARK_GREEN),
        Shape(ellipse(0, -0.35, 0.84, 0.84, 0.0, 0.5), LIME),
        Shape(ellipse(0, -0.35, 0.76, 0.76, 0.0, 0.5), RED),
        *dots(seeds, 0.045, BLACK),
    ]


def pencil(rng: Rng) -> list[Shape]:
    """A long yellow pencil with a rubber."""
    line = spine(1.3, 0.0)
    tip = np.array([[0.65, -0.12], [0.95, 0.0], [0.65, 0.12]])
    colour = [MUSTARD, RED, GREEN][rng.integers(3)]
    rubber = Shape(stroke(line[:4], 0.13), PINK)
    return [rubber, Shape(stroke(line[6:], 0.12), colour), Shape(tip, CREAM), Shape(tip * 0.3 + [0.66, 0], BLACK)]


def mug(rng: Rng) -> list[Shape]:
    """A mug with a handle, full."""
    colour = [RED, GREEN, WHITE, ORANGE][rng.integers(4)]
    body = np.array([[-0.6, -0.6], [0.5, -0.6], [0.42, 0.8], [-0.52, 0.8]])
    handle, coffee = ring(0.6, 0.05, 0.38, 0.22), ellipse(-0.05, -0.6, 0.55, 0.16)
    return [Shape(handle, colour), Shape(body, colour), Shape(coffee, CHOCOLATE)]


def fish(rng: Rng) -> list[Shape]:
    """A fish with a tail and an eye."""
    colour = [ORANGE, PINK, LIME][rng.integers(3)]
    tail = np.array([[-0.55, 0.0], [-0.95, -0.4], [-0.95, 0.4]])
    eye = dots(np.array([[0.55, -0.1]]), 0.07, BLACK)
    return [Shape(tail, colour), Shape(ellipse(0.1, 0, 0.75, 0.42), colour), *eye]


def eclair(rng: Rng) -> list[Shape]:
    """Long as a hot dog, iced, and none."""
    line = spine(rng.uniform(1.2, 1.5), rng.uniform(-0.2, 0.2))
    icing = [CHOCOLATE, PINK][rng.integers(2)]
    return [Shape(stroke(line, rng.uniform(0.3, 0.4)), DOUGH), Shape(stroke(line, rng.uniform(0.18, 0.26)), icing)]


THINGS: dict[str, Callable[[Rng], list[Shape]]] = {
    thing.__name__: thing
    for thing in (
        banana, broccoli, carrot, doughnut, eclair, fish, fried_egg, hamburger, hot_dog, ice_cream, mug, pencil, pizza,
        pretzel, strawberry, watermelon,
    )
}  # fmt: skip
