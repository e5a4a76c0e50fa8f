"""python -m jaxft.predict against its decoder alone, and its memory, over many photographs.

    python benchmarks/predict.py --photos hymenoptera

The network is the demo's, narrow and on small images, so that decoding is most of what there is to do. The command runs
in a process of its own, as a user starts it; its rows are read as they come.
"""

import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from configs import DEMO
from jaxft.classifier import BATCH_SIZE
from jaxft.data.images import EvalCrop, quiet, render
from jaxft.data.named import find_images
from jaxft.data.workers import AHEAD, in_order
from jaxft.errors import run_command
from jaxft.host import num_cores
from jaxft.model_file import describe_model, load, save_model
from jaxft.resnet import make_resnet
from results import conditions, spread, table, write_section

POINTS = 5
"""Times that the memory is looked at, the last one at the last row."""
CLASSES = ("ants", "bees")


@dataclass(frozen=True)
class Arguments:
    """What classifying many photographs costs."""

    photos: Path
    """A folder of photographs."""
    num: int = 10_000
    """How many there are to be; the folder's are linked to again and again."""
    turns: int = 3
    """Times that each side is measured."""


class Measured(NamedTuple):
    """Of one run of the command."""

    start: float
    """Seconds until the first row."""
    seconds: float
    """Of the whole command."""
    rate: float
    """Photographs a second between the first tenth of the rows and the last one."""
    memory: list[float]
    """The most that the process has had, in MB: after the first row, and at POINTS places evenly apart."""


class Turn(NamedTuple):
    """Each side once; photographs a second."""

    decoder: float
    network: float
    command: Measured

    @property
    def in_turn(self) -> float:
        """As if each photograph were decoded first, and then went through the network."""
        return 1 / (1 / self.decoder + 1 / self.network)


def main() -> int:
    """The command; returns its exit status."""
    arguments = tyro.cli(Arguments, description=__doc__)
    with tempfile.TemporaryDirectory(prefix="jaxft-predict-") as scratch:
        folder, out = Path(scratch) / "photos", Path(scratch) / "run"
        link_photos(arguments.photos, folder, arguments.num)
        save_narrow_model(out)
        files = find_images([str(folder)])
        crop = EvalCrop(DEMO.images.image_size, DEMO.images.eval_resize)
        turns = [
            Turn(decoder(files, crop), network(out, len(files)), command(out, folder, len(files)))
            for _ in range(arguments.turns + 1)
        ][1:]
    text = report(arguments, turns)
    print(text)
    write_section("Predictions", text)
    return 0


def link_photos(photos: Path, folder: Path, num: int) -> None:
    """A folder of so many links to photographs."""
    folder.mkdir()
    files = [Path(file).resolve() for file in find_images([str(photos)])]
    for i in range(num):
        (folder / f"{i:06}{files[i % len(files)].suffix}").symlink_to(files[i % len(files)])


def save_narrow_model(out: Path) -> None:
    """A run's folder with the demo's network, not trained."""
    out.mkdir()
    network = make_resnet(DEMO.model.arch, num_classes=len(CLASSES), width=DEMO.model.width)
    images = jnp.zeros((1, DEMO.images.image_size, DEMO.images.image_size, 3))
    save_model(
        out / "model.safetensors", network.init(jax.random.key(0), images, train=False), describe_model(DEMO, CLASSES)
    )


def decoder(files: list[str], crop: EvalCrop) -> float:
    """Photographs a second, decoded and cropped on all cores and thrown away."""
    cores = num_cores()
    started = time.perf_counter()
    made = in_order(lambda i: render(Path(files[i]), crop), 0, len(files), threads=cores, ahead=AHEAD * cores)
    with quiet(), closing(made):
        deque(made, maxlen=0)
    return len(files) / (time.perf_counter() - started)


def network(out: Path, num: int) -> float:
    """Photographs a second, decoded before, through the network."""
    classifier = load(out)
    batch = np.zeros((BATCH_SIZE, classifier.recipe.size, classifier.recipe.size, 3), np.uint8)
    jax.block_until_ready(classifier.score(batch))
    started = time.perf_counter()
    for _ in range(num // BATCH_SIZE):
        jax.block_until_ready(classifier.score(batch))
    return num // BATCH_SIZE * BATCH_SIZE / (time.perf_counter() - started)


def command(out: Path, folder: Path, num: int) -> Measured:
    """One run."""
    started = time.perf_counter()
    words = [sys.executable, "-m", "jaxft.predict", str(out), str(folder), "--json"]
    places = {1, *(num * k // POINTS for k in range(1, POINTS + 1))}
    times, memory = [], []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for row, _ in enumerate(process.stdout, 1):
            times.append(time.perf_counter() - started)
            if row in places:
                memory.append(peak_megabytes(process.pid))
    assert (process.returncode, len(times)) == (0, num)
    tenth = num // 10
    return Measured(
        times[0], time.perf_counter() - started, (num - 2 * tenth) / (times[-tenth - 1] - times[tenth - 1]), memory
    )


def peak_megabytes(pid: int) -> float:
    """The most memory that a process has had, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))


def report(arguments: Arguments, turns: list[Turn]) -> str:
    """The section."""
    runs = [turn.command for turn in turns]
    sides = {
        "the decoder alone": [turn.decoder for turn in turns],
        "the network alone": [turn.network for turn in turns],
        "the decoder, and then the network": [turn.in_turn for turn in turns],
        "`python -m jaxft.predict --json`, once it runs": [run.rate for run in runs],
    }
    decoding = sides["the decoder alone"]
    rows = [[name, str(spread(rates)), f"{np.median(np.divide(rates, decoding)):.2f}"] for name, rates in sides.items()]
    memory = np.median([run.memory for run in runs], axis=0)
    places = [f"{arguments.num * k // POINTS:,}" for k in range(1, POINTS + 1)]
    return f"""{arguments.num:,} photographs ({arguments.photos.name}, again and again) through the demo's network
(ResNet18 of width {DEMO.model.width}, {DEMO.images.image_size} pixels), each on all cores of a CPU, which
decoder and network share.

{table(["", "photographs a second", "ratio"], rows)}

The whole command took {spread([run.seconds for run in runs])} seconds, {spread([run.start for run in runs])} of them
until the first row. The most memory that its process had had (VmHWM, MB), median:

{table(["first row", *places], [[f"{value:.0f}" for value in memory]])}

{conditions()}; n = {arguments.turns}, median (least to most).

    python benchmarks/predict.py --photos {arguments.photos.name} --num {arguments.num}"""


if __name__ == "__main__":
    run_command(main)
