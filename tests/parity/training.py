"""The chapter's training loop in PyTorch and jaxft's step, from the same weights on the same batches.

In float64 nothing but rounding is left, so that any other convention shows. In float32 a ReLU whose input is within
rounding of zero switches its unit's gradient, and parts any two runs within a few steps: PyTorch's from its own too.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torchvision.models import resnet18

from convert.torchvision import to_state_dict, to_variables
from convert.weights import load_weights
from jaxft.config import OptimConfig
from jaxft.data.augment import Augmented, Batch
from jaxft.data.images import EvalCrop, decode, eval_crop
from jaxft.optim import make_optimizer, rate_labels
from jaxft.parallel import over_devices
from jaxft.resnet import frozen_stages, make_resnet
from jaxft.step import init_state, make_train_step
from parity.network import random_model

NUM_STEPS, BATCH, SIZE = 20, 4, 33
CHAPTER = {"lr": 5e-5, "decay": 1e-3, "head_mult": 10.0}
"""The chapter's numbers, for a summed loss."""


class Trajectory(NamedTuple):
    """The mean loss of each step's batch, in nats, and the state_dict after the last."""

    losses: list[float]
    state_dict: dict[str, np.ndarray]


class Setting(NamedTuple):
    """What PyTorch's loop changes of the chapter's numbers, and jaxft's optimizer for the same."""

    theirs: dict[str, Any]
    ours: OptimConfig
    freeze: str = "none"
    scratch: bool = False


def mean_loss(batch_size: int = BATCH, **changes: Any) -> OptimConfig:
    """The chapter's recipe for jaxft's mean loss: the rate times the batch size, the decay over it."""
    chapter = {
        "lr": CHAPTER["lr"] * batch_size,
        "weight_decay": CHAPTER["decay"] / batch_size,
        "head_lr_mult": CHAPTER["head_mult"],
        "momentum": 0.0,
    }
    return OptimConfig(**{**chapter, **changes})


SETTINGS = {
    "the chapter's": Setting({}, mean_loss()),
    "momentum 0.9": Setting({"momentum": 0.9}, mean_loss(momentum=0.9)),
    "Nesterov": Setting({"momentum": 0.9, "nesterov": True}, mean_loss(momentum=0.9, nesterov=True)),
    "weight decay 0": Setting({"decay": 0.0}, mean_loss(weight_decay=0.0)),
    "weight decay 0.1": Setting({"decay": 0.1}, mean_loss(weight_decay=0.1 / BATCH)),
    **{
        f"frozen to {stage}": Setting({"momentum": 0.9}, mean_loss(momentum=0.9), freeze=stage)
        for stage in ("stem", "layer1", "layer2", "layer3", "backbone")
    },
    # The chapter's second arm: ten times the rate, for the whole network.
    "from scratch": Setting({"lr": 5e-4, "head_mult": 1.0}, mean_loss(lr=5e-4 * BATCH, head_lr_mult=1.0), scratch=True),
    # AdamW takes the same step for a sum as for a mean, but for its epsilon; so here PyTorch's loss is a mean too.
    "AdamW": Setting(
        {"lr": 1e-4, "decay": 0.05, "optimizer": torch.optim.AdamW, "mean": True},
        OptimConfig(optimizer="adamw", lr=1e-4, weight_decay=0.05),
    ),
}


class Apart(NamedTuple):
    """How far a run is from another: losses in nats; arrays relative to their largest value."""

    losses: float
    parameters: float
    statistics: float


def in_float64(setting: Setting, data: list[Batch] | None = None) -> tuple[Apart, list[float]]:
    """jaxft from PyTorch, both in float64, and PyTorch's losses."""
    torch.manual_seed(0)
    model = (resnet18(num_classes=2) if setting.scratch else chapter_model()).double()
    start = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    data, frozen = data or noise_batches(), frozen_stages(setting.freeze)
    options = {**CHAPTER, **setting.theirs}
    mean = options.pop("mean", False)
    theirs = chapter_loop(model, chapter_trainer(model, **options), data, frozen=frozen, mean=mean)
    ours = jaxft_loop(start, setting.ours, data, frozen=frozen)

    def furthest(statistics: bool) -> float:
        return max(
            float(np.abs(ours.state_dict[key] - reference).max() / np.abs(reference).max())
            for key, reference in theirs.state_dict.items()
            if ("running" in key) == statistics and not key.endswith("num_batches_tracked")
        )

    losses = float(np.abs(np.subtract(ours.losses, theirs.losses)).max())
    return Apart(losses, furthest(False), furthest(True)), theirs.losses


