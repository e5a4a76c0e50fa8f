"""What the command line `jaxft.sweep` runs once it is read: the sweep, on a terminal."""

import json
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxft.compiled import keep_compiled
from jaxft.config import Config
from jaxft.config_file import to_json
from jaxft.console import Terminal, live_line
from jaxft.errors import EXIT_STOPPED
from jaxft.model_file import describe_model, save_model
from jaxft.options import Options
from jaxft.parallel import make_deterministic
from jaxft.report.page import data_name
from jaxft.report.words import plural
from jaxft.run_folder import held, make_new_folder, replace_text, writing
from jaxft.stop import sigterm_interrupts
from jaxft.sweeping.choice import Ranked
from jaxft.sweeping.figure import draw_sweep
from jaxft.sweeping.fit_many import Hooks, Sweep, fit_many
from jaxft.sweeping.folder import Plan, append_members, find_folder, read_members, write_members, write_plan
from jaxft.sweeping.grid import changes_of, in_words, recipes_of

SHOWN = 12
"""Recipes in the table; sweep.json has all."""
BEST_FILE, SOUP_FILE = "best.json", "soup.safetensors"


def run(plan: Plan, options: Options) -> int:
    """The sweep; returns the exit status.

    Raises:
        UserError: what the user can mend.
    """
    if plan.config.deterministic:
        make_deterministic()
    console, configs = Terminal(soft_wrap=True, highlight=False), recipes_of(plan.config, plan.grid)
    out = find_folder(plan, options.out, resume=options.resume)
    if options.cache:
        keep_compiled(options.cache_folder)
    with ExitStack() as stack:
        if options.out is None:
            out = make_new_folder(out)
        stack.enter_context(held(out, new=False))
        write_plan(out, plan)
        many = f"{plural(len(configs), 'recipe', 'recipes')}, {plural(plan.num_seeds, 'seed', 'seeds')} each"
        console.print(f"{many}, {plural(plan.config.epochs, 'epoch', 'epochs')}; into {out}", markup=False)
        without_effect = {"--parallel pmap": plan.config.parallel == "pmap", "--no-sync-bn": not plan.config.sync_bn}
        for flag in (flag for flag, given in without_effect.items() if given):
            console.print(f"{flag} changes nothing here: each member sees whole batches on one device", markup=False)
        try:
            with sigterm_interrupts():
                sweep = watched(plan, configs, options, out, console)
                write_results(plan, configs, sweep, out)
        except KeyboardInterrupt:
            again = f"python -m jaxft.sweep --resume --out {shlex.quote(str(out))} goes on"
            console.print(f"stopped; {again}", markup=False)
            return EXIT_STOPPED
        tell(plan, configs, sweep, out, console)
    return 0


def watched(plan: Plan, configs: Sequence[Config], options: Options, out: Path, console: Console) -> Sweep:
    """The sweep with a bar on a terminal; members that have ended are kept in its folder."""
    known = read_members(out) if options.resume else []
    write_members(out, known)
    with live_line(console) as bar:
        before = bar.add_task("", total=1, status="", visible=False)
        left = len(configs) * plan.num_seeds - len(known)
        task = bar.add_task("training", total=left * plan.config.epochs, status="")

        def progress(what: str, done: int, total: int) -> None:
            bar.update(before, description=what, completed=done, total=total, visible=done < total)

        def say(line: str) -> None:
            bar.console.print(line, markup=False)

        hooks = Hooks(say, progress, lambda num: bar.advance(task, num), lambda members: append_members(out, members))
        return fit_many(configs, seeds=plan.seeds, halving=plan.halving, options=options, known=known, hooks=hooks)


def best_config(configs: Sequence[Config], sweep: Sweep) -> Config:
    """The best recipe's, to train on the whole training set."""
    config = configs[sweep.ranked[0].recipe]
    return replace(config, images=replace(config.images, holdout=0.0))


def write_results(plan: Plan, configs: Sequence[Config], sweep: Sweep, out: Path) -> None:
    """The table as JSON, the figure, the best recipe's config, and the soup where it is better."""
    config = best_config(configs, sweep)
    title = f"{config.model.arch} on {data_name(config.data)}, {plural(config.epochs, 'epoch', 'epochs')}, "
    title += f"{plural(plan.num_seeds, 'seed', 'seeds')}: mean ± standard error"
    with writing(out):
        replace_text(out / BEST_FILE, to_json(config))
        replace_text(out / "sweep.json", as_json(content(plan, configs, sweep)))
        draw_sweep(configs, plan.grid, sweep.ranked, title, [out / "sweep.png", out / "sweep.svg"])
        if has_soup(sweep) and sweep.averages is not None:
            save_model(out / SOUP_FILE, sweep.averages.variables, describe_model(config, sweep.class_names))


