"""What an image file is: its format and what is out of the ordinary about it, from its header."""

import io
import re
from pathlib import Path
from typing import NamedTuple

import PIL.Image

from jaxft.data.images import ORIENTATION, UPRIGHT, WIDE_MODES

MISNAMED = "misnamed"
TRAITS = ("greyscale", "CMYK", "16-bit", "with transparency", "animated", "EXIF-rotated", MISNAMED)

GREY_MODES = ("1", "L", "LA", "La", *WIDE_MODES)
WIDE_RAW_MODE = re.compile(r"(L|LA|RGB|RGBX|RGBA|CMYK);16")
FORMATS_NAMED = {
    **dict.fromkeys((".jpg", ".jpeg"), ("JPEG", "MPO")),
    **dict.fromkeys((".ppm", ".pgm"), ("PPM",)),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    **{".png": ("PNG",), ".bmp": ("BMP", "DIB"), ".webp": ("WEBP",)},
}
TAIL_BYTES = 1 << 16


class Kind(NamedTuple):
    """A file's format by its content, and those of TRAITS that it has."""

    format: str
    traits: tuple[str, ...]


def kind_of(item: Path | bytes) -> Kind:
    """The kind of an image that can be decoded; for threads, their starter inside `images.quiet`."""
    with PIL.Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
        holds = (
            image.mode in GREY_MODES or _raw_modes(image)[:1] == "L",
            image.mode == "CMYK",
            _is_wide(image),
            image.has_transparency_data,
            # An MPO is a photograph with a second one for the other eye, or a preview.
            image.format != "MPO" and _is_animated(image),
            _is_rotated(image, item),
            isinstance(item, Path) and image.format not in FORMATS_NAMED.get(item.suffix.lower(), (image.format,)),
        )
        return Kind(image.format or "", tuple(name for name, held in zip(TRAITS, holds, strict=True) if held))


def _raw_modes(image: PIL.Image.Image) -> str:
    """How the pixels lie in the file: of 16-bit colours PIL's own mode tells no more."""
    args = [tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in getattr(image, "tile", ())[:1]]
    return " ".join(arg for each in args for arg in each if isinstance(arg, str))


def _is_wide(image: PIL.Image.Image) -> bool:
    if image.mode in WIDE_MODES or WIDE_RAW_MODE.match(_raw_modes(image)):
        return True
    tiles = getattr(image, "tile", ())
    return image.format == "PPM" and any(
        isinstance(arg, int) and arg > 255 for tile in tiles for arg in tile.args or ()
    )


def _is_animated(image: PIL.Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # Frames after the first are damaged, and PIL's plugins raise whatever their parsing meets.
        return True


def _is_rotated(image: PIL.Image.Image, item: Path | bytes) -> bool:
    if image.format == "PNG" and "exif" not in image.info and b"eXIf" not in _tail(item):
        return False  # PIL would decode the whole file to look for EXIF behind the pixels.
    try:
        return int(image.getexif().get(ORIENTATION, 1)) in UPRIGHT
    except Exception:  # Broken EXIF, which decoding passes over too.
        return False


def _tail(item: Path | bytes) -> bytes:
    if isinstance(item, bytes):
        return item[-TAIL_BYTES:]
    with item.open("rb") as file:
        file.seek(max(item.stat().st_size - TAIL_BYTES, 0))
        return file.read()
