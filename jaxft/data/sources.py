"""Where labelled images come from: folders of class folders, or arrays; split into training and test."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxft.data.images import Encoded
from jaxft.errors import UserError

# torchvision.datasets.folder.IMG_EXTENSIONS
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TEST_NAMES = ("val", "test")
NAMED = 3


@runtime_checkable
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
    """Images in memory: uint8 [n, h, w, 3], and labels [n]."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape, dtype = self.images.shape, self.images.dtype
        if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8:
            raise UserError(f"images are {dtype} {list(shape)}. Pass uint8 [n, h, w, 3].")
        if self.labels.shape != shape[:1]:
            raise UserError(
                f"{shape[0]} images and labels of shape {list(self.labels.shape)}. Pass one label an image."
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise UserError(
                f"labels lie in {self.labels.min()} to {self.labels.max()}, but {len(self.class_names)} classes are "
                "named. Count labels from 0 and name every class."
            )

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
    """The image files of each class, and what was passed over."""

    files: dict[str, list[Path]]
    ignored: list[Path]


def open_folder(path: Path, *, val_fraction: float, seed: int) -> Splits:
    """A folder with train/CLASS/ and val/CLASS/ or test/CLASS/, or with CLASS/ alone, split by class and seed.

    Which files are images is torchvision's list of extensions; links are followed, hidden names passed over.

    Raises:
        UserError: no such folder, fewer than two classes, an empty or nested class, or splits of different classes.
    """
    try:
        _check_folder(path)
        return _open(path, val_fraction, seed)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}). Mend its permissions.") from None


def _open(folder: Path, val_fraction: float, seed: int) -> Splits:
    train_folder = folder / "train"
    test_folders = [folder / name for name in TEST_NAMES if (folder / name).is_dir()]
    # A class may be called "train": trains and buses, say.
    if not train_folder.is_dir() or not (test_folders or _holds_folders(train_folder)):
        if test_folders and _holds_folders(test_folders[0]):
            raise UserError(
                f"{folder} has {test_folders[0].name}/ but no train/. Put the training images into train/CLASS/, or "
                f"pass --data {test_folders[0]} to split those."
            )
        return _split(_read_classes(folder), folder, val_fraction, seed)
    train = _read_classes(train_folder)
    used = ("train", *(entry.name for entry in test_folders[:1]))
    unused = [shown(entry.name) for entry in _visible(folder) if entry.name not in used]
    notes = (f"not used in {shown(folder)}: {_some(unused)}",) if unused else ()
    if not test_folders:
        splits = _split(train, train_folder, val_fraction, seed)
        return splits._replace(notes=(*splits.notes, *notes))
    test = _read_classes(test_folders[0])
    _check_same_classes(train_folder, train, test_folders[0], test)
    notes = (*notes, *_ignored_note([*train.ignored, *test.ignored]))
    return Splits(_as_source(train.files), _as_source(test.files), notes)


def _check_folder(folder: Path) -> None:
    """Raise a UserError that helps where a folder is not there or is none."""
    if folder.is_dir():
        return
    if folder.exists():
        raise UserError(f"--data {folder}: a file, not a folder. Pass the folder that holds the class folders.")
    parent = folder.parent
    while not parent.is_dir():
        parent = parent.parent
    neighbours = [entry.name for entry in _visible(parent) if entry.is_dir()]
    close = difflib.get_close_matches(folder.relative_to(parent).parts[0], neighbours, n=1)
    hint = f"Did you mean {parent / close[0]}?" if close else "Pass a folder of class folders."
    raise UserError(f"--data {folder}: no such folder; {parent} is there. {hint}")


def _check_same_classes(train_folder: Path, train: ClassFolders, test_folder: Path, test: ClassFolders) -> None:
    sides = ((train_folder, train.files, test.files), (test_folder, test.files, train.files))
    only = [f"only in {where}: {', '.join(sorted(set(a) - set(b)))}" for where, a, b in sides if set(a) - set(b)]
    if only:
        raise UserError(
            f"{train_folder} and {test_folder} have different classes; {'; '.join(only)}. "
            "Give both the same class folders."
        )


