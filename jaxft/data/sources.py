"""Where labelled images come from: folders of class folders, or arrays; split into training and test."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from jaxft.data.images import Encoded
from jaxft.errors import UserError

# torchvision.datasets.folder.IMG_EXTENSIONS
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TEST_NAMES = ("val", "test")
NAMED = 3


class Source(Protocol):
    """A set of labelled images."""

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
    """Image files and their labels."""

    items: tuple[tuple[Path, int], ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    def read(self, i: int) -> tuple[Encoded, int]:
        """The path of image i, and its label."""
        return self.items[i]


@dataclass(frozen=True)
class ArraySource:
    """Images in memory: uint8 [n, h, w, 3], and labels [n]."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, i: int) -> tuple[Encoded, int]:
        """The pixels of image i, and its label."""
        return self.images[i], int(self.labels[i])


class Splits(NamedTuple):
    """A training and a test set of the same classes, and lines that the user should read."""

    train: Source
    test: Source
    notes: tuple[str, ...]


class ClassFolders(NamedTuple):
    """The image files of each class, and the files that were passed over."""

    files: dict[str, list[Path]]
    ignored: list[Path]


def open_folder(folder: Path, *, val_fraction: float, seed: int) -> Splits:
    """A folder with train/CLASS/ and val/CLASS/ or test/CLASS/, or with CLASS/ alone, split by class and seed.

    Raises:
        UserError: no such folder, fewer than two classes, an empty or nested class, or splits of different classes.
    """
    check_folder(folder)
    train_folder = folder / "train"
    if not train_folder.is_dir():
        return split(read_classes(folder), folder, val_fraction, seed)
    train = read_classes(train_folder)
    test_folders = [folder / name for name in TEST_NAMES if (folder / name).is_dir()]
    if not test_folders:
        return split(train, train_folder, val_fraction, seed)
    test = read_classes(test_folders[0])
    only = sorted(set(train.files) ^ set(test.files))
    if only:
        where = train_folder if only[0] in train.files else test_folders[0]
        raise UserError(
            f"{train_folder} and {test_folders[0]} have different classes: {', '.join(only)} only in one, {only[0]} "
            f"in {where}. Give both the same class folders."
        )
    notes = ignored_note([*train.ignored, *test.ignored])
    return Splits(as_source(train.files), as_source(test.files), notes)


def check_folder(folder: Path) -> None:
    """Raise a UserError that helps where a folder is not there or is none."""
    if folder.is_dir():
        return
    if folder.exists():
        raise UserError(f"--data {folder}: a file, not a folder. Pass the folder that holds the class folders.")
    parent = folder.parent
    while not parent.is_dir():
        parent = parent.parent
    neighbours = sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
    close = difflib.get_close_matches(folder.relative_to(parent).parts[0], neighbours, n=1)
    hint = f" Did you mean {parent / close[0]}?" if close else ""
    raise UserError(f"--data {folder}: no such folder; {parent} is there.{hint}")


def read_classes(folder: Path) -> ClassFolders:
    """The images of each class folder in a folder, sorted by name.

    Raises:
        UserError: fewer than two classes, or a class folder with no image or with folders in place of images.
    """
    classes = [entry for entry in visible(folder) if entry.is_dir()]
    ignored = [entry for entry in visible(folder) if not entry.is_dir()]
    if not classes:
        raise UserError(f"{folder} has no class folders. Put the images of each class into a folder: CLASS/*.jpg.")
    files: dict[str, list[Path]] = {}
    for class_folder in classes:
        entries = visible(class_folder)
        images = [entry for entry in entries if entry.suffix.lower() in EXTENSIONS and not entry.is_dir()]
        ignored += [entry for entry in entries if entry not in set(images)]
        if not images:
            raise UserError(no_image_message(class_folder, entries))
        files[class_folder.name] = images
    if len(files) < 2:
        raise UserError(f"{folder} has one class only, {next(iter(files))}. A classifier needs at least two.")
    return ClassFolders(files, ignored)


def no_image_message(class_folder: Path, entries: Sequence[Path]) -> str:
    """Why a class folder without an image cannot be trained on, and what to do."""
    nested = [entry for entry in entries if entry.is_dir()]
    if nested:
        return (
            f"{class_folder} holds folders, not images ({nested[0].name}). Class folders are not nested: put its "
            f"images straight into it, or pass --data {class_folder}."
        )
    kinds = ", ".join(sorted({entry.suffix or entry.name for entry in entries})) or "nothing"
    return (
        f"class folder {class_folder} has no image in it (it has {kinds}). Put images there "
        f"({' '.join(EXTENSIONS)}), or remove the folder."
    )


def visible(folder: Path) -> list[Path]:
    """The entries of a folder by name, hidden ones left out.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}). Mend its permissions.") from None


def split(classes: ClassFolders, folder: Path, val_fraction: float, seed: int) -> Splits:
    """Part of each class for testing, chosen by the seed; at least one image of each class on each side.

    Raises:
        UserError: a class of one image.
    """
    train: dict[str, list[Path]] = {}
    test: dict[str, list[Path]] = {}
    for label, (name, paths) in enumerate(classes.files.items()):
        if len(paths) < 2:
            raise UserError(f"class {name} in {folder} has one image: it cannot be in both training and test. Add one.")
        num_test = min(max(round(len(paths) * val_fraction), 1), len(paths) - 1)
        chosen = set(np.random.default_rng([seed, label]).permutation(len(paths))[:num_test].tolist())
        train[name] = [path for i, path in enumerate(paths) if i not in chosen]
        test[name] = [path for i, path in enumerate(paths) if i in chosen]
    note = f"{folder} has no val/ or test/: {val_fraction:.0%} of each class, chosen by the seed, is the test set"
    return Splits(as_source(train), as_source(test), (note, *ignored_note(classes.ignored)))


def as_source(files: dict[str, list[Path]]) -> FileSource:
    """A source of these files, labelled by the order of their classes."""

    def items() -> Iterator[tuple[Path, int]]:
        for label, paths in enumerate(files.values()):
            yield from ((path, label) for path in paths)

    return FileSource(tuple(items()), tuple(files))


def ignored_note(ignored: Sequence[Path]) -> tuple[str, ...]:
    """A line that counts what was passed over and names the first few; none where there is nothing."""
    if not ignored:
        return ()
    named = ", ".join(str(path) for path in ignored[:NAMED]) + (", …" if len(ignored) > NAMED else "")
    kinds = f"not an image ({' '.join(EXTENSIONS)})"
    return (f"ignored {len(ignored)} {'entry' if len(ignored) == 1 else 'entries'} that are {kinds}: {named}",)
