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
    """Write a figure, whole or not at all; letters that no installed font has become boxes, without a warning."""
    scratch = path.with_name(f".{path.name}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(Glyph|Matplotlib currently does not support)")
        try:
            figure.savefig(scratch, dpi=dpi, format=path.suffix.removeprefix(".") or "png")
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


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