def _read_classes(folder: Path) -> ClassFolders:
    """The images of each class folder in a folder, sorted by name."""
    files: dict[str, list[Path]] = {}
    ignored: list[Path] = []
    for class_folder in _visible(folder):
        if not class_folder.is_dir():
            ignored.append(Path(class_folder))
            continue
        entries = _visible(Path(class_folder))
        images = [Path(entry) for entry in entries if _is_image(entry)]
        if not images:
            raise UserError(_no_image_message(Path(class_folder), entries))
        files[shown(class_folder.name)] = images
        ignored += [Path(entry) for entry in entries if not _is_image(entry)]
    if not files:
        raise UserError(f"{folder} has no class folders. Put the images of each class into a folder: CLASS/*.jpg.")
    if len(files) < 2:
        raise UserError(f"{folder} has one class only, {next(iter(files))}. A classifier needs at least two.")
    return ClassFolders(files, ignored)


def _no_image_message(class_folder: Path, entries: Sequence[os.DirEntry[str]]) -> str:
    """Why a class folder without an image cannot be trained on, and what to do."""
    nested = [entry.name for entry in entries if entry.is_dir()]
    if nested:
        return (
            f"{class_folder} holds folders ({_some(nested)}), not images. Class folders are not nested: put the "
            f"images straight into {class_folder}, or pass --data {class_folder} to train on the folders inside."
        )
    kinds = ", ".join(sorted({Path(entry).suffix or entry.name for entry in entries})) or "nothing"
    return (
        f"class folder {class_folder} has no image in it (it has {kinds}). Put images there "
        f"({' '.join(EXTENSIONS)}), or remove the folder."
    )


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder by name, hidden ones left out."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _holds_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in _visible(folder))


def _is_image(entry: os.DirEntry[str]) -> bool:
    """By its name, as torchvision does; a broken link counts, so that decoding names it."""
    return entry.name.lower().endswith(EXTENSIONS) and not entry.is_dir() and (entry.is_file() or entry.is_symlink())


def _split(classes: ClassFolders, folder: Path, val_fraction: float, seed: int) -> Splits:
    """Part of each class for testing, chosen by the seed; at least one image of each class on each side."""
    train: dict[str, list[Path]] = {}
    test: dict[str, list[Path]] = {}
    for label, (name, paths) in enumerate(classes.files.items()):
        if len(paths) < 2:
            raise UserError(f"class {name} in {folder} has one image: it cannot be in both training and test. Add one.")
        num_test = min(max(round(len(paths) * val_fraction), 1), len(paths) - 1)
        chosen = set(np.random.default_rng([seed, label]).permutation(len(paths))[:num_test].tolist())
        train[name] = [path for i, path in enumerate(paths) if i not in chosen]
        test[name] = [path for i, path in enumerate(paths) if i in chosen]
    note = (
        f"{shown(folder)} has no val/ or test/: {val_fraction:.0%} of each class, chosen by the seed, is the test set"
    )
    return Splits(_as_source(train), _as_source(test), (note, *_ignored_note(classes.ignored)))


def _as_source(files: dict[str, list[Path]]) -> FileSource:
    """A source of these files, labelled by the order of their classes."""
    labels = tuple(label for label, paths in enumerate(files.values()) for _ in paths)
    return FileSource(tuple(path for paths in files.values() for path in paths), labels, tuple(files))


def _ignored_note(ignored: Sequence[Path]) -> tuple[str, ...]:
    """A line that counts what was passed over and names the first few; none where there is nothing."""
    if not ignored:
        return ()
    what = "1 entry that is" if len(ignored) == 1 else f"{len(ignored)} entries that are"
    return (f"ignored {what} not an image ({' '.join(EXTENSIONS)}): {_some([shown(path) for path in ignored])}",)


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


def shown(path: Path | str) -> str:
    """A path that can be printed: names on a disk need not be valid text."""
    return str(path).encode(errors="backslashreplace").decode()
