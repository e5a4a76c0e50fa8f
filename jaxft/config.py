"""What a run is: frozen dataclasses, checked where they are made. No JAX in here."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxft.checks import check, check_choices
from jaxft.data.augment_spec import mixes, parse_augment
from jaxft.optim_config import OptimConfig as OptimConfig
from jaxft.optim_config import RegularConfig as RegularConfig
from jaxft.optim_config import ScheduleConfig as ScheduleConfig
from jaxft.optim_config import StagesConfig as StagesConfig

EvalResize = Literal["short", "squash"]
"""Before the centre crop of evaluation: the short side to its size, or both sides."""


@dataclass(frozen=True)
class ModelConfig:
    """The network, where its weights come from and which part of it trains."""

    arch: str = "resnet18"
    """One of torchvision's ResNets: resnet18, 34, 50, 101, 152, resnext50_32x4d, resnext101_32x8d, resnext101_64x4d,
    wide_resnet50_2, wide_resnet101_2."""
    width: int = 64
    """Channels of the stem; torchvision's networks have 64, the demo's 16."""
    weights: str = "torchvision"
    """torchvision (the official file), hf:OWNER/REPO, a .pth or .safetensors file, a folder with model.safetensors (a
    run's, say), demo, or none (from scratch)."""
    freeze: Literal["none", "stem", "layer1", "layer2", "layer3", "backbone"] = "none"
    """Everything up to and including this stage stays as it is."""
    head: Literal["xavier", "reuse"] = "xavier"
    """The new classifier: drawn anew, or with rows copied for the classes that the pretrained classifier knows."""
    batch_norm: Literal["train", "frozen-stats"] = "train"
    """Of what trains: train moves BatchNorm's statistics with the batches; frozen-stats keeps the pretrained ones, so
    that its scales and biases alone learn. Frozen stages keep theirs anyway."""
    head_map: tuple[str, ...] = ()
    """With --head reuse: CLASS=INDEX, the pretrained row for a class outright, e.g. hotdog=934."""

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.width >= 1, f"--width {self.width}: must be at least 1.")
        check(
            self.batch_norm == "train" or self.weights != "none",
            "--batch-norm frozen-stats keeps pretrained statistics, and --weights none has none. Leave one out.",
        )
        check(
            not self.head_map or self.head == "reuse",
            "--head-map says which pretrained rows to reuse: pass --head reuse with it.",
        )
        for entry in self.head_map:
            name, _, index = entry.rpartition("=")
            check(
                bool(name) and index.isdigit(),
                f"--head-map {entry}: not CLASS=INDEX. Write it like hotdog=934.",
            )


@dataclass(frozen=True)
class ImageConfig:
    """How photographs become pixels."""

    image_size: int = 224
    """Side of the square that the network sees, in pixels."""
    canvas: int | None = None
    """Side of the square in which training images are kept, in pixels; chosen from the set when not given."""
    eval_resize: EvalResize = "short"
    """Before the centre crop of evaluation: the short side to 256/224 of the image size, or both sides (the chapter's
    way)."""
    augment: tuple[str, ...] = ("crop", "flip")
    """What is drawn anew each time that a training image is seen: none, chapter, light, strong, or any of crop, flip,
    vflip, jitter, randaugment, erase, mixup, cutmix, each with its values as NAME=VALUE,…"""
    cached_views: int | None = None
    """With a frozen stage: draw so many augmented views of each training image, once, in place of a new one each time;
    epoch e takes view e modulo their number. What the frozen part makes of them is then kept (see --cache-features)."""
    val_fraction: float = 0.2
    """Share of each class kept for evaluation when the data name no val or test."""
    holdout: float = 0.0
    """Share of each training class that is not trained on but evaluated after each epoch, beside the test set, to
    choose by; the same images whatever the seed. 0 for none."""
    skip_bad_images: bool = False
    """Leave out images that cannot be decoded, and list them, instead of stopping."""

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.image_size >= 32, f"--image-size {self.image_size}: a ResNet needs at least 32 pixels.")
        check(
            self.canvas is None or self.canvas >= self.image_size,
            f"--canvas {self.canvas} is smaller than --image-size {self.image_size}: crops would be blown up. "
            f"Pass --canvas {self.image_size} or more, or leave it out.",
        )
        self._check_views()
        check(
            0 < self.val_fraction < 1,
            f"--val-fraction {self.val_fraction}: must lie between 0 and 1, e.g. 0.2.",
        )
        check(
            0 <= self.holdout < 1,
            f"--holdout {self.holdout}: must be at least 0 and below 1, e.g. 0.1.",
        )

    def _check_views(self) -> None:
        ops, given = parse_augment(self.augment), self.cached_views
        if given is not None:
            check(given >= 1, f"--cached-views {given}: must be at least 1.")
            check(
                not mixes(self.augment),
                f"--cached-views {given}: mixup and cutmix mix images that meet in a batch, and so make a new one each "
                "time. Leave them out of --augment, or --cached-views out.",
            )
            check(
                bool(ops),
                f"--cached-views {given}: --augment none draws nothing, so that all views would be one, which is kept "
                "anyway. Leave --cached-views out.",
            )


