import ast
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import PIL.Image
import pytest
import torch
import torchvision
from jax import export as jax_export
from PIL import ImageOps
from safetensors.torch import load_file
from torchvision.transforms import v2

import jaxft
from convert.torchvision import to_variables
from convert.weights import read_metadata, save_weights
from disks import on_a_disk
from jaxft.config import Config, ImageConfig, ModelConfig
from jaxft.config_file import to_json
from jaxft.data.images import EvalCrop
from jaxft.errors import UserError
from jaxft.export import FORMATS, main
from jaxft.formats import onnx_graph
from jaxft.model_file import Description, save_model
from jaxft.resnet import ARCHS, make_resnet
from parity.network import random_model, random_variables
from pictures import photo
from runs import ROOT, environment

CLASSES = ("ants", "bees", "küche")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, RESIZED = 64, 73
FACTS = {
    "arch": "resnet18",
    "width": 64,
    "image_size": SIZE,
    "resize_size": RESIZED,
    "eval_resize": "short",
    "interpolation": "bilinear",
    "mean": list(MEAN),
    "std": list(STD),
    "classes": list(CLASSES),
}


def torch_logits(model, crops):
    pixels = torch.tensor(crops).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return model(torchvision.transforms.functional.normalize(pixels, MEAN, STD))


def torch_probabilities(model, crops):
    return torch_logits(model, crops).softmax(-1).numpy()


def some_crops(num):
    return np.stack([np.asarray(photo(SIZE, SIZE, seed)) for seed in range(num)])


def torch_model(arch):
    """torchvision's network with random weights, whose head gives every class its share."""
    model = random_model(arch, num_classes=len(CLASSES)).eval()
    model.fc.weight.data /= 4 * torch_logits(model, some_crops(8)).std(0)[:, None]
    model.fc.bias.data -= torch_logits(model, some_crops(8)).mean(0)
    assert torch_probabilities(model, some_crops(3)).std(0).min() > 0.005
    return model


def save_run(out, arch, resize="short"):
    model = torch_model(arch)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    variables = to_variables(state, make_resnet(arch, num_classes=len(CLASSES)))
    save_model(out / "model.safetensors", variables, Description(arch, 64, EvalCrop(SIZE, resize), CLASSES))
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a ResNet18 of three classes, and torchvision's network of the same weights."""
    out = tmp_path_factory.mktemp("run")
    return out, save_run(out, "resnet18")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A model of the demo's width, which torchvision has not; small."""
    out = tmp_path_factory.mktemp("narrow") / "model.safetensors"
    variables = random_variables(make_resnet("resnet18", num_classes=2, width=16))
    save_model(out, variables, Description("resnet18", 16, EvalCrop(32, "short"), ("a", "b")))
    return out


@pytest.fixture(scope="module")
def artifact(run, tmp_path_factory):
    return exported(run[0], "stablehlo", tmp_path_factory.mktemp("artifact") / "m.stablehlo")


def exported(run, to, out, *flags, status=0):
    """The file that the command has written."""
    assert main([str(run), "--to", to, "--out", str(out), *flags]) == status
    return out


def test_a_pth_file_is_torchvisions_network(run, tmp_path):
    folder, model = run
    state = torch.load(exported(folder, "torchvision", tmp_path / "m.pth"), weights_only=True)
    fresh = torchvision.models.resnet18(num_classes=3).eval()
    fresh.load_state_dict(state, strict=True)
    np.testing.assert_array_equal(torch_probabilities(fresh, some_crops(3)), torch_probabilities(model, some_crops(3)))
    assert state._metadata["jaxft"] == FACTS


def test_a_safetensors_file_needs_nothing_beside_it(run, tmp_path):
    folder, model = run
    older = tmp_path / "older"
    older.mkdir()
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    save_weights(older / "model.safetensors", state, classes=CLASSES, metadata={"arch": "resnet18"})
    (older / "config.json").write_text(to_json(Config(model=ModelConfig(), images=ImageConfig(image_size=SIZE))))
    copy = exported(older, "safetensors", tmp_path / "alone" / "copy.safetensors")
    fresh = torchvision.models.resnet18(num_classes=3)
    fresh.load_state_dict(load_file(copy), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))
    told = read_metadata(copy)
    assert {name: as_json(value) for name, value in told.items()} == FACTS
    picture = photo(80, 100)
    np.testing.assert_array_equal(jaxft.load(copy).predict(picture), jaxft.load(folder).predict(picture))


