"""The command line of `jaxft.compare`, read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from configs import PRESETS
from jaxft.arguments import Hosts, starting_point, taken
from jaxft.checks import check
from jaxft.comparison.arms import ARMS
from jaxft.comparison.plan import read_plan
from jaxft.config import Config
from jaxft.options import Options

SEEDS = 5
"""With 3, a t test wants a difference of 2.5 standard deviations to tell it from chance; with 5, of 1.2."""
ARM_HELP = f"What is compared: {'; '.join(f'{arm.name} ({arm.description})' for arm in ARMS.values())}."


@dataclass(frozen=True)
class ArmsAndSeeds:
    """What is compared, and how often."""

    arms: Annotated[tuple[str, ...], tyro.conf.arg(help=ARM_HELP)] = ("pretrained", "scratch")
    seeds: int = SEEDS
    """Runs of each arm, with --seed, the next one, and so on."""

    def __post_init__(self) -> None:
        check(self.seeds >= 1, f"--seeds {self.seeds}: must be at least 1.")


@dataclass(frozen=True)
class CompareOptions(Options):
    """Where the runs go and what they keep."""

    out: Path | None = None
    """The comparison's folder, in which each run has its own, ARM/seed-S; runs/compare-PRESET-DATE-TIME when not
    given."""
    resume: bool = False
    """Carry on the comparison in --out: runs that have ended stay as they are, and more --seeds and --arms may come."""
    force: bool = False
    """With --resume: also where the config or the data have changed; then runs that have ended are carried on too."""


@dataclass(frozen=True)
class Arguments:
    """What is compared, what a run is, where the runs go, and with which other processes."""

    comparison: ArmsAndSeeds = field(default_factory=ArmsAndSeeds)
    config: Config = field(default_factory=Config)
    options: CompareOptions = field(default_factory=CompareOptions)
    hosts: Hosts = field(default_factory=Hosts)


def parse(argv: Sequence[str]) -> tuple[str, Arguments]:
    """The preset's name and the arguments: a preset, `--config FILE` or the resumed comparison's, changed by the flags.

    It has no name where it is to be resumed from a folder that holds none.

    Raises:
        UserError: no such preset, no such file, or a value that cannot be.
    """
    out, _ = taken(argv, "--out")
    plan = read_plan(Path(out)) if out is not None and "--resume" in argv else None
    name, base, words = starting_point(argv, lambda _: None if plan is None else plan.config)
    chosen = ArmsAndSeeds()
    if plan is not None:
        name, chosen = plan.preset, ArmsAndSeeds(plan.arms, plan.num_seeds)
    arguments = tyro.cli(
        Arguments,
        prog="python -m jaxft.compare [PRESET | --config RUN/config.json]",
        description="Train the same network on the same photographs in several ways, by default fine-tuned against "
        f"from scratch, each with several seeds, and say which is better. PRESET is one of {', '.join(PRESETS)}; demo "
        "when left out. --resume --out FOLDER carries a stopped comparison on. Flags change either; the defaults below "
        f"are those of {name or 'demo'}.",
        args=words,
        default=Arguments(chosen, base),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return name, arguments
