"""One optax.GradientTransformation: the head and every stage of the body at its own rate, what is frozen at none."""

from collections.abc import Collection, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxft.config import OptimConfig
from jaxft.optim_config import STAGES, parse_multipliers
from jaxft.paths import Rules, label_tree, path_name
from jaxft.schedule import Schedule

Number = float | Float[Array, ""]

HEAD_PATTERN = r"fc/.*"
STAGE_PATTERNS = {stage: rf"{stage}_\d+/.*" for stage in STAGES} | {"stem": r"(conv1|bn1)/.*"}


def rate_rules(frozen: tuple[str, ...]) -> Rules:
    """A rule a stage and one for the head: labels `frozen`, `head`, and the stages that train."""
    body = [(STAGE_PATTERNS[stage], "frozen" if stage in frozen else stage) for stage in STAGES]
    return [*body, (HEAD_PATTERN, "head")]


def rate_labels(params: Any, frozen: tuple[str, ...]) -> Any:
    """A tree like `params`: `head` in fc, else the stage (stem, layer1 to layer4), or `frozen` in those named so."""
    return label_tree(params, rate_rules(frozen))


def learning_rates(config: OptimConfig) -> dict[str, float]:
    """The learning rate of each label, before any schedule."""
    own = parse_multipliers(config.stage_lr_mult)
    below = {stage: config.layer_decay ** (len(STAGES) - 1 - i) for i, stage in enumerate(STAGES)}
    body = {stage: config.lr * own.get(stage, 1.0) * below[stage] for stage in STAGES}
    return {"head": config.lr * config.head_lr_mult, **body, "frozen": 0.0}


class Numbers(NamedTuple):
    """What of an optimizer is a number: it may be traced, so that one program trains with many."""

    rates: Mapping[str, Number]
    """The learning rate of each label, before any schedule."""
    weight_decay: Number
    l2_sp: Number | None
    clip_norm: Number | None
    momentum: Number | None


def numbers_of(config: OptimConfig) -> Numbers:
    """A config's; None where it has no such part."""
    return Numbers(
        learning_rates(config),
        config.weight_decay,
        config.l2_sp or None,
        config.clip_norm,
        config.momentum if config.momentum and config.optimizer == "sgd" else None,
    )


def make_optimizer(
    config: OptimConfig,
    labels: Any,
    schedule: Schedule | None = None,
    held: Collection[str] = (),
    numbers: Numbers | None = None,
) -> optax.GradientTransformation:
    """The optimizer for a tree of labels, which `rate_labels` gives.

    Stages learn at `lr` times their multipliers, `head` at `lr * head_lr_mult`, all times the schedule's factor; what
    is `frozen` gets no update, decay or momentum. Stages that are `held` get none either, but keep their state: the
    optimizer of a stage of training in which they wait. `numbers` take the place of the config's.
    """
    numbers = numbers or numbers_of(config)
    rules: dict[Hashable, optax.GradientTransformation] = {
        label: optax.set_to_zero() if label == "frozen" else _update_rule(config, numbers, label)
        for label in numbers.rates
    }
    for label in held:
        rules[label] = _held(rules[label])
    tx: list[optax.GradientTransformation] = [optax.multi_transform(rules, labels)]
    if numbers.clip_norm is not None:
        # Of what trains alone: a norm of all gradients would have those of frozen layers computed.
        trains = jax.tree.map(lambda label: label != "frozen" and label not in held, labels)
        tx.insert(0, optax.masked(optax.clip_by_global_norm(numbers.clip_norm), trains))
    if schedule is not None:
        tx.append(optax.scale_by_schedule(schedule))
    return optax.chain(*tx)


def _update_rule(config: OptimConfig, numbers: Numbers, label: str) -> optax.GradientTransformation:
    decays = [optax.add_decayed_weights(numbers.weight_decay, None if config.decay_norms else are_kernels)]
    if label != "head" and numbers.l2_sp is not None:
        decays.append(pull_to_start(numbers.l2_sp))
    rate = optax.scale(-numbers.rates[label])
    if config.optimizer == "adamw":
        return optax.chain(optax.scale_by_adam(), *decays, rate)
    # torch.optim.SGD's order: decay joins the gradient, momentum gathers both, the rate scales last.
    momentum = optax.identity() if numbers.momentum is None else optax.trace(numbers.momentum, config.nesterov)
    return optax.chain(*decays, momentum, rate)


def are_kernels(params: Any) -> Any:
    """A tree like `params`: whether each is a kernel, and not a bias or a scale."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path).endswith("kernel"), params)


class PullState(NamedTuple):
    """Parameters as they were at the start."""

    start: Any


def pull_to_start(strength: Number) -> optax.GradientTransformation:
    """Add a decay toward where the parameters started: L2-SP (Li et al., arXiv:1802.01483), without its square's 2."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda g, p, start: g + strength * (p - start), updates, params, state.start), state

    return optax.GradientTransformation(lambda params: PullState(jax.tree.map(jnp.copy, params)), update)


def _held(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """No updates, and the state that `rule` would have, as it was."""
    return optax.GradientTransformation(
        rule.init, lambda updates, state, params=None: (jax.tree.map(jnp.zeros_like, updates), state)
    )
