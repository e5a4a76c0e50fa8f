"""A heat map over a photograph: where in it the network saw a class."""

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

# Every eighth colour of matplotlib's inferno: its lightness rises evenly, so that it can be read without seeing hues.
INFERNO = bytes.fromhex(
    "000004 040312 0b0724 150b37 210c4a 2e0a5a 3c0965 4a0c6b 57106d 63146e 70196e 7d1e6d 89226a 962766 a32b61 af315c "
    "bb3755 c63e4d d14644 db4f3b e35932 eb6528 f1711e f67f14 f98d0a fb9c06 fcab0f fbba1f f9ca32 f5d949 f2e865 f3f586 "
    "fcffa4"
)
STRENGTH = 0.65
"""Share of the colour where the map is largest; the photograph still shows through."""


def overlay(crop: UInt8[np.ndarray, "s s 3"], map: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "s s 3"]:
    """The crop in grey, coloured from clear to yellow by the map from 0 to its largest value.

    What is below 0 speaks against the class, and stays grey. A class's activation map shown so is its Grad-CAM
    (Selvaraju et al., 2017), for these networks end in an average and one linear layer.
    """
    heat = upsampled(map, len(crop)).clip(0)
    heat = heat / max(heat.max(), np.finfo(np.float32).tiny)
    grey = np.asarray(PIL.Image.fromarray(crop).convert("L"), np.float32)[..., None]
    share = STRENGTH * heat[..., None]
    return (grey + share * (inferno(heat) - grey)).round().astype(np.uint8)


def upsampled(map: Float[np.ndarray, "h w"], size: int) -> Float[np.ndarray, "{size} {size}"]:
    """The map at the crop's size, smoothly (bicubic), each of its cells over its part of the crop."""
    image = PIL.Image.fromarray(map.astype(np.float32))
    return np.asarray(image.resize((size, size), PIL.Image.Resampling.BICUBIC))


def inferno(heat: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """The colours, 0 to 255, of heat from 0 to 1."""
    table = np.frombuffer(INFERNO, np.uint8).reshape(-1, 3)
    places = np.linspace(0, 1, len(table))
    return np.stack([np.interp(heat, places, channel) for channel in table.T], axis=-1)