def as_json(value):
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def test_stablehlo_is_for_any_batch_and_every_platform(run, artifact):
    opened = jax_export.deserialize(bytearray(artifact.read_bytes()))
    assert opened.platforms == ("cpu", "cuda", "rocm", "tpu")
    (images,), (probabilities,) = opened.in_avals, opened.out_avals
    assert (images.dtype, images.shape[1:], str(images.shape[0])) == (np.uint8, (SIZE, SIZE, 3), "batch")
    assert (probabilities.dtype, probabilities.shape[1:]) == (np.float32, (3,))
    for num in (1, 3):
        got = np.asarray(opened.call(some_crops(num)))
        np.testing.assert_allclose(got, torch_probabilities(run[1], some_crops(num)), atol=1e-5)
    with pytest.raises(ValueError, match="uint8"):
        opened.call(some_crops(1).astype(np.float32))


def test_stablehlo_is_a_zip_archive_too(run, artifact, tmp_path):
    facts = json.loads(zipfile.ZipFile(artifact).read("metadata.json"))
    told = {"input": facts.pop("input"), "output": facts.pop("output")}
    assert facts == FACTS
    assert told["input"].startswith("images: uint8 [batch, 64, 64, 3]")
    assert told["output"] == "probabilities: float32 [batch, 3]"
    content = artifact.read_bytes()
    assert b"resnet.py" not in content
    assert str(ROOT).encode() not in content
    assert exported(run[0], "stablehlo", tmp_path / "again.stablehlo").read_bytes() == content


def test_stablehlo_in_bfloat16(run, tmp_path, capsys):
    folder, model = run
    file = exported(folder, "stablehlo", tmp_path / "m.stablehlo", "--precision", "bfloat16")
    opened = jax_export.deserialize(bytearray(file.read_bytes()))
    assert re.search(r"stablehlo\.convolution.*xbf16>", opened.mlir_module())
    apart = np.abs(np.asarray(opened.call(some_crops(3))) - torch_probabilities(model, some_crops(3))).max()
    assert 1e-5 < apart < 0.05
    with pytest.raises(UserError, match="--precision bfloat16: only --to stablehlo has it, onnx is float32"):
        main([str(folder), "--to", "onnx", "--precision", "bfloat16"])


ARCH_MARKS = {"resnet18": (), "resnet50": pytest.mark.slow, "resnext50_32x4d": pytest.mark.slow}


@pytest.mark.parametrize("arch", [pytest.param(arch, marks=ARCH_MARKS.get(arch, pytest.mark.full)) for arch in ARCHS])
def test_onnx_is_torchvisions_network(arch, tmp_path):
    model = save_run(tmp_path, arch)
    file = exported(tmp_path, "onnx", tmp_path / "m.onnx")
    proto = onnx.load(file)
    onnx.checker.check_model(proto, full_check=True)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 13)]
    kinds = [node.op_type for node in proto.graph.node]
    num_convs = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    assert [kinds.count(kind) for kind in ("Conv", "BatchNormalization", "Transpose")] == [num_convs, num_convs, 1]
    session = onnxruntime.InferenceSession(file)
    for num in (1, 3):
        (got,) = session.run(None, {"images": some_crops(num)})
        limit = 1e-5 if num_convs < 60 else 5e-5  # Rounding grows with depth, torch's too.
        np.testing.assert_allclose(got, torch_probabilities(model, some_crops(num)), atol=limit)


