"""Every stage, the logits, the loss, every gradient and every running statistic against torchvision's."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torchvision_models import random_state

from convert.verify import CHECKS, compare, differences, judge, run_ours, run_torchvision
from jaxft.resnet import ARCHS, STAGES, make_resnet, max_pool

SIZES = ((224, 224), (225, 225), (97, 131))


def cases(in_ci: set[tuple[str, tuple[int, int]]]) -> list:
    """All networks at all sizes, marked `full` but for those named."""
    return [
        pytest.param(
            arch, size, marks=() if (arch, size) in in_ci else pytest.mark.full, id=f"{arch}-{size[0]}x{size[1]}"
        )
        for arch in ARCHS
        for size in SIZES
    ]


NUM_CLASSES = 10
KINDS = ("stages", "loss", "gradients", "statistics")


def images(size: tuple[int, int], batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, 3, *size)).astype(np.float32)


def largest(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    return max(entry.relative for entry in differences(ours, theirs))


def distance(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Of two sets of gradients, each as one vector; relative to the length of `theirs`."""
    apart = sum(float(np.square(ours[name] - theirs[name]).sum()) for name in theirs)
    return (apart / sum(float(np.square(array).sum()) for array in theirs.values())) ** 0.5


def check_exact(arch: str, size: tuple[int, int], batch: int = 2) -> None:
    """In float64 nothing but rounding is left, so that any other convention shows."""
    state, model = random_state(arch, num_classes=NUM_CLASSES), make_resnet(arch, num_classes=NUM_CLASSES)
    for train in (False, True):
        found = compare(arch, state, model, images(size, batch), train=train, precision="float64")
        assert tuple(found) == (KINDS if train else KINDS[:1])
        assert [entry.name for entry in found["stages"]] == [*STAGES, "pooled", "logits"]
        for kind, entries in found.items():
            for entry in entries:
                assert entry.relative < 1e-9, (kind, entry)


@pytest.mark.parametrize(
    ("arch", "size"),
    cases({("resnet50", SIZES[2]), ("resnext50_32x4d", SIZES[2]), *(("resnet18", size) for size in SIZES)}),
)
def test_float64_is_exact(arch, size):
    check_exact(arch, size)


@pytest.mark.parametrize(("arch", "size"), cases({("resnet18", SIZES[2]), ("resnet50", SIZES[2])}))
def test_float32_is_as_near_to_the_truth_as_torchvision(arch, size):
    """The truth is torchvision in float64. A ReLU with an input within rounding of zero switches its unit's gradient,
    in torchvision too: float32 gradients are compared as one vector, and left 0.5 % for a switch that we alone have."""
    state, model = random_state(arch, num_classes=NUM_CLASSES), make_resnet(arch, num_classes=NUM_CLASSES)
    pixels, labels = images(size), np.arange(2)
    truth = run_torchvision(arch, state, pixels.astype(np.float64), labels, train=True)
    theirs = run_torchvision(arch, state, pixels, labels, train=True)
    ours = run_ours(model, state, pixels, labels, train=True, precision="float32")
    own = largest(theirs.stages, truth.stages)
    for kind in ("stages", "loss", "statistics"):
        assert largest(getattr(ours, kind), getattr(truth, kind)) < 5 * own, kind
    assert distance(ours.gradients, truth.gradients) < 2 * distance(theirs.gradients, truth.gradients) + 5e-3
    inference = compare(arch, state, model, pixels, train=False)
    assert max(entry.relative for entry in inference["stages"]) < 1e-5


def test_every_array_is_compared():
    found = compare(
        "resnet18",
        random_state("resnet18", num_classes=NUM_CLASSES),
        make_resnet("resnet18", num_classes=NUM_CLASSES),
        images((64, 64)),
        train=True,
    )
    # 20 convolutions, 20 norms of two parameters and two statistics each, and fc's two.
    assert (len(found["gradients"]), len(found["statistics"]), len(found["loss"])) == (62, 40, 1)


def test_max_pool_is_torchs():
    # Below zero, where padding with zeros would show; in the network a ReLU comes before.
    x = -1 - np.random.default_rng(0).random((2, 9, 8, 3), dtype=np.float32)
    expected = torch.nn.functional.max_pool2d(torch.from_numpy(x.transpose(0, 3, 1, 2)), 3, 2, 1).numpy()
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), expected.transpose(0, 2, 3, 1))


def test_a_difference_or_a_nan_is_off():
    check = CHECKS[2]
    ours = {"a": np.array([1.0, 2.0]), "b": np.array([np.nan]), "c": np.array([3.0])}
    theirs = {"a": np.array([1.0, 2.5]), "b": np.array([1.0]), "c": np.array([3.0])}
    lines = judge(check, {"gradients": differences(ours, theirs)})
    assert [line.split(":")[0] for line in lines] == ["a", "b"]
    assert "a: 2.0e-01 of torchvision's largest (float64, training, gradients; limit 1e-09)" in lines[0]
