import hashlib
import io
import pickle
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from safetensors.numpy import save_file

from convert.__main__ import main as convert_main
from convert.names import to_flax, to_torch
from convert.torchvision import to_state_dict, to_variables, variable_shapes
from convert.weights import TORCHVISION_FILES, load_weights, save_weights
from jaxft.data.augment import normalise
from jaxft.data.canvas import EvalCrop, decode, eval_crop
from jaxft.download import fetch
from jaxft.errors import UserError
from jaxft.paths import by_name
from jaxft.resnet import ARCHS, make_resnet
from parity.network import random_state


@pytest.fixture(scope="module")
def resnet18_state() -> dict[str, np.ndarray]:
    return random_state("resnet18", num_classes=5)


@pytest.fixture(scope="module")
def resnet18():
    return make_resnet("resnet18", num_classes=5)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("conv1.weight", "params/conv1/kernel"),
        ("bn1.running_var", "batch_stats/bn1/var"),
        ("layer1.0.downsample.1.running_var", "batch_stats/layer1_0/downsample_1/var"),
        ("layer3.22.conv3.weight", "params/layer3_22/conv3/kernel"),
        ("layer2.0.downsample.0.weight", "params/layer2_0/downsample_0/kernel"),
        ("layer4.1.bn2.weight", "params/layer4_1/bn2/scale"),
        ("fc.bias", "params/fc/bias"),
    ],
)
def test_names(key, path):
    assert to_flax(key) == path
    assert to_torch(path) == key


@pytest.mark.parametrize("key", ["layer5.0.conv1.weight", "fc.running_mean", "conv1.bias", "module.fc.bias", "fc"])
def test_unknown_names(key):
    with pytest.raises(UserError, match="not a name of a torchvision ResNet"):
        to_flax(key)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_key_of_torchvision_has_one_path_in_the_model(arch):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, arch)(weights=None).state_dict()
    model = make_resnet(arch)
    ours = variable_shapes(model)
    paths = {to_flax(key) for key in theirs if not key.endswith("num_batches_tracked")}
    assert paths == set(by_name(ours))


