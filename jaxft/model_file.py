"""A model on disk: torchvision's weights as safetensors, and in its metadata all that it takes to use them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convert.torchvision import to_state_dict, to_variables
from convert.weights import MODEL_FILE, load_safetensors, read_metadata, save_weights
from jaxft.build import compute_dtype
from jaxft.classifier import Classifier, make_classifier
from jaxft.config import Config, EvalResize
from jaxft.config_file import read_config
from jaxft.data.augment import IMAGENET_MEAN, IMAGENET_STD
from jaxft.data.images import EvalCrop
from jaxft.errors import UserError
from jaxft.parallel import local_devices
from jaxft.resnet import make_resnet


class Description(NamedTuple):
    """What a model is, beside its weights."""

    arch: str
    """torchvision's name, e.g. resnet18."""
    width: int
    """Channels of the stem; torchvision's are 64."""
    recipe: EvalCrop
    """How it wants its images."""
    class_names: tuple[str, ...]


def describe_model(config: Config, class_names: Sequence[str]) -> Description:
    """The description of a run's model."""
    recipe = EvalCrop(config.images.image_size, config.images.eval_resize)
    return Description(config.model.arch, config.model.width, recipe, tuple(class_names))


def to_facts(description: Description) -> dict[str, Any]:
    """The description with the constants of the preprocessing, as JSON has values.

    Pixels of 0 to 1, resized (`eval_resize`: "short" side, or "squash" both, to `resize_size`) and cropped at the
    centre to `image_size`, are normalised by `mean` and `std`.
    """
    recipe = description.recipe
    return {
        "arch": description.arch,
        "width": description.width,
        "image_size": recipe.size,
        "resize_size": recipe.resized,
        "eval_resize": recipe.resize,
        "interpolation": "bilinear",
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "classes": list(description.class_names),
    }


def as_strings(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts for a format whose metadata are strings: what is none becomes JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in facts.items()
    }


def to_metadata(description: Description) -> dict[str, str]:
    """The description as the metadata of a .safetensors file."""
    return as_strings(to_facts(description))


def save_model(path: str | Path, variables: Mapping[str, Any], description: Description) -> None:
    """Write {"params", "batch_stats"} as a .safetensors file in torchvision's layout, whole or not at all.

    `jaxft.load` reads it; so does torchvision's network of that name, with `strict=True`.
    """
    save_weights(Path(path), to_state_dict(variables), metadata=to_metadata(description))


def load(path: str | Path, *, precision: str = "auto", devices: int | None = None) -> Classifier:
    """The trained network in a run's folder, or in a model.safetensors of one that was copied elsewhere.

    Args:
        path: the folder or file.
        precision: of the computation: float32, bfloat16, or auto, which is bfloat16 on GPU and TPU.
        devices: how many of this process's devices to use; all when None.

    Raises:
        UserError: no model there, or one that jaxft did not write.
    """
    file = model_path(Path(path).expanduser())
    description = read_description(file)
    arch, width, recipe, class_names = description
    places = local_devices(devices)
    dtype = compute_dtype(precision, places[0].platform)
    model = make_resnet(arch, num_classes=len(class_names), width=width, dtype=dtype)
    variables = to_variables(load_safetensors(file, str(path)).state_dict, model)
    return make_classifier(model, variables, class_names, recipe, places)


def model_path(path: Path) -> Path:
    """The model's file, in a run's folder or named outright.

    Raises:
        UserError: there is none.
    """
    if path.suffix == ".safetensors" and path.is_file():
        return path
    if not path.exists():
        raise UserError(f"{path}: not there. Pass a run's folder.")
    file = path / MODEL_FILE
    if file.is_file():
        return file
    if (path / "config.json").exists():
        raise UserError(
            f"{path}: the run has no {MODEL_FILE} yet. Let it end first: python -m jaxft.train --resume --out {path}"
        )
    raise UserError(f"{path}: no run, for it has no {MODEL_FILE}. Pass a run's folder.")


def read_description(file: Path) -> Description:
    """What a model's metadata say of it; where they are older than that, what the run's config says.

    Raises:
        UserError: neither does.
    """
    told = read_metadata(file)
    if "eval_resize" in told:
        resize: EvalResize = "squash" if told["eval_resize"] == "squash" else "short"
        recipe = EvalCrop(int(told["image_size"]), resize)
        return Description(told["arch"], int(told["width"]), recipe, tuple(json.loads(told["classes"])))
    beside = file.with_name("config.json")
    if "classes" not in told or not beside.exists():
        raise UserError(f"{file}: does not say what network it is of and how it wants its images. Pass a run's folder.")
    return describe_model(read_config(beside), json.loads(told["classes"]))
