"""From an image file to upright RGB, and what of PIL's world is refused.

We part from torchvision's loader (`Image.convert("RGB")`) in three places, each for what a viewer shows: EXIF
orientation is applied, transparency lies on white, and 16-bit grey is scaled rather than clipped.
"""

import io
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import UInt8

Encoded = Path | bytes | np.ndarray
"""An image file, the bytes of one, or uint8 pixels [h, w, 3]."""

WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
WHITE = (255, 255, 255, 255)


class BadImageError(ValueError):
    """An image that cannot be decoded; the message is the reason."""


def decode(item: Encoded) -> PIL.Image.Image:
    """The image upright and in RGB; of an animation, its first frame.

    Raises:
        BadImageError: with the reason.
    """
    if isinstance(item, np.ndarray):
        return PIL.Image.fromarray(item)
    try:
        with warnings.catch_warnings():
            # A warning of PIL's is about damage that it could repair, but a picture this large is refused.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
                image.load()
                return to_rgb(PIL.ImageOps.exif_transpose(image))
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        limit = PIL.Image.MAX_IMAGE_PIXELS or 0
        raise BadImageError(f"more than {limit:,} pixels: a decompression bomb?") from None
    except PIL.UnidentifiedImageError:
        raise BadImageError("not an image that PIL knows") from None
    except Exception as error:  # PIL's plugins raise whatever their parsing meets: struct.error, SyntaxError, …
        raise BadImageError(reason(error)) from None


def reason(error: Exception) -> str:
    """The error in a few words, without paths (the caller names the file)."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).split("\n")[0] or type(error).__name__


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Any of PIL's modes as RGB."""
    if image.mode in WIDE_MODES:
        return PIL.Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if image.mode == "F":
        raise BadImageError("floating-point pixels, whose white is not known; save it as 8 or 16 bit")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, WHITE), image).convert("RGB")
    return image.convert("RGB")


def pixel_size(item: Encoded) -> tuple[int, int]:
    """Height and width before any EXIF rotation, from the header alone; (0, 0) where there is no header to read."""
    if isinstance(item, np.ndarray):
        return item.shape[0], item.shape[1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
                return image.height, image.width
    except Exception:  # As in decode, which is where the file is named.
        return 0, 0


def to_array(image: PIL.Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an RGB image."""
    return np.asarray(image, np.uint8)
