"""The runs there are, how good they are and in what they differ: python -m jaxft.runs [DIR]."""

import csv
import json
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxft.checks import check
from jaxft.data.sources import shown
from jaxft.errors import UserError, run_command
from jaxft.run_list import Listed, find_runs, read_run
from jaxft.run_table import table, text

STDOUT = "-"


@dataclass(frozen=True)
class Arguments:
    """List the runs in a folder and in the folders inside it, with a column for each flag in which they differ.

    States: running, at this step of so many; finished; stopped, and --resume goes on from this step; failed, before
    anything was saved; damaged, and a line below the table says in what. Accuracies are those on the test set.
    """

    dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[DIR]")] = Path("runs")
    """The folder; that of one run will do."""
    sort: Literal["date", "accuracy", "final", "name", "seconds", "speed"] = "date"
    """By when it last recorded something, the newest first; by the best accuracy, the final one, or the images per
    second, the highest first; by name; by the seconds that a finished run took. What has none comes last."""
    csv: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Write them as CSV, with every flag, in UTF-8 and quoted as Excel quotes; - for standard output."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Print a JSON object a line, with every flag in config."""

    def __post_init__(self) -> None:
        check(self.csv is None or not self.json, f"--csv {self.csv} and --json: pass one of them.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    arguments = tyro.cli(Arguments, prog="python -m jaxft.runs", args=argv)
    top = arguments.dir
    check(top.is_dir(), f"{top}: no such folder. Pass the one that your runs are in.")
    runs = sorted(map(read_run, find_runs(top)), key=lambda run: sort_key(run, arguments.sort))
    check(bool(runs), f"{top}: no run in it, nor in the folders inside it. Pass the one that your runs are in.")
    output(runs, arguments)
    return 0


def sort_key(run: Listed, by: str) -> tuple[bool, float, str]:
    """A run's place: what has no value comes last, and equals are in the order of their names."""
    upwards = {"seconds": run.results.seconds}
    downwards = {
        "date": None if math.isnan(run.when) else run.when,
        "accuracy": run.results.best_accuracy,
        "final": run.results.final_accuracy,
        "speed": run.results.images_per_second,
    }
    value = (upwards | downwards).get(by)
    return value is None, (value or 0.0) * (-1 if by in downwards else 1), str(run.path)


def output(runs: Sequence[Listed], arguments: Arguments) -> None:
    """Print or write the runs as the arguments want them.

    Raises:
        UserError: the CSV cannot be written.
    """
    if arguments.json:
        for run in runs:
            print(json.dumps(as_json(run)))
    elif arguments.csv == STDOUT:
        csv.writer(sys.stdout).writerows(csv_rows(runs))
    elif arguments.csv is not None:
        try:
            with Path(arguments.csv).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                csv.writer(file).writerows(csv_rows(runs))
        except OSError as error:
            raise UserError(
                f"--csv {arguments.csv}: cannot be written ({error.strerror}). Pass another file."
            ) from None
    else:
        room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(table(runs, arguments.dir, room)))
        for run in runs:
            if run.problem:
                print(f"damaged: {shown(run.path)}: {run.problem}")


def facts(run: Listed) -> dict[str, Any]:
    """What scripts are told of a run; None where it is not known."""
    when = None if math.isnan(run.when) else datetime.fromtimestamp(run.when).astimezone().isoformat("T", "seconds")
    told = {"run": str(run.path), "state": run.state, "problem": run.problem or None, "when": when}
    return told | run.results._asdict() | {"steps": run.steps, "saved_step": run.saved_step}


def as_json(run: Listed) -> dict[str, Any]:
    """A run as an object, its config as by flags without dashes."""
    config = {flag.removeprefix("--").replace("-", "_"): value for flag, value in run.flags.items()}
    return {**facts(run), "config": config}


def csv_rows(runs: Sequence[Listed]) -> Iterator[Sequence[Any]]:
    """A header, and a row a run: the facts and each flag."""
    flags = dict.fromkeys(flag for run in runs for flag in run.flags)
    yield [*facts(runs[0]), *flags]
    for run in runs:
        yield [*facts(run).values(), *(text(run.flags.get(flag)) for flag in flags)]


if __name__ == "__main__":
    run_command(main)
