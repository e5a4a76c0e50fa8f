"""What the command line `jaxft.compare` runs once it is read: the comparison, on a terminal."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.table import Table

from jaxft.arguments import Hosts
from jaxft.command import among_processes
from jaxft.comparison.arms import ARMS
from jaxft.comparison.plan import Plan
from jaxft.comparison.results import ArmResult
from jaxft.comparison.series import Comparison, conclude, opened, run_series
from jaxft.comparison.trials import StoppedError
from jaxft.console import Terminal
from jaxft.errors import EXIT_NONFINITE, EXIT_STOPPED
from jaxft.options import Options
from jaxft.processes import is_first
from jaxft.report.words import plural
from jaxft.stop import sigterm_interrupts

COLUMNS = (
    ("accuracy", "final_accuracy", 4),
    ("loss", "final_loss", 4),
    ("best", "best_accuracy", 4),
    ("in s", "seconds_to_best", 1),
    ("s a run", "wall_seconds", 1),
)
"""Header, figure and digits after the point."""


def run(plan: Plan, options: Options, hosts: Hosts) -> int:
    """The comparison, among its other processes; returns the exit status.

    Raises:
        UserError: what the user can mend.
    """
    with among_processes(plan.config, hosts):
        return compare(plan, options, Terminal(soft_wrap=True, highlight=False, quiet=not is_first()))


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
