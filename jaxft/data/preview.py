"""What the network sees in training, as a picture: python -m jaxft.data.preview SPEC [--augment …] [--out FILE]."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import tyro

from jaxft.config import Config
from jaxft.config_file import read_config
from jaxft.data.canvas import Photo, canvas_size, decode_one
from jaxft.data.grid import Cell, draw_grid
from jaxft.data.images import Canvas, EvalCrop, render
from jaxft.data.load import open_splits
from jaxft.data.sources import Source, with_held_out
from jaxft.data.views import Shares, draw_views, first_good, in_turn, unsquashed
from jaxft.download import cache_folder
from jaxft.errors import UserError, run_command


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
    """A photograph as training keeps it, and evaluation's crop of it."""

    photo: Photo
    crop: np.ndarray


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    args = sys.argv[1:] if argv is None else list(argv)
    arguments = tyro.cli(Arguments, prog="python -m jaxft.data.preview", args=args)
    config = resolve(arguments)
    splits = open_splits(config, arguments.cache_dir or cache_folder())
    source = with_held_out(splits, config.images.holdout).train
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
    candidates = in_turn(lambda i: source.read(i)[1], len(source), num_images, config.seed)

    def shown(i: int) -> Shown | None:
        photo = decode_one(source, i, Canvas(side))
        crop, _, _ = render(source.read(i)[0], EvalCrop(images.image_size, images.eval_resize))
        return None if photo.pixels is None or crop is None else Shown(photo, crop)

    chosen = first_good(map(shown, candidates), num_images)
    if not chosen:
        raise UserError(f"--data {config.data}: of {len(candidates)} images looked at, fewer than two can be decoded.")
    return chosen


def make_rows(
    chosen: Sequence[Shown], class_names: Sequence[str], config: Config, num_images: int, num_views: int
) -> list[list[Cell]]:
    """A row for each photograph: before, as the training step sees it, and evaluation."""
    views = draw_views([photo for photo, _ in chosen], class_names, config, num_views)
    rows = []
    for (photo, crop), drawn in zip(chosen[:num_images], views, strict=False):
        before = Cell(unsquashed(photo), (class_names[photo.label], Path(photo.name).name))
        rows.append([before, *(Cell(view.pixels, (in_words(view.shares),)) for view in drawn), Cell(crop, ())])
    return rows


def in_words(shares: Shares) -> str:
    """The classes of a view, with their shares where there are two: "ants 70 % bees 30 %"."""
    return " ".join(name if share == 100 else f"{name} {share} %" for name, share in shares)


if __name__ == "__main__":
    run_command(main)
