"""What benchmarks/throughput.py measures in PyTorch: torchvision's network, channels-last, eager or compiled."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision import models

from jaxft.errors import UserError
from jaxft.resnet import STAGES, frozen_stages
from serving import Ready, serve
from sides import Job

NUM_CLASSES = 2
MODULES = {"stem": ("conv1", "bn1")} | {stage: (stage,) for stage in STAGES[1:]}


def prepare(job: Job) -> Ready:
    """A side, compiled where it is to be.

    Raises:
        UserError: PyTorch cannot use the GPU that JAX uses.
    """
    if job.platform == "gpu" and not torch.cuda.is_available():
        raise UserError(f"--peer {job.side}: this PyTorch sees no GPU. Install one that does, or pass --peer none.")
    device = torch.device("cuda" if job.platform == "gpu" else "cpu")
    torch.backends.cudnn.benchmark = True
    model, parameters = make_model(job, device)
    shape = (job.batch_size, 3, job.image_size, job.image_size)
    images = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
    labels = torch.arange(job.batch_size, device=device) % NUM_CLASSES
    autocast: Callable[[], Any] = nullcontext
    if job.precision == "bfloat16":
        autocast = partial(torch.autocast, device.type, torch.bfloat16)
    if job.measure == "train":
        step = training_step(model, parameters, images, labels, autocast)
    else:
        step = evaluation_step(model, images, labels, autocast)

    def go(steps: int) -> None:
        losses = [step() for _ in range(steps)]
        assert bool(losses[-1].isfinite())  # Waits for it.

    started = time.perf_counter()
    go(1)
    seconds = time.perf_counter() - started
    go(1)
    if device.type == "cpu":
        return Ready(go, seconds if job.side == "torch-compile" else None)
    torch.cuda.reset_peak_memory_stats()
    return Ready(
        go, seconds if job.side == "torch-compile" else None, peak_bytes=lambda: torch.cuda.max_memory_allocated()
    )


def make_model(job: Job, device: torch.device) -> tuple[Callable, list[dict[str, Any]]]:
    """The network, and its parameters in two groups: those of the body that train, and the head's."""
    network: nn.Module = getattr(models, job.arch)(num_classes=NUM_CLASSES)
    network.to(device=device, memory_format=torch.channels_last).train(job.measure == "train")  # pyright: ignore[reportCallIssue]
    for stage in frozen_stages(job.freeze):
        for name in MODULES[stage]:
            # To eval mode too, for otherwise the frozen statistics would move.
            getattr(network, name).requires_grad_(False).eval()
    body = [parameter for name, parameter in network.named_parameters() if not name.startswith("fc.")]
    head = list(network.fc.parameters())  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    groups = [{"params": [p for p in body if p.requires_grad]}, {"params": head, "lr": 1e-2}]
    return torch.compile(network) if job.side == "torch-compile" else network, [g for g in groups if g["params"]]


def training_step(
    model: Callable, parameters: list[dict[str, Any]], images: torch.Tensor, labels: torch.Tensor, autocast: Callable
) -> Callable[[], torch.Tensor]:
    """One update of what trains; gives the loss."""
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def evaluation_step(
    model: Callable, images: torch.Tensor, labels: torch.Tensor, autocast: Callable
) -> Callable[[], torch.Tensor]:
    """The forward pass; gives the loss."""

    def step() -> torch.Tensor:
        with torch.inference_mode(), autocast():
            return nn.functional.cross_entropy(model(images), labels)

    return step


if __name__ == "__main__":
    serve(prepare)
