"""Folders of class folders: train/CLASS/ with val/CLASS/ or test/CLASS/, or CLASS/ alone."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxft.data.sources import FileSource, Splits, shown, some, split_source
from jaxft.errors import UserError

# torchvision.datasets.folder.IMG_EXTENSIONS
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TEST_NAMES = ("val", "test")


class ClassFolders(NamedTuple):
    """The image files of each class, and what was passed over."""

    files: dict[str, list[Path]]
    ignored: list[Path]


def open_folder(path: str | Path, *, val_fraction: float = 0.2, seed: int = 0) -> Splits:
    """A folder with train/CLASS/ and val/CLASS/ or test/CLASS/, or with CLASS/ alone, split by class and seed.

    Which files are images is torchvision's list of extensions; links are followed, hidden names passed over.

    Raises:
        UserError: no such folder, fewer than two classes, an empty or nested class, or splits of different classes.
    """
    folder = Path(path).expanduser()
    try:
        _check_folder(folder)
        return _open(folder, val_fraction, seed)
    except OSError as error:
        raise UserError(f"{shown(error.filename)}: cannot be read ({error.strerror}). Mend its permissions.") from None


def _open(folder: Path, val_fraction: float, seed: int) -> Splits:
    train_folder = folder / "train"
    test_folders = [folder / name for name in TEST_NAMES if (folder / name).is_dir()]
    # A class may be called "train": trains and buses, say.
    if not train_folder.is_dir() or not (test_folders or _holds_folders(train_folder)):
        if test_folders and _holds_folders(test_folders[0]):
            raise UserError(
                f"{shown(folder)} has {test_folders[0].name}/ but no train/. Put the training images into "
                f"train/CLASS/, or pass --data {shown(test_folders[0])} to split those."
            )
        return _split(_read_classes(folder), folder, val_fraction, seed)
    train = _read_classes(train_folder)
    used = ("train", *(entry.name for entry in test_folders[:1]))
    unused = [entry.name for entry in _visible(folder) if entry.name not in used]
    notes = (f"not used in {shown(folder)}: {some(unused)}",) if unused else ()
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
        raise UserError(f"--data {shown(folder)}: a file, not a folder. Pass the folder that holds the class folders.")
    parent = folder.parent
    while not parent.is_dir():
        parent = parent.parent
    neighbours = [entry.name for entry in _visible(parent) if entry.is_dir()]
    close = difflib.get_close_matches(folder.relative_to(parent).parts[0], neighbours, n=1)
    hint = f"Did you mean {shown(parent / close[0])}?" if close else "Pass a folder of class folders."
    raise UserError(f"--data {shown(folder)}: no such folder; {shown(parent)} is there. {hint}")


def _check_same_classes(train_folder: Path, train: ClassFolders, test_folder: Path, test: ClassFolders) -> None:
    sides = ((train_folder, train.files, test.files), (test_folder, test.files, train.files))
    only = [f"only in {shown(where)}: {', '.join(sorted(set(a) - set(b)))}" for where, a, b in sides if set(a) - set(b)]
    if only:
        raise UserError(
            f"{shown(train_folder)} and {shown(test_folder)} have different classes; {'; '.join(only)}. "
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
        raise UserError(
            f"{shown(folder)} has no class folders. Put the images of each class into a folder: CLASS/*.jpg."
        )
    if len(files) < 2:
        raise UserError(f"{shown(folder)} has one class only, {next(iter(files))}. A classifier needs at least two.")
    return ClassFolders(files, ignored)


def _no_image_message(class_folder: Path, entries: Sequence[os.DirEntry[str]]) -> str:
    """Why a class folder without an image cannot be trained on, and what to do."""
    where = shown(class_folder)
    nested = [entry.name for entry in entries if entry.is_dir()]
    if nested:
        return (
            f"{where} holds folders ({some(nested)}), not images. Class folders are not nested: put the "
            f"images straight into {where}, or pass --data {where} to train on the folders inside."
        )
    kinds = ", ".join(sorted({shown(Path(entry).suffix or entry.name) for entry in entries})) or "nothing"
    return (
        f"class folder {where} has no image in it (it has {kinds}). Put images there "
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
    """Part of each class for testing, chosen by the seed."""
    source = _as_source(classes.files)
    splits = split_source(source, where=shown(folder), lacks="val/ or test/", val_fraction=val_fraction, seed=seed)
    return splits._replace(notes=(*splits.notes, *_ignored_note(classes.ignored)))


def _as_source(files: dict[str, list[Path]]) -> FileSource:
    """A source of these files, labelled by the order of their classes."""
    labels = tuple(label for label, paths in enumerate(files.values()) for _ in paths)
    return FileSource(tuple(path for paths in files.values() for path in paths), labels, tuple(files))


def _ignored_note(ignored: Sequence[Path]) -> tuple[str, ...]:
    """A line that counts what was passed over and names the first few; none where there is nothing."""
    if not ignored:
        return ()
    what = "1 entry that is" if len(ignored) == 1 else f"{len(ignored)} entries that are"
    return (f"ignored {what} not an image ({' '.join(EXTENSIONS)}): {some(ignored)}",)
