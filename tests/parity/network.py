"""torchvision's networks and ours on one batch: stages, logits, loss, every gradient, every running statistic."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import torch
import torchvision

from convert.torchvision import variable_shapes
from convert.verify import Arrays, Difference, Differences, compare, differences, run_ours, run_torchvision
from jaxft.resnet import ResNet, make_resnet

SIZES = ((224, 224), (225, 225), (97, 131))
BATCH, NUM_CLASSES = 2, 10


def random_model(arch: str, **kwargs) -> torch.nn.Module:
    """torchvision's network with random weights, and BatchNorm statistics that are not those of a fresh network."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, arch)(weights=None, **kwargs)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var") or ("bn" in name and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.2)
    return model


def random_state(arch: str, **kwargs) -> Arrays:
    """The state_dict of `random_model`."""
    return {name: tensor.numpy() for name, tensor in random_model(arch, **kwargs).state_dict().items()}


def random_variables(model: ResNet) -> Any:
    """Our network's: weights that keep activations in bounds, statistics that are not those of a fresh network."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.ndim == 1:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return rng.standard_normal(leaf.shape, np.float32) * np.float32(2 / np.prod(leaf.shape[:-1])) ** 0.5

    return jax.tree.map(draw, variable_shapes(model))


def images(size: tuple[int, int], batch: int = BATCH) -> np.ndarray:
    """Noise, [b, 3, h, w]."""
    return np.random.default_rng(0).normal(size=(batch, 3, *size)).astype(np.float32)


def in_float64(arch: str, size: tuple[int, int], *, train: bool) -> Differences:
    """Every difference where nothing but rounding is left, so that any other convention shows."""
    model = make_resnet(arch, num_classes=NUM_CLASSES)
    state = random_state(arch, num_classes=NUM_CLASSES)
    return compare(arch, state, model, images(size), train=train, precision="float64")


def in_float32(arch: str, size: tuple[int, int]) -> dict[str, tuple[float, float]]:
    """How far a training step in float32 is from torchvision's in float64: ours, and torchvision's own.

    Stages, loss and statistics by their largest difference, relative to the array's largest value. Gradients as one
    vector, relative to its length: a ReLU whose input is within rounding of zero switches its unit's gradient, in
    torchvision too.
    """
    model = make_resnet(arch, num_classes=NUM_CLASSES)
    state = random_state(arch, num_classes=NUM_CLASSES)
    pixels, labels = images(size), np.arange(BATCH)
    truth = run_torchvision(arch, state, pixels.astype(np.float64), labels, train=True)
    runs = (
        run_ours(model, state, pixels, labels, train=True, precision="float32"),
        run_torchvision(arch, state, pixels, labels, train=True),
    )
    found = {
        kind: tuple(largest(differences(getattr(run, kind), getattr(truth, kind))) for run in runs)
        for kind in ("stages", "loss", "statistics")
    }
    return found | {"gradients": tuple(distance(run.gradients, truth.gradients) for run in runs)}


def largest(entries: Iterable[Difference]) -> float:
    """The largest relative difference of several arrays; NaN where one is."""
    return float(np.max([entry.relative for entry in entries]))


def distance(ours: Arrays, theirs: Arrays) -> float:
    """Of two sets of arrays, each as one vector; relative to the length of `theirs`."""
    apart = sum(float(np.square(ours[name].astype(np.float64) - theirs[name]).sum()) for name in theirs)
    return (apart / sum(float(np.square(array.astype(np.float64)).sum()) for array in theirs.values())) ** 0.5
