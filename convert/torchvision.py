"""A torchvision state_dict to Flax variables and back: a bijection, strict both ways."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert.names import to_flax, to_torch
from jaxft.errors import UserError
from jaxft.paths import by_name
from jaxft.resnet import ResNet

COUNTER = ".num_batches_tracked"  # torch counts batches; only a momentum of None would read it.
SMALLEST_IMAGE = (1, 32, 32, 3)
LISTED = 10


def to_variables(state_dict: Mapping[str, np.ndarray], model: ResNet) -> dict[str, Any]:
    """Variables {"params", "batch_stats"} in float32 for `model`; half precision is widened.

    Raises:
        UserError: all that is missing, unexpected or misshapen, together.
    """
    wanted = {to_torch(path): leaf.shape for path, leaf in by_name(variable_shapes(model)).items()}
    arrays = {key: np.asarray(value) for key, value in state_dict.items() if not key.endswith(COUNTER)}
    problems = [
        *some("missing from the file", sorted(wanted.keys() - arrays.keys())),
        *some("in the file, not in the model", sorted(arrays.keys() - wanted.keys())),
        *some(
            "of another shape or kind",
            [line for key in sorted(wanted.keys() & arrays) for line in mismatch(key, arrays[key], wanted[key])],
        ),
    ]
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise UserError(f"these weights are not the model's:{listed}\nIs --arch (and --width) the file's?")
    variables: dict[str, Any] = {}
    for key, array in arrays.items():
        *modules, leaf = to_flax(key).split("/")
        node = variables
        for module in modules:
            node = node.setdefault(module, {})
        node[leaf] = torch_to_flax(array).astype(np.float32)
    return variables


def variable_shapes(model: ResNet) -> Any:
    """The model's variables {"params", "batch_stats"} as jax.ShapeDtypeStruct."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(SMALLEST_IMAGE), train=False))


def some(what: str, lines: list[str]) -> list[str]:
    """A heading with their number, and the first of the lines; nothing where there are none."""
    if not lines:
        return []
    more = [f"  and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return [f"{what} ({len(lines)}):", *(f"  {line}" for line in lines[:LISTED]), *more]


def mismatch(key: str, array: np.ndarray, flax_shape: tuple[int, ...]) -> list[str]:
    """What is wrong with an array's shape or kind, in torch's order of axes; empty where nothing is."""
    shape = flax_to_torch_shape(flax_shape)
    if array.shape != shape:
        remedy = f" Pass --num-classes {array.shape[0]}." if key.startswith("fc.") and array.ndim else ""
        return [f"{key}: the file has {array.shape}, the model wants {shape}.{remedy}"]
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return [f"{key}: the file has {array.dtype}, the model wants floating point."]
    return []


def to_state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """torchvision's state_dict of the variables, contiguous, as torch's `load_state_dict(strict=True)` takes it."""
    state_dict: dict[str, np.ndarray] = {}
    for path, leaf in by_name(variables).items():
        key = to_torch(path)
        state_dict[key] = np.ascontiguousarray(flax_to_torch(np.asarray(leaf)))
        if key.endswith(".running_var"):
            state_dict[key.removesuffix(".running_var") + COUNTER] = np.zeros((), np.int64)
    return state_dict


def torch_to_flax(array: np.ndarray) -> np.ndarray:
    """OIHW to HWIO; a linear layer's [out, in] to [in, out]."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def flax_to_torch(array: np.ndarray) -> np.ndarray:
    """HWIO to OIHW; [in, out] to a linear layer's [out, in]."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def flax_to_torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """As `flax_to_torch`, for a shape."""
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1]
