"""Heat maps of many photographs, in a folder of their own."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import PIL.Image

from jaxft.classifier import Prediction
from jaxft.data.sources import shown
from jaxft.errors import UserError
from jaxft.overlay import overlay

SUFFIX = ".cam.jpg"
LONGEST = 255
"""Bytes of a name on a disk."""


class HeatMaps(NamedTuple):
    """Where the heat maps of photographs go: to their own paths from `root` on, in `folder`. Made by `of`."""

    folder: Path
    root: str

    @classmethod
    def of(cls, files: Sequence[str], folder: Path) -> "HeatMaps":
        """Those of these files; makes the folder.

        Raises:
            UserError: one would be written over a photograph or have too long a name, or the folder cannot be made.
        """
        made = cls(folder, os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]))
        photographs = {_without_links(file) for file in files}
        for file in files:
            place = made.place(file)
            if _without_links(place) in photographs:
                raise UserError(
                    f"--cam {shown(folder)}: {shown(place)} is one of the photographs, and would be overwritten by the "
                    f"heat map of {shown(file)}. Pass another folder."
                )
            if len(os.fsencode(place.name)) > LONGEST:
                raise UserError(f"--cam {shown(folder)}: the name of {shown(file)} is too long to add {SUFFIX} to it.")
        with writing(folder, folder):
            folder.mkdir(parents=True, exist_ok=True)
        return made

    def place(self, file: str) -> Path:
        """The file of a photograph's heat map."""
        return self.folder / (os.path.relpath(os.path.abspath(file), self.root) + SUFFIX)

    def save(self, file: str, prediction: Prediction) -> None:
        """Write where the network saw the class that it names.

        Raises:
            UserError: it cannot be written.
        """
        assert prediction.probabilities is not None
        assert prediction.crop is not None
        assert prediction.maps is not None
        image = PIL.Image.fromarray(overlay(prediction.crop, prediction.maps[..., prediction.probabilities.argmax()]))
        place = self.place(file)
        with writing(self.folder, place):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)  # A link would be written through.
            image.save(place, quality=90, subsampling=0)


def _without_links(file: str | Path) -> str:
    """A file's place, whatever the links that lead to its folder."""
    folder, name = os.path.split(file)
    return os.path.join(os.path.realpath(folder), name)


@contextmanager
def writing(folder: Path, place: Path) -> Iterator[None]:
    """A mishap in writing becomes a UserError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"--cam {shown(folder)}: {shown(place)} cannot be written ({reason}). Pass another folder."
        ) from None
