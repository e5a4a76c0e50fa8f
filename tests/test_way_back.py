"""From jaxft back to PyTorch, and from the files that PyTorch's users have: nothing lost, nothing guessed."""

import argparse
import re

import jax
import ml_dtypes
import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from safetensors.torch import save_file as torch_save_file

from convert.torchvision import to_state_dict, to_variables, variable_shapes
from convert.weights import load_weights, save_weights
from jaxft.errors import UserError
from jaxft.paths import by_name
from jaxft.resnet import ARCHS, make_resnet
from parity.network import random_state, random_variables

NUM_CLASSES = 5


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return random_state("resnet18", num_classes=NUM_CLASSES)


@pytest.fixture(scope="module")
def model():
    return make_resnet("resnet18", num_classes=NUM_CLASSES)


def logits_of(model, variables, images: np.ndarray) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images))


@pytest.mark.parametrize("arch", ARCHS)
def test_our_weights_give_the_same_logits_in_torchvision(arch, tmp_path):
    model = make_resnet(arch, num_classes=NUM_CLASSES)
    variables = random_variables(model)
    save_weights(tmp_path / "model.safetensors", to_state_dict(variables))
    theirs = getattr(torchvision.models, arch)(num_classes=NUM_CLASSES).eval()
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    logits = logits_of(model, variables, images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_round_trip_is_bit_exact_and_loads_strictly(state, model):
    back = to_state_dict(to_variables(state, model))
    assert back.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)
    theirs = torchvision.models.resnet18(num_classes=NUM_CLASSES)
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in back.items()}, strict=True)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["half.safetensors", "half.pth"])
def test_half_precision_comes_back_to_the_bit(kind, name, tmp_path, state, model):
    half = {key: torch.from_numpy(array) for key, array in state.items() if not key.endswith("num_batches_tracked")}
    half = {key: tensor.to(kind) for key, tensor in half.items()}
    # The least and the largest that are finite, and a zero with a sign.
    half["fc.bias"] = torch.tensor([torch.finfo(kind).tiny, torch.finfo(kind).max, -0.0, 6e-8, -1.0], dtype=kind)
    save = torch_save_file if name.endswith("safetensors") else torch.save
    save(half, tmp_path / name)
    variables = to_variables(load_weights(str(tmp_path / name), "resnet18").state_dict, model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    dtype = np.float16 if kind == torch.float16 else ml_dtypes.bfloat16
    back = to_state_dict(variables)
    for key, tensor in half.items():
        bits = back[key].astype(dtype).view(np.uint16)
        np.testing.assert_array_equal(bits, tensor.view(torch.uint16).numpy(), err_msg=key)


WRAPPED = {
    "DataParallel": lambda net: torch.nn.DataParallel(net).state_dict(),
    "compiled": lambda net: torch.compile(net).state_dict(),
    "compiled, then DataParallel": lambda net: torch.nn.DataParallel(torch.compile(net)).state_dict(),
    "a compiled stage": lambda net: (setattr(net, "layer1", torch.compile(net.layer1)), net.state_dict())[1],
    "PyTorch's ImageNet example": lambda net: {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": torch.nn.DataParallel(net).state_dict(),
        "best_acc1": torch.tensor(70.0),
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9).state_dict(),
    },
    "torchvision's training script": lambda net: {
        "model": net.state_dict(),
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.1).state_dict(),
        "lr_scheduler": {"step_size": 30, "_last_lr": [0.1]},
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, data_path="/data", device="cuda"),
    },
    "a checkpoint in a checkpoint": lambda net: {"model": {"state_dict": net.state_dict(), "epoch": 1}},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrapped_and_whole_checkpoints_are_recognised(kind, tmp_path, state, model):
    net = torchvision.models.resnet18(num_classes=NUM_CLASSES)
    net.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    saved = WRAPPED[kind](net)
    assert set(saved) != set(state), "nothing is wrapped"
    torch.save(saved, tmp_path / "checkpoint.pth.tar")
    loaded = load_weights(str(tmp_path / "checkpoint.pth.tar"), "resnet18").state_dict
    assert loaded.keys() == state.keys()
    back = to_state_dict(to_variables(loaded, model))
    for key, array in state.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


def test_wrapped_keys_in_safetensors(tmp_path, state, model):
    save_weights(tmp_path / "x.safetensors", {f"module.{key}": array for key, array in state.items()})
    assert load_weights(str(tmp_path / "x.safetensors"), "resnet18").state_dict.keys() == state.keys()
    twice = {"module.fc.bias": np.zeros(5, np.float32), "fc.bias": np.zeros(5, np.float32)}
    save_weights(tmp_path / "y.safetensors", twice)
    with pytest.raises(UserError, match=r"holds fc.bias twice, once as module.fc.bias"):
        load_weights(str(tmp_path / "y.safetensors"), "resnet18")


@pytest.mark.parametrize("arch", ARCHS)
def test_timms_names_are_torchvisions(arch):
    with torch.device("meta"):
        theirs = timm.create_model(arch).state_dict()
    ours = variable_shapes(make_resnet(arch))
    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.items() if not key.endswith("num_batches_tracked")}
    back = to_state_dict(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), ours))
    assert shapes == {key: array.shape for key, array in back.items() if not key.endswith("num_batches_tracked")}
    assert len(by_name(ours)) == len(shapes)


@pytest.mark.parametrize("arch", ["resnet18", "resnext50_32x4d"])
def test_timms_network_is_ours(arch, tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model(arch, num_classes=NUM_CLASSES).eval()
    torch_save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    model = make_resnet(arch, num_classes=NUM_CLASSES)
    variables = to_variables(load_weights(str(tmp_path / "timm.safetensors"), arch).state_dict, model)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    logits = logits_of(model, variables, images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_another_network_is_refused_with_all_that_differs():
    other = {key: tensor.numpy() for key, tensor in timm.create_model("resnet26d", num_classes=7).state_dict().items()}
    with pytest.raises(UserError) as caught:
        to_variables(other, make_resnet("resnet50", num_classes=5))
    text = str(caught.value)
    missing, unexpected, misshapen = (
        int(re.search(rf"{what} \((\d+)\)", text)[1])
        for what in ("missing from the file", "in the file, not in the model", "of another shape or kind")
    )
    # resnet26d has two blocks a stage where resnet50 has 3, 4, 6 and 3: 8 fewer, of 15 arrays each. Its stem is three
    # convolutions and two norms under names of their own. Its four downsamplings pool before they convolve: the
    # convolution is 1, whose weight was the norm's, and the norm is 2.
    assert (missing, unexpected) == (8 * 15 + 1 + 4 * 4, 3 + 2 * 4 + 4 * 4)
    assert misshapen == 4 + 2
    assert "fc.weight: the file has (7, 2048), the model wants (5, 2048). Pass --num-classes 7." in text
    assert "and 127 more" in text
