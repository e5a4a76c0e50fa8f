"""How a run learns: the optimizer, its rates, and their schedule. No JAX in here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxft.checks import check, check_choices

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
"""A network's, below the head, from the image upward."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer. The loss is the mean over the batch, in nats."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd (L2 decay added to the gradient before momentum, as torch.optim.SGD) or adamw (decoupled decay)."""
    lr: float = 1e-3
    """Learning rate of the pretrained body."""
    head_lr_mult: float = 10.0
    """The new head learns this many times faster."""
    stage_lr_mult: tuple[str, ...] = ()
    """Of --lr, for stages of the body that learn at rates of their own, e.g. stem=0.1,layer1=0.2."""
    layer_decay: float = 1.0
    """Each stage of the body learns so many times as fast as the one above it, layer4 as the head without its
    multiplier; 1 for all alike."""
    weight_decay: float = 1e-4
    """Weight decay of everything that trains."""
    decay_norms: bool = True
    """Weight decay also of biases and of BatchNorm's scales, as the chapter has it."""
    l2_sp: float = 0.0
    """Pull the body toward its pretrained weights: a decay toward them, beside --weight-decay toward 0 (L2-SP)."""
    clip_norm: float | None = None
    """Scale the gradients of what trains down to this norm, all of them together, where it is larger."""
    momentum: float = 0.9
    """SGD's momentum; AdamW's betas are 0.9 and 0.999."""
    nesterov: bool = False
    """SGD's momentum looks ahead."""

    def __post_init__(self) -> None:
        check_choices(self)
        check(
            math.isfinite(self.lr) and self.lr > 0,
            f"--lr {self.lr}: must be a positive number, e.g. 0.001.",
        )
        check(
            math.isfinite(self.head_lr_mult) and self.head_lr_mult > 0,
            f"--head-lr-mult {self.head_lr_mult}: must be a positive number, e.g. 10.",
        )
        parse_multipliers(self.stage_lr_mult)
        check(0 < self.layer_decay <= 1, f"--layer-decay {self.layer_decay}: must be above 0 and at most 1, e.g. 0.7.")
        check(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            f"--weight-decay {self.weight_decay}: must be 0 or more, e.g. 0.0001.",
        )
        check(math.isfinite(self.l2_sp) and self.l2_sp >= 0, f"--l2-sp {self.l2_sp}: must be 0 or more, e.g. 0.01.")
        check(
            self.clip_norm is None or (math.isfinite(self.clip_norm) and self.clip_norm > 0),
            f"--clip-norm {self.clip_norm}: must be a positive number, e.g. 1.",
        )
        check(0 <= self.momentum < 1, f"--momentum {self.momentum}: must be at least 0 and below 1, e.g. 0.9.")
        check(
            not (self.nesterov and self.momentum == 0),
            "--nesterov needs momentum: pass --momentum 0.9, or leave --nesterov out.",
        )


def parse_multipliers(words: tuple[str, ...]) -> Mapping[str, float]:
    """Factors by stage: of `("stem=0.1,layer1=0.2",)`, or of a word each.

    Raises:
        UserError: no such stage, one that is named twice, or a factor that is no positive number.
    """
    found: dict[str, float] = {}
    for entry in (entry for word in words for entry in word.split(",")):
        stage, _, factor = entry.partition("=")
        check(
            stage in STAGES and stage not in found,
            f"--stage-lr-mult {entry}: {'twice' if stage in found else 'no such stage'}. "
            f"Write STAGE=FACTOR, the stages being {', '.join(STAGES)}; the head has --head-lr-mult.",
        )
        try:
            found[stage] = float(factor)
        except ValueError:
            found[stage] = math.nan
        check(
            math.isfinite(found[stage]) and found[stage] > 0,
            f"--stage-lr-mult {entry}: the factor must be a positive number. Write it like {stage}=0.1; a stage that "
            "must not learn is one to --freeze.",
        )
    return found


