"""Every stage, the logits, the loss, every gradient and every running statistic against torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from scipy.stats import ks_2samp

from convert.torchvision import to_state_dict
from convert.verify import CHECKS, compare, differences, judge
from jaxft.cpu.max_pool import max_pool
from jaxft.resnet import ARCHS, STAGES, make_resnet
from parity.network import NUM_CLASSES, SIZES, images, in_float32, in_float64, largest, random_state

KINDS = ("stages", "loss", "gradients", "statistics")
IN_CI = {
    "float64": {("resnet50", SIZES[2]), ("resnext50_32x4d", SIZES[2]), *(("resnet18", size) for size in SIZES)},
    "float32": {("resnet18", SIZES[2]), ("resnet50", SIZES[2])},
}


def cases(precision: str) -> list:
    """All networks at all sizes; `full` marks those that CI does not run."""
    return [
        pytest.param(
            arch,
            size,
            marks=() if (arch, size) in IN_CI[precision] else pytest.mark.full,
            id=f"{arch}-{size[0]}x{size[1]}",
        )
        for arch in ARCHS
        for size in SIZES
    ]


@pytest.mark.parametrize(("arch", "size"), cases("float64"))
def test_float64_is_exact(arch, size):
    for train in (False, True):
        found = in_float64(arch, size, train=train)
        assert tuple(found) == (KINDS if train else KINDS[:1])
        assert [entry.name for entry in found["stages"]] == [*STAGES, "pooled", "logits"]
        for kind, entries in found.items():
            for entry in entries:
                assert entry.relative < 1e-9, (kind, entry)


@pytest.mark.parametrize(("arch", "size"), cases("float32"))
def test_float32_is_as_near_to_float64_as_torchvision(arch, size):
    found = in_float32(arch, size)
    for kind in ("stages", "loss", "statistics"):
        # One of theirs can be near by luck: the stages' is the measure for all.
        assert found[kind][0] < 5 * found["stages"][1], kind
    # Room for the ReLUs that switch in our run alone; float64 is the judge of gradients.
    assert found["gradients"][0] < 5 * found["gradients"][1] + 0.02
    state, model = random_state(arch, num_classes=NUM_CLASSES), make_resnet(arch, num_classes=NUM_CLASSES)
    assert largest(compare(arch, state, model, images(size), train=False)["stages"]) < 1e-5


def test_every_array_is_compared():
    found = in_float64("resnet18", (64, 64), train=True)
    # 20 convolutions, 20 norms of two parameters and two statistics each, and fc's two.
    assert (len(found["gradients"]), len(found["statistics"]), len(found["loss"])) == (62, 40, 1)


def test_a_fresh_network_is_drawn_as_torchvisions():
    model, images = make_resnet("resnet18"), jnp.zeros((1, 32, 32, 3))
    ours = to_state_dict(jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0)))
    torch.manual_seed(0)
    for key, tensor in torchvision.models.resnet18().state_dict().items():
        theirs = tensor.numpy()
        if theirs.ndim > 1 or key == "fc.bias":
            # Two samples of one distribution fall below it once in 10,000 arrays, and there are 22 here.
            assert ks_2samp(ours[key].ravel()[:100_000], theirs.ravel()[:100_000]).pvalue > 1e-4, key
        else:
            np.testing.assert_array_equal(ours[key], theirs, err_msg=key)


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