def in_float32(shared: Path, num_steps: int = NUM_STEPS, batch_size: int = 8, size: int = 64) -> tuple[Apart, Apart]:
    """On photographs from a pretrained network: jaxft in float32, and PyTorch in float32, from PyTorch in float64.

    Parameters and statistics are each taken as one vector, and told in units of the way that it went.
    """
    data = photo_batches(shared / "data/hymenoptera/train", num_steps, batch_size, size)
    start = {key: value.numpy() for key, value in pretrained_model(shared).state_dict().items()}

    def theirs(dtype: Any) -> Trajectory:
        model = pretrained_model(shared).to(torch.float64 if dtype == np.float64 else torch.float32)
        return chapter_loop(model, chapter_trainer(model, **CHAPTER), data, dtype=dtype)

    truth = theirs(np.float64)

    def apart(run: Trajectory) -> Apart:
        losses = float(np.abs(np.subtract(run.losses, truth.losses)).max())
        return Apart(losses, *(gap(run, truth.state_dict, part) / gap(truth, start, part) for part in (False, True)))

    ours = jaxft_loop(start, mean_loss(batch_size), data, dtype=jnp.float32)
    return apart(ours), apart(theirs(np.float32))


def gap(run: Trajectory, state_dict: dict[str, np.ndarray], statistics: bool) -> float:
    """The distance between two state_dicts, each as one vector of parameters or of statistics."""
    keys = [key for key in state_dict if ("running" in key) == statistics and not key.endswith("num_batches_tracked")]
    squares = (np.square(run.state_dict[key] - state_dict[key].astype(np.float64)).sum() for key in keys)
    return float(sum(squares)) ** 0.5


def noise_batches(num_steps: int = NUM_STEPS, batch_size: int = BATCH, size: int = SIZE) -> list[Batch]:
    """Noise that darkens to the left in one class and to the top in the other."""
    rng = np.random.default_rng(1)
    ramps = np.indices((size, size)) * (128 // size)
    data = []
    for _ in range(num_steps):
        labels = rng.integers(0, 2, batch_size).astype(np.int32)
        images = ramps[labels][..., None] + rng.integers(0, 128, (batch_size, size, size, 3))
        data.append(to_batch(images.astype(np.uint8), labels))
    return data


def photo_batches(folder: Path, num_steps: int, batch_size: int, size: int) -> list[Batch]:
    """Photographs of two classes in a fixed random order."""
    paths = [
        (path, label) for label, name in enumerate(("ants", "bees")) for path in sorted((folder / name).glob("*.jpg"))
    ]
    order = np.random.default_rng(0).permutation(len(paths))[: num_steps * batch_size].reshape(num_steps, batch_size)
    crop = EvalCrop(size, "squash")
    return [
        to_batch(
            np.stack([eval_crop(decode(paths[i][0]), crop) for i in rows]),
            np.array([paths[i][1] for i in rows], np.int32),
        )
        for rows in order
    ]


def to_batch(images: np.ndarray, labels: np.ndarray) -> Batch:
    """Square images as a batch of canvases."""
    sizes = np.full((len(labels), 2), images.shape[1], np.int32)
    return Batch(images, sizes, labels, np.arange(len(labels), dtype=np.int32))


def pixels(images: Any, dtype: Any) -> Any:
    """Uint8 to -1 … 1, without rounding in any precision."""
    return images.astype(dtype) / 128 - 1


def chapter_model() -> nn.Module:
    """A network with a history, and a new `fc` as the chapter draws it."""
    return with_new_head(random_model("resnet18", num_classes=10))


def pretrained_model(shared: Path) -> nn.Module:
    """torchvision's ResNet18 with ImageNet weights, and a new `fc` as the chapter draws it."""
    model = resnet18()
    state_dict = load_weights(str(shared / "weights/resnet18-rebuilt.pth"), "resnet18").state_dict
    model.load_state_dict({key: torch.from_numpy(array) for key, array in state_dict.items()})
    return with_new_head(model)


def with_new_head(model: Any) -> nn.Module:
    """The model with two classes, their rows drawn by Xavier's rule."""
    torch.manual_seed(0)
    model.fc = nn.Linear(model.fc.in_features, 2)
    nn.init.xavier_uniform_(model.fc.weight)
    return model


def chapter_trainer(
    model: Any, *, lr: float, decay: float, head_mult: float, optimizer: Any = torch.optim.SGD, **options: Any
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
    """The modules of the frozen stages."""
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
        step = make_train_step(model, tx, lambda key, batch: Augmented(pixels(batch.images, dtype)))
        compiled = over_devices(step, jax.local_devices()[:1], "jit", donate=True)
        state, losses = init_state(variables["params"], variables["batch_stats"], tx), []
        for batch in data:
            state, metrics = compiled(state, batch, jax.random.key(0))
            losses.append(float(metrics.loss))
        return Trajectory(losses, to_state_dict({"params": state.params, "batch_stats": state.batch_stats}))
