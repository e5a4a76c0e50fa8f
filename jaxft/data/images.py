"""One image: from a file to upright RGB, and on to a training canvas or an evaluation crop.

We part from torchvision's loader (`Image.convert("RGB")`) in three places, each for what a viewer shows: EXIF
orientation is applied, transparency lies on white, and 16-bit grey is scaled rather than clipped.
"""

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
from cykooz_resizer import FilterType, ResizeAlg, ResizeOptions, Resizer
from jaxtyping import UInt8

from jaxft.config import EvalResize

Encoded = Path | bytes | np.ndarray
"""An image file, the bytes of one, or uint8 pixels [h, w, 3]."""

# A file may hold another format than its name says; one that PIL hands to another program (EPS) stays shut.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000")
# PIL's own limit for an error, held here because PIL's is a global that anyone can change.
MAX_PIXELS = 2 * (2**30 // 4 // 3)
# Photographs beyond this are decoded one at a time: at MAX_PIXELS each takes 0.7 GB.
LARGE_PIXELS = 2**25
WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
WHITE = (255, 255, 255, 255)
ORIENTATION = 0x0112
UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
SIDES_SWAPPED = (5, 6, 7, 8)
LANCZOS = ResizeOptions(ResizeAlg.convolution(FilterType.lanczos3))

_alone = threading.Lock()


class Canvas(NamedTuple):
    """For training: the whole photograph squeezed by Lanczos into a square."""

    size: int
    """Side of the square, in pixels."""


class EvalCrop(NamedTuple):
    """For evaluation: torchvision's Resize, short side or both sides to 256/224 of `size`, and CenterCrop(size)."""

    size: int
    """Side of the square that the network sees, in pixels."""
    resize: EvalResize = "short"

    @property
    def resized(self) -> int:
        """The side before the crop, in pixels."""
        return round(self.size * 256 / 224)


Recipe = Canvas | EvalCrop


class BadImageError(ValueError):
    """An image that cannot be decoded; the message is the reason."""


def decode(item: Encoded) -> PIL.Image.Image:
    """The image upright and in RGB; of an animation, its first frame.

    Raises:
        BadImageError: with the reason.
    """
    with quiet():
        return decode_sized(item)[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Without PIL's warnings, which are of damage it could repair. Not for worker threads: the filters are global."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


def decode_sized(item: Encoded, least: int | None = None) -> tuple[PIL.Image.Image, tuple[int, int]]:
    """As `decode`, with the photograph's own height and width; for threads, their starter inside `quiet`.

    With `least`, a JPEG may come smaller, with both sides at least that long: its decoder scales for next to nothing.

    Raises:
        BadImageError: with the reason.
    """
    with opened(item) as image:
        return _upright(image, least)


@contextmanager
def opened(item: Encoded) -> Iterator[PIL.Image.Image]:
    """The image with its header read and its pixels not yet; whatever fails inside is the image's fault.

    Raises:
        BadImageError: with the reason.
    """
    try:
        if isinstance(item, np.ndarray):
            yield _from_array(item)
            return
        with PIL.Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
            if image.format not in FORMATS:
                raise BadImageError(f"{image.format} files are not read; save it as JPEG or PNG")
            if image.width * image.height > MAX_PIXELS:
                raise BadImageError(
                    f"{image.width} × {image.height} is more than {MAX_PIXELS:,} pixels: a decompression bomb?"
                )
            yield image
    except BadImageError:
        raise
    except PIL.Image.DecompressionBombError:
        raise BadImageError(f"more than {MAX_PIXELS:,} pixels: a decompression bomb?") from None
    except PIL.UnidentifiedImageError:
        empty = item == b"" or (isinstance(item, Path) and not item.stat().st_size)
        raise BadImageError("empty file" if empty else "not an image that PIL knows") from None
    except Exception as error:  # PIL's plugins raise whatever their parsing meets: struct.error, SyntaxError, …
        raise BadImageError(_reason(error)) from None


def _from_array(pixels: np.ndarray) -> PIL.Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise BadImageError(f"{pixels.dtype} {list(pixels.shape)} in place of uint8 [h, w, 3]")
    return PIL.Image.fromarray(pixels)


def _upright(image: PIL.Image.Image, least: int | None) -> tuple[PIL.Image.Image, tuple[int, int]]:
    """Load an opened image."""
    width, height = image.size
    if least is not None:
        image.draft(None, (least, least))
    reduced = image.size != (width, height)
    image.load()
    turn = _orientation(image)
    rgb = to_rgb(image)
    if turn in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[turn])
    if not reduced:
        return rgb, (rgb.height, rgb.width)
    return rgb, (width, height) if turn in SIDES_SWAPPED else (height, width)


def _orientation(image: PIL.Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where it cannot be read, for the pixels are still good."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # As for the pixels: struct.error, SyntaxError, …
        return 1


def _reason(error: Exception) -> str:
    """The error in a few words, without paths (the caller names the file)."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).split("\n")[0] or type(error).__name__


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Any of PIL's modes as RGB.

    Raises:
        BadImageError: floating-point pixels.
    """
    if image.mode in WIDE_MODES:
        # The high byte, as PIL takes it of 16-bit RGB.
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return PIL.Image.fromarray(grey).convert("RGB")
    if image.mode == "F":
        raise BadImageError("floating-point pixels, whose white is not known; save it as 8 or 16 bit")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, WHITE), image).convert("RGB")
    # convert would copy, and of the largest photographs there is memory for one.
    return image if image.mode == "RGB" else image.convert("RGB")


