"""What the input costs: jaxft against torchvision's DataLoader, and against the training step that it feeds.

    python benchmarks/input.py --photos hymenoptera --cached hotdog

Every comparison is made in one process, its sides taking turns, after one turn of each that is not counted; a figure is
the median of the turns, and the least and the most of them stand beside it. The memory is a process's own peak.
"""

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import PIL.Image
import tyro

from configs import FOLDER
from convert.pretrained import load_pretrained
from jaxft.build import build
from jaxft.data.augment import Batch, make_augment
from jaxft.data.batches import share_of, shuffled_order
from jaxft.data.canvas import Canvas, Decoded, canvas_size, decode_set
from jaxft.data.feed import mapped_feed, resident_feed
from jaxft.data.folders import open_folder
from jaxft.data.resident import Store
from jaxft.data.sources import Splits
from jaxft.errors import run_command
from jaxft.host import num_cores
from passes import BATCH, first_and_later_passes
from results import Spread, conditions, table, take_turns, write_section

LARGE_BATCH = 128
PROBE = Path(__file__).with_name("input_probe.py")


@dataclass(frozen=True)
class Arguments:
    """What the input costs."""

    photos: Path
    """A folder with train/ and val/: the first pass, the later ones and the training step are of these."""
    cached: Path
    """A larger one, to start from its cache."""
    turns: int = 5
    """Times that each side of a comparison is measured."""
    large: int = 50_000
    """Photographs that are made for the memory test."""
    large_size: int = 224
    """Side of the canvases of those, in pixels."""


def main() -> int:
    """The command; returns its exit status."""
    arguments = tyro.cli(Arguments, description=__doc__)
    with tempfile.TemporaryDirectory(prefix="jaxft-input-") as scratch:
        splits = open_folder(arguments.photos, val_fraction=0.2, seed=0)
        cache = Path(scratch)
        sections = [
            first_and_later_passes(arguments.photos, splits, cache, arguments.turns),
            shares_of_a_step(arguments, splits, cache),
            start_from_cache(arguments, cache),
            peak_memory(arguments, cache),
        ]
    text = "\n\n".join(
        [*sections, f"{conditions()}; n = {arguments.turns}, median (least to most).", command(arguments)]
    )
    print(text)
    write_section("Input", text)
    return 0


def command(arguments: Arguments) -> str:
    """The command line that made the section."""
    return f"    python benchmarks/input.py --photos {arguments.photos.name} --cached {arguments.cached.name}"


def shares_of_a_step(arguments: Arguments, splits: Splits, cache: Path) -> str:
    """The augmentation's share of a ResNet18 training step, and the host's where the set is resident."""
    train = decode_set(splits.train, Canvas(canvas_size(splits.train, 224)), cache_dir=cache / "first")
    config = replace(FOLDER, batch_size=LARGE_BATCH, devices=1, model=replace(FOLDER.model, weights="none"))
    stores = (Store._make(train[:3]), Store._make(train[:3]))
    run = build(config, splits.train.class_names, load_pretrained(config.model, cache), stores=stores)
    feed = resident_feed(len(train.labels), 0, shuffled_order(len(train.labels), LARGE_BATCH, 0), share_of(LARGE_BATCH))
    augment = jax.jit(make_augment(config.images.augment, config.images.image_size, config.images.eval_resize))
    host_batch = first_batch(train)
    placed, state = run.put(host_batch), run.state

    with closing(feed.train(0)) as picks:

        def whole_step() -> float:
            nonlocal state
            batch = run.put(next(picks))
            started = time.perf_counter()
            state, metrics = run.train_step(state, batch, run.key)
            jax.block_until_ready(metrics)
            return time.perf_counter() - started

        def host() -> float:
            started = time.perf_counter()
            jax.block_until_ready(run.put(next(picks)))
            return time.perf_counter() - started

        def augmentation() -> float:
            started = time.perf_counter()
            jax.block_until_ready(augment(run.key, placed))
            return time.perf_counter() - started

        step, ours, augmenting = take_turns(arguments.turns, whole_step, host, augmentation)
    rows = [
        ["training step, ResNet18", str(step), "100"],
        ["of it on the device: crop, flip, normalise", str(augmenting), f"{100 * augmenting.median / step.median:.1f}"],
        ["besides it on the host: the next batch, resident", str(ours), f"{100 * ours.median / step.median:.3f}"],
    ]
    return f"""Seconds for a batch of {LARGE_BATCH} at 224 pixels from canvases of {train.images.shape[1]}, in float32.

{table(["", "seconds", "% of the step"], rows)}"""


def first_batch(train: Decoded) -> Batch:
    """A batch on the host."""
    feed = mapped_feed(train, train, shuffled_order(len(train.labels), LARGE_BATCH, 0), share_of(LARGE_BATCH))
    with closing(feed.train(0)) as batches:
        return next(batches)


def start_from_cache(arguments: Arguments, cache: Path) -> str:
    """Seconds from the folder's name to the first batch on the device, everything imported and decoded before."""
    words = ["start", str(arguments.cached), str(cache / "cached")]
    probe(*words)
    found = [probe(*words) for _ in range(arguments.turns)]
    seconds = np.array([each["seconds"] for each in found])
    spread = Spread(float(np.median(seconds)), float(seconds.min()), float(seconds.max()))
    return f"""Start of a second run on {found[0]["images"]} photographs ({arguments.cached.name}), all of them cached
({found[0]["megabytes"]:.0f} MB), each time in a new process: {spread} seconds from opening the folder to the first
batch on the device, imports not counted."""


def peak_memory(arguments: Arguments, cache: Path) -> str:
    """Peak memory over three epochs of a large set, mapped and streamed."""
    photos = cache / "large"
    make_photos(photos, arguments.large)
    rows = []
    for way in ("mmap", "stream"):
        found = probe("memory", str(photos), str(cache / "large-cache"), way, str(arguments.large_size))
        rows.append([way, f"{found['before']:.0f}", *(f"{peak - found['before']:.0f}" for peak in found["peaks"])])
    total = arguments.large * 3 * arguments.large_size**2 / 1e9
    return f"""Peak memory of a process (VmHWM, MB) that decodes {arguments.large:,} photographs of 320 × 240 to
canvases of {arguments.large_size} ({total:.1f} GB), or streams them, and brings all batches of {BATCH} to the device;
over what it had before: after decoding and after each epoch.

{table(["", "before", "decoded", "epoch 1", "epoch 2", "epoch 3"], rows)}"""


def make_photos(folder: Path, num: int) -> None:
    """JPEG files of two classes, each a crop of one noisy picture."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    base = np.asarray(PIL.Image.fromarray(noise).resize((1600, 1200), PIL.Image.Resampling.BICUBIC))
    for split in ("train", "test"):
        for name in "ab":
            (folder / split / name).mkdir(parents=True)

    def write(i: int) -> None:
        top, left = i % 960, i * 7 % 1280
        split = "train" if i % 50 else "test"
        path = folder / split / "ab"[i // 50 % 2] / f"{i:06}.jpg"
        PIL.Image.fromarray(base[top : top + 240, left : left + 320]).save(path)

    with ThreadPoolExecutor(num_cores()) as pool:
        list(pool.map(write, range(num)))


def probe(*words: str) -> dict[str, Any]:
    """What a new process measured (see input_probe.py)."""
    done = subprocess.run([sys.executable, str(PROBE), *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    run_command(main)
