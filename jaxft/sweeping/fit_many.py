"""Many recipes tried on one set: trained on part of its training images, ranked by the others."""

import heapq
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from convert.pretrained import load_pretrained
from jaxft.build import Pretrained, compute_dtype
from jaxft.checks import check
from jaxft.classifier import BATCH_SIZE, make_classifier
from jaxft.config import Config
from jaxft.data.batches import check_batch_fits
from jaxft.data.canvas import EvalCrop, decode_set
from jaxft.data.leakage import leakage_notes
from jaxft.data.load import open_splits
from jaxft.data.sources import Source, Splits, hold_out
from jaxft.options import Options
from jaxft.parallel import local_devices
from jaxft.resnet import make_resnet
from jaxft.sweeping.choice import Average, Probabilities, Ranked, ensemble, rank, soup
from jaxft.sweeping.folder import Member
from jaxft.sweeping.groups import Inputs
from jaxft.sweeping.series import Trained, train_members

HOLDOUT = 0.2
"""Of each training class, where the config says nothing."""
KEPT = 8
"""Of the best members, so many keep their weights for averages."""


class Hooks(NamedTuple):
    """What the caller wants to hear of."""

    say: Callable[[str], None] = lambda _: None
    progress: Callable[[str, int, int], None] = lambda *_: None
    """What is being done before training, how many images of it are done, of how many."""
    on_epoch: Callable[[int], None] = lambda _: None
    """So many members have been trained for one more epoch."""
    on_members: Callable[[Sequence[Member]], None] = lambda _: None
    """These have ended."""


class Averages(NamedTuple):
    """What averages of the best members reach, and the soup's variables."""

    best: Member
    soup: Average
    ensemble: Average
    variables: Any


class Sweep(NamedTuple):
    """What came of the recipes."""

    ranked: Sequence[Ranked]
    """The best first."""
    class_names: tuple[str, ...]
    averages: Averages | None
    """None where they were not asked for, or the best members were not trained now or differ in their network."""


def fit_many(
    configs: Sequence[Config],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    data: Splits | None = None,
    halving: int | None = None,
    options: Options | None = None,
    known: Sequence[Member] = (),
    hooks: Hooks | None = None,
    averages: bool = True,
) -> Sweep:
    """Train every config with every seed on part of the training set, and rank them by the rest of it.

    Configs that differ in numbers alone (rates, decay, smoothing and so on) train as one program, spread over the
    devices. The held-out part, `images.holdout` of the first config or a fifth, is the same for all; the test set is
    not looked at. Each member is the run of its config and seed on the same images, up to rounding.

    Args:
        configs: what to try; their data are the first one's, their own seeds do not count.
        seeds: of each config.
        data: training images of your own, in place of those that `config.data` names.
        halving: stop all but one in so many of the recipes early, again and again (see `jaxft.sweeping.series.rungs`).
        options: where decoded images are kept.
        known: members that have ended before, with `halving` also those that were given up.
        hooks: what to call.
        averages: try averages of the best members too.

    Raises:
        UserError: as `jaxft.train` does for one of the configs.
    """
    options, hooks, base = options or Options(), hooks or Hooks(), configs[0]
    for config in configs:
        check_sweepable(config)
    for name in ("holdout", "val_fraction"):
        check(
            len({getattr(config.images, name) for config in configs}) == 1,
            f"--{name.replace('_', '-')}: all recipes are chosen by the same images. Give it one value.",
        )
    whole = open_splits(base, options.cache_folder) if data is None else data
    train, held_out = hold_out(whole.train, base.images.holdout or HOLDOUT)
    for config in configs:
        check_batch_fits(len(train), config.batch_size, config.accumulate)
    parts = Splits(train, held_out)
    for note in (*whole.notes, *leakage_notes(parts, shlex.quote(base.data), tested="held-out")):
        hooks.say(note)
    hooks.say(f"{len(train)} images to train on, {len(held_out)} held out to choose by; the test set is not looked at")

    @cache
    def pretrained(config: Config) -> Pretrained | None:
        return load_pretrained(config.model, options.cache_folder)

    inputs = Inputs(parts, pretrained, options.decoded, hooks.say, hooks.progress)
    members, best = list(known), Best(KEPT)
    done = {(member.recipe, member.seed) for member in known}
    for ended in train_members(
        [replace(config, images=replace(config.images, holdout=0.0)) for config in configs],
        seeds,
        inputs,
        halving=halving,
        known=lambda recipe, seed: (recipe, seed) in done,
        on_epoch=hooks.on_epoch,
    ):
        members += [each.member for each in ended]
        hooks.on_members([each.member for each in ended])
        best.add([each for each in ended if is_whole(each.member, configs)])
    found = averaged(best.members(), configs, held_out, options) if averages and not known else None
    return Sweep(rank(members, [config.epochs for config in configs]), tuple(train.class_names), found)


def check_sweepable(config: Config) -> None:
    """Raise a UserError for what a sweep does not do."""
    check(
        config.regular.patience is None,
        "--patience: a sweep trains every recipe for as many epochs. Leave it out; --halving stops bad ones early.",
    )
    check(
        config.on_nonfinite == "stop",
        "--on-nonfinite skip: a recipe that diverges is ranked last. Leave it out.",
    )


def is_whole(member: Member, configs: Sequence[Config]) -> bool:
    """Whether a member was trained to its end and is worth anything there."""
    return len(member.epochs) == configs[member.recipe].epochs and math.isfinite(member.epochs[-1].loss)


class Best:
    """The best members so far, with their weights."""

    def __init__(self, size: int):
        self.size = size
        self.heap: list[tuple[tuple[float, float], int, Trained]] = []
        self.count = 0

    def add(self, trained: Sequence[Trained]) -> None:
        """Take those that are good enough."""
        for each in trained:
            self.count += 1
            heapq.heappush(self.heap, (each.member.score, -self.count, each))
            if len(self.heap) > self.size:
                heapq.heappop(self.heap)

    def members(self) -> list[Trained]:
        """The best first."""
        return [each for _, _, each in sorted(self.heap, key=lambda entry: entry[:2], reverse=True)]


def averaged(best: Sequence[Trained], configs: Sequence[Config], held_out: Source, options: Options) -> Averages | None:
    """What the averages of the best members reach on the held-out images; None where their networks differ."""
    theirs = [configs[each.member.recipe] for each in best]
    shapes = {(config.model.arch, config.model.width, config.precision) for config in theirs}
    crops = {EvalCrop(config.images.image_size, config.images.eval_resize) for config in theirs}
    if len(shapes) != 1 or len(crops) != 1:
        return None
    config = theirs[0]
    keep = options.decoded
    crop, devices = crops.pop(), local_devices(1)
    images = decode_set(held_out, crop, cache_dir=keep.folder, cache_limit=keep.limit)
    model = make_resnet(
        config.model.arch,
        num_classes=len(held_out.class_names),
        width=config.model.width,
        dtype=compute_dtype(config.precision, devices[0].platform),
    )

    def predict(variables: Any) -> Probabilities:
        classifier = make_classifier(model, variables, held_out.class_names, crop, devices)
        parts = [images.images[i : i + BATCH_SIZE] for i in range(0, len(images.labels), BATCH_SIZE)]
        scores = [classifier.score(part).probabilities for part in parts]
        return np.concatenate([rows[: len(part)] for rows, part in zip(jax.device_get(scores), parts, strict=True)])

    of_soup, variables = soup(best, predict, images.labels)
    return Averages(best[0].member, of_soup, ensemble(best, predict, images.labels), variables)
