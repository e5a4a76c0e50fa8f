"""One optax.GradientTransformation: the head and every stage of the body at its own rate, what is frozen at none."""

from collections.abc import Collection, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxft.config import OptimConfig
from jaxft.optim_config import STAGES, parse_multipliers
from jaxft.paths import Rules, label_tree, path_name
from jaxft.schedule import Schedule

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


def make_optimizer(
    config: OptimConfig, labels: Any, schedule: Schedule | None = None, held: Collection[str] = ()
) -> optax.GradientTransformation:
    """The optimizer for a tree of labels, which `rate_labels` gives.

    Stages learn at `lr` times their multipliers, `head` at `lr * head_lr_mult`, all times the schedule's factor; what
    is `frozen` gets no update, decay or momentum. Stages that are `held` get none either, but keep their state: the
    optimizer of a stage of training in which they wait.
    """
    rules: dict[Hashable, optax.GradientTransformation] = {
        label: optax.set_to_zero() if label == "frozen" else _update_rule(config, rate, in_body=label != "head")
        for label, rate in learning_rates(config).items()
    }
    for label in held:
        rules[label] = _held(rules[label])
    tx: list[optax.GradientTransformation] = [optax.multi_transform(rules, labels)]
    if config.clip_norm is not None:
        # Of what trains alone: a norm of all gradients would have those of frozen layers computed.
        trains = jax.tree.map(lambda label: label != "frozen" and label not in held, labels)
        tx.insert(0, optax.masked(optax.clip_by_global_norm(config.clip_norm), trains))
    if schedule is not None:
        tx.append(optax.scale_by_schedule(schedule))
    return optax.chain(*tx)


def _update_rule(config: OptimConfig, lr: float, *, in_body: bool) -> optax.GradientTransformation:
    decays = [optax.add_decayed_weights(config.weight_decay, None if config.decay_norms else are_kernels)]
    if in_body and config.l2_sp:
        decays.append(pull_to_start(config.l2_sp))
    if config.optimizer == "adamw":
        return optax.chain(optax.scale_by_adam(), *decays, optax.scale(-lr))
    # torch.optim.SGD's order: decay joins the gradient, momentum gathers both, the rate scales last.
    momentum = optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity()
    return optax.chain(*decays, momentum, optax.scale(-lr))


def are_kernels(params: Any) -> Any:
    """A tree like `params`: whether each is a kernel, and not a bias or a scale."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path).endswith("kernel"), params)


class PullState(NamedTuple):
    """Parameters as they were at the start."""

    start: Any


def pull_to_start(strength: float) -> optax.GradientTransformation:
    """Add a decay toward where the parameters started: L2-SP (Li et al., arXiv:1802.01483), without its square's 2."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda g, p, start: g + strength * (p - start), updates, params, state.start), state

    return optax.GradientTransformation(lambda params: PullState(jax.tree.map(jnp.copy, params)), update)


def _held(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """No updates, and the state that `rule` would have, as it was."""
    return optax.GradientTransformation(
        rule.init, lambda updates, state, params=None: (jax.tree.map(jnp.zeros_like, updates), state)
    )
