"""The chapter's training loop in PyTorch against jaxft's step: the same weights, the same batches, 20 steps.

Both run in float64, where nothing but rounding is left: losses, parameters and statistics agree to 1e-9, and any other
convention shows. In float32 a ReLU whose input is within rounding of zero parts any two runs, PyTorch's own too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision_models import random_model

from configs import preset
from convert.torchvision import to_state_dict, to_variables
from jaxft.config import OptimConfig
from jaxft.data.augment import Batch
from jaxft.optim import make_optimizer, rate_labels
from jaxft.parallel import over_devices
from jaxft.resnet import frozen_stages, make_resnet
from jaxft.step import init_state, make_train_step

NUM_STEPS, BATCH, SIZE = 20, 4, 40
CHAPTER = {"lr": 5e-5, "decay": 1e-3, "head_mult": 10.0}
"""The chapter's numbers, for a summed loss."""


class Trajectory(NamedTuple):
    losses: list[float]
    state_dict: dict[str, np.ndarray]


def batches(num_steps: int = NUM_STEPS, batch_size: int = BATCH, size: int = SIZE) -> list[Batch]:
    """Noise that darkens to the left in one class and to the top in the other."""
    rng = np.random.default_rng(1)
    ramps = np.indices((size, size)) * (128 // size)
    data = []
    for _ in range(num_steps):
        labels = rng.integers(0, 2, batch_size).astype(np.int32)
        images = (ramps[labels][..., None] + rng.integers(0, 128, (batch_size, size, size, 3))).astype(np.uint8)
        sizes = np.full((batch_size, 2), size, np.int32)
        data.append(Batch(images, sizes, labels, np.arange(batch_size, dtype=np.int32)))
    return data


def pixels(images: Any, dtype: Any) -> Any:
    """Uint8 to -1 … 1, without rounding in any precision."""
    return images.astype(dtype) / 128 - 1


def chapter_model() -> nn.Module:
    """A network with a history, and a new `fc` as the chapter draws it."""
    model = random_model("resnet18", num_classes=10)
    model.fc = nn.Linear(512, 2)
    nn.init.xavier_uniform_(model.fc.weight)
    return model


def chapter_trainer(
    model: nn.Module, *, lr: float, decay: float, head_mult: float, optimizer: Any = torch.optim.SGD, **options: Any
) -> torch.optim.Optimizer:
    """The chapter's two groups."""
    body = [parameter for name, parameter in model.named_parameters() if name not in ("fc.weight", "fc.bias")]
    groups = [{"params": body}, {"params": model.fc.parameters(), "lr": lr * head_mult}]
    return optimizer(groups, lr=lr, weight_decay=decay, **options)


def chapter_loop(
    model: nn.Module,
    trainer: torch.optim.Optimizer,
    data: list[Batch],
    *,
    frozen: tuple[str, ...] = (),
    forget_eval: bool = False,
    mean: bool = False,
    dtype: Any = np.float64,
) -> Trajectory:
    """The chapter's loop, `l.sum().backward()`; what is frozen needs `eval()` besides `requires_grad_(False)`."""
    model.train()
    for module in frozen_modules(model, frozen):
        module.requires_grad_(False)
        module.train(forget_eval)
    loss = nn.CrossEntropyLoss(reduction="none")
    losses = []
    for batch in data:
        images = torch.from_numpy(np.ascontiguousarray(pixels(batch.images, dtype).transpose(0, 3, 1, 2)))
        trainer.zero_grad()
        each = loss(model(images), torch.from_numpy(batch.labels.astype(np.int64)))
        (each.mean() if mean else each.sum()).backward()
        trainer.step()
        losses.append(each.mean().item())
    return Trajectory(losses, {key: value.numpy().copy() for key, value in model.state_dict().items()})


def frozen_modules(model: nn.Module, frozen: tuple[str, ...]) -> list[nn.Module]:
    names = [name for stage in frozen for name in (("conv1", "bn1") if stage == "stem" else (stage,))]
    return [model.get_submodule(name) for name in names]


def jaxft_loop(
    state_dict: dict[str, np.ndarray],
    optim: OptimConfig,
    data: list[Batch],
    *,
    frozen: tuple[str, ...] = (),
    dtype: Any = jnp.float64,
) -> Trajectory:
    """jaxft's compiled step; the batch is fed as it is."""
    with jax.enable_x64(dtype == jnp.float64), jax.default_matmul_precision("highest"):
        model = make_resnet("resnet18", num_classes=2, frozen=frozen, dtype=dtype)
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), to_variables(state_dict, model))
        tx = make_optimizer(optim, rate_labels(variables["params"], frozen))
        step = make_train_step(model, tx, lambda key, batch: pixels(batch.images, dtype))
        compiled = over_devices(step, jax.local_devices()[:1], "jit", donate=True)
        state, losses = init_state(variables["params"], variables["batch_stats"], tx), []
        for batch in data:
            state, metrics = compiled(state, batch, jax.random.key(0))
            losses.append(float(metrics.loss))
        return Trajectory(losses, to_state_dict({"params": state.params, "batch_stats": state.batch_stats}))


