"""Many runs as one program: their states stacked by seed and by recipe, and one step mapped over both.

Runs of one structure differ in their numbers alone (learning rates, decay, label smoothing and so on) and in their
seeds. What trains of a state is stacked, [s, m, …] for s seeds and m recipes; what is frozen is there once. An image is
augmented once a seed, and goes through frozen stages so, for all recipes.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key

from jaxft.build import Stored, train_step_of
from jaxft.config import Config, OptimConfig
from jaxft.course import Course, Part
from jaxft.data.augment import Augment, Batch
from jaxft.data.resident import Store, take, take_eval
from jaxft.optim import Numbers, make_optimizer, numbers_of
from jaxft.parallel import Devices
from jaxft.paths import path_name
from jaxft.resnet import ResNet, stage_of
from jaxft.step import AXIS, EvalSums, TrainState, init_state, make_eval_step

NEUTRAL = Numbers(rates={}, weight_decay=0.0, l2_sp=0.0, clip_norm=math.inf, momentum=0.0)

MEMBERS = "members"
"""The mesh axis over which recipes are spread; "data" beside it has one device."""


class Recipes(NamedTuple):
    """The numbers of recipes, each an array [m]; None where no recipe has one."""

    optim: Numbers
    label_smoothing: Float[Array, " m"] | None


class Phase(NamedTuple):
    """A part of the members' runs."""

    first_step: int
    """Before its first update, so many have been made."""
    step: Stored
    """`(state, batches, keys, recipes) -> (state, losses)`; batches and keys are stacked by seed, [s, …]."""
    recipes: Recipes
    """All."""


class Program(NamedTuple):
    """What members of one structure share, compiled for `devices`, over which recipes are spread."""

    start: Callable[[Sequence[int], int], TrainState]
    """The states of so many recipes with each of these seeds, at step 0."""
    phases: Sequence[Phase]
    eval_step: Stored
    """`(state, batch) -> sums`, these [s, m]."""
    owned: TrainState
    """Of each leaf of a state, whether every member has its own."""
    devices: Devices

    def phase_at(self, step: int) -> Phase:
        """The part that makes the update after so many."""
        return next(phase for phase in reversed(self.phases) if step >= phase.first_step)

    def put(self, tree: Any) -> Any:
        """Arrays on the host to every device."""
        return jax.device_put(tree, NamedSharding(mesh_of(self.devices), P()))

    def put_recipes(self, phase: Phase, places: Sequence[int]) -> Recipes:
        """Those of a chunk."""
        chosen = jax.tree.map(lambda numbers: numbers[list(places)], phase.recipes)
        return jax.device_put(chosen, NamedSharding(mesh_of(self.devices), P(MEMBERS)))

    def own_leaves(self, state: TrainState) -> list[Any]:
        """The leaves of which every member has its own, [s, m, …] each."""
        return leaves_where(state, self.owned)

    def counts(self, state: TrainState) -> list[Any]:
        """The leaves of the optimizer that count updates, for all members."""
        return leaves_where(state.opt_state, jax.tree.map(operator.not_, self.owned.opt_state))

    def taken_up(self, state: TrainState, step: int, own: Sequence[Any], counts: Sequence[Any]) -> TrainState:
        """The state with other leaves of the members' own and other counts, after so many updates."""
        spread = NamedSharding(mesh_of(self.devices), P(None, MEMBERS))
        mine, counted = iter(jax.device_put(list(own), spread)), iter(self.put(list(counts)))
        state = jax.tree.map(lambda is_own, leaf: next(mine) if is_own else leaf, self.owned, state)
        opt_state = jax.tree.map(
            lambda is_own, leaf: leaf if is_own else next(counted), self.owned.opt_state, state.opt_state
        )
        return state._replace(step=self.put(np.int32(step)), opt_state=opt_state)


def leaves_where(tree: Any, which: Any) -> list[Any]:
    """The leaves for which another tree holds true."""
    return [leaf for yes, leaf in zip(jax.tree.leaves(which), jax.tree.leaves(tree), strict=True) if yes]


