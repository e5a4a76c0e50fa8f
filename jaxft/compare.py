"""Fine-tuned against from scratch, and other arms: python -m jaxft.compare [PRESET] [--arms …] [--seeds N]."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.table import Table

from configs import PRESETS
from jaxft.arguments import Hosts, starting_point, taken
from jaxft.comparison.arms import ARMS
from jaxft.comparison.plan import Plan, read_plan
from jaxft.comparison.results import ArmResult
from jaxft.comparison.series import Comparison, conclude, opened, run_series
from jaxft.comparison.trials import StoppedError
from jaxft.config import Config, check
from jaxft.console import Terminal
from jaxft.errors import EXIT_NONFINITE, EXIT_STOPPED, run_command
from jaxft.launch import Processes, find
from jaxft.options import Options
from jaxft.parallel import make_deterministic
from jaxft.processes import is_first, joined
from jaxft.report.words import plural
from jaxft.stop import sigterm_interrupts

SEEDS = 5
"""With 3, a t test wants a difference of 2.5 standard deviations to tell it from chance; with 5, of 1.2."""
COLUMNS = (
    ("accuracy", "final_accuracy", 4),
    ("loss", "final_loss", 4),
    ("best", "best_accuracy", 4),
    ("in s", "seconds_to_best", 1),
    ("s a run", "wall_seconds", 1),
)
"""Header, figure and digits after the point."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    name, arguments = parse(sys.argv[1:] if argv is None else argv)
    config, hosts, chosen = arguments.config, arguments.hosts, arguments.comparison
    if config.deterministic:
        make_deterministic()
    flags = Processes(hosts.coordinator, hosts.num_processes, hosts.process_id)
    with joined(find(flags, os.environ), hosts.heartbeat_timeout):
        console = Terminal(soft_wrap=True, highlight=False, quiet=not is_first())
        return compare(Plan(name, config, chosen.arms, chosen.seeds), arguments.options, console)


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


def compare(plan: Plan, options: Options, console: Terminal) -> int:
    """Run the plan, in every process, and tell what came of it; returns the exit status."""
    with opened(plan, options, console) as (out, trials):
        announce(plan, out, console)
        try:
            with sigterm_interrupts():
                series = run_series(trials, options, console)
                comparison = conclude(plan, trials, series, out) if is_first() else None
        except (StoppedError, KeyboardInterrupt) as stopped:
            if isinstance(stopped, KeyboardInterrupt) and jax.process_count() > 1:
                raise
            line = f"stopped; python -m jaxft.compare --resume --out {shlex.quote(str(out))} goes on"
            console.print(line, markup=False)
            return EXIT_STOPPED
        if comparison is not None:
            tell(comparison, plan, out, console)
        return EXIT_NONFINITE if series.diverged else 0


def announce(plan: Plan, out: Path, console: Terminal) -> None:
    """Say what will run."""
    seeds, epochs = plural(plan.num_seeds, "seed", "seeds"), plural(plan.config.epochs, "epoch", "epochs")
    console.print(f"{len(plan.arms)} arms, {seeds} each, {epochs} each; into {out}", markup=False)
    width = max(map(len, plan.arms))
    for name in plan.arms:
        console.print(f"  {name:{width}}  {ARMS[name].description}", markup=False)


def tell(comparison: Comparison, plan: Plan, out: Path, console: Terminal) -> None:
    """Print the table and the verdict, and where the rest is."""
    console.print(result_table(comparison.arms, plan.num_seeds))
    verdict = comparison.verdict
    console.print(f"[bold]{verdict.sentence}[/] {verdict.method}")
    if verdict.winner is None and verdict.pairs:
        more = f"--resume --out {shlex.quote(str(out))} --seeds {2 * plan.num_seeds}"
        console.print(f"More seeds tell more: python -m jaxft.compare {more}", markup=False)
    console.print(
        f"the figure (compare.png, .svg), all numbers (compare.json) and the runs are in {out}; "
        f"look at {out / 'compare.html'}",
        markup=False,
    )


def result_table(arms: Sequence[ArmResult], num_seeds: int) -> Table:
    """A row an arm."""
    over = f"means over {num_seeds} seeds, ± standard error" if num_seeds > 1 else "one seed"
    table = Table(title=f"On the test set after the last epoch; {over}", title_justify="left")
    table.add_column("arm", no_wrap=True)
    for header, _, _ in COLUMNS:
        table.add_column(header, justify="right", no_wrap=True)
    if any(arm.diverged for arm in arms):
        table.add_column("diverged", no_wrap=True)
    for arm in arms:
        row = [arm.name, *figure_cells(arm)]
        if len(table.columns) > len(row):
            row.append(f"{len(arm.diverged)} of {num_seeds}" if arm.diverged else "")
        table.add_row(*row)
    return table


def figure_cells(arm: ArmResult) -> list[str]:
    """An arm's figures, as the table has them."""
    if not arm.figures:
        return [""] * len(COLUMNS)
    mean, error = arm.figures["final_accuracy"]
    accuracy = f"{mean:.4f}" if error is None else f"{mean:.4f} ± {error:.4f}"
    return [accuracy, *(written(arm.figures[name].mean, digits) for _, name, digits in COLUMNS[1:])]


def written(value: float, digits: int) -> str:
    """A number that fits its column, the loss of a network that fell apart too."""
    return f"{value:.{digits}f}" if value < 100_000 else f"{value:.1e}"


if __name__ == "__main__":
    run_command(main)
