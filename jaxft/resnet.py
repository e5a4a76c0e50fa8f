"""torchvision's ResNet family in Flax linen: the same layers, names, paddings and statistics; NHWC.

Source: torchvision/models/resnet.py. `v1.5`: a bottleneck's stride is on its 3x3 convolution.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from jaxft.batch_norm import BatchNorm, widen
from jaxft.cpu.convolution import conv_general_dilated
from jaxft.cpu.max_pool import max_pool
from jaxft.errors import UserError
from jaxft.optim_config import STAGES

POOLED = "pooled"
"""layer4's mean over height and width, the head's input."""


class Architecture(NamedTuple):
    """What tells one ResNet from another: torchvision's `groups` and `width_per_group` in `base_width`."""

    block: Literal["basic", "bottleneck"]
    stage_sizes: tuple[int, int, int, int]
    groups: int = 1
    base_width: int = 64


ARCHS: dict[str, Architecture] = {
    "resnet18": Architecture("basic", (2, 2, 2, 2)),
    "resnet34": Architecture("basic", (3, 4, 6, 3)),
    "resnet50": Architecture("bottleneck", (3, 4, 6, 3)),
    "resnet101": Architecture("bottleneck", (3, 4, 23, 3)),
    "resnet152": Architecture("bottleneck", (3, 8, 36, 3)),
    "resnext50_32x4d": Architecture("bottleneck", (3, 4, 6, 3), groups=32, base_width=4),
    "resnext101_32x8d": Architecture("bottleneck", (3, 4, 23, 3), groups=32, base_width=8),
    "resnext101_64x4d": Architecture("bottleneck", (3, 4, 23, 3), groups=64, base_width=4),
    "wide_resnet50_2": Architecture("bottleneck", (3, 4, 6, 3), base_width=128),
    "wide_resnet101_2": Architecture("bottleneck", (3, 4, 23, 3), base_width=128),
}

kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(features: int, kernel: int, stride: int = 1, *, groups: int = 1, dtype: Any, name: str) -> nn.Conv:
    """A convolution with torch's symmetric padding (Flax's SAME pads (0, 1) where the stride is 2)."""
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=[(kernel // 2, kernel // 2)] * 2,
        feature_group_count=groups,
        use_bias=False,
        dtype=dtype,
        kernel_init=kaiming_normal,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


class Block(nn.Module):
    """torchvision's BasicBlock (two 3x3) or Bottleneck (1x1, 3x3, 1x1), with its downsampling shortcut."""

    arch: Architecture
    planes: int
    stride: int
    norm: Callable[..., BatchNorm]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 c2"]:
        """Convolutions plus shortcut; height and width are divided by the stride, rounded up."""
        arch, dtype = self.arch, self.dtype
        out_channels = self.planes * expansion(arch)
        shortcut = x
        if arch.block == "basic":
            convs = [
                conv(self.planes, 3, self.stride, dtype=dtype, name="conv1"),
                conv(self.planes, 3, dtype=dtype, name="conv2"),
            ]
        else:
            inner = int(self.planes * (arch.base_width / 64)) * arch.groups
            convs = [
                conv(inner, 1, dtype=dtype, name="conv1"),
                conv(inner, 3, self.stride, groups=arch.groups, dtype=dtype, name="conv2"),
                conv(out_channels, 1, dtype=dtype, name="conv3"),
            ]
        for i, layer in enumerate(convs, start=1):
            x = self.norm(name=f"bn{i}")(layer(x), train=train)
            if i < len(convs):
                x = nn.relu(x)
        if self.stride != 1 or shortcut.shape[-1] != out_channels:
            shortcut = conv(out_channels, 1, self.stride, dtype=dtype, name="downsample_0")(shortcut)
            shortcut = self.norm(name="downsample_1")(shortcut, train=train)
        return nn.relu(x + shortcut)


def expansion(arch: Architecture) -> int:
    """Output channels of a block over its planes."""
    return 1 if arch.block == "basic" else 4


class ResNet(nn.Module):
    """A ResNet of torchvision: images in, logits out.

    `model.apply(variables, images, train=False)` gives the logits of normalised images. With "intermediates" mutable,
    it also gives what each stage put out (stem, layer1 to layer4) and "pooled", the head's input.
    """

    arch: Architecture
    """What to build; `make_resnet` takes its name."""
    num_classes: int = 1000
    """Rows of the classifier `fc`."""
    width: int = 64
    """Channels of the stem; torchvision's are 64."""
    frozen: tuple[str, ...] = ()
    """Stages, of stem and layer1 to layer4, that train nothing; their BatchNorm runs on stored statistics and keeps
    them."""
    axis_name: str | None = None
    """The mesh axis over which BatchNorm's statistics are averaged; None for each device's own."""
    dtype: Any = jnp.float32
    """Of the computation; parameters, statistics and logits are float32 also where it is bfloat16."""
    after: str | None = None
    """A stage or "pooled": the network begins above it, and is given what it put out in place of images."""
    stored_statistics: bool = False
    """BatchNorm runs on stored statistics in training too, and keeps them; its scales and biases train."""
    dropout: float = 0.0
    """In training, the share of the head's inputs that are zero; the others are scaled up."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "b ..."], *, train: bool, keys: Key[Array, " b"] | None = None
    ) -> Float[Array, "b k"]:
        """Logits of normalised images [b, h, w, 3]; with `train`, "batch_stats" must be mutable.

        With dropout, training takes a key for each image.
        """

        def norm(name: str) -> BatchNorm:
            return BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=name)

        x, left = images, stages_after(self.after)
        moving = train and not self.stored_statistics
        if "stem" in left:
            x = conv(self.width, 7, 2, dtype=self.dtype, name="conv1")(x.astype(self.dtype))
            x = nn.relu(norm("bn1")(x, train=moving and "stem" not in self.frozen))
            x = self._end_of("stem", max_pool(x))
        for i, (stage, num_blocks) in enumerate(zip(STAGES[1:], self.arch.stage_sizes, strict=True)):
            if stage not in left:
                continue
            for j in range(num_blocks):
                stride = 2 if i > 0 and j == 0 else 1
                block = Block(self.arch, self.width * 2**i, stride, norm, self.dtype, name=f"{stage}_{j}")
                x = block(x, train=moving and stage not in self.frozen)
            x = self._end_of(stage, x)
        pooled = x if self.after == POOLED else widen(x).mean((1, 2))
        self.sow("intermediates", POOLED, pooled)
        if train and self.dropout:
            assert keys is not None
            pooled = dropped(pooled, self.dropout, keys)
        bound = 1 / math.sqrt(pooled.shape[-1])
        uniform = symmetric_uniform(bound)
        return nn.Dense(self.num_classes, kernel_init=uniform, bias_init=uniform, name="fc")(pooled)

    def _end_of(self, stage: str, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Show a stage's output, and cut the gradient at the top of a frozen one: nothing below is differentiated."""
        self.sow("intermediates", stage, x)
        return jax.lax.stop_gradient(x) if stage in self.frozen else x


def dropped(x: Float[Array, "b c"], share: float, keys: Key[Array, " b"]) -> Float[Array, "b c"]:
    """Each number zero with probability `share`, or scaled so that its mean stays; a row's draws are its key's."""
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - share, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1 - share), 0)