def test_frozen_stages_keep_their_statistics(resnet18_state):
    model = make_resnet("resnet18", num_classes=5, frozen=("stem", "layer1"))
    variables = jax.tree.map(jnp.asarray, to_variables(resnet18_state, model))
    _, updated = model.apply(variables, jnp.ones((2, 64, 64, 3)), train=True, mutable=["batch_stats"])
    before, after = by_name(variables["batch_stats"]), by_name(updated["batch_stats"])
    moved = {name.split("/")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {f"layer{i}_{j}" for i in (2, 3, 4) for j in (0, 1)}


def test_all_problems_are_listed_together(resnet18_state):
    broken = dict(resnet18_state)
    del broken["bn1.bias"]
    broken["extra.weight"] = np.zeros(3, np.float32)
    broken["conv1.weight"] = np.zeros((64, 3, 3, 3), np.float32)
    broken["layer1.0.conv1.weight"] = np.zeros((64, 64, 3, 3), np.int32)
    with pytest.raises(UserError) as caught:
        to_variables(broken, make_resnet("resnet18", num_classes=7))
    for line in (
        "missing from the file (1):\n    bn1.bias\n",
        "in the file, not in the model (1):\n    extra.weight\n",
        "of another shape or kind (4):",
        "conv1.weight: the file has (64, 3, 3, 3), the model wants (64, 3, 7, 7).",
        "layer1.0.conv1.weight: the file has int32, the model wants floating point.",
        "fc.weight: the file has (5, 512), the model wants (7, 512). Pass --num-classes 5.",
    ):
        assert line in str(caught.value)


def test_saved_weights_come_back_with_their_classes(tmp_path, resnet18_state):
    save_weights(tmp_path / "model.safetensors", resnet18_state, classes=("a", "ü b"), metadata={"arch": "resnet18"})
    for spec in (tmp_path, tmp_path / "model.safetensors"):
        weights = load_weights(str(spec), "resnet18")
        assert weights.classes == ("a", "ü b")
        np.testing.assert_array_equal(weights.state_dict["fc.weight"], resnet18_state["fc.weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path(Bomb.target),))


def test_a_pickle_that_wants_code_is_refused(tmp_path):
    Bomb.target = str(tmp_path / "boom")
    torch.save({"fc.weight": Bomb()}, tmp_path / "bomb.pth")
    with open(tmp_path / "old.pth", "wb") as file:
        pickle.dump({"fc.weight": Bomb()}, file)
    for name in ("bomb.pth", "old.pth"):
        with pytest.raises(UserError, match=rf"{name}: refused, since it wants to run code"):
            load_weights(str(tmp_path / name), "resnet18")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.pth", b"PK\x03\x04half", "not a whole .pth file"),
        ("cut.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "not a whole .safetensors file"),
        ("weights.h5", b"", "weights.h5 is neither .safetensors nor .pth, .pt, .tar, .ckpt, .bin"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_weights(str(tmp_path / name), "resnet18")


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no such file. Pass torchvision, hf:OWNER/REPO"):
        load_weights(str(tmp_path / "no.pth"), "resnet18")
    with pytest.raises(UserError, match="the folder has no model.safetensors"):
        load_weights(str(tmp_path), "resnet18")
    holds_itself = {}
    holds_itself["model"] = holds_itself
    for content in ([1, 2], {"model": {"epoch": 3}}, holds_itself):
        torch.save(content, tmp_path / "else.pth")
        with pytest.raises(UserError, match="holds no state_dict"):
            load_weights(str(tmp_path / "else.pth"), "resnet18")


def test_torchvisions_file_is_fetched_once_and_checked(tmp_path, server, monkeypatch, resnet18_state):
    url, folder, requests = server
    content = io.BytesIO()
    torch.save({key: torch.from_numpy(array) for key, array in resnet18_state.items()}, content)
    name = f"resnet18-{hashlib.sha256(content.getvalue()).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content.getvalue())
    monkeypatch.setitem(TORCHVISION_FILES, "resnet18", name)
    monkeypatch.setenv("JAXFT_TORCH_SERVER", url)
    for _ in range(2):
        weights = load_weights("torchvision", "resnet18", tmp_path / "cache")
        np.testing.assert_array_equal(weights.state_dict["fc.weight"], resnet18_state["fc.weight"])
    assert requests == [f"/{name}"]

    (folder / TORCHVISION_FILES["resnet34"]).write_bytes(b"another file")
    with pytest.raises(UserError, match=r"its sha256 is .*, not b627a593. The file is damaged or another one"):
        load_weights("torchvision", "resnet34", tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache/weights").iterdir()] == [name]

    (tmp_path / "cache/weights" / name).write_bytes(b"put there by hand")
    with pytest.raises(UserError, match=rf"{name}: its sha256 is .*Delete it and run again"):
        load_weights("torchvision", "resnet18", tmp_path / "cache")


def test_hub_repositories_need_no_torch(tmp_path, server, monkeypatch, resnet18_state):
    url, folder, _ = server
    served = folder / "timm/resnet18.tv_in1k/resolve/main"
    served.mkdir(parents=True)
    save_file(resnet18_state, served / "model.safetensors")
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setitem(sys.modules, "torch", None)
    weights = load_weights("hf:timm/resnet18.tv_in1k", "resnet18", tmp_path / "cache")
    np.testing.assert_array_equal(weights.state_dict["fc.bias"], resnet18_state["fc.bias"])
    with pytest.raises(UserError, match="not hf:OWNER/REPO"):
        load_weights("hf:resnet18", "resnet18", tmp_path / "cache")
    (tmp_path / "x.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r'needs torch. Run pip install "jaxft\[torch\]"'):
        load_weights(str(tmp_path / "x.pth"), "resnet18")


def test_failed_downloads_leave_nothing_and_say_what_to_do(tmp_path, server):
    url, _, _ = server
    for path, message in (("/gone", "the server answered 404"), ("/short", "the transfer stopped 990 bytes short")):
        with pytest.raises(UserError, match=rf"{message}.*put it at .*/f.pth. Or pass --weights"):
            fetch(url + path, tmp_path / "cache/f.pth", hint="Or pass --weights f.pth.")
    with pytest.raises(UserError, match="127.0.0.1:9/f.pth cannot be fetched .*refused"):
        fetch("http://127.0.0.1:9/f.pth", tmp_path / "cache/f.pth")
    assert list((tmp_path / "cache").iterdir()) == []


def test_command_line(tmp_path, resnet18_state, monkeypatch, capsys):
    save_file(resnet18_state, tmp_path / "in.safetensors")
    monkeypatch.setattr("sys.argv", ["convert", str(tmp_path / "in.safetensors"), "--out", str(tmp_path / "out")])
    assert convert_main() == 0
    assert "resnet18: 11,179,077 parameters, 5 classes" in capsys.readouterr().out
    back = load_weights(str(tmp_path / "out"), "resnet18").state_dict
    np.testing.assert_array_equal(back["layer4.1.conv2.weight"], resnet18_state["layer4.1.conv2.weight"])
    monkeypatch.setattr("sys.argv", [*sys.argv, "--num-classes", "9"])
    with pytest.raises(UserError, match="Pass --num-classes 5"):
        convert_main()


@pytest.mark.parametrize(("name", "arch"), [("resnet18-rebuilt.pth", "resnet18"), ("resnet50.safetensors", "resnet50")])
def test_real_weights(shared, name, arch):
    state = load_weights(str(shared / "weights" / name), arch).state_dict
    back = to_state_dict(to_variables(state, make_resnet(arch)))
    for key, array in state.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(back[key], array.astype(np.float32), err_msg=key)


def test_real_photographs_through_real_weights(shared):
    state = load_weights(str(shared / "weights/resnet18-rebuilt.pth"), "resnet18").state_dict
    model = torchvision.models.resnet18().eval()
    model.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    paths = sorted((shared / "data/hymenoptera/val/bees").iterdir())[:4]
    crops = np.stack([eval_crop(decode(path), EvalCrop(224, "short")) for path in paths])
    images = normalise(jnp.asarray(crops))
    with torch.no_grad():
        expected = model(torch.from_numpy(np.array(images).transpose(0, 3, 1, 2))).numpy()
    flax_model = make_resnet("resnet18")
    with jax.default_matmul_precision("highest"):
        logits = flax_model.apply(to_variables(state, flax_model), images, train=False)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
