"""A comparison, whole: its folder, its trials one after the other, and what they come to."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from jaxft.build import reused_rows
from jaxft.comparison.board import Board
from jaxft.comparison.figure import draw_comparison
from jaxft.comparison.page import make_page
from jaxft.comparison.plan import Plan, Trial, make_trials, read_plan, write_plan
from jaxft.comparison.results import ArmResult, arm_result, content, figures_of
from jaxft.comparison.trials import Outcome, has_ended, read_outcome, run_trial
from jaxft.comparison.verdict import Verdict, judge
from jaxft.config_file import read_config
from jaxft.console import Display, Terminal
from jaxft.data.load import open_splits
from jaxft.data.sources import Splits, Subset
from jaxft.errors import UserError
from jaxft.options import Options
from jaxft.parallel import all_devices
from jaxft.processes import agreed, is_first, told_by_first
from jaxft.report.page import data_name
from jaxft.report.words import plural
from jaxft.resume import check_config
from jaxft.run_folder import find_run_folder, held, holds_run, make_new_folder, replace_text, writing
from jaxft.training import open_inputs


class Comparison(NamedTuple):
    """What is told of a comparison."""

    arms: Sequence[ArmResult]
    verdict: Verdict


class Diverged(NamedTuple):
    """A trial whose loss became infinite or NaN, and where."""

    trial: Trial
    why: str


class Series(NamedTuple):
    """What the trials came to; outcomes are in process 0 alone."""

    outcomes: Sequence[Outcome]
    diverged: Sequence[Diverged]
    test_per_train: float | None
    """Test images over training images, where each seed has a split of its own."""


@contextmanager
def opened(plan: Plan, options: Options, console: Console) -> Iterator[tuple[Path, Sequence[Trial]]]:
    """The comparison's folder, kept from other processes, and its trials, once it is known that each can begin.

    Raises:
        UserError: what the user can mend.
    """
    out = agreed(lambda: find_folder(plan, options) if is_first() else Path())
    num_devices = len(agreed(lambda: all_devices(plan.config.devices)))
    agreed(lambda: check_trials(make_trials(plan, out), options, num_devices, console))
    with ExitStack() as stack:
        out = agreed(lambda: hold_folder(out, plan, options, stack) if is_first() else out)
        yield out, make_trials(plan, out)


def find_folder(plan: Plan, options: Options) -> Path:
    """Where the comparison goes; nothing is written yet.

    Raises:
        UserError: it holds another one, or a run, or it cannot be written.
    """
    if options.out is not None and holds_run(options.out):
        raise UserError(f"--out {options.out}: holds a run, and no comparison. Pass another --out.")
    out = find_run_folder(options.out, plan.preset and f"compare-{plan.preset}", resume=options.resume)
    before = read_plan(out)
    if before is not None and not options.resume:
        raise UserError(f"--out {out} holds a comparison already. Pass --resume to carry it on, or another --out.")
    if before is not None:
        check_config(before.config, plan.config, force=options.force)
    return out


def check_trials(trials: Sequence[Trial], options: Options, num_devices: int, console: Console) -> None:
    """Look at what each arm starts from, and at the runs that are there; say what is to be known of the data.

    Raises:
        UserError: an arm that cannot begin, or a run with another config.
    """
    for trial in trials if is_first() else ():
        if holds_run(trial.folder) and not has_ended(trial):
            check_config(read_config(trial.folder / "config.json"), trial.config, force=options.force)
    seen: set[str] = set()
    for trial in trials:
        if trial.arm not in seen:
            # The notes are of the data, and so the same for every arm.
            display = Display(Terminal(quiet=True) if seen else console, 1)
            try:
                check_start(trial, options, num_devices, display)
            except UserError as error:
                raise UserError(f"{trial.arm}: {error}") from None
            seen.add(trial.arm)


def check_start(trial: Trial, options: Options, num_devices: int, display: Display) -> None:
    """Raise a UserError where a trial cannot begin."""
    config, options = trial.config, replace(options, out=trial.folder, resume=True)
    inputs = open_inputs(trial.name, config, options, None, num_devices, display)
    class_names = inputs.splits.train.class_names
    rows = reused_rows(config.model, class_names, inputs.pretrained)
    if rows is not None and all(row.source_index is None for row in rows):
        raise UserError(
            f"--head reuse: {config.model.weights} knows none of {', '.join(class_names)}. "
            "Say with --head-map which of its classes to take, or leave this arm out."
        )


def hold_folder(out: Path, plan: Plan, options: Options, stack: ExitStack) -> Path:
    """Make the folder and keep other processes out of it; where its name was not given, it may get a number."""
    if options.out is None:
        out = make_new_folder(out)
    stack.enter_context(held(out, new=False))
    write_plan(out, plan)
    return out


def run_series(trials: Sequence[Trial], options: Options, console: Console) -> Series:
    """Run every trial that has not ended, in every process.

    Raises:
        StoppedError: by a signal.
        UserError: what the user can mend; it names the trial.
    """
    outcomes: list[Outcome] = []
    diverged: list[Diverged] = []
    tests: set[tuple[int, ...] | None] = set()
    num_train = num_test = 1
    with Board(console, len(trials), trials[0].config.epochs) as board:
        for _, of_seed in groupby(trials, lambda trial: trial.seed):
            first, *rest = of_seed
            splits = agreed(partial(open_splits, first.config, options.cache_folder))
            tests.add(tuple(splits.test.rows) if isinstance(splits.test, Subset) else None)
            num_train, num_test = len(splits.train), len(splits.test)
            for trial in (first, *rest):
                came_to = run_trial_on(board, trial, splits, options)
                if isinstance(came_to, Diverged):
                    diverged.append(came_to)
                elif came_to is not None:
                    outcomes.append(came_to)
    return Series(outcomes, diverged, num_test / num_train if len(tests) > 1 else None)


def run_trial_on(board: Board, trial: Trial, splits: Splits, options: Options) -> Outcome | Diverged | None:
    """Run a trial and say how it went; None in another process than 0, unless it diverged."""
    ended_before = told_by_first(has_ended(trial))
    board.began(trial)
    try:
        why = run_trial(trial, splits, options, board)
        if why is not None:
            board.ended(f"{why} The others go on." if board.left > 1 else why, ran=True)
            return Diverged(trial, why)
        if not is_first():
            return None
        outcome = read_outcome(trial, splits)
    except UserError as error:
        raise UserError(f"{trial.name}: {error}") from None
    words = outcome_words(outcome)
    board.ended(f"there already, {words}" if ended_before else words, ran=not ended_before)
    return outcome


def outcome_words(outcome: Outcome) -> str:
    """A trial in a line."""
    figures = figures_of(outcome)
    return (
        f"test accuracy {figures['final_accuracy']:.4f} (best {figures['best_accuracy']:.4f}), "
        f"{figures['wall_seconds']:.0f} s"
    )


def conclude(plan: Plan, trials: Sequence[Trial], series: Series, out: Path) -> Comparison:
    """What the series says, written into the comparison's folder; in process 0.

    Raises:
        UserError: it cannot be written.
    """
    arms = []
    for name in plan.arms:
        outcomes = [outcome for outcome in series.outcomes if outcome.trial.arm == name]
        diverged = {trial.seed: why for trial, why in series.diverged if trial.arm == name}
        arms.append(arm_result(next(trial for trial in trials if trial.arm == name), outcomes, diverged))
    hits = {arm.name: {outcome.trial.seed: outcome.hits for outcome in arm.outcomes} for arm in arms if arm.outcomes}
    comparison = Comparison(arms, judge(hits, series.test_per_train))
    page = make_page(plan, *comparison, out)
    with writing(out):
        draw_comparison(arms, figure_title(plan), [out / "compare.png", out / "compare.svg"])
        replace_text(out / "compare.html", page)
        replace_text(out / "compare.json", json.dumps(content(plan, *comparison), indent=2) + "\n")
    return comparison


def figure_title(plan: Plan) -> str:
    """What was compared, in a line."""
    config, seeds = plan.config, plan.num_seeds
    what = f"{config.model.arch} on {data_name(config.data)}, {plural(config.epochs, 'epoch', 'epochs')}"
    start = f"{what}; test accuracy after the last"
    return start if seeds == 1 else f"{start}: mean ± standard error of {seeds} seeds"
