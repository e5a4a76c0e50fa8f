"""Fine-tune torchvision's ImageNet ResNets on your own photographs, in pure-functional JAX."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxft.classifier import Classifier as Classifier
    from jaxft.model_file import load as load
    from jaxft.training import fit as fit

__version__ = "0.1.0"

# Fetched when they are asked for: `import jaxft` alone stays cheap.
_PLACES = {
    "Classifier": "jaxft.classifier",
    "fit": "jaxft.training",
    "load": "jaxft.model_file",
}

__all__ = ["__version__", *_PLACES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'jaxft' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
