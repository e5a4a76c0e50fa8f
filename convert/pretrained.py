"""From a weights SPEC to variables that a run starts from."""

from importlib import resources
from pathlib import Path
from typing import Any

from jaxtyping import Array, Key

from convert.torchvision import to_variables
from convert.weights import load_weights
from jaxft.build import Pretrained
from jaxft.config import ModelConfig
from jaxft.download import cache_folder
from jaxft.errors import UserError
from jaxft.head import imagenet_classes, xavier
from jaxft.resnet import make_resnet

DEMO_WEIGHTS = "assets/kitchen_resnet18_width16.safetensors"
IMAGENET_ROWS = 1000


def load_pretrained(config: ModelConfig, cache_dir: Path) -> Pretrained | None:
    """The variables that `--weights` names, and their class names where they are known; None for `none`.

    Raises:
        UserError: nothing there, or another network than `--arch` and `--width` say.
    """
    if config.weights == "none":
        return None
    return _read(config, cache_dir)


def load_torchvision(
    arch: str,
    num_classes: int | None = None,
    key: Key[Array, ""] | None = None,
    *,
    weights: str = "torchvision",
    cache_dir: Path | None = None,
) -> dict[str, Any]:
    """Variables {"params", "batch_stats"} of a trained network of torchvision's, for `jaxft.make_resnet(arch)`.

    Args:
        arch: such as "resnet18".
        num_classes: of a new classifier, drawn with `key` (Xavier); when None the file's own is kept.
        key: for the new classifier.
        weights: torchvision, its official file (IMAGENET1K_V1, fetched once), hf:OWNER/REPO, a file or a run's folder.
        cache_dir: where downloads are kept; ~/.cache/jaxft when None.

    Raises:
        UserError: nothing there, no network, or another network than `arch`.
    """
    if (num_classes is None) != (key is None):
        raise UserError("load_torchvision: num_classes and key go together. Pass both for a new classifier.")
    found = _read(ModelConfig(arch=arch, weights=weights), cache_dir or cache_folder())
    if num_classes is None or key is None:
        return found.variables
    params = found.variables["params"]
    head = xavier(key, len(params["fc"]["kernel"]), num_classes)
    return {**found.variables, "params": {**params, "fc": head._asdict()}}


def _read(config: ModelConfig, cache_dir: Path) -> Pretrained:
    if config.weights == "demo":
        with resources.as_file(resources.files("jaxft").joinpath(DEMO_WEIGHTS)) as path:
            weights = load_weights(str(path), config.arch, cache_dir)
    else:
        weights = load_weights(config.weights, config.arch, cache_dir)
    rows = len(weights.state_dict["fc.bias"]) if "fc.bias" in weights.state_dict else IMAGENET_ROWS
    source = make_resnet(config.arch, num_classes=rows, width=config.width)
    class_names = weights.classes or (imagenet_classes() if rows == IMAGENET_ROWS else None)
    return Pretrained(to_variables(weights.state_dict, source), class_names)
