"""Sets of labelled images, files or arrays, and their split into training and test."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

from jaxft.data.images import Encoded
from jaxft.errors import UserError

HOLD_OUT_SEED = 2**32
"""No run has it."""
NAMED = 3
JOINERS = "\u200c\u200d"  # They shape Persian and Indic words and emoji.


@runtime_checkable
class Source(Protocol):
    """A set of labelled images: anything with `class_names`, a length and `read`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of labels 0, 1, 2 and so on."""
        ...

    def __len__(self) -> int: ...

    def read(self, i: int) -> tuple[Encoded, int]:
        """Image i, encoded or as pixels, and its label."""
        ...


@dataclass(frozen=True)
class FileSource:
    """Image files and their labels, counted from 0."""

    paths: Sequence[Path]
    labels: Sequence[int]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, i: int) -> tuple[Encoded, int]:
        """The path of image i, and its label."""
        return self.paths[i], self.labels[i]


@dataclass(frozen=True)
class ArraySource:
    """Images in memory, of one size, and their labels.

    Raises:
        UserError: images or labels of another shape or type, or a label without a name.
    """

    images: np.ndarray
    """uint8 [n, h, w, 3]."""
    labels: np.ndarray | Sequence[int]
    """[n], whole numbers of any width, counted from 0."""
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape, dtype = self.images.shape, self.images.dtype
        if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8:
            raise UserError(f"images are {dtype} {list(shape)}. Pass uint8 [n, h, w, 3].")
        labels = np.asarray(self.labels)
        if labels.shape != shape[:1]:
            raise UserError(f"{shape[0]} images and labels of shape {list(labels.shape)}. Pass one label an image.")
        if not len(labels):
            return
        if not np.issubdtype(labels.dtype, np.integer):
            raise UserError(f"labels are {labels.dtype}. Pass whole numbers, counted from 0.")
        if not 0 <= labels.min() <= labels.max() < len(self.class_names):
            raise UserError(
                f"labels lie in {labels.min()} to {labels.max()}, but {len(self.class_names)} classes are "
                "named. Count labels from 0 and name every class."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, i: int) -> tuple[Encoded, int]:
        """The pixels of image i, and its label."""
        return self.images[i], int(self.labels[i])


@dataclass(frozen=True)
class Subset:
    """Some images of a source, by their index there."""

    source: Source
    rows: Sequence[int]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The source's."""
        return self.source.class_names

    @property
    def labels(self) -> Int32[np.ndarray, " n"]:
        """The label of each."""
        return labels_of(self.source)[list(self.rows)]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, i: int) -> tuple[Encoded, int]:
        """Image i of these, and its label."""
        return self.source.read(self.rows[i])


class Images(Sequence[Encoded]):
    """A source's images without their labels, each read when it is asked for."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: Any) -> Any:
        return self.source.read(i)[0]


def labels_of(source: Source) -> Int32[np.ndarray, " n"]:
    """Every image's label: the source's own list where it has one, else image by image."""
    labels = getattr(source, "labels", None)
    if labels is None:
        labels = [source.read(i)[1] for i in range(len(source))]
    return np.asarray(labels, np.int32)


class Splits(NamedTuple):
    """A training and a test set of the same classes."""

    train: Source
    test: Source
    notes: tuple[str, ...] = ()
    """Lines that the user should read, such as how the test set was split off."""
    val: Source | None = None
    """Held out of training, to choose by (see `with_held_out`)."""


def split_source(source: Source, *, where: str, lacks: str, val_fraction: float, seed: int) -> Splits:
    """Part of each class for testing, chosen by the seed; at least one image of each class on each side.

    The order within each side is the source's. `where` and what it `lacks` are for messages.

    Raises:
        UserError: a class of one image.
    """
    train, test = parted(source, val_fraction, seed, f"in {where}", "training and test")
    note = f"{where} has no {lacks}: {val_fraction:.0%} of each class, chosen by the seed, is the test set"
    return Splits(train, test, (note,))


def hold_out(source: Source, fraction: float) -> tuple[Subset, Subset]:
    """What is left to train on, and a share of each class to choose a recipe by: the same whatever a run's seed.

    Raises:
        UserError: a class of one image.
    """
    return parted(source, fraction, HOLD_OUT_SEED, "to train on", "training and what is held out")


def with_held_out(splits: Splits, fraction: float) -> Splits:
    """The splits with this share of each training class apart, as `val`; with 0 as they are.

    Raises:
        UserError: a class of one image.
    """
    if not fraction:
        return splits
    train, val = hold_out(splits.train, fraction)
    return splits._replace(train=train, val=val)


def in_memory(source: Source) -> bool:
    """Whether the images are arrays already, so that to decode them costs less than to keep what is decoded."""
    return isinstance(source.source if isinstance(source, Subset) else source, ArraySource)


def parted(source: Source, fraction: float, seed: int, where: str, parts: str) -> tuple[Subset, Subset]:
    """The rest, and a share of each class, of at least one image, chosen by the seed; both in the source's order.

    Raises:
        UserError: a class of one image; `where` it is, and the `parts`, are for the message.
    """
    chosen: set[int] = set()
    by_class: list[list[int]] = [[] for _ in source.class_names]
    for i, label in enumerate(labels_of(source)):
        by_class[label].append(i)
    for label, rows in enumerate(by_class):
        if len(rows) == 1:
            raise UserError(
                f"class {source.class_names[label]} {where} has one image: it cannot be in both {parts}. Add one."
            )
        if rows:
            num = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
            order = np.random.default_rng([seed, label]).permutation(len(rows))
            chosen |= {rows[i] for i in order[:num].tolist()}
    rest = tuple(i for i in range(len(source)) if i not in chosen)
    return Subset(source, rest), Subset(source, tuple(sorted(chosen)))


def some(names: Sequence[Path | str]) -> str:
    """The first few names, as `shown`."""
    return ", ".join(shown(name) for name in names[:NAMED]) + (", …" if len(names) > NAMED else "")


def shown(path: Path | str) -> str:
    """A path or name on one line that can be printed: those on a disk need not be, nor be valid text."""
    return "".join(character if _prints(character) else _escaped(character) for character in str(path))


def _prints(character: str) -> bool:
    # str.isprintable refuses spaces other than the plain one; macOS puts one into the names of screenshots.
    return character.isprintable() or unicodedata.category(character) == "Zs" or character in JOINERS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
