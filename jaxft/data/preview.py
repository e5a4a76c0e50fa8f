"""What the network sees in training, as a picture: python -m jaxft.data.preview SPEC [--augment …] [--out FILE]."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import tyro

from jaxft.config import Config, read_config
from jaxft.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augmented, Batch, make_augment
from jaxft.data.canvas import canvas_size
from jaxft.data.grid import Cell, draw_grid
from jaxft.data.images import Canvas, EvalCrop, render
from jaxft.data.load import open_splits
from jaxft.data.sources import Source, shown
from jaxft.download import cache_folder
from jaxft.errors import UserError, run_command

LOOKED_AT = 20
"""So many candidates for each image that is shown, so that every class gets its turn."""


@dataclass(frozen=True)
class Arguments:
    """Draw what training sees of a few photographs: each before, as it is drawn anew each time, and in evaluation."""

    spec: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="SPEC")] = None
    """As --data of jaxft.train: demo, a folder of class folders, a .zip of one at an address, a .csv file or tfds:NAME;
    before the flags."""
    config: Path | None = None
    """The config.json of a run, for whatever is not given here."""
    augment: tuple[str, ...] | None = None
    """As of jaxft.train: a preset, or ops with their values."""
    image_size: int | None = None
    """Side of the square that the network sees, in pixels."""
    canvas: int | None = None
    """Side of the square in which training images are kept; chosen from the set when not given."""
    eval_resize: Literal["short", "squash"] | None = None
    """Before the centre crop of evaluation: the short side to 256/224 of the image size, or both sides."""
    tfds_dir: str | None = None
    """As of jaxft.train."""
    train_split: str | None = None
    """As of jaxft.train."""
    seed: int | None = None
    """Of the split, of which photographs are shown, and of what is drawn."""
    images: int = 6
    """Photographs, a row each."""
    views: int = 6
    """Times that each is drawn."""
    out: Path = Path("preview.png")
    """The picture."""
    cache_dir: Path | None = None
    """Where downloads are kept; ~/.cache/jaxft when not given."""


class Shown(NamedTuple):
    """One photograph: where from, what it is, its canvas, its own (height, width), and evaluation's crop."""

    name: str
    label: int
    canvas: np.ndarray
    size: tuple[int, int]
    eval_crop: np.ndarray


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    args = sys.argv[1:] if argv is None else list(argv)
    arguments = tyro.cli(Arguments, prog="python -m jaxft.data.preview", args=args)
    config = resolve(arguments)
    source = open_splits(config, arguments.cache_dir or cache_folder()).train
    photos = choose(source, config, arguments.images)
    rows = make_rows(photos, source.class_names, config, arguments.images, arguments.views)
    headers = ["photograph", *(f"view {k + 1}" for k in range(arguments.views)), "evaluation"]
    images = config.images
    title = f"{config.data}   --augment {' '.join(images.augment)}   {images.image_size} pixels"
    try:
        draw_grid(rows, headers, title, arguments.out)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--out {arguments.out}: cannot be written ({error}). Pass a file ending in .png, .jpg, .svg or .pdf, in a "
            "folder that there is."
        ) from None
    print(f"written to {arguments.out}")
    return 0


def resolve(arguments: Arguments) -> Config:
    """The config that the flags make of `--config`'s, or of the defaults.

    Raises:
        UserError: no data, too few images or views, or values that the config refuses.
    """
    if arguments.spec is None and arguments.config is None:
        raise UserError("no data: pass a folder of class folders, demo, or --config RUN/config.json.")
    for name, count in (("images", arguments.images), ("views", arguments.views)):
        if count < 1:
            raise UserError(f"--{name} {count}: must be at least 1.")
    base = Config() if arguments.config is None else read_config(arguments.config)
    names = ("augment", "image_size", "canvas", "eval_resize")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return replace(
        base,
        data=arguments.spec or base.data,
        tfds_dir=arguments.tfds_dir or base.tfds_dir,
        train_split=arguments.train_split or base.train_split,
        seed=base.seed if arguments.seed is None else arguments.seed,
        images=replace(base.images, **given),
    )


