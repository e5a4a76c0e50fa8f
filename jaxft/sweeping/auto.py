"""`--recipe auto`: which stages train, at which rates and by which schedule, by short sweeps in a few minutes.

The rule. A fifth of each training class is held out (or `--holdout`). The recipe is the one of the lowest loss there
among those whose accuracy is within a standard error of the best: of few images accuracy tells little, and one that is
sure of its mistakes may have as much of it as another. All have the epochs and the other settings of the run. Three
rounds, from what costs least:

1. The head alone, on features that are computed once: five rates, constant and cosine with half an epoch of warm-up,
   three seeds. The better schedule is that of the other rounds.
2. What is above layer2, with the preset's rate, a third and three times of it, two seeds.
3. Everything, likewise.

The rounds may take half of the minutes, the other half is the run's. What they cost is estimated from a forward pass of
the training images, measured in the first round: an epoch above layer2 is taken to cost two, of all stages three.
A round that would take too long is tried with one seed, then with the preset's rate alone, then not at all; nor are the
second and third where a class has fewer than 8 images to train on.
"""

import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxft.checks import check
from jaxft.config import Config
from jaxft.config_file import with_flags
from jaxft.data.leakage import leakage_notes
from jaxft.data.load import open_splits
from jaxft.data.sources import Splits, hold_out, labels_of
from jaxft.options import Options
from jaxft.report.words import plural
from jaxft.sweeping.choice import Ranked
from jaxft.sweeping.fit_many import HOLDOUT, Hooks, fit_many
from jaxft.sweeping.grid import in_words, rounded

HEAD_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Of the preset's rate, for a head on features."""
FACTORS = (1.0, 1 / 3, 3.0)
"""Of the preset's rate, for stages that train; the first is the one to try alone."""
HEAD_SEEDS, SEEDS = 3, 2
PASSES = {"layer2": 2.0, "none": 3.0}
"""What an epoch costs, in forward passes of the training set, frozen up to there."""
FEW = 8
"""Images of a class below which the body stays as it is."""
SHARE = 0.5
"""Of the minutes, for trying."""


class Choice(NamedTuple):
    """The recipe that was found."""

    config: Config
    flags: str
    """What it changes, as flags."""
    accuracy: float
    """0 to 1, on the held-out images."""
    loss: float
    """Nats, on the held-out images."""


class Tried(NamedTuple):
    """A recipe that was tried."""

    config: Config
    changes: dict[str, float | str]
    ranked: Ranked


