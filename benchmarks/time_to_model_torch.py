"""Fine-tune a torchvision ResNet as a PyTorch user would, by the recipe of jaxft's preset `folder`; saves a state_dict.

    python benchmarks/time_to_model_torch.py PHOTOS --weights FILE --out model.pth

Photographs in train/CLASS/ and val/CLASS/ (or test/CLASS/); SGD with momentum 0.9 and weight decay 1e-4, learning rate
1e-3, ten times that for the new head; RandomResizedCrop and flip, or the test's crop with --augment none; tested after
each epoch. Channels-last; on a GPU bfloat16 by autocast. A frozen part runs in evaluation mode and without gradients.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="a .pth or .safetensors file")
    parser.add_argument("--out", type=Path, required=True, help="the trained state_dict")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--freeze", choices=("none", *STAGES[:-1], "backbone"), default="none")
    parser.add_argument("--augment", choices=("random", "none"), default="random")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    train, test = loaders(arguments.photos, arguments.augment, arguments.batch_size)
    model = pretrained(arguments.arch, arguments.weights, len(train.dataset.classes))  # pyright: ignore[reportAttributeAccessIssue]
    frozen, trained = split(model, arguments.freeze)
    frozen.requires_grad_(False)
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in trained[:-1].parameters() if p.requires_grad], "lr": 1e-3},
            {"params": model.fc.parameters(), "lr": 1e-2},
        ],
        momentum=0.9,
        weight_decay=1e-4,
    )
    lower, upper = (torch.compile(frozen), torch.compile(trained)) if arguments.compile else (frozen, trained)
    for epoch in range(arguments.epochs):
        model.train()
        frozen.eval()  # Otherwise its BatchNorm statistics would move on.
        for images, labels in batches(train):
            with autocast():
                with torch.no_grad():
                    features = lower(images)
                loss = nn.functional.cross_entropy(upper(features), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode(), autocast():
            right = sum((upper(lower(images)).argmax(1) == labels).sum() for images, labels in batches(test))
        accuracy = float(right) / len(test.dataset)  # pyright: ignore[reportArgumentType]
        print(f"epoch {epoch + 1}/{arguments.epochs} accuracy {accuracy:.4f}", flush=True)
    torch.save(model.state_dict(), arguments.out)


def autocast() -> torch.autocast:
    """bfloat16 on a GPU; float32 elsewhere."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda")


def loaders(photos: Path, augment: str, batch_size: int) -> tuple[DataLoader, DataLoader]:
    """Of the training and the test set, with a worker a core."""
    normalise = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    random = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *normalise]
    centre = [transforms.Resize(256), transforms.CenterCrop(224), *normalise]
    tests = next(photos / name for name in ("val", "test") if (photos / name).is_dir())
    train_set = ImageFolder(photos / "train", transforms.Compose(random if augment == "random" else centre))
    test_set = ImageFolder(tests, transforms.Compose(centre))
    settings = {
        "batch_size": batch_size,
        "num_workers": len(os.sched_getaffinity(0)),
        "persistent_workers": True,
        "pin_memory": DEVICE.type == "cuda",
    }
    return DataLoader(train_set, shuffle=True, **settings), DataLoader(test_set, **settings)


def batches(loader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels on the device."""
    for images, labels in loader:
        yield (
            images.to(DEVICE, memory_format=torch.channels_last, non_blocking=True),
            labels.to(DEVICE, non_blocking=True),
        )


def pretrained(arch: str, weights: Path, num_classes: int) -> models.ResNet:
    """The network with these weights and a new head."""
    model = models.get_model(arch)
    is_safetensors = weights.suffix == ".safetensors"
    state_dict = load_file(weights) if is_safetensors else torch.load(weights, weights_only=True)
    model.load_state_dict(state_dict, strict=False)  # Files without num_batches_tracked are files, too.
    assert isinstance(model, models.ResNet)
    assert isinstance(model.fc, nn.Linear)
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    nn.init.xavier_uniform_(model.fc.weight)
    return model.to(DEVICE, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def split(model: models.ResNet, freeze: str) -> tuple[nn.Sequential, nn.Sequential]:
    """The frozen part and the rest, which ends in the head; both are parts of the model."""
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    stages = [stem, model.layer1, model.layer2, model.layer3, model.layer4, nn.Sequential(model.avgpool, nn.Flatten())]
    num_frozen = {"none": 0, "backbone": len(stages)}.get(freeze)
    if num_frozen is None:
        num_frozen = STAGES.index(freeze) + 1
    return nn.Sequential(*stages[:num_frozen]), nn.Sequential(*stages[num_frozen:], model.fc)


if __name__ == "__main__":
    main()
