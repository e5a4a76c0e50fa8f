"""torchvision's parameter names and Flax's paths: pure strings, one for one.

`layer1.0.downsample.1.running_var` is `batch_stats/layer1_0/downsample_1/var`.
"""

import re

from jaxft.errors import UserError

CONV_LEAVES = {"weight": "params/kernel"}
DENSE_LEAVES = {"weight": "params/kernel", "bias": "params/bias"}
NORM_LEAVES = {
    "weight": "params/scale",
    "bias": "params/bias",
    "running_mean": "batch_stats/mean",
    "running_var": "batch_stats/var",
}
BLOCK = r"(?:layer[1-4]\.\d+\.)?"
LEAVES_BY_MODULE = (
    (re.compile(rf"{BLOCK}conv\d|layer[1-4]\.\d+\.downsample\.0"), CONV_LEAVES),
    (re.compile(rf"{BLOCK}bn\d|layer[1-4]\.\d+\.downsample\.1"), NORM_LEAVES),
    (re.compile(r"fc"), DENSE_LEAVES),
)

WRAPPERS = ("module", "_orig_mod")
"""What DataParallel and torch.compile put before the names of the module that they wrap."""


def unwrap(key: str) -> str:
    """A key without its wrappers: `module._orig_mod.fc.bias` is `fc.bias`."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def leaves_of(module: str) -> dict[str, str]:
    """torch's leaf names of a torchvision module, each with Flax's collection and leaf; empty for an unknown module."""
    return next((leaves for pattern, leaves in LEAVES_BY_MODULE if pattern.fullmatch(module)), {})


def to_flax(key: str) -> str:
    """The Flax path, collection first, of a torchvision key.

    Raises:
        UserError: not a name of a torchvision ResNet.
    """
    module, _, leaf = key.rpartition(".")
    target = leaves_of(module).get(leaf)
    if target is None:
        raise UserError(f"{key}: not a name of a torchvision ResNet.")
    collection, name = target.split("/")
    # layer1.0.downsample.1 is layer1_0/downsample_1: a number belongs to the word before it.
    path = re.sub(r"\.(\d+)", r"_\1", module).replace(".", "/")
    return f"{collection}/{path}/{name}"


def to_torch(path: str) -> str:
    """The torchvision key of a Flax path that starts with its collection.

    Raises:
        UserError: not a path of jaxft's ResNet.
    """
    collection, _, rest = path.partition("/")
    module_path, _, name = rest.rpartition("/")
    module = re.sub(r"_(\d+)", r".\1", module_path).replace("/", ".")
    for leaf, target in leaves_of(module).items():
        if target == f"{collection}/{name}":
            return f"{module}.{leaf}"
    raise UserError(f"{path}: not a path of jaxft's ResNet.")
