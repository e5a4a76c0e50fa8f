"""The pictures of a report: mistakes, doubts, activation maps, and what training sees."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxft.config import Config
from jaxft.data.canvas import Photo
from jaxft.data.sources import shown
from jaxft.data.views import Shares, draw_views, first_good, in_turn, pixels_of, unsquashed
from jaxft.overlay import overlay
from jaxft.report.evaluation import least_sure, surest_mistakes, surest_rights
from jaxft.report.pictures import data_uri
from jaxft.report.scoring import Scored, Split, photo_at

MOST = 12
NUM_MAPS = 6
NUM_CHANCES = 3
NUM_ROWS, NUM_VIEWS = 6, 5
VIEW_SIDE = 128


class Picture(NamedTuple):
    """A test image as the network saw it, what it is, and what it was taken for."""

    src: str
    name: str
    truth: str
    guess: str
    right: bool
    truth_chance: float
    chances: Sequence[tuple[str, float]]
    """The most probable classes, with their probabilities."""


class ViewRow(NamedTuple):
    """A training photograph, and its draws with their classes where they are mixed."""

    src: str
    name: str
    truth: str
    views: Sequence[tuple[str, Shares]]


class Gallery(NamedTuple):
    """All pictures of a report."""

    mistakes: Sequence[Picture]
    least_sure: Sequence[Picture]
    maps: Sequence[tuple[Picture, str]]
    """Each with the same image under the map of its predicted class."""
    views: Sequence[ViewRow]


def make_gallery(scored: Scored, names: Sequence[str], test: Split, rows: Sequence[ViewRow], spec: str) -> Gallery:
    """Choose the pictures of the test set `scored` and draw them; `names` are the classes', `spec` the data's."""
    picture = partial(make_picture, scored, test, names, spec)
    wrong = surest_mistakes(scored.probabilities, scored.labels, MOST)
    right = surest_rights(scored.probabilities, scored.labels, NUM_MAPS - min(len(wrong), NUM_MAPS // 2))
    return Gallery(
        [picture(i) for i in wrong],
        [picture(i) for i in least_sure(scored.probabilities, MOST)],
        [(picture(i), draw_map(scored, test, i)) for i in (*wrong[: NUM_MAPS - len(right)], *right)],
        rows,
    )


def make_picture(scored: Scored, test: Split, names: Sequence[str], spec: str, i: int) -> Picture:
    """Row i of what was scored."""
    photo, chances = photo_at(test, int(scored.rows[i])), scored.probabilities[i]
    order: list[int] = np.argsort(-chances, kind="stable")[:NUM_CHANCES].tolist()
    return Picture(
        src=data_uri(pixels_of(photo)),
        name=within(photo.name, spec),
        truth=names[photo.label],
        guess=names[order[0]],
        right=order[0] == photo.label,
        truth_chance=float(chances[photo.label]),
        chances=[(names[k], float(chances[k])) for k in order],
    )


def draw_map(scored: Scored, test: Split, i: int) -> str:
    """Row i of what was scored, under the activation map of its predicted class."""
    return data_uri(overlay(pixels_of(photo_at(test, int(scored.rows[i]))), scored.maps[i]))


def pick_training(train: Split, seed: int) -> Sequence[Photo]:
    """A few training photographs, of each class in turn; none where fewer than two can be decoded."""
    candidates = in_turn(lambda i: int(train.labels[i]), len(train.labels), NUM_ROWS, seed)
    found = (photo_at(train, i) for i in candidates)
    return first_good((None if photo.pixels is None else photo for photo in found), NUM_ROWS)


def make_rows(photos: Sequence[Photo], names: Sequence[str], config: Config) -> Sequence[ViewRow]:
    """Training photographs, each with its draws."""
    drawn = draw_views(photos, names, config, NUM_VIEWS) if photos else []
    return [
        ViewRow(
            src=data_uri(unsquashed(photo), VIEW_SIDE),
            name=within(photo.name, config.data),
            truth=names[photo.label],
            views=[(data_uri(view.pixels, VIEW_SIDE), view.shares) for view in views],
        )
        for photo, views in zip(photos, drawn, strict=True)
    ]


def within(name: str, spec: str) -> str:
    """An image's name from the data's folder on; of a file that lies elsewhere the last two folders."""
    folder = f"{shown(Path(spec).expanduser())}/"
    return name.removeprefix(folder) if name.startswith(folder) else "/".join(Path(name).parts[-3:])
