"""The whole computation as an ONNX model, for ONNX Runtime on servers, telephones and in browsers."""

from pathlib import Path

import numpy as np

from jaxft.formats.contract import Format, Predict, Trained, crop_snippet
from jaxft.model_file import Description


def encode(trained: Trained) -> bytes:
    """An .onnx file, uint8 crops [b, s, s, 3] to probabilities [b, k]; the facts are in its metadata_props."""
    from jaxft.formats.onnx_graph import to_onnx  # An extra.

    return to_onnx(trained.description, trained.state_dict).SerializeToString()


def open_file(path: Path) -> Predict:
    """The file, run by ONNX Runtime."""
    import onnxruntime  # An extra.

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda crops: np.asarray(session.run(None, {"images": crops})[0])


def snippet(description: Description, file: str) -> str:
    """Python that opens the file with ONNX Runtime and classifies a photograph."""
    return f"""\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model = onnxruntime.InferenceSession({file})
class_names = json.loads(model.get_modelmeta().custom_metadata_map["classes"])

{crop_snippet(description)}
[probabilities] = model.run(None, {{"images": np.asarray(image)[None]}})
print(dict(zip(class_names, probabilities[0].tolist())))
"""


ONNX = Format(".onnx", encode, open_file, snippet)
