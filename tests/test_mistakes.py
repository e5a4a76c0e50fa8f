"""The classic mistakes of a port, each made on purpose: the test that is named here fails."""

import dataclasses
from collections.abc import Callable

import flax.errors
import pytest
from flax import linen as nn

import convert.torchvision
import jaxft.batch_norm
import jaxft.resnet
import test_parity_network
import test_parity_training
from configs import preset


def same_padding(patch: pytest.MonkeyPatch) -> None:
    def conv(features, kernel, stride=1, *, groups=1, dtype, name):
        strides = (stride, stride)
        return nn.Conv(
            features,
            (kernel, kernel),
            strides,
            "SAME",
            feature_group_count=groups,
            use_bias=False,
            dtype=dtype,
            name=name,
        )

    patch.setattr(jaxft.resnet, "conv", conv)


def torchs_momentum_for_flaxs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(jaxft.batch_norm, "BATCH_NORM_DECAY", 0.1)


def biased_running_variance(patch: pytest.MonkeyPatch) -> None:
    moments = jaxft.batch_norm.batch_moments
    patch.setattr(jaxft.batch_norm, "batch_moments", lambda *args: (*moments(*args)[:2], 2**60))


def max_pool_padded_with_zeros(patch: pytest.MonkeyPatch) -> None:
    def max_pool(x):
        padded = jaxft.resnet.jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return nn.max_pool(padded, (3, 3), strides=(2, 2))

    patch.setattr(test_parity_network, "max_pool", max_pool)


def height_and_width_swapped(patch: pytest.MonkeyPatch) -> None:
    swapped = convert.torchvision.torch_to_flax
    patch.setattr(convert.torchvision, "torch_to_flax", lambda x: swapped(x.swapaxes(2, 3) if x.ndim == 4 else x))


def fc_not_transposed(patch: pytest.MonkeyPatch) -> None:
    transposed = convert.torchvision.torch_to_flax
    patch.setattr(convert.torchvision, "torch_to_flax", lambda x: x if x.ndim == 2 else transposed(x))


def the_chapters_rate_for_a_mean_loss(patch: pytest.MonkeyPatch) -> None:
    hotdog = preset("hotdog")
    wrong = dataclasses.replace(hotdog, optim=dataclasses.replace(hotdog.optim, lr=5e-5, weight_decay=1e-3))
    patch.setattr(test_parity_training, "preset", lambda _: wrong)


def float64_is_exact(size: tuple[int, int]) -> Callable[[], None]:
    return lambda: test_parity_network.test_float64_is_exact("resnet18", size)


ODD, EVEN = (97, 131), (224, 224)
NOTICED_BY: dict[Callable, Callable[[], None]] = {
    same_padding: float64_is_exact(EVEN),  # Of odd sides, Flax's SAME makes the same of both ends.
    torchs_momentum_for_flaxs: float64_is_exact(ODD),
    biased_running_variance: float64_is_exact(ODD),
    max_pool_padded_with_zeros: test_parity_network.test_max_pool_is_torchs,
    height_and_width_swapped: float64_is_exact(ODD),
    fc_not_transposed: float64_is_exact(ODD),
    the_chapters_rate_for_a_mean_loss: test_parity_training.test_the_hotdog_preset_is_the_chapters_recipe,
}


@pytest.mark.parametrize("mistake", NOTICED_BY, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_noticed(mistake, monkeypatch):
    mistake(monkeypatch)
    with pytest.raises((AssertionError, flax.errors.ScopeParamShapeError)):
        NOTICED_BY[mistake]()