def stage_of(name: str) -> str:
    """The stage of a parameter or a statistic by its name: `layer1_0/bn1/mean` is of layer1; fc is the head."""
    module = name.split("/", 1)[0]
    return {"conv1": "stem", "bn1": "stem", "fc": "head"}.get(module, module.split("_", 1)[0])


def stages_after(after: str | None) -> tuple[str, ...]:
    """The stages above one; above "pooled" there is none."""
    if after is None:
        return STAGES
    return STAGES[(*STAGES, POOLED).index(after) + 1 :]


def symmetric_uniform(bound: float) -> Callable:
    """An initializer: uniform in [-bound, bound), as torch.nn.Linear draws its weight and bias."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def frozen_stages(freeze: str) -> tuple[str, ...]:
    """The stages that `--freeze` names: everything up to and including it; `backbone` is all of them.

    Raises:
        UserError: for a name that is no stage.
    """
    if freeze == "none":
        return ()
    if freeze == "backbone":
        return STAGES
    if freeze not in STAGES:
        raise UserError(f"--freeze {freeze}: no such stage. Choose none, {', '.join(STAGES[:-1])} or backbone.")
    return STAGES[: STAGES.index(freeze) + 1]


def make_resnet(arch: str, num_classes: int = 1000, width: int = 64, **kwargs: Any) -> ResNet:
    """The ResNet that torchvision has by that name, e.g. `make_resnet("resnet18", num_classes=2)`; kwargs are ResNet's.

    Raises:
        UserError: another name than those of `ModelConfig.arch`.
    """
    if arch not in ARCHS:
        raise UserError(f"--arch {arch}: no such architecture. Choose one of {', '.join(ARCHS)}.")
    return ResNet(ARCHS[arch], num_classes=num_classes, width=width, **kwargs)


resnet18 = partial(make_resnet, "resnet18")
resnet34 = partial(make_resnet, "resnet34")
resnet50 = partial(make_resnet, "resnet50")
resnet101 = partial(make_resnet, "resnet101")
resnet152 = partial(make_resnet, "resnet152")