@dataclass(frozen=True)
class Config:
    """A run, whole: the same config on the same data gives the same run."""

    data: str = "demo"
    """demo, a folder of class folders (train/CLASS/*.jpg with val/ or test/, or CLASS/*.jpg), a .zip of one at an
    http(s) address, #sha1=… after it to have it checked, a .csv file with the columns path,label and, if you like,
    split (train, val or test), or tfds:NAME[:CONFIG], a TensorFlow Dataset prepared as array_record."""
    model: ModelConfig = field(default_factory=ModelConfig)
    images: ImageConfig = field(default_factory=ImageConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    regular: RegularConfig = field(default_factory=RegularConfig)
    epochs: int = 5
    """Times that the training set is gone through."""
    batch_size: int = 32
    """Images that go through the network at once, over all devices."""
    accumulate: int = 1
    """Batches that make one update, their gradients averaged: with --freeze backbone that of a batch so many times
    larger; otherwise BatchNorm's statistics are those of each batch in turn."""
    input: Literal["auto", "resident", "mmap", "stream"] = "auto"
    """Where decoded images are while training: in device memory, in a memory-mapped file, or nowhere (decoded anew each
    time); auto goes by size. The batches are the same."""
    cache_features: bool = True
    """With a frozen stage and no random augmentation, or --cached-views: compute what the frozen part makes of each
    image once and keep it in device memory, where it fits. The numbers are the same, up to rounding."""
    balance: Literal["none", "weights", "sampler"] = "none"
    """Against classes of unequal size: weights counts an image's loss in inverse proportion to the size of its class,
    sampler draws every class equally often."""
    seed: int = 0
    """Of the split, the new head, the order of images and their augmentation."""
    tfds_dir: str | None = None
    """With tfds: where sets are kept, or the folder of one with its dataset_info.json; $TFDS_DATA_DIR, else
    ~/tensorflow_datasets, when not given."""
    train_split: str | None = None
    """With tfds: the split to train on, e.g. train[:80%]; train when not given."""
    test_split: str | None = None
    """With tfds: the split to test on; when not given validation, else test, else a part of each training class."""
    parallel: Literal["jit", "pmap"] = "jit"
    """How the step is compiled for all devices: jit with shard_map, or pmap. The numbers are the same."""
    devices: int | None = None
    """Use this many of the local devices; all when not given."""
    sync_bn: bool = True
    """BatchNorm's statistics are those of the whole batch; off: each device's own, as PyTorch's DataParallel."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the computation; auto is bfloat16 on GPU and TPU, float32 on CPU. Parameters are float32 always."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """Where the loss or an update becomes infinite or NaN: stop the run, or leave that update out."""
    deterministic: bool = False
    """Have GPUs give the same bits each time, at the cost of speed: XLA's deterministic ops, and no autotuning. CPUs do
    so anyway."""

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.epochs >= 1, f"--epochs {self.epochs}: must be at least 1.")
        check(self.batch_size >= 1, f"--batch-size {self.batch_size}: must be at least 1.")
        check(
            self.accumulate >= 1,
            f"--accumulate {self.accumulate}: must be at least 1, which updates after every batch.",
        )
        check(0 <= self.seed < 2**32, f"--seed {self.seed}: must lie in 0 to 4294967295.")
        check(self.devices is None or self.devices >= 1, f"--devices {self.devices}: must be at least 1.")
        check(
            self.stages.head_epochs < self.epochs,
            f"--head-epochs {self.stages.head_epochs}: --epochs {self.epochs} leaves none for the rest. Pass fewer, or "
            "--freeze backbone to train the head alone.",
        )
        for name in ("head_epochs", "unfreeze_epochs"):
            check(
                not getattr(self.stages, name) or self.model.freeze != "backbone",
                f"--{name.replace('_', '-')} {getattr(self.stages, name)} with --freeze backbone: nothing but the head "
                "ever trains. Leave one of them out.",
            )
        check(
            self.optim.l2_sp == 0 or self.model.weights != "none",
            f"--l2-sp {self.optim.l2_sp} pulls toward pretrained weights, and --weights none has none. Leave one out.",
        )
        check(
            self.regular.patience is None or self.images.holdout > 0,
            f"--patience {self.regular.patience} goes by the loss on held-out images, and there are none. Pass "
            "--holdout 0.1 with it, or leave --patience out.",
        )
        for name in ("tfds_dir", "train_split", "test_split"):
            check(
                getattr(self, name) is None or self.data.startswith("tfds:"),
                f"--{name.replace('_', '-')} {getattr(self, name)}: only for --data tfds:NAME, not for {self.data}. "
                "Leave it out.",
            )

    @property
    def images_per_step(self) -> int:
        """Images of one update, over all devices."""
        return self.batch_size * self.accumulate

    @property
    def num_views(self) -> int | None:
        """Of each training image, where they are drawn once; None where each time is a new one."""
        return None if self.model.freeze == "none" else self.images.cached_views


def differences(before: Config, after: Config) -> dict[str, str]:
    """What another config changes: by flag, a line with both values."""
    old, new = by_flag(before), by_flag(after)
    return {flag: f"{flag}: {old[flag]} -> {new[flag]}" for flag in old if old[flag] != new[flag]}


def by_flag(config: Config) -> dict[str, Any]:
    """The config's values by the flags that set them."""
    return flags_of(dataclasses.asdict(config))


def flags_of(values: dict[str, Any]) -> dict[str, Any]:
    """A config's values, as a config.json has them, by the flags that set them; also those that this jaxft lacks."""
    return {f"--{name.replace('_', '-')}": value for name, value in _flat(values).items()}


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Fields by name, those of nested configs beside the others: no name is there twice."""
    flat = {}
    for name, value in values.items():
        flat |= _flat(value) if isinstance(value, dict) else {name: value}
    return flat


def swept_flags() -> list[str]:
    """Flags that hold a number or a choice, but for the seed: those that a sweep may give several values."""
    return [f"--{name.replace('_', '-')}" for name, hint in _hints(Config) if _is_scalar(hint) and name != "seed"]


def _hints(cls: type) -> Iterator[tuple[str, Any]]:
    """Fields by name with their types, those of nested configs among them."""
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _hints(hint)  # pyright: ignore[reportArgumentType]
        else:
            yield name, hint


def _is_scalar(hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return True
    return {float, int} & set(get_args(hint) or (hint,)) != set()