def choose(source: Source, config: Config, num_images: int) -> list[Shown]:
    """Photographs by the seed, of each class in turn; an even number, so that each has a partner to mix with.

    Raises:
        UserError: fewer than two can be decoded.
    """
    images = config.images
    side = images.canvas or canvas_size(source, images.image_size)
    order = np.random.default_rng(config.seed).permutation(len(source))[: LOOKED_AT * num_images]
    seen: dict[int, int] = {}
    turns = []
    for i in map(int, order):
        label = source.read(i)[1]
        seen[label] = seen.get(label, 0) + 1
        turns.append((seen[label], label, i))
    photos: list[Shown] = []
    for _, label, i in sorted(turns):
        if len(photos) == num_images + num_images % 2:
            break
        item = source.read(i)[0]
        canvas, size, _ = render(item, Canvas(side))
        crop, _, _ = render(item, EvalCrop(images.image_size, images.eval_resize))
        if canvas is not None and crop is not None:
            name = shown(item.name) if isinstance(item, Path) else f"image {i}"
            photos.append(Shown(name, label, canvas, size, crop))
    if len(photos) < 2:
        raise UserError(f"--data {config.data}: of {len(turns)} images looked at, {len(photos)} can be decoded.")
    return photos[: len(photos) // 2 * 2]


def make_rows(
    photos: Sequence[Shown], class_names: Sequence[str], config: Config, num_images: int, num_views: int
) -> list[list[Cell]]:
    """A row for each photograph: before, as the training step sees it at steps 0, 1, 2 and so on, and evaluation."""
    images = config.images
    augment = jax.jit(make_augment(images.augment, images.image_size, images.eval_resize))
    batch = Batch(
        jnp.asarray(np.stack([photo.canvas for photo in photos])),
        jnp.asarray(np.array([photo.size for photo in photos], np.int32)),
        jnp.asarray(np.array([photo.label for photo in photos], np.int32)),
        jnp.arange(len(photos), dtype=jnp.int32),
    )
    key = jax.random.key(config.seed)
    views = [augment(jax.random.fold_in(key, step), batch) for step in range(num_views)]
    pixels = [displayable(view) for view in views]
    rows = []
    for i, photo in enumerate(photos[:num_images]):
        labels = [mixture(view, i, photo.label, class_names) for view in views]
        cells = [Cell(view[i], (label,)) for view, label in zip(pixels, labels, strict=True)]
        rows.append(
            [Cell(unsquashed(photo), (class_names[photo.label], photo.name)), *cells, Cell(photo.eval_crop, ())]
        )
    return rows


def displayable(augmented: Augmented) -> np.ndarray:
    """What the network sees, back to uint8 colours."""
    images = np.asarray(augmented.images) * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)
    return np.clip(images * 255, 0, 255).round().astype(np.uint8)


def unsquashed(photo: Shown) -> np.ndarray:
    """The canvas in its photograph's proportions, as large as it was at most."""
    height, width = photo.size
    scale = len(photo.canvas) / max(height, width)
    sides = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(PIL.Image.fromarray(photo.canvas).resize(sides, PIL.Image.Resampling.LANCZOS))


def mixture(augmented: Augmented, i: int, label: int, class_names: Sequence[str]) -> str:
    """The labels of a view, with their shares where there are two: "ants 70 % bees 30 %"."""
    if augmented.share is None or augmented.other_labels is None:
        return ""
    other, share = int(augmented.other_labels[i]), round(100 * float(augmented.share[i]))
    if other == label or share in (0, 100):
        return class_names[other if share == 0 else label]
    return f"{class_names[label]} {share} % {class_names[other]} {100 - share} %"


if __name__ == "__main__":
    run_command(main)