def distance(ours: Trajectory, theirs: Trajectory) -> float:
    """The largest difference of a loss or, relative to its array's largest value, of a parameter or statistic."""
    apart = [abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True)]
    for key, reference in theirs.state_dict.items():
        if not key.endswith("num_batches_tracked"):
            apart.append(float(np.abs(ours.state_dict[key] - reference).max() / np.abs(reference).max()))
    return max(apart)


def mean_loss(**changes: Any) -> OptimConfig:
    """The chapter's recipe for jaxft's mean loss: the rate times the batch size, the decay over it."""
    chapter = {
        "lr": CHAPTER["lr"] * BATCH,
        "weight_decay": CHAPTER["decay"] / BATCH,
        "head_lr_mult": CHAPTER["head_mult"],
        "momentum": 0.0,
    }
    return OptimConfig(**{**chapter, **changes})


def check_same(
    theirs: dict[str, Any],
    optim: OptimConfig,
    *,
    freeze: str = "none",
    model: nn.Module | None = None,
    data: list[Batch] | None = None,
) -> None:
    """PyTorch's loop with `theirs` in place of the chapter's numbers, and jaxft's with `optim`."""
    model = (model or chapter_model()).double()
    data, frozen = data or batches(), frozen_stages(freeze)
    start = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    options = {**CHAPTER, **theirs}
    mean = options.pop("mean", False)
    expected = chapter_loop(model, chapter_trainer(model, **options), data, frozen=frozen, mean=mean)
    assert np.ptp(expected.losses) > 0.1, "nothing was learnt: the comparison says little"
    got = distance(jaxft_loop(start, optim, data, frozen=frozen), expected)
    print(theirs, freeze, got)
    assert got < 1e-9


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, {}),
        ({"momentum": 0.9}, {"momentum": 0.9}),
        ({"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
        ({"decay": 0.0}, {"weight_decay": 0.0}),
        ({"decay": 0.1}, {"weight_decay": 0.1 / BATCH}),
    ],
    ids=["chapter", "momentum", "nesterov", "no decay", "decay 0.1"],
)
def test_the_chapters_loop(theirs, ours):
    check_same(theirs, mean_loss(**ours))


@pytest.mark.parametrize("freeze", ["stem", "layer1", "layer2", "layer3", "backbone"])
def test_frozen_up_to_a_stage(freeze):
    check_same({"momentum": 0.9}, mean_loss(momentum=0.9), freeze=freeze)


def test_from_scratch():
    # The chapter's second arm: ten times the rate, for the whole network.
    torch.manual_seed(0)
    check_same(
        {"lr": 5e-4, "head_mult": 1.0}, mean_loss(lr=5e-4 * BATCH, head_lr_mult=1.0), model=resnet18(num_classes=2)
    )


def test_adamw():
    # AdamW takes the same step for a sum as for a mean, but for its epsilon; so here PyTorch's loss is a mean too.
    optim = OptimConfig(optimizer="adamw", lr=1e-4, weight_decay=0.05)
    check_same({"lr": 1e-4, "decay": 0.05, "optimizer": torch.optim.AdamW, "mean": True}, optim)


def test_the_hotdog_preset_is_the_chapters_recipe():
    check_preset(preset("hotdog").optim)


def check_preset(optim: OptimConfig) -> None:
    """The chapter's literal numbers at its own batch size, against those for a mean loss."""
    check_same({}, optim, data=batches(3, 128, 32))


def test_frozen_batchnorm_left_in_training_mode_goes_astray():
    """The known trap: `requires_grad_(False)` alone leaves a frozen BatchNorm normalising by the batch and moving."""
    model, data, frozen = chapter_model().double(), batches(5), frozen_stages("layer3")
    start = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    forgotten = chapter_loop(model, chapter_trainer(model, **CHAPTER), data, frozen=frozen, forget_eval=True)
    ours = jaxft_loop(start, mean_loss(), data, frozen=frozen)
    for key in ("bn1.running_mean", "layer3.1.bn2.running_var"):
        np.testing.assert_array_equal(ours.state_dict[key], start[key].astype(np.float64))
        assert np.abs(forgotten.state_dict[key] - start[key]).max() > 0.01
    np.testing.assert_array_equal(forgotten.state_dict["layer3.1.conv2.weight"], start["layer3.1.conv2.weight"])
    assert abs(forgotten.losses[0] - ours.losses[0]) > 0.01


def test_float32_strays_no_further_than_pytorch_does():
    """From the same run in float64: jaxft in float32, and PyTorch in float32."""
    data, options = batches(), {**CHAPTER, "momentum": 0.9}
    start = {key: value.numpy().copy() for key, value in chapter_model().state_dict().items()}

    def theirs(dtype: Any) -> Trajectory:
        model = chapter_model().to(torch.float64 if dtype == np.float64 else torch.float32)
        return chapter_loop(model, chapter_trainer(model, **options), data, dtype=dtype)

    truth, theirs32 = theirs(np.float64), theirs(np.float32)
    ours32 = jaxft_loop(start, mean_loss(momentum=0.9), data, dtype=jnp.float32)
    print(distance(ours32, truth), distance(theirs32, truth), distance(ours32, theirs32))
    assert distance(ours32, truth) < 5 * distance(theirs32, truth)
    np.testing.assert_allclose(ours32.losses[:5], theirs32.losses[:5], rtol=1e-4)
