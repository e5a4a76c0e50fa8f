"""python -m convert --verify: the table, the verdict and the exit status."""

import sys
from pathlib import Path

import pytest

import convert.verify
import jaxft.batch_norm
import jaxft.resnet
from convert.__main__ import main
from convert.torchvision import to_state_dict
from convert.weights import save_weights
from jaxft.errors import UserError
from parity.network import random_state, random_variables


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "in.safetensors"
    save_weights(path, random_state("resnet18", num_classes=5))
    return path


def run(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["convert", *map(str, arguments)])
    monkeypatch.setattr(convert.verify, "IMAGES", (2, 3, 64, 64))
    monkeypatch.setenv("COLUMNS", "120")
    return main()


def test_the_same_network(weights, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, weights, "--verify", "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if line.startswith("│")}
    stages = ["stem", "layer1", "layer2", "layer3", "layer4", "pooled", "logits"]
    assert list(rows) == [*stages, "loss", "gradients", "statistics"]
    for name in stages:
        # Absolute and relative, in float32 in inference and training, and in float64.
        numbers = [float(word) for word in rows[name].replace("│", " ").split()[1:]]
        assert len(numbers) == 6
        assert 0 < max(numbers[:4]) < 1e-3
        assert 0 < max(numbers[4:]) < 1e-10
    assert "the same network, up to rounding" in printed
    assert (tmp_path / "out/model.safetensors").exists()


def test_a_network_that_differs_exits_1_and_writes_nothing(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jaxft.batch_norm, "BATCH_NORM_EPSILON", 1e-3)
    assert run(monkeypatch, weights, "--verify", "--out", tmp_path / "out") == 1
    printed = capsys.readouterr().out
    for line in ("\noff (", "):\n  stem: ", "float32, inference, stages; limit 0.0001", "\n  and "):
        assert line in printed
    assert "the same network" not in printed
    assert not (tmp_path / "out").exists()


def test_without_torch_it_says_what_to_install(weights, monkeypatch):
    monkeypatch.delitem(sys.modules, "convert.verify")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("sys.argv", ["convert", str(weights), "--verify"])
    with pytest.raises(UserError, match=r'--verify needs torch. Run pip install "jaxft\[torch\]"'):
        main()


def test_nothing_to_do(weights, monkeypatch):
    with pytest.raises(UserError, match="nothing to do: pass --out FILE .* --verify"):
        run(monkeypatch, weights)


def test_a_width_that_torchvision_has_not(tmp_path, monkeypatch):
    narrow = random_variables(jaxft.resnet.make_resnet("resnet18", num_classes=5, width=16))
    save_weights(tmp_path / "narrow.safetensors", to_state_dict(narrow))
    with pytest.raises(UserError, match="--verify: torchvision has no resnet18 of --width 16, only of 64"):
        run(monkeypatch, tmp_path / "narrow.safetensors", "--width", 16, "--verify")
