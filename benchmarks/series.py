"""Series of runs: a fixed draw of photographs, a log of what is finished, and the mean over seeds."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxft.errors import UserError


class Mean(NamedTuple):
    """Over seeds."""

    mean: float
    error: float
    """Its standard error."""

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.error:.4f}"


def mean_of(values: Sequence[float] | np.ndarray) -> Mean:
    """The mean of at least 2 values."""
    return Mean(float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5)


def read_log(log: Path, num_keys: int) -> dict[tuple[Any, ...], list[Any]]:
    """What earlier calls finished: of each line, the first values say which run it was, the others what it gave."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return {tuple(values[:num_keys]): values[num_keys:] for values in map(json.loads, lines)}


def append_log(log: Path, values: Sequence[Any]) -> None:
    """One more finished run."""
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def check_arguments(data: Path, seeds: int) -> None:
    """Photographs are in a train/, and the seeds are enough for a standard error.

    Raises:
        UserError: they are not.
    """
    if not (data / "train").is_dir():
        raise UserError(f"--data {data}: has no train/. Pass a folder with train/ and val/ or test/.")
    if seeds < 2:
        raise UserError(f"--seeds {seeds}: a standard error needs at least 2.")


def subset(data: Path, counts: str, target: Path) -> Path:
    """A folder of links to a fixed draw of the training photographs, such as 500+500, and to all the test photographs.

    Raises:
        UserError: not a number for each class, or more photographs than there are.
    """
    names = sorted(folder.name for folder in (data / "train").iterdir())
    numbers = [int(count) for count in counts.split("+") if count.isdigit()]
    if len(names) != len(numbers):
        raise UserError(f"--subset {counts}: {data / 'train'} has {len(names)} classes. Write it like 500+500.")
    for name, count in zip(names, numbers, strict=True):
        photos = sorted((data / "train" / name).iterdir())
        if count > len(photos):
            raise UserError(f"--subset {counts}: {data / 'train' / name} has {len(photos)} files. Pass at most that.")
        folder = target / "train" / name
        folder.mkdir(parents=True, exist_ok=True)
        for photo in random.Random(0).sample(photos, count):
            link(folder / photo.name, photo)
    for split in ("val", "test"):
        if (data / split).exists():
            link(target / split, data / split)
    return target.resolve()


def link(place: Path, target: Path) -> None:
    """A symbolic link, if it is not there yet."""
    if not place.is_symlink():
        place.symlink_to(target)
