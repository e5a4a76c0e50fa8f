"""A copy of the model's own file: torchvision's layout, and metadata that older runs' models lack."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from jaxft.formats.contract import Format, Predict, Trained
from jaxft.model_file import Description, load, to_metadata


def encode(trained: Trained) -> bytes:
    """A .safetensors file that `jaxft.load` takes, and torchvision's network with `strict=True`."""
    return save(trained.state_dict, to_metadata(trained.description))


def open_file(path: Path) -> Predict:
    """The file, run by jaxft."""
    classifier = load(path, precision="float32", devices=1)
    return lambda crops: np.asarray(classifier.score(crops).probabilities)[: len(crops)]


def snippet(description: Description, file: str) -> str:
    """Python that opens the file with jaxft and classifies a photograph."""
    return f"""\
import jaxft

model = jaxft.load({file})
print(dict(zip(model.class_names, model.predict("photo.jpg").tolist())))
"""


SAFETENSORS = Format(".safetensors", encode, open_file, snippet)
