"""Members of one structure, ready to train: decoded images, kept features, one program, and how many fit at once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxft.build import Pretrained, build, initial_variables, run_keys
from jaxft.config import Config
from jaxft.course import plan_course
from jaxft.data.augment import make_augment
from jaxft.data.batches import epoch_ends
from jaxft.data.feed import Batches, Feed
from jaxft.data.plan import Keep
from jaxft.data.prepare import load_data, loss_weights, make_feed, stores
from jaxft.data.sources import Splits
from jaxft.features import as_they_are, top_of
from jaxft.frozen import eval_features, plan_features, train_features
from jaxft.parallel import free_memory, local_devices, put_shared
from jaxft.sweeping.members import Program, make_program, structure_of

SHARE = 2
"""Members that train at once take at most one part in so many of what is free on a device."""
COPIES = 4
"""Of a member's own arrays that there are at a time: before and after an update, gradients and updates."""


class Inputs(NamedTuple):
    """What members are trained on and with."""

    splits: Splits
    """The training set, and as its test set the images to choose by."""
    pretrained: Callable[[Config], Pretrained | None]
    """The weights that a config starts from."""
    keep: Keep
    """Where decoded images are kept."""
    say: Callable[[str], None]
    progress: Callable[[str, int, int], None]


class Group(NamedTuple):
    """Members of one structure, ready to train."""

    configs: Sequence[Config]
    places: Sequence[int]
    """Of the configs among all."""
    seeds: Sequence[int]
    program: Program
    feeds: Sequence[Feed]
    """One a seed."""
    keys: Any
    """[s]"""
    tests: Callable[[], Batches]
    """The held-out set, once."""
    ends: Sequence[int]
    """The steps after which an epoch has ended."""
    at_once: tuple[int, int]
    """Seeds and recipes that train together."""


def structures(configs: Sequence[Config], seeds: Sequence[int]) -> Iterator[tuple[list[int], Sequence[int]]]:
    """The places of configs that train as one program, with the seeds that may."""
    by_structure: dict[Config, list[int]] = {}
    for place, config in enumerate(configs):
        by_structure.setdefault(structure_of(config), []).append(place)
    for config, places in by_structure.items():
        # Kept views are drawn by the seed: each has features of its own.
        alone = config.num_views is not None and config.cache_features
        for of_seeds in [[seed] for seed in seeds] if alone else [seeds]:
            yield places, of_seeds


def open_group(configs: Sequence[Config], places: Sequence[int], seeds: Sequence[int], inputs: Inputs) -> Group:
    """Decode the images, compute kept features, and bind the program.

    Raises:
        UserError: as `jaxft.train` does for one of the configs.
    """
    base = replace(configs[0], seed=seeds[0])
    devices = local_devices(base.devices)
    data = load_data(inputs.splits, base, inputs.keep, free_memory(devices), inputs.progress)
    num_train, num_test = len(data.train.labels), len(data.test.labels)
    views = plan_features(base, num_train, num_test, devices[0].platform, free_memory(devices)).num_views
    feeds = [make_feed(data, replace(base, seed=seed), inputs.say, features=views is not None) for seed in seeds]
    start, weights = inputs.pretrained(base), loss_weights(data, base)
    run = build(base, data.class_names, start, class_weights=weights, features=views)
    model, augment = run.model, make_augment(base.images.augment, base.images.image_size, base.images.eval_resize)
    held, tests, placed = stores(data), feeds[0].test, None
    if run.frozen is not None and feeds[0].once is not None:
        training = train_features(run, run.frozen, feeds[0].once, num_train, inputs.progress)
        evaluated, picks, _ = eval_features(run, run.frozen, feeds[0], feeds[0].once, inputs.progress)
        placed, tests = (training, evaluated), partial(iter_batches, picks)
        model, augment = model.clone(after=top_of(base.model.freeze)), as_they_are
    elif held is not None:
        placed = (put_shared(held[0], devices), put_shared(held[1], devices))

    def variables_with(seed: int) -> Any:
        return initial_variables(base.model, run.model, data.class_names, start, run_keys(seed)[0])[0]

    program = make_program(
        configs,
        model,
        run.labels,
        plan_course(base, num_train),
        augment,
        devices,
        variables_with=variables_with,
        class_weights=weights,
        stores=placed,
    )
    keys = program.put(jnp.stack([run_keys(seed)[1] for seed in seeds]))
    ends = epoch_ends(num_train, base.images_per_step, base.epochs)
    group = Group(configs, places, seeds, program, feeds, keys, tests, ends, at_once=(1, len(devices)))
    return group._replace(at_once=fitting(group, kept=views is not None))


def iter_batches(batches: Sequence[Any]) -> Batches:
    """A set's batches that are there."""
    yield from batches


def fitting(group: Group, *, kept: bool) -> tuple[int, int]:
    """How many seeds and recipes train together: as many as fit, on a CPU one where convolutions train.

    There, convolutions whose kernels differ from member to member take half as long again as one after the other
    (benchmarks/RESULTS.md); where nothing but the head trains, all recipes share what is below.
    """
    devices, (num_seeds, num_recipes) = group.program.devices, (len(group.seeds), len(group.configs))
    on_cpu = devices[0].platform == "cpu"
    if on_cpu and group.configs[0].model.freeze != "backbone":
        return 1, len(devices)
    if on_cpu and not kept:
        num_seeds = 1
    state = jax.eval_shape(lambda: group.program.start([group.seeds[0]], len(devices)))
    own = sum(leaf.size * leaf.dtype.itemsize for leaf in group.program.own_leaves(state)) // len(devices)
    needed = COPIES * own if on_cpu else 2 * own + bytes_of_step(group)
    most = max(free_memory(devices) // SHARE // max(needed, 1), 1) * len(devices)
    if most < num_seeds:
        return 1, most
    return num_seeds, min(num_recipes, most // num_seeds)


def bytes_of_step(group: Group) -> int:
    """What a device needs beside the states for the update of one member, by the compiled program."""
    program, num = group.program, len(group.program.devices)
    state, phase = program.start([group.seeds[0]], num), group.program.phases[-1]
    with closing(group.feeds[0].train(0)) as batches:
        batch = program.put(jax.tree.map(lambda x: x[None], next(batches)))
    recipes = program.put_recipes(phase, [0] * num)
    analysis = phase.step.lower(state, batch, group.keys[:1], recipes).compile().memory_analysis()
    return 0 if analysis is None else int(analysis.temp_size_in_bytes)