def make_program(
    configs: Sequence[Config],
    model: ResNet,
    labels: Any,
    course: Course,
    augment: Augment,
    devices: Devices,
    *,
    variables_with: Callable[[int], Any],
    class_weights: Any = None,
    stores: tuple[Store, Store] | None = None,
) -> Program:
    """Bind what members of one structure share.

    Args:
        configs: of the recipes, alike but for their numbers (see `structure_of`); their seeds do not count.
        model: with `after`, above features that `stores` hold.
        labels: of the parameters, as `rate_labels` gives them.
        course: as `plan_course` gives it.
        augment: such as `make_augment` gives.
        devices: over which recipes are spread; each device sees whole batches.
        variables_with: the variables that a run with this seed starts from.
        class_weights: as those of `make_train_step`.
        stores: the training and the evaluation set where these are on the devices; the steps then take picks.
    """
    base, mesh = configs[0], mesh_of(devices)
    recipes = {part: recipes_of_part(configs, part) for part in course.parts}

    def init(variables: Any) -> TrainState:
        first = course.parts[0]
        numbers = jax.tree.map(lambda number: float(number[0]), recipes[first].optim)
        tx = make_optimizer(base.optim, labels, course.schedule, first.waiting, numbers)
        average = base.regular.ema is not None
        return init_state(variables["params"], variables["batch_stats"], tx, average=average)

    owned = ownership(jax.eval_shape(init, variables_with(base.seed)), labels, model)
    axes = jax.tree.map(lambda mine: 0 if mine else None, owned)
    spread = jax.tree.map(lambda mine: P(None, MEMBERS) if mine else P(), owned)

    def start(seeds: Sequence[int], num_recipes: int) -> TrainState:
        def for_members(mine: bool, *leaves: Any) -> Any:
            if not mine:
                return leaves[0]
            each = jnp.stack(leaves)[:, None]
            return jnp.broadcast_to(each, (len(leaves), num_recipes, *each.shape[2:]))

        def make(variables: Sequence[Any]) -> TrainState:
            return jax.tree.map(for_members, owned, *map(init, variables))

        placed = jax.tree.map(lambda spec: NamedSharding(mesh, spec), spread)
        return jax.jit(make, out_shardings=placed)([variables_with(seed) for seed in seeds])

    def compiled(step: Callable, specs: Sequence[Any], out: Any, *, donate: bool) -> Callable:
        mapped = jax.shard_map(step, mesh=mesh, in_specs=tuple(specs), out_specs=out, check_vma=False)
        return jax.jit(mapped, donate_argnums=(0,) if donate else ())

    def train_step(part: Part) -> Stored:
        network = model.clone(frozen=(*model.frozen, *part.waiting))

        def of_member(
            state: TrainState, batch: Batch, key: Key[Array, ""], recipe: Recipes
        ) -> tuple[TrainState, Float[Array, ""]]:
            tx = make_optimizer(base.optim, labels, course.schedule, part.waiting, recipe.optim)
            step = train_step_of(base, network, tx, augment, class_weights, recipe.label_smoothing)
            state, metrics = step(state, batch, key)
            return state, metrics.loss

        def of_seed(
            state: TrainState, batch: Any, key: Key[Array, ""], recipes: Recipes, store: Any
        ) -> tuple[TrainState, Float[Array, " m"]]:
            batch = batch if store is None else take(store, batch)
            return jax.vmap(of_member, (axes, None, None, 0), (axes, 0))(state, batch, key, recipes)

        over_seeds = jax.vmap(of_seed, (axes, 0, 0, None, None), (axes, 0))
        step = compiled(over_seeds, (spread, P(), P(), P(MEMBERS), P()), (spread, P(None, MEMBERS)), donate=True)
        return Stored(step, None if stores is None else stores[0])

    def evaluate(state: TrainState, batch: Any, store: Any) -> EvalSums:
        batch = batch if store is None else take_eval(store, batch)
        return jax.vmap(jax.vmap(make_eval_step(model), (axes, None)), (axes, None))(state, batch)

    eval_step = compiled(evaluate, (spread, P(), P()), P(None, MEMBERS), donate=False)
    return Program(
        start,
        [Phase(part.first_step, train_step(part), recipes[part]) for part in course.parts],
        Stored(eval_step, None if stores is None else stores[1]),
        owned,
        devices,
    )


def mesh_of(devices: Devices) -> Mesh:
    """The devices along "members", each alone along "data"."""
    return Mesh(np.asarray(devices)[:, None], (MEMBERS, AXIS))


def ownership(state: TrainState, labels: Any, model: ResNet) -> Any:
    """A tree like the state: whether every member has its own, as of all but counts of steps and what is frozen."""
    params = jax.tree.map(lambda label: label != "frozen", labels)
    stats = jax.tree_util.tree_map_with_path(
        lambda path, _: stage_of(path_name(path)) not in model.frozen, state.batch_stats
    )
    # Were a schedule's count each member's own, it would make the frozen parameters so too.
    opt_state = jax.tree.map(lambda leaf: not jnp.issubdtype(leaf.dtype, jnp.integer), state.opt_state)
    return state._replace(
        step=False,
        params=params,
        batch_stats=stats,
        opt_state=opt_state,
        average=(params, stats) if state.average else (),
    )


def recipes_of_part(configs: Sequence[Config], part: Part) -> Recipes:
    """The numbers of configs in a part of their runs; where some have one, the others have what changes nothing."""
    optims = [numbers_of(part.of(config.optim)) for config in configs]
    return Recipes(
        Numbers(
            {label: as_array([each.rates[label] for each in optims], 0.0) for label in optims[0].rates},  # pyright: ignore[reportArgumentType]
            *(as_array([each[i] for each in optims], NEUTRAL[i]) for i in range(1, len(NEUTRAL))),
        ),
        as_array([config.regular.label_smoothing or None for config in configs], 0.0),
    )


def as_array(numbers: Sequence[Any], neutral: Any) -> Any:
    """As float32 [m]; None where there are none."""
    if all(number is None for number in numbers):
        return None
    return np.array([neutral if number is None else number for number in numbers], np.float32)


def structure_of(config: Config) -> Config:
    """The config without its numbers and its seed: configs for which it is equal are members of one program."""
    optim = OptimConfig(
        optimizer=config.optim.optimizer,
        decay_norms=config.optim.decay_norms,
        nesterov=config.optim.nesterov,
        momentum=0.5 if config.optim.nesterov else 0.0,
    )
    return replace(config, seed=0, optim=optim, regular=replace(config.regular, label_smoothing=0.0))
