"""The same batch through torchvision's network and through ours: where they part, and by how much."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision
from rich.table import Table
from torch import nn

from convert.torchvision import to_state_dict, to_variables
from jaxft.errors import UserError
from jaxft.resnet import STAGES, ResNet
from jaxft.step import cross_entropies

Precision = Literal["float32", "float64"]
Arrays = dict[str, np.ndarray]

MODULES = {"stem": "maxpool", **{stage: stage for stage in STAGES[1:]}, "pooled": "avgpool", "logits": "fc"}
"""The torchvision module that puts out what a stage of ours does."""

WIDTH = 64
IMAGES = (4, 3, 224, 224)


class Check(NamedTuple):
    """A comparison on the whole network, and the relative difference that rounding never reaches."""

    precision: Precision
    train: bool
    limit: float


# The limit in float32 leaves room for 152 layers of batch statistics. Gradients are judged in float64 alone: in
# float32 a ReLU whose input is within rounding of zero switches its unit's gradient, in PyTorch's runs too.
CHECKS = (Check("float32", False, 1e-4), Check("float32", True, 1e-2), Check("float64", True, 1e-9))


class Outputs(NamedTuple):
    """What a network makes of a batch, in torch's names and axes; in inference, stages alone."""

    stages: Arrays
    loss: Arrays
    gradients: Arrays
    statistics: Arrays


class Difference(NamedTuple):
    """How far ours is from torchvision's in one array; relative to the largest absolute value of torchvision's."""

    name: str
    absolute: float
    relative: float


Differences = dict[str, list[Difference]]
"""Of each array, by kind: `stages`, and in training `loss`, `gradients` and `statistics` too."""


class Verdict(NamedTuple):
    """What `verify` found: a table to print, and a line for each array that is off."""

    table: Table
    off: list[str]


def verify(arch: str, state_dict: Mapping[str, np.ndarray], model: ResNet) -> Verdict:
    """Compare our network with torchvision's on a fixed batch, in inference and in training.

    Raises:
        UserError: torchvision has no network of the model's width.
    """
    if model.width != WIDTH:
        raise UserError(f"--verify: torchvision has no {arch} of --width {model.width}, only of {WIDTH}.")
    images = np.random.default_rng(0).normal(size=IMAGES).astype(np.float32)
    found = [
        (check, compare(arch, state_dict, model, images, train=check.train, precision=check.precision))
        for check in CHECKS
    ]
    return Verdict(tabulate(found), [line for check, by_kind in found for line in judge(check, by_kind)])


def judge(check: Check, by_kind: Differences) -> list[str]:
    """A line for each array that is off."""
    where = f"{check.precision}, {mode(check)}"
    return [
        f"{name}: {relative:.1e} of torchvision's largest ({where}, {kind}; limit {check.limit:g})"
        for kind, found in by_kind.items()
        for name, _, relative in found
        # A NaN is off too.
        if not relative <= check.limit and not (kind == "gradients" and check.precision == "float32")
    ]


def mode(check: Check) -> str:
    """As the table's heads have it."""
    return "training" if check.train else "inference"


def tabulate(found: Sequence[tuple[Check, Differences]]) -> Table:
    """A row a stage, and one each for the loss, the furthest gradient and the furthest running statistic."""
    table = Table("", title="Largest difference from torchvision: absolute, and relative to the array's largest value")
    table.caption = (
        "Off where the relative one is above "
        + ", ".join(f"{check.limit:g} ({check.precision}, {mode(check)})" for check, _ in found)
        + ". Gradients are judged in float64 alone: in float32 a ReLU whose input is within rounding of zero switches "
        "its unit's gradient, in PyTorch's own runs too."
    )
    table.title_justify = table.caption_justify = "left"
    rows: dict[str, list[str]] = {name: [name] for name in (*MODULES, *Outputs._fields[1:])}
    for check, by_kind in found:
        table.add_column(f"{check.precision}\n{mode(check)}", justify="right")
        shown = {entry.name: entry for entry in by_kind["stages"]}
        for kind in Outputs._fields[1:]:
            if kind in by_kind:
                # A NaN is the furthest of all.
                shown[kind] = max(by_kind[kind], key=lambda entry: (np.isnan(entry.relative), entry.relative))
        for name, row in rows.items():
            row.append(f"{shown[name].absolute:.1e}  {shown[name].relative:.1e}" if name in shown else "")
    for row in rows.values():
        table.add_row(*row)
    return table


