"""The chapter's table: fine-tuning and training from scratch, in PyTorch and in jaxft, same photographs, same recipe.

    python benchmarks/chapter.py hotdog --data PHOTOS --weights FILE --subset 500+500 --image-size 128

PyTorch's side is the chapter's own code: torchvision's model with `fc` drawn anew, ImageFolder and torchvision's
transforms in a DataLoader, SGD in two groups, and `l.sum().backward()`. jaxft's side is `python -m jaxft.train`. Both
compute in float32, on a GPU where one is. Every finished run is kept in --runs, and a second call goes on from there.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import tyro
from torch import nn
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from configs import preset
from convert.weights import load_weights
from jaxft.config import Config
from jaxft.config_file import to_json
from jaxft.data.augment import IMAGENET_MEAN, IMAGENET_STD
from jaxft.errors import run_command
from results import conditions, table, write_section
from series import Mean, append_log, check_arguments, mean_of, read_log, subset

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STARTS = ("pretrained", "scratch")
PEERS = ("PyTorch", "jaxft")


@dataclass(frozen=True)
class Arguments:
    """The chapter's table: PyTorch and jaxft, pretrained and from scratch."""

    preset: Annotated[str, tyro.conf.Positional]
    """The recipe: hotdog (the chapter's) or ants-bees."""
    data: Path
    """A folder with train/ and val/ or test/."""
    weights: Path
    """A .pth or .safetensors file of a ResNet18."""
    runs: Path = Path("runs/chapter")
    """Where finished runs are kept."""
    subset: str | None = None
    """Training photographs of each class, in the order of the class names, such as 500+500; all when not given."""
    image_size: int = 224
    """Side of what the network sees, in pixels."""
    seeds: int = 3
    """Runs of each kind, at least 2."""
    scratch_lr_mult: float = 10.0
    """From scratch the whole network learns this many times faster than a pretrained body; 10 is the chapter's."""


class Cell(NamedTuple):
    """One run."""

    peer: str
    start: str
    seed: int


class Finished(NamedTuple):
    """What a run reached: test accuracy after the last epoch, 0 to 1, and where."""

    accuracy: float
    conditions: str


def main() -> int:
    """The command; returns its exit status.

    Raises:
        UserError: a preset, folder or subset that is not there.
    """
    arguments = tyro.cli(Arguments, description=__doc__)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    base = preset(arguments.preset)
    data = arguments.data.resolve()
    check_arguments(arguments.data, arguments.seeds)
    if arguments.subset:
        data = subset(data, arguments.subset, arguments.runs / f"photos-{arguments.subset}")
    images = dataclasses.replace(base.images, image_size=arguments.image_size)
    base = dataclasses.replace(base, data=str(data), images=images, precision="float32")
    log = arguments.runs / "runs.jsonl"
    earlier = {key: Finished(*values) for key, values in read_log(log, num_keys=2).items()}
    done = {}
    # The peers take turns, so that a cut series is a fair one.
    for cell in [Cell(peer, start, seed) for seed in range(arguments.seeds) for start in STARTS for peer in PEERS]:
        config = recipe(base, cell, arguments.weights.resolve(), arguments.scratch_lr_mult)
        key = (cell.peer, to_json(config))
        if key not in earlier:
            accuracy = run_torch(config) if cell.peer == "PyTorch" else run_jaxft(config, arguments.runs / "run")
            earlier[key] = Finished(accuracy, conditions())
            append_log(log, [*key, *earlier[key]])
        done[cell] = earlier[key]
        print(*cell, f"{done[cell].accuracy:.4f}", flush=True)
    report(arguments, base, done)
    return 0


def recipe(base: Config, cell: Cell, weights: Path, scratch_lr_mult: float) -> Config:
    """The config of a run: the preset's own, or the chapter's way of training from scratch."""
    if cell.start == "pretrained":
        model, optim = dataclasses.replace(base.model, weights=str(weights)), base.optim
    else:
        model = dataclasses.replace(base.model, weights="none")
        optim = dataclasses.replace(base.optim, lr=base.optim.lr * scratch_lr_mult, head_lr_mult=1.0)
    return dataclasses.replace(base, model=model, optim=optim, seed=cell.seed)