def as_json(value: Any) -> str:
    """Pretty, with null for what is not finite: JSON knows no NaN."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), indent=2) + "\n"


def has_soup(sweep: Sweep) -> bool:
    """Whether a mean of weights is better than the best member."""
    return sweep.averages is not None and len(sweep.averages.soup.members) > 1


def content(plan: Plan, configs: Sequence[Config], sweep: Sweep) -> dict[str, Any]:
    """What sweep.json holds."""
    rows = [
        {
            "flags": changes_of(configs[each.recipe], plan.grid),
            "epochs": each.num_epochs,
            "accuracy": each.accuracy,
            "standard_error": each.error,
            "loss": each.loss,
            "members": [member._asdict() for member in each.members],
        }
        for each in sweep.ranked
    ]
    averages = sweep.averages and {
        name: {"accuracy": average.accuracy, "loss": average.loss, "members": len(average.members)}
        for name, average in (("soup", sweep.averages.soup), ("ensemble", sweep.averages.ensemble))
    }
    return {"held-out images": "the figures are on these", "recipes": rows, "averages": averages}


def tell(plan: Plan, configs: Sequence[Config], sweep: Sweep, out: Path, console: Console) -> None:
    """Print the table and what to do with it."""
    console.print(result_table(plan, configs, sweep.ranked))
    best = sweep.ranked[0]
    flags = in_words(changes_of(configs[best.recipe], plan.grid))
    console.print(f"best by the held-out images: [bold]{flags}[/]")
    for line in edge_notes(plan, configs[best.recipe]):
        console.print(line, markup=False)
    if sweep.averages is not None:
        for line in average_notes(sweep, out):
            console.print(line, markup=False)
    again = f"python -m jaxft.train --config {shlex.quote(str(out / BEST_FILE))}"
    console.print(f"to train it on all training images: {again}", markup=False)
    console.print(f"the figure (sweep.png, .svg) and all numbers (sweep.json) are in {out}", markup=False)


def edge_notes(plan: Plan, config: Config) -> Sequence[str]:
    """Where the best value is the first or the last of a row of numbers, a better one may lie beyond."""
    notes = []
    for flag, value in changes_of(config, plan.grid).items():
        values = sorted(each for each in plan.grid[flag] if isinstance(each, int | float))
        if len(values) > 2 and value in (values[0], values[-1]) and value != 0:
            notes.append(f"{flag} {value:g} is at the edge of what was tried: a better one may lie beyond")
    return notes


def average_notes(sweep: Sweep, out: Path) -> Sequence[str]:
    """What averages of the best members reach."""
    assert sweep.averages is not None
    best, soup, ensemble, _ = sweep.averages
    alone = f"the best member alone: accuracy {best.epochs[-1].accuracy:.4f}, loss {best.epochs[-1].loss:.4f}"
    notes = []
    for name, average in (("mean of weights (soup)", soup), ("mean of logits (ensemble)", ensemble)):
        if len(average.members) > 1:
            figures = f"accuracy {average.accuracy:.4f}, loss {average.loss:.4f}"
            notes.append(f"{name} of {len(average.members)} members: {figures}; {alone}")
    if has_soup(sweep):
        predict = f"python -m jaxft.predict {shlex.quote(str(out / SOUP_FILE))} PHOTOS"
        notes.append(f"the soup is a model of its own: {predict}")
    return notes or ["no average of the best members is better than the best one on the held-out images"]


def result_table(plan: Plan, configs: Sequence[Config], ranked: Sequence[Ranked]) -> Table:
    """A row a recipe, the best ones."""
    over = f"means over {plan.num_seeds} seeds, ± standard error" if plan.num_seeds > 1 else "one seed"
    table = Table(title=f"On the held-out images; {over}", title_justify="left")
    for flag in plan.grid:
        table.add_column(flag, justify="right", no_wrap=True)
    for header in ("accuracy", "loss", *(("epochs",) if plan.halving else ())):
        table.add_column(header, justify="right", no_wrap=True)
    for each in ranked[:SHOWN]:
        values = changes_of(configs[each.recipe], plan.grid).values()
        error = "" if each.error is None else f" ± {each.error:.4f}"
        row = [*(f"{value:g}" if isinstance(value, float) else str(value) for value in values)]
        row += [f"{each.accuracy:.4f}{error}", f"{each.loss:.4f}", *((str(each.num_epochs),) if plan.halving else ())]
        table.add_row(*row)
    if len(ranked) > SHOWN:
        table.caption = f"{len(ranked) - SHOWN} more are in sweep.json"
    return table
