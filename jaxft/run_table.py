"""Runs as a table for people to read, on a terminal of any width."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from jaxft.data.sources import shown
from jaxft.run_list import Listed, differing_flags

Columns = dict[str, list[str]]
"""By name, a text for each run."""

LEAST_ROOM = 24
"""Of the column for what differs, and of the runs' names, in the terminal's cells."""
DISPENSABLE = ("images/s", "time", "when", "epochs", "final")
"""Left out where there is no room for them, in this order."""
RIGHT = {"best", "final", "epochs", "images/s", "time"}
GAP = "  "


def table(runs: Sequence[Listed], top: Path, room: int | None = None) -> list[str]:
    """The lines of a table with a column for each flag that differs; paths are shown from `top` on.

    Where that is wider than `room`, one column has all that differs, and where it still is, others are left out.
    """
    columns = {name: [cell(run, top) for run in runs] for name, cell in CELLS.items()}
    flags = differing_flags(runs)
    values = {flag: [text(run.flags.get(flag)) for run in runs] for flag in flags}
    if room is None or width(columns | values) <= room:
        return joined(columns | values)
    named = [[f"{flag}={text(run.flags.get(flag))}" for flag in flags] for run in runs]
    differing = [" ".join(word for word in words if not word.endswith("=")) for words in named]
    least = LEAST_ROOM + len(GAP) if flags else 0
    left_out = []
    for name in DISPENSABLE:
        if width(columns) + least > room:
            del columns[name]
            left_out.append(name)
    others = width(columns) - max(map(cell_len, columns["run"]))
    columns["run"] = [end_of(name, max(room - least - others, LEAST_ROOM)) for name in columns["run"]]
    lines = wrapped(columns, differing, room) if flags else joined(columns)
    return [*lines, f"no room for {', '.join(left_out)}"] if left_out else lines


def wrapped(columns: Columns, differing: Sequence[str], room: int) -> list[str]:
    """The lines of a table whose last column goes on below where it is too long."""
    before = width(columns)
    header, *rows = joined(columns)
    lines = [f"{filled(header, before)}{GAP}differing"]
    for row, words in zip(rows, differing, strict=True):
        parts = textwrap.wrap(words, max(room - before - len(GAP), LEAST_ROOM), break_on_hyphens=False)
        lines.append(f"{filled(row, before)}{GAP}{parts[0] if parts else ''}".rstrip())
        lines += [" " * before + GAP + part for part in parts[1:]]
    return lines


def joined(columns: Columns) -> list[str]:
    """The lines of a table, the names of its columns first."""
    padded = []
    for name, column in columns.items():
        widest = max(map(cell_len, (name, *column)))
        padded.append([filled(each, widest, right=name in RIGHT) for each in (name, *column)])
    return [GAP.join(row).rstrip() for row in zip(*padded, strict=True)]


def width(columns: Columns) -> int:
    """Cells that the columns take."""
    return sum(max(map(cell_len, (name, *column))) for name, column in columns.items()) + len(GAP) * (len(columns) - 1)


def filled(each: str, cells: int, *, right: bool = False) -> str:
    """A text with the spaces that make it as wide as its column."""
    spaces = " " * (cells - cell_len(each))
    return spaces + each if right else each + spaces


def end_of(name: str, cells: int) -> str:
    """A text without its beginning where it is wider than that."""
    if cell_len(name) <= cells:
        return name
    while cell_len(name) >= cells:
        name = name[1:]
    return f"…{name}"


def text(value: Any) -> str:
    """A flag's value as one reads it; none where it is not given."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(text, value))
    return shown(str(value))


def name_of(run: Listed, top: Path) -> str:
    """Where a run is, from the listed folder on."""
    return shown(run.path if run.path == top else run.path.relative_to(top))


def state_of(run: Listed, _: Path) -> str:
    """The state, and with what has not ended the step that it is at, or from which it can be resumed."""
    step = {"running": run.results.step, "stopped": run.saved_step}.get(run.state)
    if step is None:
        return run.state
    return f"{run.state} {step}/{run.steps}" if run.steps else f"{run.state} {step}"


def epochs_of(run: Listed, _: Path) -> str:
    """How many are done, and of how many where that is not all."""
    done, planned = run.results.epochs, run.flags.get("--epochs")
    if done is None:
        return ""
    return f"{done:.3g}" if run.state == "finished" else f"{done:.3g}/{planned}"


def when_of(run: Listed, _: Path) -> str:
    """In local time."""
    return "" if math.isnan(run.when) else f"{datetime.fromtimestamp(run.when):%Y-%m-%d %H:%M}"


def time_of(run: Listed, _: Path) -> str:
    """Hours, minutes and seconds."""
    if run.results.seconds is None:
        return ""
    minutes, seconds = divmod(round(run.results.seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def accuracy(value: float | None) -> str:
    """With four digits, as a run prints it."""
    return "" if value is None else f"{value:.4f}"


def rate(value: float | None) -> str:
    """Whole images from a thousand on."""
    return "" if value is None else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


CELLS: Mapping[str, Callable[[Listed, Path], str]] = {
    "run": name_of,
    "when": when_of,
    "state": state_of,
    "best": lambda run, _: accuracy(run.results.best_accuracy),
    "final": lambda run, _: accuracy(run.results.final_accuracy),
    "epochs": epochs_of,
    "images/s": lambda run, _: rate(run.results.images_per_second),
    "time": time_of,
}