@dataclass(frozen=True)
class ScheduleConfig:
    """How every learning rate changes during a run."""

    schedule: Literal["constant", "cosine", "linear", "step", "one-cycle"] = "constant"
    """constant (the chapter's); cosine and linear fall to 0; step falls by --decay-factor every --decay-epochs;
    one-cycle rises over the first 3 tenths to the whole rate and falls to nearly 0."""
    warmup_epochs: float = 0.0
    """Rise to the whole rate over so many epochs before that; may be a fraction."""
    decay_epochs: float = 1.0
    """With --schedule step: epochs between two falls; may be a fraction."""
    decay_factor: float = 0.1
    """With --schedule step: of the rate, what is left after a fall."""

    def __post_init__(self) -> None:
        check_choices(self)
        check(
            math.isfinite(self.warmup_epochs) and self.warmup_epochs >= 0,
            f"--warmup-epochs {self.warmup_epochs}: must be 0 or more, e.g. 0.5.",
        )
        check(
            self.schedule != "one-cycle" or self.warmup_epochs == 0,
            f"--warmup-epochs {self.warmup_epochs}: --schedule one-cycle warms up itself. Leave one of them out.",
        )
        check(
            math.isfinite(self.decay_epochs) and self.decay_epochs > 0,
            f"--decay-epochs {self.decay_epochs}: must be a positive number, e.g. 1.",
        )
        check(
            0 < self.decay_factor <= 1,
            f"--decay-factor {self.decay_factor}: must be above 0 and at most 1, e.g. 0.1.",
        )
        for name in ("decay_epochs", "decay_factor"):
            changed = getattr(self, name) != type(self).__dataclass_fields__[name].default
            check(
                self.schedule == "step" or not changed,
                f"--{name.replace('_', '-')} {getattr(self, name)}: only --schedule step falls so, and this is "
                f"{self.schedule}. Leave it out, or pass --schedule step.",
            )


@dataclass(frozen=True)
class RegularConfig:
    """What keeps a network from learning its few photographs by heart, beside decay and augmentation."""

    label_smoothing: float = 0.0
    """Of each label, the share that is spread evenly over all classes."""
    dropout: float = 0.0
    """In training, the share of the head's inputs that are zero."""
    ema: float | None = None
    """Keep a moving average of parameters and statistics with this decay, e.g. 0.99; it is what is evaluated and
    becomes the model. In the first updates the decay is (1 + t) / (10 + t), if that is less."""
    patience: int | None = None
    """With --holdout: end after so many epochs in a row whose held-out loss is not the lowest yet. The model is that of
    the epoch with the lowest, also where --epochs end first."""

    def __post_init__(self) -> None:
        for name in ("label_smoothing", "dropout"):
            check(
                0 <= getattr(self, name) < 1,
                f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 0 and below 1, e.g. 0.1.",
            )
        check(
            self.ema is None or 0 < self.ema < 1,
            f"--ema {self.ema}: must lie between 0 and 1, e.g. 0.99.",
        )
        check(
            self.patience is None or self.patience >= 1,
            f"--patience {self.patience}: must be at least 1, e.g. 3.",
        )


@dataclass(frozen=True)
class StagesConfig:
    """Which part of the network trains when."""

    head_epochs: int = 0
    """Train the head alone for so many of the epochs, then all that is not frozen, the head no longer faster than the
    rest (LP-FT); a schedule runs once in each part."""
    unfreeze_epochs: int | None = None
    """Unfreeze from the top down: layer4 joins the head first, and a stage more every so many epochs."""

    def __post_init__(self) -> None:
        check(self.head_epochs >= 0, f"--head-epochs {self.head_epochs}: must be 0 or more.")
        check(
            self.unfreeze_epochs is None or self.unfreeze_epochs >= 1,
            f"--unfreeze-epochs {self.unfreeze_epochs}: must be at least 1.",
        )
