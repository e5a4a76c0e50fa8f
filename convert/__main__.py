"""Check weights against a torchvision ResNet and write them as safetensors: python -m convert SOURCE --arch NAME."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from convert.torchvision import to_state_dict, to_variables
from convert.weights import MODEL_FILE, load_weights, save_weights
from jaxft.errors import run_command
from jaxft.resnet import make_resnet


@dataclass(frozen=True)
class Arguments:
    """Check weights against a torchvision ResNet and write them as safetensors, in torchvision's layout."""

    source: Annotated[str, tyro.conf.Positional]
    """torchvision, hf:OWNER/REPO, a .pth or .safetensors file, or a folder with model.safetensors."""
    out: Path
    """A .safetensors file, or a folder that gets model.safetensors."""
    arch: str = "resnet18"
    """One of torchvision's ResNets."""
    num_classes: int | None = None
    """Rows of the classifier; the file's own when not given."""
    width: int = 64
    """Channels of the stem."""
    cache_dir: Path | None = None
    """Where downloads are kept; ~/.cache/jaxft when not given."""


def main() -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    arguments = tyro.cli(Arguments, prog="python -m convert")
    weights = load_weights(arguments.source, arguments.arch, arguments.cache_dir)
    num_classes = arguments.num_classes or len(weights.state_dict.get("fc.bias", range(1000)))
    model = make_resnet(arguments.arch, num_classes=num_classes, width=arguments.width)
    state_dict = to_state_dict(to_variables(weights.state_dict, model))
    path = arguments.out
    if path.suffix != ".safetensors":
        path = path / MODEL_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"arch": arguments.arch, "width": str(arguments.width)}
    save_weights(path, state_dict, classes=weights.classes, metadata=metadata)
    count = sum(array.size for key, array in state_dict.items() if key.endswith((".weight", ".bias")))
    print(f"{arguments.arch}: {count:,} parameters, {num_classes} classes, from {weights.source} to {path}")
    return 0


if __name__ == "__main__":
    run_command(main)
