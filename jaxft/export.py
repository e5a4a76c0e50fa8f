"""A trained network for PyTorch, for JAX alone or for ONNX Runtime: python -m jaxft.export RUN --to FORMAT."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import UInt8

from convert.torchvision import to_state_dict
from jaxft.classifier import forward
from jaxft.errors import EXIT_FOUND, UserError, run_command
from jaxft.formats.contract import Format, Trained
from jaxft.formats.onnx import ONNX
from jaxft.formats.safetensors import SAFETENSORS
from jaxft.formats.stablehlo import STABLEHLO
from jaxft.formats.torchvision import TORCHVISION
from jaxft.model_file import load, model_path, read_description
from jaxft.run_folder import writing

FORMATS = {"torchvision": TORCHVISION, "safetensors": SAFETENSORS, "stablehlo": STABLEHLO, "onnx": ONNX}
EXTRAS = {"torch": "torch", "torchvision": "torch", "onnx": "onnx", "onnxruntime": "onnx"}
"""The extra of ours that has a package."""

LIMITS = {"float32": 1e-4, "bfloat16": 0.1}
"""How far a probability may be from the run's own, which is computed in float32."""


@dataclass(frozen=True)
class Arguments:
    """Write a trained network as one file for other programs, and check that it says what the run's own says.

    torchvision: a .pth file of weights that torchvision's network loads with strict=True. safetensors: the same weights
    as .safetensors, with all that jaxft.load wants. stablehlo and onnx: the whole computation, for jax.export and for
    ONNX Runtime: uint8 crops [batch, size, size, 3] to probabilities, any batch. Class names and preprocessing are in
    each. The Python that opens and runs the file is printed.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's folder, or a model.safetensors of one that was copied elsewhere."""
    to: Literal["torchvision", "safetensors", "stablehlo", "onnx"]
    """torchvision needs pip install "jaxft[torch]", onnx needs pip install "jaxft[onnx]"."""
    out: Path | None = None
    """The file; model.pth, model.stablehlo or model.onnx beside the run's model when not given."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the computation in a .stablehlo file."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, 1 where the file would not say what the run's own network says.

    Raises:
        UserError: what the user can mend.
    """
    arguments = tyro.cli(Arguments, prog="python -m jaxft.export", args=argv)
    if arguments.precision != "float32" and arguments.to != "stablehlo":
        raise UserError(f"--precision {arguments.precision}: only --to stablehlo has it, {arguments.to} is float32.")
    target = FORMATS[arguments.to]
    source = model_path(arguments.run.expanduser())
    out = destination(arguments, source, target.suffix)
    trained = read(source)
    content = encode(arguments, trained)
    with scratch_beside(out, content) as scratch:
        try:
            apart = difference(target, scratch, trained)
        except ModuleNotFoundError as error:
            verdict = f"not checked, for that needs {error.name}: {remedy(error)}"
        else:
            # A NaN is off too.
            if not apart <= LIMITS[arguments.precision]:
                print(
                    f"error: --to {arguments.to}: a probability is {apart:.1e} from the run's own (limit "
                    f"{LIMITS[arguments.precision]:g}). Nothing was written; please report it.",
                    file=sys.stderr,
                )
                return EXIT_FOUND
            verdict = f"checked: the run's own probabilities, largest difference {apart:.0e}"
        with writing(out):
            scratch.replace(out)
    description = trained.description
    size, classes = description.recipe.size, len(description.class_names)
    print(f"written to {out}: {len(content) / 1e6:.1f} MB, {description.arch}, {classes} classes, {size} pixels")
    print(f"{verdict}\n\n{target.snippet(description, json.dumps(str(out), ensure_ascii=False))}", end="")
    return 0


def destination(arguments: Arguments, source: Path, suffix: str) -> Path:
    """The file that is to be written.

    Raises:
        UserError: another suffix than the format's, which its readers go by, or the model itself.
    """
    out = source.with_suffix(suffix) if arguments.out is None else arguments.out.expanduser()
    flags = f"--to {arguments.to}"
    if out.is_dir():
        raise UserError(f"{flags} --out {out}: is a folder. Pass a file: --out {out / f'model{suffix}'}.")
    if out.suffix != suffix:
        raise UserError(f"{flags} --out {out}: does not end in {suffix}. Pass --out {out.with_suffix(suffix)}.")
    if out.exists() and out.samefile(source):
        raise UserError(f"{flags}: {out} is the model itself. Pass another file: --out FILE{suffix}.")
    return out


def read(source: Path) -> Trained:
    """The network in a model.safetensors."""
    classifier = load(source, precision="float32", devices=1)
    variables = jax.device_get(classifier.variables)
    return Trained(read_description(source), classifier.model, variables, to_state_dict(variables))


def encode(arguments: Arguments, trained: Trained) -> bytes:
    """What the file holds.

    Raises:
        UserError: it takes a package that is not installed, or the format has no such network.
    """
    model = trained.model.clone(dtype=jnp.dtype(arguments.precision))
    try:
        return FORMATS[arguments.to].encode(trained._replace(model=model))
    except ModuleNotFoundError as error:
        raise UserError(f"--to {arguments.to} needs {error.name}. {remedy(error).capitalize()}.") from None


def remedy(error: ModuleNotFoundError) -> str:
    """How to get the package of an extra.

    Raises:
        ModuleNotFoundError: the package is of none.
    """
    if error.name not in EXTRAS:
        raise error
    return f'run pip install "jaxft[{EXTRAS[error.name]}]"'


@contextmanager
def scratch_beside(out: Path, content: bytes) -> Iterator[Path]:
    """The content in a file of another name, which is gone at the end.

    Raises:
        UserError: it cannot be written.
    """
    scratch = out.with_name(f".{os.getpid()}-{out.name}")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with writing(out):
            scratch.write_bytes(content)
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)


def difference(target: Format, path: Path, trained: Trained) -> float:
    """The largest one between the file's probabilities of a few patterns and the network's own in float32."""
    crops = patterns(trained.description.recipe.size)
    # Accelerators round the factors of float32 products.
    with jax.default_device("cpu"), jax.default_matmul_precision("highest"):
        own = np.asarray(forward(trained.model, trained.variables, crops).probabilities)
        theirs = target.open(path)(crops)
    assert theirs.shape == own.shape, (theirs.shape, own.shape)
    return float(np.abs(theirs - own).max())


def patterns(size: int) -> UInt8[np.ndarray, "b {size} {size} 3"]:
    """Coloured squares: two a side, four, eight and so on."""
    rng = np.random.default_rng(0)
    crops = []
    for num in (2, 4, 8, 16, 32):
        squares = rng.integers(0, 256, (num, num, 3), np.uint8)
        places = np.arange(size) * num // size
        crops.append(squares[places][:, places])
    return np.stack(crops)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # It computes next to nothing, and a run may have the accelerators.
    run_command(main)
