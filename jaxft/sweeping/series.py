"""Members trained to their end: in chunks that fit the devices, or in rungs that leave fewer and fewer of them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from jaxft.config import Config
from jaxft.loop import IN_FLIGHT, summed
from jaxft.parallel import put_ahead
from jaxft.step import TrainState, variables_of
from jaxft.sweeping.folder import Epoch, Member
from jaxft.sweeping.groups import Group, Inputs, open_group, structures

Figures = Float[np.ndarray, "3 s m"]


class Trained(NamedTuple):
    """A member and its network's variables, on the host."""

    member: Member
    variables: Any


class Chunk(NamedTuple):
    """Members that train together, by the places of their seeds and recipes in a group."""

    seeds: Sequence[int]
    recipes: Sequence[int]
    """Some twice, where the devices have room for more."""
    num_recipes: int
    """So many of them count."""


class Standing(NamedTuple):
    """A chunk so far."""

    state: TrainState
    step: int
    epochs: Sequence[Figures]
    """[3, s, m] each: an Epoch's figures."""


class Paused(NamedTuple):
    """A member between two rungs, on the host."""

    leaves: Sequence[Any]
    """Of its state, those that are its own."""
    counts: Sequence[Any]
    """Of the optimizer's state, those that count updates."""
    trained: Trained


