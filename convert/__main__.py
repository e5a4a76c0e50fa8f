"""Weights against a torchvision ResNet: checked, compared, written: python -m convert SOURCE --arch NAME."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console

from convert.torchvision import some, to_state_dict, to_variables
from convert.weights import MODEL_FILE, Weights, load_weights, save_weights
from jaxft.errors import EXIT_FOUND, UserError, run_command
from jaxft.resnet import ResNet, make_resnet


@dataclass(frozen=True)
class Arguments:
    """Check weights against a torchvision ResNet, and write them as safetensors in torchvision's layout.

    With --verify, also run a batch through torchvision's network and through jaxft's, and show how far they part.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """torchvision, hf:OWNER/REPO, a .safetensors file, a .pth file or training checkpoint of torch's, or a folder with
    model.safetensors (a run's, say)."""
    out: Path | None = None
    """A .safetensors file, or a folder that gets model.safetensors."""
    verify: bool = False
    """Compare every stage, gradient and running statistic with torchvision's; exit status 1 where one is off."""
    arch: str = "resnet18"
    """One of torchvision's ResNets: resnet18, 34, 50, 101, 152, resnext50_32x4d, resnext101_32x8d, resnext101_64x4d,
    wide_resnet50_2, wide_resnet101_2."""
    num_classes: int | None = None
    """Rows of the classifier; the file's own when not given."""
    width: int = 64
    """Channels of the stem."""
    cache_dir: Path | None = None
    """Where downloads are kept; ~/.cache/jaxft when not given."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    arguments = tyro.cli(Arguments, prog="python -m convert", args=argv)
    if arguments.out is None and not arguments.verify:
        raise UserError("nothing to do: pass --out FILE to write the weights, --verify to compare, or both.")
    weights = load_weights(arguments.source, arguments.arch, arguments.cache_dir)
    num_classes = arguments.num_classes or len(weights.state_dict.get("fc.bias", range(1000)))
    model = make_resnet(arguments.arch, num_classes=num_classes, width=arguments.width)
    state_dict = to_state_dict(to_variables(weights.state_dict, model))
    count = sum(array.size for key, array in state_dict.items() if key.endswith((".weight", ".bias")))
    print(f"{arguments.arch}: {count:,} parameters, {num_classes} classes, from {weights.source}")
    if arguments.verify and not same_as_torchvision(arguments.arch, weights, model):
        return EXIT_FOUND
    if arguments.out is not None:
        print(f"written to {write(arguments, weights, state_dict)}")
    return 0


def same_as_torchvision(arch: str, weights: Weights, model: ResNet) -> bool:
    """Whether the two networks agree; the table is printed.

    Raises:
        UserError: torch or torchvision is not installed, or torchvision has no such network.
    """
    try:
        from convert.verify import IMAGES, verify  # An extra, and seconds to import: only --verify needs torch.
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "torchvision"):
            raise
        raise UserError(f'--verify needs {error.name}. Run pip install "jaxft[torch]".') from None
    print(f"comparing on {IMAGES[0]} images of {IMAGES[2]} x {IMAGES[3]} …", flush=True)
    verdict = verify(arch, weights.state_dict, model)
    Console().print(verdict.table)
    print("\n".join(some("off", verdict.off) or ["the same network, up to rounding"]))
    return not verdict.off


def write(arguments: Arguments, weights: Weights, state_dict: Mapping[str, np.ndarray]) -> Path:
    """Write the weights where `--out` says; returns the file."""
    assert arguments.out is not None
    path = arguments.out if arguments.out.suffix == ".safetensors" else arguments.out / MODEL_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"arch": arguments.arch, "width": str(arguments.width)}
    save_weights(path, state_dict, classes=weights.classes, metadata=metadata)
    return path


if __name__ == "__main__":
    run_command(main)
