"""One optax.GradientTransformation: the head at its own rate, the body at another, the frozen part at none."""

from typing import Any

import optax

from jaxft.config import OptimConfig
from jaxft.paths import Rules, label_tree
from jaxft.resnet import STAGES

HEAD_PATTERN = r"fc/.*"
STAGE_PATTERNS = {stage: rf"{stage}_\d+/.*" for stage in STAGES} | {"stem": r"(conv1|bn1)/.*"}


def rate_rules(frozen: tuple[str, ...]) -> Rules:
    """A rule a stage and one for the head: labels `frozen`, `backbone` and `head`."""
    body = [(STAGE_PATTERNS[stage], "frozen" if stage in frozen else "backbone") for stage in STAGES]
    return [*body, (HEAD_PATTERN, "head")]


def rate_labels(params: Any, frozen: tuple[str, ...]) -> Any:
    """A tree like `params`: `frozen` in these stages (stem, layer1 to layer4), `head` in fc, `backbone` elsewhere."""
    return label_tree(params, rate_rules(frozen))


def learning_rates(config: OptimConfig) -> dict[str, float]:
    """The learning rate of each label."""
    return {"head": config.lr * config.head_lr_mult, "backbone": config.lr, "frozen": 0.0}


def make_optimizer(config: OptimConfig, labels: Any) -> optax.GradientTransformation:
    """The optimizer for a tree of labels, which `rate_labels` gives.

    `backbone` learns at `lr`, `head` at `lr * head_lr_mult`; what is `frozen` gets no update, decay or momentum.
    """
    rates = learning_rates(config)
    return optax.multi_transform(
        {
            "head": _update_rule(config, rates["head"]),
            "backbone": _update_rule(config, rates["backbone"]),
            "frozen": optax.set_to_zero(),
        },
        labels,
    )


def _update_rule(config: OptimConfig, lr: float) -> optax.GradientTransformation:
    if config.optimizer == "adamw":
        return optax.adamw(lr, weight_decay=config.weight_decay)
    # torch.optim.SGD's order: decay joins the gradient, momentum gathers both, the rate scales last.
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity(),
        optax.scale(-lr),
    )
