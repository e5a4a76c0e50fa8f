"""A state_dict as torch.save writes it, for torchvision's own network."""

import io
from collections import OrderedDict
from pathlib import Path

import numpy as np

from jaxft.errors import UserError
from jaxft.formats.contract import Format, Predict, Trained
from jaxft.model_file import Description, to_facts

ABOUT = "jaxft"
TORCHVISION_WIDTH = 64


def encode(trained: Trained) -> bytes:
    """A .pth file whose keys are the network's and no others; the facts are under `_metadata["jaxft"]`.

    A state_dict's `_metadata` is where torch keeps what is no tensor: by name of the module, so that one that no module
    has is passed over. It survives torch.load(weights_only=True).

    Raises:
        UserError: torchvision has no network of that width.
    """
    import torch  # An extra, and seconds to import.

    arch, width = trained.description.arch, trained.description.width
    if width != TORCHVISION_WIDTH:
        raise UserError(
            f"--to torchvision: torchvision has no {arch} of width {width}, only of {TORCHVISION_WIDTH}. "
            "Pass --to safetensors, stablehlo or onnx."
        )
    state_dict = OrderedDict((key, torch.tensor(array)) for key, array in trained.state_dict.items())
    state_dict._metadata = {ABOUT: to_facts(trained.description)}  # pyright: ignore[reportAttributeAccessIssue]
    file = io.BytesIO()
    torch.save(state_dict, file)
    return file.getvalue()


def open_file(path: Path) -> Predict:
    """The file in torchvision's network."""
    import torch  # Extras, and seconds to import.
    import torchvision

    state_dict = torch.load(path, weights_only=True)
    about = state_dict._metadata[ABOUT]
    model = torchvision.models.get_model(about["arch"], num_classes=len(about["classes"])).eval()
    model.load_state_dict(state_dict, strict=True)

    mean, std = (torch.tensor(about[name]) for name in ("mean", "std"))

    def predict(crops: np.ndarray) -> np.ndarray:
        normalised = (torch.tensor(crops) / 255 - mean) / std
        with torch.inference_mode():
            return model(normalised.permute(0, 3, 1, 2)).softmax(-1).numpy()

    return predict


def snippet(description: Description, file: str) -> str:
    """Python that opens the file with torchvision and classifies a photograph."""
    side, resized = description.recipe.size, description.recipe.resized
    sides = f"[{resized}, {resized}]" if description.recipe.resize == "squash" else resized
    return f"""\
import torch
import torchvision
from PIL import Image, ImageOps
from torchvision.transforms import v2

state_dict = torch.load({file}, weights_only=True)
about = state_dict._metadata["{ABOUT}"]
model = torchvision.models.{description.arch}(num_classes={len(description.class_names)}).eval()
model.load_state_dict(state_dict, strict=True)

crop = v2.Compose([v2.Resize({sides}), v2.CenterCrop({side}), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
transform = v2.Compose([crop, v2.Normalize(about["mean"], about["std"])])
image = transform(ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB"))
print(dict(zip(about["classes"], model(image[None]).softmax(-1)[0].tolist())))
"""


TORCHVISION = Format(".pth", encode, open_file, snippet)
