"""The command line of `jaxft.lrfind`, read."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import tyro

from configs import PRESETS
from jaxft.arguments import starting_point, taken
from jaxft.checks import check
from jaxft.config import Config
from jaxft.options import Options
from jaxft.range_test.ramp import Ramp

SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Figure:
    """Where the figure goes."""

    out: Path = Path("lrfind.png")
    """The figure, loss against learning rate; its folder must be there, and its name ends in .png, .svg or .pdf."""

    def __post_init__(self) -> None:
        check(
            self.out.suffix.lower() in SUFFIXES,
            f"--out {self.out}: a figure ends in {', '.join(SUFFIXES)}. Pass --out {self.out.with_suffix('.png')}."
            if self.out.name
            else f"--out {self.out}: not a file. Pass --out lrfind.png.",
        )
        check(
            self.out.parent.is_dir() and not self.out.is_dir(),
            f"--out {self.out}: {'that is a folder' if self.out.is_dir() else f'no folder {self.out.parent}'}. "
            f"Make it, or pass --out {self.out.name}.",
        )


@dataclass(frozen=True)
class Caches:
    """What is kept for the next time."""

    cache_dir: Path | None = None
    """Where decoded images, compiled steps and downloads are kept; ~/.cache/jaxft when not given."""
    cache: bool = True
    """Keep decoded images and compiled steps, for the run too."""
    cache_limit: float = Options.cache_limit
    """GB of decoded images that are kept; those that no run has used for longest go first."""


@dataclass(frozen=True)
class Arguments:
    """Which rates are tried, where the figure goes, and what the run is."""

    ramp: Ramp = field(default_factory=Ramp)
    figure: Figure = field(default_factory=Figure)
    config: Config = field(default_factory=Config)
    caches: Caches = field(default_factory=Caches)


class Asked(NamedTuple):
    """A command line, read: the run's name and the arguments, and the words of it that are a run's."""

    name: str
    arguments: Arguments
    words: Sequence[str]

    @property
    def options(self) -> Options:
        """The caches, as a run has them."""
        caches = self.arguments.caches
        return Options(cache_dir=caches.cache_dir, cache=caches.cache, cache_limit=caches.cache_limit)

    def command(self, lr: float) -> str:
        """The command line of the run at this rate."""
        return shlex.join(["python", "-m", "jaxft.train", *self.words, "--lr", f"{lr:g}"])


def parse(argv: Sequence[str]) -> Asked:
    """A preset, or `--config FILE`, changed by the flags.

    Raises:
        UserError: no such preset, no such file, or a value that cannot be.
    """
    name, base, words = starting_point(argv, lambda _: None)
    arguments = tyro.cli(
        Arguments,
        prog="python -m jaxft.lrfind [PRESET | --config RUN/config.json]",
        description="Find a learning rate: train from the run's start while the rate rises at each update, draw the "
        "loss against it, and print the rate in the middle of the valley and the command line of the run at that rate. "
        "All other rates keep their ratio to --lr, which is not used itself; nor is a schedule. Nothing is evaluated "
        f"or kept but the figure. PRESET is one of {', '.join(PRESETS)}; demo when left out. Flags change it; the "
        f"defaults below are those of {name or 'demo'}.",
        args=words,
        default=Arguments(config=base),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return Asked(name, arguments, words_of_run(argv))


def words_of_run(argv: Sequence[str]) -> list[str]:
    """A command line without this command's own flags, and without --lr."""
    words = list(argv)
    for name in ("lr", "out", *(each.name for each in fields(Ramp))):
        for flag in dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")):
            value = ""
            while value is not None:
                value, words = taken(words, flag)
    return words
