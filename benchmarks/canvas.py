"""Is training from canvases as good as torchvision's own crops? Fine-tuned accuracy, by canvas, over seeds.

    python benchmarks/canvas.py --photos hymenoptera --weights FILE

Every arm is the same run of jaxft, the same network, head, order of photographs, optimizer and evaluation; only the
training images differ: torchvision's RandomResizedCrop and flip of the whole photograph, drawn on the fly, or jaxft's
from canvases of one size. Finished runs are kept in --runs, and a second call goes on from there.
"""

import threading
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Array, Key
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import hflip, resized_crop

from configs import FOLDER
from convert.pretrained import load_pretrained
from jaxft.build import build
from jaxft.config import Config
from jaxft.data.augment import Augmented, Batch, normalise
from jaxft.data.batches import shuffled_order
from jaxft.data.feed import FOREVER, Batches
from jaxft.data.folders import open_folder
from jaxft.data.images import decode, quiet
from jaxft.data.plan import Keep
from jaxft.data.prepare import load_data, make_feed
from jaxft.data.sources import Source, Splits
from jaxft.data.workers import in_order
from jaxft.errors import run_command
from jaxft.host import num_cores
from jaxft.loop import Hooks, Record, fit
from results import conditions, table, write_section
from series import append_log, mean_of, read_log

TORCHVISION = "torchvision"
"""The arm without a canvas."""

drawing = threading.Lock()


@dataclass(frozen=True)
class Arguments:
    """Fine-tuned accuracy by canvas."""

    photos: Path
    """A folder with train/ and val/."""
    weights: Path
    """A .pth or .safetensors file of a ResNet18."""
    runs: Path = Path("runs/canvas")
    """Where finished runs are kept."""
    image_size: int = 224
    """Side of what the network sees, in pixels."""
    canvases: tuple[int, ...] = (384, 768)
    """Sides of the canvases, in pixels."""
    seeds: int = 5
    """Runs of each arm, at least 2."""


def main() -> int:
    """The command; returns its exit status."""
    arguments = tyro.cli(Arguments, description=__doc__)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    splits = open_folder(arguments.photos, val_fraction=0.2, seed=0)
    log = arguments.runs / "runs.jsonl"
    done = read_log(log, num_keys=4)
    arms = (TORCHVISION, *map(str, arguments.canvases))
    for seed in range(arguments.seeds):
        for arm in arms:
            key = (arguments.photos.name, arguments.image_size, arm, seed)
            if key not in done:
                done[key] = [accuracy(arguments, splits, arm, seed), conditions()]
                append_log(log, [*key, *done[key]])
            print(*key, f"{done[key][0]:.4f}", flush=True)
    found = {
        arm: [done[arguments.photos.name, arguments.image_size, arm, s] for s in range(arguments.seeds)] for arm in arms
    }
    report(arguments, found)
    return 0


def accuracy(arguments: Arguments, splits: Splits, arm: str, seed: int) -> float:
    """Test accuracy after the last epoch of one run."""
    canvas = None if arm == TORCHVISION else int(arm)
    images = replace(FOLDER.images, image_size=arguments.image_size, canvas=canvas)
    model = replace(FOLDER.model, weights=str(arguments.weights))
    config = replace(FOLDER, data=str(arguments.photos), images=images, model=model, seed=seed, input="mmap")
    config = replace(config, precision="float32", devices=1)
    data = load_data(splits, config, Keep(arguments.runs / "decoded", 10**11), 0, lambda *_: None)
    feed = make_feed(data, config, print)
    pretrained = load_pretrained(config.model, arguments.runs)
    augment = None
    if arm == TORCHVISION:
        feed, augment = feed._replace(train=lambda step: torchvision_batches(splits.train, config, step)), as_it_is
    run = build(config, data.class_names, pretrained, augment=augment)
    records: list[Record] = []
    hooks = Hooks(records.append)
    fit(run, feed, images_per_step=config.images_per_step, num_epochs=config.epochs, hooks=hooks)
    return records[-1].accuracy


def as_it_is(_: Key[Array, ""], batch: Batch) -> Augmented:
    """Images that are crops already, normalised."""
    return Augmented(normalise(batch.images), None, None)


def torchvision_batches(source: Source, config: Config, step: int) -> Batches:
    """Batches of torchvision's crops, drawn by (seed, place in the run)."""
    size, order = config.batch_size, shuffled_order(len(source), config.batch_size, config.seed)
    positions = np.arange(size, dtype=np.int32)

    def crop(place: int) -> tuple[np.ndarray, int]:
        item, label = source.read(int(order(place // size)[place % size]))
        photo = decode(item)
        with drawing:  # torch's generator is one for all threads.
            torch.manual_seed(config.seed * 10**6 + place)
            box = RandomResizedCrop.get_params(photo, [0.08, 1.0], [3 / 4, 4 / 3])  # pyright: ignore[reportArgumentType]
            flip = bool(torch.rand(()) < 0.5)
        cropped = resized_crop(photo, *box, [config.images.image_size] * 2, InterpolationMode.BILINEAR)  # pyright: ignore[reportArgumentType]
        return np.asarray(hflip(cropped) if flip else cropped), label

    with quiet(), closing(in_order(crop, step * size, FOREVER, threads=num_cores(), ahead=2 * size)) as crops:
        while True:
            images, labels = zip(*(next(crops) for _ in range(size)), strict=True)
            sizes = np.full((size, 2), config.images.image_size, np.int32)
            yield Batch._make((np.stack(images), sizes, np.array(labels, np.int32), positions))


def report(arguments: Arguments, found: dict[str, list[list[Any]]]) -> None:
    """Print the table and keep it in RESULTS.md."""
    reference = mean_of([accuracy for accuracy, _ in found[TORCHVISION]])
    rows = []
    for arm, runs in found.items():
        ours = [accuracy for accuracy, _ in runs]
        mean = mean_of(ours)
        name = "torchvision, on the fly" if arm == TORCHVISION else f"canvas of {arm}"
        apart = f"{mean.mean - reference.mean:+.4f} ± {np.hypot(mean.error, reference.error):.4f}"
        seeds = " ".join(f"{each:.3f}" for each in ours)
        rows.append([name, str(mean), "" if arm == TORCHVISION else apart, seeds])
    made = "; ".join(sorted({each for runs in found.values() for _, each in runs}))
    canvases = " ".join(map(str, arguments.canvases))
    text = f"""Test accuracy after the last of {FOLDER.epochs} epochs, mean ± standard error over {arguments.seeds}
seeds: the `folder` preset, ResNet18 in float32 at {arguments.image_size} pixels, {arguments.weights.name},
{arguments.photos.name}.

{table(["training crops", "accuracy", "less torchvision's", "seed 0, 1, …"], rows)}

{made}.

    python benchmarks/canvas.py --photos {arguments.photos.name} --weights {arguments.weights.name} \\
        --image-size {arguments.image_size} --canvases {canvases} --seeds {arguments.seeds}"""
    print(text)
    write_section("Training from canvases", text)


if __name__ == "__main__":
    run_command(main)
