"""jaxft against PyTorch in numbers: the networks, the chapter's training loop, and what the canvas costs.

    python benchmarks/fidelity.py network training images --shared FOLDER

The measurements are those that the tests make (tests/parity), here of everything. Each table goes into RESULTS.md.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import jax
import numpy as np
import tyro

from jaxft.errors import UserError, run_command
from jaxft.resnet import ARCHS
from results import conditions, table, write_section

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from parity import images, network, training

Part = Literal["network", "training", "images"]
PHOTOS = 60
CANVASES = (224, 256, 288, 320, 352, 384, 448, 512)


@dataclass(frozen=True)
class Arguments:
    """Which tables to write."""

    parts: Annotated[tuple[Part, ...], tyro.conf.Positional] = ("network", "training", "images")
    """Which tables; network takes about half an hour on two cores, the others minutes."""
    shared: Path | None = None
    """For training and images: a folder with data/hymenoptera and weights/resnet18-rebuilt.pth."""


class Table(NamedTuple):
    """A section of RESULTS.md; `rows` measures as it goes."""

    title: str
    text: str
    header: list[str]
    rows: Callable[[Path | None], Iterator[list[str]]]


def main() -> int:
    """The command; returns its exit status.

    Raises:
        UserError: --shared is missing.
    """
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.shared is None and arguments.parts != ("network",):
        raise UserError("training and images need photographs and weights: pass --shared FOLDER.")
    for part in arguments.parts:
        title, text, header, rows = TABLES[part]
        found = list(shown(rows(arguments.shared)))
        command = f"    python benchmarks/fidelity.py {part}{'' if part == 'network' else ' --shared FOLDER'}"
        write_section(title, f"{text}\n\n{table(header, found)}\n\n{conditions()}.\n\n{command}")
    return 0


def shown(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    """The rows, printed as they come."""
    for row in rows:
        print(*row, flush=True)
        yield row


def network_rows(_: Path | None) -> Iterator[list[str]]:
    """A row a network and size."""
    for arch in ARCHS:
        for size in network.SIZES:
            exact = {"inference": network.in_float64(arch, size, train=False)["stages"]}
            exact |= network.in_float64(arch, size, train=True)
            rounded = network.in_float32(arch, size)
            yield [
                arch,
                f"{size[0]} × {size[1]}",
                *(f"{network.largest(entries):.0e}" for entries in exact.values()),
                *(pair(*rounded[kind]) for kind in ("stages", "gradients")),
            ]
            jax.clear_caches()


def training_rows(shared: Path | None) -> Iterator[list[str]]:
    """A row a setting, and one of a pretrained network on photographs in float32."""
    for name, setting in training.SETTINGS.items():
        apart, losses = training.in_float64(setting)
        yield [name, f"{losses[0]:.3f} to {losses[-1]:.3f}", *(f"{value:.0e}" for value in apart)]
    assert shared is not None
    ours, theirs = training.in_float32(shared)
    yield ["pretrained, in float32", "", *map(pair, ours, theirs)]


def images_rows(shared: Path | None) -> Iterator[list[str]]:
    """A row a canvas."""
    assert shared is not None
    paths = sorted((shared / "data/hymenoptera").glob("*/*/*.jpg"))
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, PHOTOS).astype(int)]
    for entry in images.canvas_differences(chosen, CANVASES):
        yield [str(entry.canvas), f"{entry.mean:.2f}", f"{entry.p99:.1f}", f"{entry.largest:.0f}"]


def pair(ours: float, theirs: float) -> str:
    """Our distance, and PyTorch's own in parentheses."""
    return f"{ours:.1e} ({theirs:.1e})"


TABLES = {
    "network": Table(
        "Networks: jaxft against torchvision",
        f"""The largest difference, relative to the array's largest value, over all stages from the stem to the logits,
the loss, every parameter's gradient, and every BatchNorm's running statistics after a training step. In float64, whose
rounding is about 1e-16, on {network.BATCH} images of noise, with random weights and statistics.

In float32 at the highest precision: how far jaxft is from torchvision's float64 run, and in parentheses how far
torchvision's own float32 run is; gradients as one vector, relative to its length.""",
        [
            *("network", "pixels", "inference", "training", "loss", "gradients", "statistics"),
            *("float32, stages", "float32, gradients"),
        ],
        network_rows,
    ),
    "training": Table(
        "Training: jaxft against PyTorch, step by step",
        f"""The chapter's loop in PyTorch (torchvision's resnet18, `fc` drawn anew, two groups of rates,
`l.sum().backward()`) and jaxft's step, from the same weights on the same {training.NUM_STEPS} batches, in float64: the
largest difference of a loss, in nats, and of a parameter and a running statistic after the last step, relative to its
array's largest value. Batches of {training.BATCH} images of {training.SIZE} pixels.

The last row: a pretrained network in float32 on batches of 8 photographs of 64 pixels. How far jaxft is from PyTorch's
float64 run, and in parentheses how far PyTorch's own float32 run is; parameters and statistics each as one vector, in
units of the way that it went.""",
        ["setting", "loss, first to last step", "losses", "parameters", "statistics"],
        training_rows,
    ),
    "images": Table(
        "Training crops: what the canvas costs",
        f"""The absolute difference, in 1/255, of jaxft's training crops from torchvision's of the whole photograph, for
the same boxes: {PHOTOS} photographs of hymenoptera (most are 500 × 375 or so), two boxes of RandomResizedCrop each, at
224 pixels. Torchvision rounds to whole pixel values: some 0.27 of each mean is that. Evaluation has no such
difference: it is bit-exact.""",
        ["canvas", "mean", "99th percentile", "largest"],
        images_rows,
    ),
}


if __name__ == "__main__":
    run_command(main)