def compare(
    arch: str,
    state_dict: Mapping[str, np.ndarray],
    model: ResNet,
    images: np.ndarray,
    *,
    train: bool,
    precision: Precision = "float32",
) -> Differences:
    """Every difference between the two networks on a batch, with the labels 0, 1, 2, ….

    Args:
        arch: torchvision's name of the network.
        state_dict: its weights.
        model: our network for them.
        images: normalised, [b, 3, h, w].
        train: a training step's forward and backward pass, or inference.
        precision: of the whole computation; on accelerators float32 is computed at the highest precision.
    """
    labels = np.arange(len(images)) % model.num_classes
    images = images.astype(precision)
    theirs = run_torchvision(arch, state_dict, images, labels, train=train)
    ours = run_ours(model, state_dict, images, labels, train=train, precision=precision)
    return {
        kind: differences(mine, reference)
        for kind, mine, reference in zip(Outputs._fields, ours, theirs, strict=True)
        if reference
    }


def differences(ours: Arrays, theirs: Arrays) -> list[Difference]:
    """The largest difference in each array."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    found = []
    for name, reference in theirs.items():
        assert ours[name].shape == reference.shape, (name, ours[name].shape, reference.shape)
        absolute = float(np.abs(ours[name] - reference).max())
        found.append(Difference(name, absolute, absolute / max(float(np.abs(reference).max()), 1e-30)))
    return found


def run_torchvision(
    arch: str, state_dict: Mapping[str, np.ndarray], images: np.ndarray, labels: np.ndarray, *, train: bool
) -> Outputs:
    """torchvision's network on the CPU, in the precision of the images."""
    model = getattr(torchvision.models, arch)(num_classes=len(state_dict["fc.bias"]))
    floats = {key: torch.from_numpy(np.asarray(array, np.float32)) for key, array in state_dict.items()}
    model.load_state_dict(floats, strict=False)
    pixels = torch.from_numpy(images)
    model = model.to(pixels.dtype).train(train)
    stages: Arrays = {}

    def keep(stage: str) -> Any:
        return lambda _module, _inputs, output: stages.update({stage: output.detach().numpy().copy()})

    for stage, module in MODULES.items():
        model.get_submodule(module).register_forward_hook(keep(stage))
    with torch.set_grad_enabled(train):
        logits = model(pixels)
    stages["pooled"] = stages["pooled"][:, :, 0, 0]
    if not train:
        return Outputs(stages, {}, {}, {})
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    statistics = {name: buffer.numpy() for name, buffer in model.named_buffers() if "running" in name}
    return Outputs(stages, {"loss": loss.detach().numpy()}, gradients, statistics)


def run_ours(
    model: ResNet,
    state_dict: Mapping[str, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    train: bool,
    precision: Precision,
) -> Outputs:
    """Our network on JAX's default device, in float64 on the CPU: TPUs have none."""
    device = jax.default_device("cpu") if precision == "float64" else nullcontext()
    with device, jax.enable_x64(precision == "float64"), jax.default_matmul_precision("highest"):
        model = model.clone(dtype=jnp.dtype(precision))
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, precision), to_variables(state_dict, model))
        pixels = jnp.asarray(images.transpose(0, 2, 3, 1))

        def loss_fn(params: Any) -> tuple[Any, Any]:
            logits, updated = model.apply(
                {**variables, "params": params}, pixels, train=train, mutable=["batch_stats", "intermediates"]
            )
            return cross_entropies(logits, jnp.asarray(labels)).mean(), (logits, updated)

        step = jax.value_and_grad(loss_fn, has_aux=True) if train else lambda params: (loss_fn(params), {})
        (loss, (logits, updated)), grads = jax.jit(step)(variables["params"])
        shown = {name: np.asarray(value) for name, (value,) in updated["intermediates"].items()}
        stages = {stage: shown[stage].transpose(0, 3, 1, 2) for stage in STAGES}
        stages |= {"pooled": shown["pooled"], "logits": np.asarray(logits)}
        if not train:
            return Outputs(stages, {}, {}, {})
        moved = to_state_dict({"batch_stats": updated["batch_stats"]})
        statistics = {key: array for key, array in moved.items() if "running" in key}
        return Outputs(stages, {"loss": np.asarray(loss)}, to_state_dict({"params": grads}), statistics)
