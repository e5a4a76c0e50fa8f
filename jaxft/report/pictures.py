"""Pictures inside a page: small JPEGs as data: addresses."""

import base64
import io

import numpy as np
import PIL.Image
from jaxtyping import UInt8

SIDE = 160
QUALITY = 80


def data_uri(pixels: UInt8[np.ndarray, "h w 3"], side: int = SIDE) -> str:
    """The picture as a JPEG, its longer side at most so many pixels."""
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
