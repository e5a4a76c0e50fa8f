"""Pictures in rows and columns with words over them, as one image file."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jaxft.fonts import families_for, save_figure

CELL = 1.75
"""Side of a picture's place, in inches."""
ABOVE = 0.34
"""Room for the words over it."""
HEADER = 0.42
DPI = 120
SHOWN = 26
"""Characters of a line; a longer one loses its middle."""


class Cell(NamedTuple):
    """A picture, uint8 [h, w, 3], and the lines over it: the first one strong."""

    pixels: np.ndarray
    lines: tuple[str, ...]


def draw_grid(rows: Sequence[Sequence[Cell]], headers: Sequence[str], title: str, path: Path) -> None:
    """Draw one row of cells after the other, under the columns' headers.

    Text in any script is drawn with an installed font that has it; where none has, with boxes, and without a warning.
    """
    width, height = len(headers) * CELL + 0.2, len(rows) * (CELL + ABOVE) + HEADER + 0.3
    figure = Figure(figsize=(width, height), facecolor="white")
    families = families_for("".join([title, *headers, *(line for row in rows for cell in row for line in cell.lines)]))
    words = {"family": families, "parse_math": False, "va": "center"}
    figure.text(0.12 / width, 1 - 0.18 / height, title, size=9, color="0.2", **words)
    for column, header in enumerate(headers):
        x = (0.1 + (column + 0.5) * CELL) / width
        figure.text(x, 1 - 0.5 / height, header, size=9, weight="bold", ha="center", **words)
    for i, row in enumerate(rows):
        for column, cell in enumerate(row):
            left, top = 0.1 + column * CELL, HEADER + 0.2 + i * (CELL + ABOVE)
            side = CELL - 0.08
            bounds = ((left + 0.04) / width, 1 - (top + ABOVE + side) / height, side / width, side / height)
            axes = figure.add_axes(bounds)
            axes.imshow(cell.pixels, interpolation="lanczos")
            axes.set_anchor("N")
            axes.axis("off")
            for k, line in enumerate(cell.lines):
                style = {"color": "0.1" if k == 0 else "0.45", "size": 7.5 if k == 0 else 6.5}
                y = 1 - (top + 0.08 + 0.13 * k + (0.13 if len(cell.lines) == 1 else 0)) / height
                figure.text((left + CELL / 2) / width, y, shortened(line), ha="center", **words, **style)
    save_figure(figure, path, DPI)


def shortened(line: str, most: int = SHOWN) -> str:
    """A line without its middle where it is too long, and without what would break it."""
    line = "".join(letter if letter.isprintable() else " " for letter in line)
    return line if len(line) <= most else f"{line[: most // 2 - 1]}…{line[len(line) - most // 2 :]}"
