"""Letters of any script in figures."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import matplotlib.font_manager as fonts
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

FIRST_FONT = "DejaVu Sans"
NO_FONTS = ("Last Resort",)  # It has every letter, and draws them all as the same boxes.


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure; letters that no installed font has become boxes, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(Glyph|Matplotlib currently does not support)")
        figure.savefig(path, dpi=dpi)


def families_for(text: str) -> list[str]:
    """Font families that together have the text's letters, as far as any installed one has them."""
    families, missing = [FIRST_FONT], set(text) - set(letters_of(FIRST_FONT))
    for entry in fonts.fontManager.ttflist if missing else ():
        if not entry.name.startswith(NO_FONTS) and entry.name not in families:
            found = missing & set(map(chr, charmap(entry.fname)))
            families += [entry.name] if found else []
            missing -= found
        if not missing:
            break
    return families


def letters_of(family: str) -> Iterable[str]:
    """The letters that a font family has."""
    return map(chr, charmap(fonts.findfont(family)))


def charmap(path: str) -> Iterable[int]:
    """The code points that a font file has; none of one that cannot be read."""
    try:
        return FT2Font(path).get_charmap()
    except (OSError, RuntimeError):
        return ()