def pixel_size(item: Encoded) -> tuple[int, int]:
    """Height and width before any EXIF rotation, from the header alone; (0, 0) where there is no header to read."""
    if isinstance(item, np.ndarray):
        return item.shape[0], item.shape[1]
    try:
        with quiet(), PIL.Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
            return image.height, image.width
    except Exception:  # As in decode_sized, which is where the file is named.
        return 0, 0


def to_array(image: PIL.Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an RGB image."""
    return np.asarray(image, np.uint8)


def to_canvas(image: PIL.Image.Image, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The photograph squeezed into a square by Lanczos: PIL's filter, five times as fast."""
    canvas = PIL.Image.new("RGB", (size, size))
    Resizer().resize_pil(image, canvas, LANCZOS)
    return to_array(canvas)


def eval_crop(image: PIL.Image.Image, crop: EvalCrop) -> UInt8[np.ndarray, "{crop.size} {crop.size} 3"]:
    """torchvision's evaluation transform, bit for bit. Source: torchvision/transforms/functional.py.

    Raises:
        BadImageError: so long and thin that the resized photograph would fill the memory.
    """
    resized = crop.resized
    width, height = image.size
    if crop.resize == "squash":
        width, height = resized, resized
    elif width <= height:
        width, height = resized, int(resized * height / width)
    else:
        width, height = int(resized * width / height), resized
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{image.width} × {image.height} pixels: too long and thin for a centre crop")
    image = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
    top, left = round((height - crop.size) / 2.0), round((width - crop.size) / 2.0)
    return to_array(image.crop((left, top, left + crop.size, top + crop.size)))


def render(item: Encoded, recipe: Recipe) -> tuple[np.ndarray | None, tuple[int, int], str | None]:
    """An image's pixels by the recipe and its height and width, or the reason why there are none."""
    try:
        with opened(item) as image, _alone if image.width * image.height > LARGE_PIXELS else nullcontext():
            if isinstance(recipe, EvalCrop):
                upright, size = _upright(image, None)
                return eval_crop(upright, recipe), size, None
            # A large JPEG's decoder may do half of the scaling, for next to nothing; Lanczos does the rest.
            upright, size = _upright(image, 2 * recipe.size)
            return to_canvas(upright, recipe.size), size, None
    except BadImageError as error:
        return None, (0, 0), str(error)


def fingerprint(item: Encoded) -> bytes:
    """What changes when the image does: a file's path, size and time of change, or all that is in memory."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, np.ndarray):
        return repr((item.shape, item.dtype)).encode() + item.tobytes()
    try:
        stat = item.stat()
    except OSError:
        return os.fsencode(item.absolute())
    return os.fsencode(item.absolute()) + b" %d %d" % (stat.st_size, stat.st_mtime_ns)