def run_jaxft(config: Config, out: Path) -> float:
    """Test accuracy after the last epoch of `python -m jaxft.train`."""
    shutil.rmtree(out, ignore_errors=True)
    path = out.with_suffix(".json")
    path.write_text(to_json(config), encoding="utf-8")
    command = [sys.executable, "-m", "jaxft.train", "--config", str(path), "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "summary.json").read_text())["final_accuracy"]


def run_torch(config: Config) -> float:
    """Test accuracy after the last epoch of the chapter's loop."""
    torch.manual_seed(config.seed)
    size, resized = config.images.image_size, round(config.images.image_size * 256 / 224)
    to_input = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    train_transform = transforms.Compose(
        [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *to_input]
    )
    resize = transforms.Resize([resized, resized] if config.images.eval_resize == "squash" else resized)
    test_transform = transforms.Compose([resize, transforms.CenterCrop(size), *to_input])
    data = Path(config.data)
    train = ImageFolder(str(data / "train"), train_transform)
    test = ImageFolder(str(next(data / split for split in ("val", "test") if (data / split).exists())), test_transform)
    model = torch_model(config, len(train.classes))
    trainer = torch_trainer(model, config)
    loss = nn.CrossEntropyLoss(reduction="none")
    batches = torch.utils.data.DataLoader(train, config.batch_size, shuffle=True, num_workers=2)
    for _ in range(config.epochs):
        model.train()
        for images, labels in batches:
            trainer.zero_grad()
            loss(model(to_device(images)), labels.to(DEVICE)).sum().backward()
            trainer.step()
    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in torch.utils.data.DataLoader(test, config.batch_size, num_workers=2):
            correct += int((model(to_device(images)).argmax(1) == labels.to(DEVICE)).sum())
    return correct / len(test)


def to_device(tensor_or_model: Any) -> Any:
    """In the layout that is fastest there."""
    return tensor_or_model.to(DEVICE, memory_format=torch.channels_last)


def torch_model(config: Config, num_classes: int) -> nn.Module:
    """torchvision's network as the chapter makes it: fresh, or pretrained with a Xavier head."""
    make = getattr(models, config.model.arch)
    if config.model.weights == "none":
        return to_device(make(num_classes=num_classes))
    state_dict = load_weights(config.model.weights, config.model.arch).state_dict
    model = make(num_classes=len(state_dict["fc.bias"]))
    model.load_state_dict({key: torch.from_numpy(array) for key, array in state_dict.items()}, strict=False)
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    nn.init.xavier_uniform_(model.fc.weight)
    return to_device(model)


def torch_trainer(model: Any, config: Config) -> torch.optim.Optimizer:
    """SGD for a summed loss: the rate of the mean over the batch size, the decay times it; `fc` at its own rate."""
    lr = config.optim.lr / config.batch_size
    body = [parameter for name, parameter in model.named_parameters() if not name.startswith("fc.")]
    groups = [{"params": body}, {"params": model.fc.parameters(), "lr": lr * config.optim.head_lr_mult}]
    decay = config.optim.weight_decay * config.batch_size
    return torch.optim.SGD(groups, lr=lr, weight_decay=decay, momentum=config.optim.momentum)


def report(arguments: Arguments, base: Config, done: dict[Cell, Finished]) -> None:
    """Print the table and keep it in RESULTS.md."""
    rows = []
    for start in STARTS:
        torch_mean, torch_error = add_row(rows, done, start, "PyTorch")
        mean, error = add_row(rows, done, start, "jaxft")
        both = (torch_error**2 + error**2) ** 0.5
        rows.append([start, "jaxft − PyTorch", f"{mean - torch_mean:+.4f} ± {both:.4f}", ""])
    optim, part = base.optim, f"--subset {arguments.subset} " if arguments.subset else ""
    text = f"""Test accuracy after the last of {base.epochs} epochs, mean ± standard error over {arguments.seeds} seeds.

{table(["weights", "", "accuracy", "seed 0, 1, …"], rows)}

ResNet18 in float32 at {arguments.image_size} pixels; {arguments.data.name}, pretrained on {arguments.weights.name}.
SGD for {base.epochs} epochs, batch {base.batch_size}, momentum {optim.momentum:g}. For the mean loss: learning rate
{optim.lr:g} (head {optim.head_lr_mult:g} times; from scratch {arguments.scratch_lr_mult:g} times for all), weight decay
{optim.weight_decay:g}. Test images resized by `{base.images.eval_resize}`.
{"; ".join(sorted({finished.conditions for finished in done.values()}))}.

    python benchmarks/chapter.py {arguments.preset} --data {arguments.data.name} --weights {arguments.weights.name} \\
        {part}--image-size {arguments.image_size} --seeds {arguments.seeds} \\
        --scratch-lr-mult {arguments.scratch_lr_mult:g}"""
    print(text)
    write_section(f"The chapter's table: {arguments.data.name}, {arguments.image_size} pixels", text)


def add_row(rows: list[list[str]], done: dict[Cell, Finished], start: str, peer: str) -> Mean:
    """Add a peer's row for one kind of weights; returns its mean accuracy and the standard error of that."""
    accuracies = [done[cell].accuracy for cell in sorted(done) if (cell.peer, cell.start) == (peer, start)]
    mean = mean_of(accuracies)
    rows.append([start, peer, str(mean), " ".join(f"{each:.3f}" for each in accuracies)])
    return mean


if __name__ == "__main__":
    run_command(main)
