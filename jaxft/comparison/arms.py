"""What is compared: ways to train on the same images in the same number of epochs."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from jaxft.checks import check
from jaxft.config import Config
from jaxft.errors import UserError

SCRATCH_LR_MULT = 10.0
"""From scratch the whole network learns so many times faster than a pretrained body (d2l.ai, section 14.2)."""


class Arm(NamedTuple):
    """One way to train."""

    name: str
    description: str
    of: Callable[[Config], Config]
    """From the preset to what this arm runs."""


def pretrained(config: Config) -> Config:
    """The preset as it is."""
    check(config.model.weights != "none", "--weights none: this arm needs pretrained weights. Leave it out of --arms.")
    return config


def scratch(config: Config) -> Config:
    """The chapter's second arm."""
    model = replace(config.model, weights="none", head="xavier", head_map=())
    return replace(
        config, model=model, optim=replace(config.optim, lr=SCRATCH_LR_MULT * config.optim.lr, head_lr_mult=1)
    )


def frozen(stage: str) -> Callable[[Config], Config]:
    """Pretrained, with everything up to a stage left as it is."""

    def of(config: Config) -> Config:
        check(
            config.model.freeze == "none",
            f"--freeze {config.model.freeze}: this arm says itself what is frozen. Leave --freeze out.",
        )
        return replace(pretrained(config), model=replace(config.model, freeze=stage))

    return of


def reuse(config: Config) -> Config:
    """Pretrained, the head's rows too where the classes are known."""
    return replace(pretrained(config), model=replace(config.model, head="reuse"))


def probe_then_tune(config: Config) -> Config:
    """Linear probing, then fine-tuning (Kumar et al., 2022): half of the epochs each, the first the smaller half."""
    check(config.epochs >= 2, f"--epochs {config.epochs}: this arm has two parts. Pass at least 2.")
    check(
        config.model.freeze != "backbone",
        "--freeze backbone: this arm trains more than the head in its second part. Leave --freeze out.",
    )
    check(
        not config.stages.head_epochs,
        f"--head-epochs {config.stages.head_epochs}: this arm says itself for how long the head trains alone. "
        "Leave it out.",
    )
    return replace(pretrained(config), stages=replace(config.stages, head_epochs=config.epochs // 2))


ARMS = {
    arm.name: arm
    for arm in (
        Arm("pretrained", "fine-tuned from the pretrained weights", pretrained),
        Arm("scratch", f"from random weights, at {SCRATCH_LR_MULT:g} times the rate throughout", scratch),
        Arm("head", "pretrained; only the new head trains", frozen("backbone")),
        Arm("layer2", "pretrained; frozen up to layer2", frozen("layer2")),
        Arm("lp-ft", "pretrained; half of the epochs only the head trains, then everything", probe_then_tune),
        Arm("reuse", "pretrained; the head too, for the classes that it knows", reuse),
    )
}


def find_arms(names: Sequence[str]) -> Sequence[Arm]:
    """The arms of these names.

    Raises:
        UserError: no such arm, one twice, or fewer than two.
    """
    for name in names:
        if name not in ARMS:
            close = difflib.get_close_matches(name, ARMS, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"Arms are {', '.join(ARMS)}."
            raise UserError(f"--arms {name}: no such arm. {hint}")
    check(len(set(names)) == len(names), f"--arms {' '.join(names)}: one of them is there twice. Name each once.")
    check(len(names) >= 2, f"--arms {' '.join(names)}: there is nothing to compare. Name at least two.")
    return [ARMS[name] for name in names]


def configs_of(arms: Sequence[Arm], config: Config) -> dict[str, Config]:
    """What each arm runs.

    Raises:
        UserError: an arm that cannot be with this config, or two that would be the same.
    """
    check(
        config.regular.patience is None,
        f"--patience {config.regular.patience}: what is compared trains for the same number of epochs. Leave it out.",
    )
    found: dict[str, Config] = {}
    for arm in arms:
        try:
            its = arm.of(config)
        except UserError as error:
            raise UserError(f"{arm.name}: {error}") from None
        same = [name for name, other in found.items() if other == its]
        check(not same, f"--arms: {arm.name} and {', '.join(same)} would be the same runs. Leave one out.")
        found[arm.name] = its
    return found
