"""From a weights SPEC to variables that a run starts from."""

from importlib import resources
from pathlib import Path

from convert.torchvision import to_variables
from convert.weights import load_weights
from jaxft.build import Pretrained
from jaxft.config import ModelConfig
from jaxft.head import imagenet_classes
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
    if config.weights == "demo":
        with resources.as_file(resources.files("jaxft").joinpath(DEMO_WEIGHTS)) as path:
            weights = load_weights(str(path), config.arch, cache_dir)
    else:
        weights = load_weights(config.weights, config.arch, cache_dir)
    rows = len(weights.state_dict["fc.bias"]) if "fc.bias" in weights.state_dict else IMAGENET_ROWS
    source = make_resnet(config.arch, num_classes=rows, width=config.width)
    class_names = weights.classes or (imagenet_classes() if rows == IMAGENET_ROWS else None)
    return Pretrained(to_variables(weights.state_dict, source), class_names)
