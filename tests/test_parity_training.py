"""The chapter's training loop in PyTorch against jaxft's step: the same weights, the same batches, 20 steps."""

import numpy as np
import pytest

from configs import preset
from jaxft.config import OptimConfig
from jaxft.resnet import frozen_stages
from parity.training import (
    CHAPTER,
    SETTINGS,
    Setting,
    chapter_loop,
    chapter_model,
    chapter_trainer,
    in_float32,
    in_float64,
    jaxft_loop,
    mean_loss,
    noise_batches,
)

IN_CI = {
    "the chapter's", "Nesterov", "weight decay 0.1", "frozen to layer2", "frozen to backbone", "from scratch", "AdamW",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in IN_CI else pytest.mark.full) for name in SETTINGS]
)
def test_float64_is_pytorchs_run(name):
    apart, losses = in_float64(SETTINGS[name])
    assert np.ptp(losses) > 0.1, "nothing was learnt: the comparison says little"
    assert max(apart) < 1e-9


def test_the_hotdog_preset_is_the_chapters_recipe():
    check_recipe(preset("hotdog").optim)


def check_recipe(optim: OptimConfig) -> None:
    """The chapter's literal numbers, for the sum over its own batch of 128, against those for a mean loss."""
    apart, _ = in_float64(Setting({}, optim), noise_batches(2, 128, 16))
    assert max(apart) < 1e-9


def test_frozen_batchnorm_left_in_training_mode_goes_astray():
    """The known trap: `requires_grad_(False)` alone leaves a frozen BatchNorm normalising by the batch and moving."""
    model, data, frozen = chapter_model().double(), noise_batches(5), frozen_stages("layer3")
    start = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    forgotten = chapter_loop(model, chapter_trainer(model, **CHAPTER), data, frozen=frozen, forget_eval=True)
    ours = jaxft_loop(start, mean_loss(), data, frozen=frozen)
    for key in ("bn1.running_mean", "layer3.1.bn2.running_var"):
        np.testing.assert_array_equal(ours.state_dict[key], start[key])
        assert np.abs(forgotten.state_dict[key] - start[key]).max() > 0.01
    np.testing.assert_array_equal(forgotten.state_dict["layer3.1.conv2.weight"], start["layer3.1.conv2.weight"])
    assert abs(forgotten.losses[0] - ours.losses[0]) > 0.01


@pytest.mark.slow
def test_float32_strays_no_further_than_pytorch_does(shared):
    ours, theirs = in_float32(shared)
    for mine, own in zip(ours, theirs, strict=True):
        assert mine < 3 * own
    assert ours.losses < 0.02