def test_onnx_says_what_it_is(run, tmp_path):
    session = onnxruntime.InferenceSession(exported(run[0], "onnx", tmp_path / "m.onnx"))
    (images,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", SIZE, SIZE, 3])
    assert (probabilities.name, probabilities.shape) == ("probabilities", ["batch", 3])
    facts = {name: as_json(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    assert facts.pop("input").startswith("images: uint8 [batch, 64, 64, 3]")
    assert facts.pop("output") == "probabilities: float32 [batch, 3]"
    assert facts == FACTS


@pytest.mark.parametrize(
    ("to", "resize"), [*((to, "short") for to in FORMATS), ("torchvision", "squash"), ("onnx", "squash")]
)
def test_the_printed_snippet_classifies_a_photograph_as_torchvision_does(
    to, resize, run, tmp_path, monkeypatch, capsys
):
    model = run[1] if resize == "short" else save_run(tmp_path, "resnet18", resize)
    file = tmp_path / f"it's {to}{FORMATS[to].suffix}"
    exported(run[0] if resize == "short" else tmp_path, to, file)
    said, snippet = capsys.readouterr().out.split("\n\n", 1)
    assert re.fullmatch(
        rf"written to {file}: \d+\.\d MB, resnet18, 3 classes, 64 pixels\n"
        r"checked: the run's own probabilities, largest difference [0-9]e-0[0-9]",
        said,
    )
    picture = photo(91, 134)
    exif = picture.getexif()
    exif[0x0112] = 6  # Taken upright.
    picture.save(tmp_path / "photo.jpg", exif=exif)
    monkeypatch.chdir(tmp_path)
    if to != "safetensors":
        monkeypatch.setitem(sys.modules, "jaxft", None)
    exec(snippet, {})
    printed = ast.literal_eval(capsys.readouterr().out)
    assert tuple(printed) == CLASSES
    crop = v2.Compose([v2.Resize(RESIZED if resize == "short" else [RESIZED, RESIZED]), v2.CenterCrop(SIZE)])
    upright = ImageOps.exif_transpose(PIL.Image.open("photo.jpg")).convert("RGB")
    expected = torch_probabilities(model, np.asarray(crop(upright))[None])[0]
    np.testing.assert_allclose(list(printed.values()), expected, atol=1e-5)


@pytest.mark.parametrize("to", FORMATS)
def test_the_readme_has_the_snippet_that_is_printed(to):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    description = Description("resnet18", 64, EvalCrop(224, "short"), ("ants", "bees"))
    snippet = FORMATS[to].snippet(description, f'"model{FORMATS[to].suffix}"')
    assert f"```python\n{snippet}```\n" in readme


def test_the_command_writes_beside_the_model(narrow):
    command = [sys.executable, "-m", "jaxft.export", str(narrow), "--to", "onnx"]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in narrow.parent.iterdir()) == ["model.onnx", "model.safetensors"]
    (narrow.parent / "model.onnx").unlink()


def test_a_file_is_replaced_whole(narrow, tmp_path):
    out = tmp_path / "m.onnx"
    out.write_bytes(b"an earlier one")
    with out.open("rb") as reader:
        exported(narrow, "onnx", out)
        assert reader.read() == b"an earlier one"
    assert out.stat().st_size > 1e6
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_full_disk_is_told_and_left_as_it_was(narrow, tmp_path):
    disk = tmp_path / "disk"
    command = f"! {sys.executable} -m jaxft.export {narrow} --to onnx --out {disk}/m.onnx && ls -A {disk}"
    done = on_a_disk(disk, "size=1m", ["sh", "-c", command], environment())
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: --out {disk}/m.onnx: cannot be written (No space left on device).")


@pytest.mark.parametrize("epsilon", [0.1, float("nan")])
def test_a_file_that_says_something_else_is_not_written(epsilon, narrow, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_graph, "BATCH_NORM_EPSILON", epsilon)
    out = tmp_path / "m.onnx"
    out.write_bytes(b"an earlier one")
    exported(narrow, "onnx", out, status=1)
    said = capsys.readouterr().err
    assert re.match(r"error: --to onnx: a probability is (\d\.\de-0\d|nan) from the run's own \(limit 0\.0001\)", said)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert out.read_bytes() == b"an earlier one"


def test_a_missing_package_is_named(run, narrow, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        with pytest.raises(UserError, match=r'--to torchvision needs torch. Run pip install "jaxft\[torch\]".'):
            exported(run[0], "torchvision", tmp_path / "m.pth")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        patch.delitem(sys.modules, "jaxft.formats.onnx_graph")
        with pytest.raises(UserError, match=r'--to onnx needs onnx. Run pip install "jaxft\[onnx\]".'):
            exported(narrow, "onnx", tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    for to, folder, package in (("torchvision", run[0], "torchvision"), ("onnx", narrow, "onnxruntime")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            assert exported(folder, to, tmp_path / f"m{FORMATS[to].suffix}").exists()
        assert f"not checked, for that needs {package}: run pip install" in capsys.readouterr().out


def test_mistakes_are_told(run, narrow, tmp_path):
    def told(text, run, to, *flags):
        with pytest.raises(UserError, match=re.escape(text)):
            main([str(run), "--to", to, *map(str, flags)])

    told("torchvision has no resnet18 of width 16, only of 64. Pass --to safetensors", narrow, "torchvision")
    told("m.pth: does not end in .onnx. Pass --out", narrow, "onnx", "--out", tmp_path / "m.pth")
    told(f"is a folder. Pass a file: --out {tmp_path}/model.onnx", narrow, "onnx", "--out", tmp_path)
    told("is the model itself. Pass another file: --out FILE.safetensors", narrow, "safetensors")
    told("no run, for it has no model.safetensors", tmp_path, "onnx")
    (tmp_path / "file").write_text("")
    told("cannot be written", narrow, "onnx", "--out", tmp_path / "file" / "m.onnx")
    assert [path.name for path in Path(tmp_path).iterdir()] == ["file"]
