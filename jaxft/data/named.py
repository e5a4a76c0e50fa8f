"""The images that a command line names: files, folders, patterns, and a list on standard input."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxft.data.folders import EXTENSIONS, is_image, visible
from jaxft.data.sources import shown, some
from jaxft.errors import UserError

LIST = "-"
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

Identity = tuple[int, int]
"""A folder's device and number there, whatever the links that lead to it."""


def find_images(words: Sequence[str], listed: bytes = b"", leave_out: Path | None = None) -> list[str]:
    """Each image once, at its first mention and by the name it has there.

    Args:
        words: files, whatever their names; folders, searched for images in the folders inside too, by name, links
            followed and hidden names passed over; patterns, for what they match; and "-", for what is listed.
        listed: files and folders, a line each, or parted by NUL.
        leave_out: a folder that is not searched where it lies in another one.

    Raises:
        UserError: a word that names nothing, a URL, a folder that cannot be read, or no image in all of it.
    """
    outside = set() if leave_out is None or not leave_out.is_dir() else {_identity(leave_out)}
    found: dict[str, str] = {}
    try:
        for word in words:
            for name in _listed(listed) if word == LIST else _named(word):
                for image in _images_in(name, set(outside)) if os.path.isdir(name) else (name,):
                    found.setdefault(os.path.abspath(image), image)
    except OSError as error:
        raise UserError(f"{shown(error.filename)}: cannot be read ({error.strerror}). Mend its permissions.") from None
    if not found:
        raise UserError(
            f"no image in {some(words)}: pass photographs, or folders that hold some ({' '.join(EXTENSIONS)})."
            if any(word != LIST for word in words)
            else "no image: standard input is empty. List files on it, a line each, as find does."
        )
    return list(found.values())


def _named(word: str) -> Sequence[str]:
    """What a word of the command line names: itself where it exists, else what the pattern matches.

    Raises:
        UserError: nothing.
    """
    if os.path.lexists(word):
        return [word]
    _check_no_url(word)
    names = sorted(glob.glob(os.path.expanduser(word), recursive=True))
    if not names:
        what = "matches nothing" if glob.has_magic(word) else "no such file or folder"
        raise UserError(
            f"{shown(word)}: {what}. Pass photographs, folders of them, patterns such as 'photos/*.jpg', or - for "
            "a list on standard input."
        )
    return names


def _listed(content: bytes) -> Iterator[str]:
    """The names in a list, which need not be text."""
    by_lines = b"\0" not in content
    for line in content.split(b"\n" if by_lines else b"\0"):
        name = os.fsdecode(line.removesuffix(b"\r") if by_lines else line)
        if name:
            if not os.path.lexists(name):
                _check_no_url(name)
            yield name


def _check_no_url(name: str) -> None:
    if URL.match(name):
        raise UserError(f"{shown(name)}: an address, which is not fetched. Download it, and pass the file.")


def _images_in(folder: str, seen: set[Identity]) -> Iterator[str]:
    """The images in a folder and the folders inside; each folder once, for links may go round in a circle."""
    if (identity := _identity(folder)) in seen:
        return
    seen.add(identity)
    for entry in visible(folder):
        if entry.is_dir():
            yield from _images_in(entry.path, seen)
        elif is_image(entry):
            yield entry.path


def _identity(folder: str | Path) -> Identity:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino
