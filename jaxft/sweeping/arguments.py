"""The command line of `jaxft.sweep`, read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from configs import PRESETS
from jaxft.arguments import starting_point, taken
from jaxft.checks import check
from jaxft.config import Config
from jaxft.options import Options
from jaxft.sweeping.folder import Plan, read_plan
from jaxft.sweeping.grid import Grid, parse_values, take_grid

SEEDS = 3
AROUND = 10 ** (1 / 2)
"""Without any list, the rates of the preset divided and multiplied by this, and by its square."""


@dataclass(frozen=True)
class HowOften:
    """With how many seeds, and how long."""

    seeds: int = SEEDS
    """Runs of each recipe, with --seed, the next one, and so on."""
    halving: int | None = None
    """Successive halving: after a few epochs leave one in so many of the recipes, after a few more one in so many of
    these, and so on; 3, say. All of --epochs when not given."""

    def __post_init__(self) -> None:
        check(self.seeds >= 1, f"--seeds {self.seeds}: must be at least 1.")
        check(self.halving is None or self.halving >= 2, f"--halving {self.halving}: must be at least 2, e.g. 3.")


@dataclass(frozen=True)
class SweepOptions(Options):
    """Where the results go and what is kept."""

    out: Path | None = None
    """The sweep's folder; runs/sweep-PRESET-DATE-TIME when not given."""
    resume: bool = False
    """Carry on the sweep in --out: members that have ended stay as they are."""
    force: Annotated[bool, tyro.conf.Suppress] = False
    keep: Annotated[int, tyro.conf.Suppress] = 1
    save_minutes: Annotated[float, tyro.conf.Suppress] = 1.0
    tensorboard: Annotated[bool, tyro.conf.Suppress] = False
    wandb: Annotated[str | None, tyro.conf.Suppress] = None


@dataclass(frozen=True)
class Arguments:
    """How often, what a run is, and where the results go."""

    sweep: HowOften = field(default_factory=HowOften)
    config: Config = field(default_factory=Config)
    options: SweepOptions = field(default_factory=SweepOptions)


def parse(argv: Sequence[str]) -> tuple[Plan, SweepOptions]:
    """The plan: a preset, `--config FILE` or the resumed sweep's, changed by the flags; lists of values are its grid.

    Raises:
        UserError: no such preset, no such file, or a value that cannot be.
    """
    grid, words = take_grid(argv)
    out, _ = taken(words, "--out")
    before = read_plan(Path(out)) if out is not None and "--resume" in words else None
    name, base, words = starting_point(words, lambda _: None if before is None else before.config)
    often = HowOften()
    if before is not None:
        name, often, grid = before.preset, HowOften(before.num_seeds, before.halving), grid or before.grid
    arguments = tyro.cli(
        Arguments,
        prog="python -m jaxft.sweep [PRESET | --config RUN/config.json]",
        description="Try recipes on your photographs, each with several seeds, as one program, and say which is best "
        "by training images that are held out. A flag that takes a number or a choice may have several values: --lr "
        "1e-4:1e-1:8 (eight, with the same ratio from each to the next), --weight-decay 0,1e-4, --freeze none,layer2; "
        f"all combinations are tried. Without any, five rates around --lr are. PRESET is one of {', '.join(PRESETS)}; "
        f"demo when left out. The defaults below are those of {name or 'demo'}.",
        args=words,
        default=Arguments(often, base),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    config = arguments.config
    plan = Plan(name, config, grid or rates_around(config), arguments.sweep.seeds, arguments.sweep.halving)
    return plan, arguments.options


def rates_around(config: Config) -> Grid:
    """Five learning rates."""
    return {"--lr": parse_values("--lr", f"{config.optim.lr / AROUND**2}:{config.optim.lr * AROUND**2}:5")}
