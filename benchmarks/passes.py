"""Photographs a second: the first pass over a set, the later ones, and torchvision's DataLoader (see input.py)."""

import multiprocessing
import shutil
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import torch
from torchvision import transforms
from torchvision.datasets import ImageFolder

from jaxft.data.augment import IMAGENET_MEAN, IMAGENET_STD
from jaxft.data.batches import share_of, shuffled_order
from jaxft.data.canvas import Canvas, EvalCrop, canvas_size, decode_set
from jaxft.data.feed import mapped_feed
from jaxft.data.folders import TEST_NAMES
from jaxft.data.images import render
from jaxft.data.sources import Splits
from jaxft.host import num_cores
from results import table, take_turns

BATCH = 32


def first_and_later_passes(photos: Path, splits: Splits, cache: Path, turns: int) -> str:
    """Photographs a second: decoding for the first time, gathering from the map, and torchvision's DataLoader."""
    side = canvas_size(splits.train, 224)
    num = len(splits.train) + len(splits.test)

    def first() -> float:
        folder = cache / "first"
        shutil.rmtree(folder, ignore_errors=True)
        started = time.perf_counter()
        decode_set(splits.train, Canvas(side), cache_dir=folder)
        decode_set(splits.test, EvalCrop(224, "short"), cache_dir=folder)
        return num / (time.perf_counter() - started)

    def in_processes() -> float:
        started = time.perf_counter()
        with ProcessPoolExecutor(num_cores(), mp_context=multiprocessing.get_context("fork")) as pool:
            for source, recipe in ((splits.train, Canvas(side)), (splits.test, EvalCrop(224, "short"))):
                items = [source.read(i)[0] for i in range(len(source))]
                assert all(bad is None for _, _, bad in pool.map(partial(render, recipe=recipe), items, chunksize=4))
        return num / (time.perf_counter() - started)

    def torchs() -> float:
        loaders = torch_loaders(photos)
        started = time.perf_counter()
        seen = sum(len(labels) for loader in loaders for _, labels in loader)
        assert seen == num, f"{seen} photographs in place of {num}"
        return num / (time.perf_counter() - started)

    def later() -> float:
        train = decode_set(splits.train, Canvas(side), cache_dir=cache / "first")
        test = decode_set(splits.test, EvalCrop(224, "short"), cache_dir=cache / "first")
        steps = 20 * len(train.labels) // BATCH
        feed = mapped_feed(train, test, shuffled_order(len(train.labels), BATCH, 0), share_of(BATCH))
        started = time.perf_counter()
        with closing(feed.train(0)) as batches:
            for batch in islice(batches, steps):
                jax.block_until_ready(jax.device_put(batch))
        return steps * BATCH / (time.perf_counter() - started)

    with warnings.catch_warnings():
        # The workers are forks of a process with JAX in it, which they do not touch.
        warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
        theirs, ours, processes, mapped = take_turns(turns, torchs, first, in_processes, later)
    rows = [
        ["torchvision's DataLoader, every pass", str(theirs), "1"],
        ["jaxft, first pass", str(ours), f"{ours.median / theirs.median:.2f}"],
        ["the same decoding in processes", str(processes), f"{processes.median / theirs.median:.2f}"],
        ["jaxft, later passes, mapped, on the device", str(mapped), f"{mapped.median / theirs.median:.0f}"],
    ]
    return f"""Photographs a second, {num} of {photos.name}; DataLoader with {num_cores()} workers and the chapter's
transforms at 224 pixels, batch {BATCH}; canvases of {side}, decoded in {num_cores()} threads and written to the
cache (in processes: handed back, and not written).

{table(["", "photographs a second", "ratio"], rows)}"""


def torch_loaders(folder: Path) -> list[torch.utils.data.DataLoader]:
    """ImageFolder and the chapter's transforms, for training and for testing."""
    to_input = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    random = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *to_input]
    fixed = [transforms.Resize(256), transforms.CenterCrop(224), *to_input]
    test = next(folder / name for name in TEST_NAMES if (folder / name).is_dir())
    return [
        torch.utils.data.DataLoader(
            ImageFolder(str(path), transforms.Compose(transform)), BATCH, shuffle=shuffle, num_workers=num_cores()
        )
        for path, transform, shuffle in ((folder / "train", random, True), (test, fixed, False))
    ]
