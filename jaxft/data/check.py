"""Is a set sound? Decode every image and say what is wrong: python -m jaxft.data.check SPEC."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jaxft.config import Config, ImageConfig
from jaxft.data.counts import class_counts, summary
from jaxft.data.findings import Finding, findings
from jaxft.data.health import Facts, Health, examine_splits
from jaxft.data.load import open_splits
from jaxft.data.sources import Splits
from jaxft.data.traits import TRAITS
from jaxft.download import cache_folder
from jaxft.errors import EXIT_FOUND, run_command

LISTED = 5
LISTED_CLASSES = 20


@dataclass(frozen=True)
class Arguments:
    """Decode every image of a set and say what is wrong with it; exit status 1 where something is.

    Wrong are images that cannot be decoded, the same image in training and test, in two classes, or twice in one, and
    classes with hardly an image. Pictures that look nearly the same, misnamed files and unbalanced classes are hints.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SPEC")]
    """As for train: demo, a folder of class folders, a .zip of one at an http(s) address, a .csv file, or tfds:NAME."""
    val_fraction: float = 0.2
    """Share of each class kept for evaluation when the folder has no val/ or test/."""
    seed: int = 0
    """Of that split."""
    tfds_dir: str | None = None
    """As for train."""
    train_split: str | None = None
    """As for train."""
    test_split: str | None = None
    """As for train."""
    cache_dir: Path | None = None
    """Where downloads are kept; ~/.cache/jaxft when not given."""
    all: bool = False
    """List every image and class, not the first few."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    arguments = tyro.cli(Arguments, prog="python -m jaxft.data.check", args=argv)
    config = Config(
        data=arguments.data,
        images=ImageConfig(val_fraction=arguments.val_fraction),
        seed=arguments.seed,
        tfds_dir=arguments.tfds_dir,
        train_split=arguments.train_split,
        test_split=arguments.test_split,
    )
    console = Console(soft_wrap=True, highlight=False)
    splits = open_splits(config, arguments.cache_dir or cache_folder())
    with bars(console) as progress:
        health = examine_splits(splits, progress)
    found = findings(splits, health)
    for note in splits.notes:
        console.print(note, markup=False)
    if len(splits.train.class_names) <= LISTED_CLASSES or arguments.all:
        console.print(class_table(splits))
    else:
        console.print(summary(splits.train.class_names, class_counts(splits.train)), markup=False)
    console.print(image_table(health))
    for line in finding_lines(found, None if arguments.all else LISTED):
        console.print(line, markup=False)
    console.print(verdict(found), markup=False)
    return EXIT_FOUND if any(finding.wrong for finding in found) else 0


@contextmanager
def bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each thing that is done, on a terminal; nothing elsewhere."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        yield show


def class_table(splits: Splits) -> Table:
    """How many images each class has."""
    table = counted("class")
    train, test = class_counts(splits.train), class_counts(splits.test)
    for name, *counts in zip(splits.train.class_names, train, test, strict=True):
        table.add_row(escape(name), *(f"{count:,}" for count in counts))
    table.add_section()
    table.add_row("all", *(f"{counts.sum():,}" for counts in (train, test)))
    return table


def image_table(health: Health) -> Table:
    """Sizes, formats and what is out of the ordinary; kinds that do not occur have no row."""
    table = counted("height × width")
    rows = list(zip(*(sizes(split) for split in health), strict=True))
    for name, row in zip(("smallest", "median", "largest"), rows, strict=True):
        table.add_row(name, *row)
    for kinds in (formats(health), TRAITS, ("cannot be decoded",)):
        table.add_section()
        for kind in kinds:
            numbers = [sum(has(facts, kind) for facts in split) for split in health]
            if any(numbers):
                table.add_row(kind, *(f"{number:,}" for number in numbers))
    return table


def counted(what: str) -> Table:
    """An empty table with a column for each split."""
    table = Table(what)
    for split in ("training", "test"):
        table.add_column(split, justify="right")
    return table


def sizes(split: Sequence[Facts]) -> tuple[str, str, str]:
    """The smallest and the largest picture by its pixels, and between them the median height and width."""
    found = np.array([facts.size for facts in split if not facts.bad])
    if not len(found):
        return "", "", ""
    order = found.prod(axis=1).argsort(kind="stable")
    three = found[order[0]], np.median(found, axis=0).round().astype(int), found[order[-1]]
    small, middle, large = (f"{height} × {width}" for height, width in three)
    return small, middle, large


def formats(health: Health) -> list[str]:
    """Every format, the most frequent first."""
    return [kind for kind, _ in Counter(f.format for split in health for f in split if not f.bad).most_common()]


def has(facts: Facts, kind: str) -> bool:
    """Whether an image is of a format, or has a trait, or cannot be decoded."""
    return bool(facts.bad) if kind == "cannot be decoded" else kind == facts.format or kind in facts.traits


def finding_lines(found: Sequence[Finding], most: int | None) -> list[str]:
    """Each finding, and the first `most` images that it is of."""
    lines = []
    for finding in found:
        lines.append(f"{'wrong' if finding.wrong else 'hint'}: {finding.title}. {finding.remedy}".rstrip())
        lines += [f"  {line}" for line in finding.lines[:most]]
        left = len(finding.lines) - len(finding.lines[:most])
        lines += [f"  and {left:,} more: --all lists them"] if left else []
    return lines


def verdict(found: Sequence[Finding]) -> str:
    """The last line: all that is wrong."""
    wrong = "; ".join(finding.title for finding in found if finding.wrong)
    return f"wrong: {wrong}" if wrong else "nothing wrong found"


if __name__ == "__main__":
    run_command(main)
