"""Predictions as rows: for a terminal, for scripts, as CSV and as lines of JSON; each is written as it comes."""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TextIO

import numpy as np
from jaxtyping import Float
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from jaxft.data.sources import shown

LEAST_ROOM = 24
"""Of a path, in the terminal's cells, however many classes stand beside it."""


class Guess(NamedTuple):
    """A class and its probability, in float32's digits."""

    class_name: str
    probability: float


class Row(NamedTuple):
    """What is said of one image: the most probable classes, the best one first; or the reason why there are none."""

    file: str
    top: tuple[Guess, ...] = ()
    error: str = ""


Write = Callable[[Row], None]


def guesses(probabilities: Float[np.ndarray, " k"], class_names: Sequence[str], num: int) -> tuple[Guess, ...]:
    """The `num` most probable classes."""
    best: list[int] = np.argsort(-probabilities, kind="stable")[:num].tolist()
    # By its text: a float32's own digits, and no more.
    return tuple(Guess(class_names[i], float(str(probabilities[i]))) for i in best)


def columns(num: int) -> list[str]:
    """file, class, probability, class2, probability2 and so on, error."""
    numbers = ["", *map(str, range(2, num + 1))]
    return ["file", *(f"{name}{number}" for number in numbers for name in ("class", "probability")), "error"]


def fields(row: Row, num: int) -> list[str]:
    """A row's text in each column."""
    top = [text for guess in row.top for text in (guess.class_name, str(guess.probability))] or [""] * 2 * num
    return [row.file, *top, row.error]


def csv_rows(file: TextIO, num: int) -> Write:
    """Rows as Excel reads them, under a header."""
    writer = csv.writer(file)
    writer.writerow(columns(num))

    def write(row: Row) -> None:
        writer.writerow(fields(row, num))
        file.flush()

    return write


def json_rows(file: TextIO) -> Write:
    """An object a line: file, class, probability and top; or file and error."""

    def write(row: Row) -> None:
        told: dict = {"file": row.file}
        if row.error:
            told["error"] = row.error
        else:
            top = [{"class": name, "probability": probability} for name, probability in row.top]
            told |= {**top[0], "top": top}
        file.write(json.dumps(told, ensure_ascii=False) + "\n")
        file.flush()

    return write


def tab_rows(file: TextIO, num: int) -> Write:
    """The columns parted by tabs, without a header; what cannot be printed is escaped."""

    def write(row: Row) -> None:
        file.write("\t".join(map(shown, fields(row, num))) + "\n")
        file.flush()

    return write


def terminal_rows(console: Console, num: int, files: Sequence[str], class_names: Sequence[str]) -> Write:
    """The columns one below the other, under a header; of a path that is too long for its column the end is shown."""
    names = columns(num)[:-1]
    of_class = max(cell_len(shown(name)) for name in (names[-2], *class_names))
    of_number = len(names[-1])
    room = max(console.width - num * (of_class + of_number + 4), LEAST_ROOM)
    of_file = min(max(cell_len(shown(file)) for file in ("file", *files)), room)

    def line(file: str, rest: Sequence[str], style: str) -> None:
        text = "  ".join([_filled(_end_of(file, of_file), of_file), *rest])
        console.print(Text(text, style), soft_wrap=True)

    def cells(pairs: Iterable[tuple[str, str]]) -> list[str]:
        return [f"{_filled(name, of_class)}  {number:>{of_number}}" for name, number in pairs]

    line("file", cells(zip(names[1::2], names[2::2], strict=True)), "bold")

    def write(row: Row) -> None:
        if row.error:
            line(shown(row.file), [shown(row.error)], "red")
        else:
            line(shown(row.file), cells((shown(name), f"{p:.4f}") for name, p in row.top), "")

    return write


def _filled(text: str, width: int) -> str:
    """Text with spaces behind it, up to a width in the terminal's cells."""
    return text + " " * (width - cell_len(text))


def _end_of(text: str, width: int) -> str:
    """Text without its beginning where it is wider than that."""
    if cell_len(text) <= width:
        return text
    while cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}"