def train_members(
    configs: Sequence[Config],
    seeds: Sequence[int],
    inputs: Inputs,
    *,
    halving: int | None = None,
    known: Callable[[int, int], bool] = lambda *_: False,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> Iterator[Sequence[Trained]]:
    """Train each config with each seed; those that have ended are given as soon as they have.

    Args:
        configs: those that differ in numbers alone train as one program; their own seeds do not count.
        seeds: of each config.
        inputs: what they are trained on.
        halving: at each of `rungs`, leave one in so many of the recipes.
        known: whether a config, by its place, is done with a seed already, to its end or given up at a rung.
        on_epoch: is told how many members have been trained for one more epoch.

    Raises:
        UserError: as `jaxft.train` does for one of the configs.
    """
    for places, of_seeds in structures(configs, seeds):
        if all(known(place, seed) for place in places for seed in of_seeds):
            continue
        group = open_group([configs[i] for i in places], places, of_seeds, inputs)
        parts = in_chunks(group, known, on_epoch) if halving is None else in_rungs(group, halving, known, on_epoch)
        for members in parts:
            yield [each for each in members if not known(each.member.recipe, each.member.seed)]


def in_chunks(
    group: Group, known: Callable[[int, int], bool], on_epoch: Callable[[int], None]
) -> Iterator[Sequence[Trained]]:
    """Every member that is not known, from its start to its end."""

    def lacks(s: int, m: int) -> bool:
        return not known(group.places[m], group.seeds[s])

    for chunk in chunks(group, unfinished(group, known), lacks):
        standing = advance(group, chunk, begin(group, chunk), len(group.ends), on_epoch)
        yield trained(group, chunk, standing)


def in_rungs(
    group: Group, halving: int, known: Callable[[int, int], bool], on_epoch: Callable[[int], None]
) -> Iterator[Sequence[Trained]]:
    """All recipes for a few epochs, the better part of them for more, and so on: successive halving.

    Source: Jamieson and Talwalkar, arXiv:1502.07943. A recipe's rank is by the mean over its seeds. Where some are
    known, at a rung that was decided before nothing more is given up: as many are left as it leaves.
    """
    left = unfinished(group, known)
    paused: dict[tuple[int, int], Paused] = {}
    for rung, (num_epochs, num_left) in enumerate(rungs(len(group.ends), len(group.configs), halving)):
        for chunk in chunks(group, left):
            standing = go_on(group, chunk, paused) if rung else begin(group, chunk)
            standing = advance(group, chunk, standing, num_epochs, on_epoch)
            state = jax.device_get(standing.state)
            members = trained(group, chunk, standing._replace(state=state))
            own, counts = group.program.own_leaves(state), group.program.counts(state)
            for (i, j), member in zip(np.ndindex(len(chunk.seeds), chunk.num_recipes), members, strict=True):
                paused[chunk.seeds[i], chunk.recipes[j]] = Paused([leaf[i, j] for leaf in own], counts, member)
        ranked = by_mean_score(left, paused)
        yield [paused.pop((i, j)).trained for j in ranked[num_left:] for i in range(len(group.seeds))]
        left = sorted(ranked[:num_left])
    yield [each.trained for each in paused.values()]


def unfinished(group: Group, known: Callable[[int, int], bool]) -> list[int]:
    """The recipes of which a seed is not known."""
    return [m for m, place in enumerate(group.places) if not all(known(place, seed) for seed in group.seeds)]


def by_mean_score(recipes: Sequence[int], paused: Mapping[tuple[int, int], Paused]) -> list[int]:
    """Recipes, the best first, by the mean over their seeds."""
    scores = {j: np.mean([each.trained.member.score for (_, k), each in paused.items() if k == j], 0) for j in recipes}
    return sorted(recipes, key=lambda j: tuple(scores[j]), reverse=True)


def rungs(num_epochs: int, num_recipes: int, halving: int) -> list[tuple[int, int]]:
    """After so many epochs, so many recipes are left; at the last rung, the end, all that are there.

    The last rung but one is at one part in `halving` of the epochs, rounded, the one before at one part of that.
    """
    found: dict[int, int] = {}
    parts = num_epochs / halving
    while round(parts) >= 1 and len(found) < math.log(num_recipes, halving):
        found[round(parts)] = 0
        parts /= halving
    for epoch in sorted(found):
        num_recipes = math.ceil(num_recipes / halving)
        found[epoch] = num_recipes
    return [*sorted(found.items()), (num_epochs, num_recipes)]


def chunks(
    group: Group, recipes: Sequence[int], lacks: Callable[[int, int], bool] = lambda *_: True
) -> Iterator[Chunk]:
    """The members in parts that train together, all with as many recipes, so that one program does.

    Seeds with which no recipe of a part `lacks` anything are left out.
    """
    seeds_at_once, width = group.at_once
    wide = -(-min(width, len(recipes)) // len(group.program.devices)) * len(group.program.devices)
    for m in range(0, len(recipes), wide):
        part = list(recipes[m : m + wide])
        filled = [*part, *[part[-1]] * (wide - len(part))]
        seeds = [s for s in range(len(group.seeds)) if any(lacks(s, m) for m in part)]
        for s in range(0, len(seeds), seeds_at_once):
            yield Chunk(seeds[s : s + seeds_at_once], filled, len(part))


def begin(group: Group, chunk: Chunk) -> Standing:
    """A chunk at its start."""
    return Standing(group.program.start([group.seeds[s] for s in chunk.seeds], len(chunk.recipes)), 0, [])


def go_on(group: Group, chunk: Chunk, paused: Mapping[tuple[int, int], Paused]) -> Standing:
    """A chunk where its members were."""
    rows = [[paused[s, m] for m in chunk.recipes] for s in chunk.seeds]
    leaves = [
        np.stack([np.stack([each.leaves[k] for each in row]) for row in rows]) for k in range(len(rows[0][0].leaves))
    ]
    figures = np.array([[each.trained.member.epochs for each in row] for row in rows])  # [s, m, epochs, 3]
    epochs = list(figures.transpose(2, 3, 0, 1))
    step = group.ends[len(epochs) - 1]
    state = group.program.taken_up(begin(group, chunk).state, step, leaves, rows[0][0].counts)
    return Standing(state, step, epochs)


def advance(
    group: Group, chunk: Chunk, standing: Standing, num_epochs: int, on_epoch: Callable[[int], None]
) -> Standing:
    """The chunk after so many epochs, evaluated after each."""
    program, (state, step, epochs) = group.program, standing
    epochs, keys = list(epochs), group.keys[np.array(chunk.seeds)]
    recipes = {phase.first_step: program.put_recipes(phase, chunk.recipes) for phase in program.phases}
    with ExitStack() as stack:
        feeds = [stack.enter_context(closing(group.feeds[s].train(step))) for s in chunk.seeds]
        batches = put_ahead(map(stacked, zip(*feeds, strict=True)), program.put)
        while len(epochs) < num_epochs:
            losses: list[Any] = []
            while step < group.ends[len(epochs)]:
                phase = program.phase_at(step)
                state, loss = phase.step(state, next(batches), keys, recipes[phase.first_step])
                losses.append(loss)
                step += 1
                jax.block_until_ready(losses[-1 - IN_FLIGHT : -IN_FLIGHT])
            epochs.append(np.stack([np.mean(jax.device_get(losses), 0), *evaluate(group, state)]))
            on_epoch(len(chunk.seeds) * chunk.num_recipes)
    return Standing(state, step, epochs)


def stacked(batches: Sequence[Any]) -> Any:
    """A batch a seed, as one."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def evaluate(group: Group, state: TrainState) -> tuple[Any, Any]:
    """Loss and accuracy over every held-out image, [s, m] each."""
    with closing(group.tests()) as tests:
        batches = put_ahead(tests, group.program.put)
        loss, correct, images = summed(group.program.eval_step, state, batches)
    return loss / images, correct / images


def trained(group: Group, chunk: Chunk, standing: Standing) -> list[Trained]:
    """The chunk's members, seed by seed."""
    variables, owned = jax.device_get(variables_of(standing.state)), variables_of(group.program.owned)

    def own(i: int, j: int) -> Any:
        return jax.tree.map(lambda mine, leaf: leaf[i, j] if mine else leaf, owned, variables)

    return [
        Trained(
            Member(
                group.places[chunk.recipes[j]],
                group.seeds[chunk.seeds[i]],
                [Epoch(*map(float, figures[:, i, j])) for figures in standing.epochs],
            ),
            own(i, j),
        )
        for i, j in np.ndindex(len(chunk.seeds), chunk.num_recipes)
    ]