def choose_recipe(
    config: Config,
    minutes: float,
    *,
    data: Splits | None = None,
    options: Options | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Choice:
    """The config with stages, rates and schedule that do best on held-out training images, by the rule above.

    `minutes` are for trying and for the run that follows; the test set is not looked at.

    Raises:
        UserError: no pretrained weights, a config that says itself what is frozen, or what `jaxft.train` would say.
    """
    check_open(config)
    options = options or Options()
    whole = open_splits(config, options.cache_folder) if data is None else data
    train, held_out = hold_out(whole.train, config.images.holdout or HOLDOUT)
    fewest = int(np.bincount(labels_of(train), minlength=len(train.class_names)).min())
    watch = Stopwatch(progress)
    end = time.monotonic() + SHARE * 60 * minutes

    def try_round(what: str, recipes: Sequence[dict[str, float | str]], num_seeds: int) -> list[Tried]:
        configs = [with_flags(config, changes) for changes in recipes]
        seeds = range(config.seed, config.seed + num_seeds)
        hooks = Hooks(progress=watch.progress)
        ranked = fit_many(configs, seeds=seeds, data=whole, options=options, hooks=hooks, averages=False).ranked
        found = [Tried(configs[each.recipe], recipes[each.recipe], each) for each in ranked]
        _, changes, best = pick(found, held)
        tried = f"{plural(len(recipes), 'recipe', 'recipes')}, {plural(num_seeds, 'seed', 'seeds')}"
        told = f"held-out accuracy {best.accuracy:.4f}, loss {best.loss:.4f} with {in_words(changes)}"
        say(f"auto: {what} ({tried}): {told}")
        return found

    held = len(held_out)
    say(f"auto: {len(train)} images to train on, {held} held out to choose by; the test set is not looked at")
    for note in leakage_notes(Splits(train, held_out), shlex.quote(config.data), tested="held-out"):
        say(note)
    tried = try_round("the head alone", head_recipes(config), HEAD_SEEDS)
    schedule = {flag: value for flag, value in pick(tried, held).changes.items() if flag in schedule_flags(config)[-1]}
    if fewest < FEW:
        say(f"auto: a class has {fewest} images to train on, fewer than {FEW}: the body stays as it is")
    for freeze, passes in PASSES.items() if fewest >= FEW else ():
        recipes = [changes | schedule for changes in body_recipes(config, freeze)]
        what = "all stages" if freeze == "none" else f"what is above {freeze}"
        each = passes * watch.seconds_of_a_pass(len(train)) * config.epochs
        plan = affordable(each, end - time.monotonic(), len(recipes))
        if plan is None:
            say(f"auto: {what} is not tried: a run would take about {each:.0f} s. Pass a larger --budget for it")
            continue
        num_recipes, num_seeds = plan
        tried += try_round(what, recipes[:num_recipes], num_seeds)
    best = pick(tried, held)
    return Choice(best.config, in_words(best.changes), best.ranked.accuracy, best.ranked.loss)


def with_recipe_of(config: Config, found: Config) -> Config:
    """The config with what was chosen for another one, that of a run which has begun."""
    return replace(
        config,
        model=replace(config.model, freeze=found.model.freeze),
        images=replace(config.images, augment=found.images.augment),
        optim=replace(config.optim, lr=found.optim.lr),
        schedule=replace(config.schedule, schedule=found.schedule.schedule, warmup_epochs=found.schedule.warmup_epochs),
    )


def pick(tried: Sequence[Tried], num_images: int) -> Tried:
    """Of those within a standard error of the best accuracy on so many images, the one of the lowest loss."""
    best = max(each.ranked.accuracy for each in tried)
    least = best - math.sqrt(best * (1 - best) / num_images)
    near = [each for each in tried if each.ranked.accuracy >= least and math.isfinite(each.ranked.loss)]
    return min(near or tried, key=lambda each: each.ranked.loss)


def check_open(config: Config) -> None:
    """Raise a UserError for a config that leaves nothing to choose."""
    check(config.model.weights != "none", "--recipe auto fine-tunes, and --weights none has nothing to. Leave one out.")
    check(
        config.model.freeze == "none",
        f"--recipe auto with --freeze {config.model.freeze}: it says itself what is frozen. Leave one of them out.",
    )
    for name in ("head_epochs", "unfreeze_epochs"):
        value, flag = getattr(config.stages, name), name.replace("_", "-")
        check(not value, f"--recipe auto with --{flag} {value}: it says itself what trains. Leave one of them out.")


def head_recipes(config: Config) -> list[dict[str, float | str]]:
    """Heads on features of the centre crop."""
    return [
        {"--freeze": "backbone", "--augment": "none", "--lr": rounded(factor * config.optim.lr)} | schedule  # pyright: ignore[reportOperatorIssue]
        for schedule in schedule_flags(config)
        for factor in HEAD_FACTORS
    ]


def body_recipes(config: Config, freeze: str) -> list[dict[str, float | str]]:
    """What trains from above a stage."""
    return [{"--freeze": freeze, "--lr": rounded(factor * config.optim.lr)} for factor in FACTORS]


def schedule_flags(config: Config) -> list[dict[str, float | str]]:
    """The schedules that are tried: the config's own where it has one, else constant and cosine."""
    if config.schedule.schedule != "constant" or config.schedule.warmup_epochs:
        return [{}]
    return [{}, {"--schedule": "cosine", "--warmup-epochs": 0.5}]


def affordable(each: float, seconds: float, num_recipes: int) -> tuple[int, int] | None:
    """How many recipes and seeds fit into so many seconds, a run taking `each` of them; None where none does."""
    for plan in ((num_recipes, SEEDS), (num_recipes, 1), (1, 1)):
        if plan[0] * plan[1] * each <= seconds:
            return plan
    return None


class Stopwatch:
    """How long a pass of the training images through the network takes, seen from its progress."""

    def __init__(self, progress: Callable[[str, int, int], None]):
        self.inner = progress
        self.seen: list[tuple[float, int]] = []

    def progress(self, what: str, done: int, total: int) -> None:
        """Pass it on, and note when features of training images were computed."""
        if what == "computing training features":
            if self.seen and done <= self.seen[-1][1]:
                self.seen = []
            self.seen.append((time.monotonic(), done))
        self.inner(what, done, total)

    def seconds_of_a_pass(self, num_images: int) -> float:
        """For so many images; the first batch, which compiles, is left out where there are others."""
        (began, first), (ended, last) = self.seen[0], self.seen[-1]
        return (ended - began) / max(last - first, 1) * num_images
