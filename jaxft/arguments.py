"""The command line of a run: a preset or a config, changed by flags, and where and how it runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from configs import PRESETS, preset
from jaxft.checks import check, check_choices
from jaxft.config import Config
from jaxft.config_file import read_config
from jaxft.options import Options
from jaxft.run_folder import holds_run


@dataclass(frozen=True)
class Hosts:
    """Several processes as one run."""

    coordinator: str | None = None
    """With several processes: HOST:PORT of process 0. SLURM, Open MPI and Cloud TPU say all three themselves."""
    num_processes: int | None = None
    """How many processes there are; 1 keeps to this one whatever a launcher says."""
    process_id: int | None = None
    """Which of them this is, counted from 0."""
    heartbeat_timeout: int = 60
    """Seconds after which the other processes stop when one is lost."""

    def __post_init__(self) -> None:
        check(
            self.num_processes is None or self.num_processes >= 1,
            f"--num-processes {self.num_processes}: must be at least 1.",
        )
        check(self.heartbeat_timeout >= 1, f"--heartbeat-timeout {self.heartbeat_timeout}: must be at least 1.")


@dataclass(frozen=True)
class Finder:
    """Whether the recipe is to be found first."""

    recipe: Literal["preset", "auto"] = "preset"
    """auto finds out by short sweeps, on training images that are held out, which stages train, at which rates and by
    which schedule, and then trains so on all of them."""
    budget: float = 10.0
    """With --recipe auto: minutes, half of them for the sweeps."""

    def __post_init__(self) -> None:
        check_choices(self)
        check(
            math.isfinite(self.budget) and self.budget > 0,
            f"--budget {self.budget}: must be more than 0 minutes, e.g. 10.",
        )


@dataclass(frozen=True)
class Arguments:
    """What the run is, how its recipe is found, where it goes, and with which other processes."""

    config: Config = field(default_factory=Config)
    finder: Finder = field(default_factory=Finder)
    options: Options = field(default_factory=Options)
    hosts: Hosts = field(default_factory=Hosts)


def parse(argv: Sequence[str]) -> tuple[str, Arguments]:
    """The run's name and arguments: a preset, `--config FILE` or the resumed run's config, changed by the flags.

    It has no name where it is to be resumed from a folder that holds none.

    Raises:
        UserError: no such preset, no such file, or a value that cannot be.
    """
    name, base, words = starting_point(argv, lambda out: read_config(out / "config.json") if holds_run(out) else None)
    arguments = tyro.cli(
        Arguments,
        prog="python -m jaxft.train [PRESET | --config RUN/config.json]",
        description=f"Fine-tune a ResNet on photographs. PRESET is one of {', '.join(PRESETS)}; demo when left out. "
        "--config runs a finished run again, --resume --out RUN carries a stopped one on. Flags change either; the "
        f"defaults below are those of {name or 'demo'}.",
        args=words,
        default=Arguments(base),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return name, arguments


def starting_point(argv: Sequence[str], resumed: Callable[[Path], Config | None]) -> tuple[str, Config, list[str]]:
    """What the flags change, its name, and the words without it; `resumed` gives the config that a folder holds.

    Raises:
        UserError: no such preset, or no such file.
    """
    path, words = taken(argv, "--config")
    if path is not None:
        return Path(path).absolute().parent.name, read_config(Path(path)), words
    if words and not words[0].startswith("-"):
        return words[0], preset(words[0]), words[1:]
    if "--resume" not in words:
        return "demo", preset("demo"), words
    out, _ = taken(argv, "--out")
    found = None if out is None else resumed(Path(out))
    if out is None or found is None:
        return "", preset("demo"), words
    return Path(out).name, found, words


def taken(words: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of a flag, written `--flag value` or `--flag=value`, and the words without the two."""
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            return words[i + 1], [*words[:i], *words[i + 2 :]]
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}="), [*words[:i], *words[i + 1 :]]
    return None, list(words)
