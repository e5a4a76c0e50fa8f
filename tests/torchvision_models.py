"""torchvision's networks with random weights whose BatchNorm statistics are not those of a fresh network."""

import numpy as np
import torch
import torchvision


def random_model(arch: str, **kwargs) -> torch.nn.Module:
    torch.manual_seed(0)
    model = getattr(torchvision.models, arch)(weights=None, **kwargs)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var") or ("bn" in name and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.2)
    return model


def random_state(arch: str, **kwargs) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in random_model(arch, **kwargs).state_dict().items()}
