"""What each export format is: bytes made of a trained network, a way to run them, and the code that does so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from jaxft.model_file import Description, to_facts
from jaxft.resnet import ResNet

Predict = Callable[[UInt8[np.ndarray, "b s s 3"]], Float[np.ndarray, "b k"]]
"""From crops to probabilities."""


class Trained(NamedTuple):
    """A trained network, with its variables in Flax's layout and in torchvision's."""

    description: Description
    model: ResNet
    variables: Any
    state_dict: dict[str, np.ndarray]


class Format(NamedTuple):
    """A kind of file."""

    suffix: str
    encode: Callable[[Trained], bytes]
    """What the file holds."""
    open: Callable[[Path], Predict]
    """The file, ready to run, by the library that its users have."""
    snippet: Callable[[Description, str], str]
    """Python that opens the file, given as a literal of Python, and classifies a photograph."""


def self_contained_facts(description: Description) -> dict[str, Any]:
    """The description of a file that holds the whole computation, with what goes in and what comes out."""
    side = description.recipe.size
    return to_facts(description) | {
        "input": f"images: uint8 [batch, {side}, {side}, 3], RGB crops; mean and std are applied inside",
        "output": f"probabilities: float32 [batch, {len(description.class_names)}]",
    }


def crop_snippet(description: Description) -> str:
    """Python that makes `image` the photograph's crop, as evaluation does, with PIL alone."""
    side, resized = description.recipe.size, description.recipe.resized
    sides = f"[{resized} * side // min(image.size) for side in image.size]"
    if description.recipe.resize == "squash":
        sides = f"[{resized}, {resized}]"
    return f"""\
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
image = image.resize({sides}, Image.Resampling.BILINEAR)
left, top = (round((side - {side}) / 2) for side in image.size)
image = image.crop((left, top, left + {side}, top + {side}))"""
