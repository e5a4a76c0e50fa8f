"""The command as its users run it: real processes, small images, the demo's network."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from safetensors.torch import load_file

from jaxft.arguments import parse
from jaxft.errors import UserError
from jaxft.train import main
from runs import SMALL, ended, environment, finished, has_records, records, start, without_speed


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))


def torch_model(out: Path, num_classes: int) -> torch.nn.Module:
    """The run's model in PyTorch, at the demo's width: torchvision's ResNet with fewer planes."""
    model = torchvision.models.resnet18(num_classes=num_classes)
    state = load_file(out / "model.safetensors")
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d | torch.nn.Linear):
            shape = state[f"{name}.weight"].shape
            module.weight = torch.nn.Parameter(torch.empty(shape))
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean, module.running_var = torch.empty(shape), torch.empty(shape)
                module.bias = torch.nn.Parameter(torch.empty(shape))
    model.load_state_dict(state, strict=True)
    return model.eval()


def test_a_folder_from_photos_to_pytorch(photos, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["folder", "--data", str(photos), "--out", str(out), *SMALL, "--head", "reuse"]
    arguments += ["--epochs", "6", "--lr", "0.01", "--devices", "1"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for line in ("24 training and 10 test images of 2 classes", "What trains", "hot dogs", "Xavier", "epoch 6/6"):
        assert line in printed
    assert {path.name for path in out.iterdir()} == {
        "config.json", "classes.json", "metrics.jsonl", "summary.json", "model.safetensors", "curves.png",
        "report.html", "checkpoints",
    }  # fmt: skip
    assert json.loads((out / "classes.json").read_text()) == ["hot dogs", "salad"]
    summary, lines = json.loads((out / "summary.json").read_text()), records(out)
    tests = [line for line in lines if line["split"] == "test"]
    assert [line["step"] for line in tests] == [3, 6, 9, 12, 15, 18]
    assert summary["final_accuracy"] == tests[-1]["accuracy"]
    assert summary["best_accuracy"] == max(line["accuracy"] for line in tests)
    assert summary["final_accuracy"] == 0.8  # Orange against green, and one of each is not what its folder says.
    with PIL.Image.open(out / "curves.png") as image:
        assert image.width > 500

    # The same images through PyTorch and the saved model give the accuracy and the loss that the run wrote.
    model = torch_model(out, 2)
    transform = torchvision.transforms.Compose([
        torchvision.transforms.Resize(round(32 * 256 / 224)),
        torchvision.transforms.CenterCrop(32),
        torchvision.transforms.ToTensor(),
        torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    data = torchvision.datasets.ImageFolder(photos / "val", transform)
    images, labels = torch.stack([image for image, _ in data]), torch.tensor(data.targets)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(images), labels)
    np.testing.assert_allclose(float(loss), tests[-1]["loss"], rtol=1e-3)

    # A run's folder is a config to run again, weights to start from, and not a place for another run.
    again = tmp_path / "again"
    assert main(["--config", str(out / "config.json"), "--out", str(again)]) == 0
    assert without_speed(again) == without_speed(out)
    assert main(["--config", str(out / "config.json"), "--weights", str(out), "--out", str(tmp_path / "third")]) == 0
    assert "hot dogs" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds a run already. Pass --resume to carry it on, or another --out"):
        main(arguments)


def test_the_demo_learns(tmp_path):
    out = tmp_path / "run"
    finished("--epochs", 12, "--out", out)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["best_accuracy"] >= 0.8
    assert json.loads((out / "classes.json").read_text()) == ["hot_dog", "not_hot_dog"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_is_carried_on_to_the_same_end(tmp_path, number):
    whole, out = tmp_path / "whole", tmp_path / "run"
    flags = ["--epochs", 5, "--batch-size", 50]  # Three steps an epoch.
    finished(*flags, "--out", whole)
    process = start(*flags, "--out", out)
    while process.poll() is None and not has_records(out):
        time.sleep(0.05)
    process.send_signal(number)
    printed = ended(process, 75)
    assert f"--resume --out {out}" in printed
    assert not (out / "model.safetensors").exists()
    finished(*flags, "--out", out, "--resume")
    ours, theirs = load_file(out / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    tests = [[line for line in without_speed(folder) if line["split"] == "test"] for folder in (out, whole)]
    assert tests[0] == tests[1]


def test_a_loss_that_explodes_exits_3(tmp_path):
    printed = finished("--epochs", 2, "--lr", "1e30", "--out", tmp_path / "run", status=3)
    assert "the loss became non-finite at step" in printed
    assert "Pass a smaller --lr" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photoz"], "photoz: no such preset."),
        (["--lr", "-1"], "--lr -1.0: must be a positive number"),
        (["--freeze", "layer9"], "layer9"),
        (["folder", "--data", "no/such/folder"], "no/such/folder: no such folder"),
        (["--weights", "gone.pth"], "--weights gone.pth: no such file"),
        (["--learning-rate", "1"], "--learning-rate"),
        (["--epochs", "many"], "many"),
    ],
)
def test_mistakes_exit_2_with_one_message(arguments, message):
    assert message in finished(*arguments, status=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "25", "--devices", "1"], r"--batch-size 25 is larger than the training set \(24 images\)"),
        (["--batch-size", "12"], "--batch-size 12 does not split over 8 devices. Pass --batch-size 8 or "),
        (["--arch", "resnet20"], "--arch resnet20: no such architecture. Choose one of resnet18"),
        (["--arch", "resnet34"], r"(?s)missing from the file .*layer1.2.bn1.bias.*Is --arch .and --width. the file's"),
        (["--width", "64"], r"conv1.weight: the file has \(16, 3, 7, 7\), the model wants \(64, 3, 7, 7\)"),
        (["--weights", "none", "--freeze", "layer1"], "--freeze layer1 with --weights none would freeze random layers"),
        (["--weights", "none", "--head", "reuse"], "--head reuse needs a pretrained classifier"),
        (["--head", "reuse", "--head-map", "cat=1"], "--head-map cat=1: no class of that name"),
        (["--resume"], "--resume needs the run's folder"),
    ],
)  # fmt: skip
def test_mistakes_that_the_data_and_weights_show(photos, tmp_path, arguments, message):
    out = [] if "--resume" in arguments else ["--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match=message):
        main(["folder", "--data", str(photos), *out, *SMALL, *arguments])
    assert not (tmp_path / "run/config.json").exists()


def test_bad_images_stop_the_run_before_training_unless_skipped(photos, tmp_path, capsys):
    (photos / "train/salad/words.jpg").write_text("words")
    whole = (photos / "train/salad/0.jpg").read_bytes()
    (photos / "train/salad/half.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "train/salad/readme.txt").write_text("words")
    arguments = ["folder", "--data", str(photos), "--out", str(tmp_path / "run"), "--epochs", "1", *SMALL]
    with pytest.raises(UserError, match=r"(?s)2 of 26 images.*half.jpg.*words.jpg.*--skip-bad-images"):
        main(arguments)
    assert not (tmp_path / "run").exists()
    assert main([*arguments, "--skip-bad-images"]) == 0
    printed = capsys.readouterr().out
    for line in ("ignored 1", "readme.txt", "half.jpg", "words.jpg", "24 training"):
        assert line in printed


def test_names_in_any_script_and_on_two_lines(tmp_path, capsys):
    folder, names = tmp_path / "写真 и фото", ("hot dogs 🌭", "寿司")
    for split in ("train", "val"):
        for shade, name in enumerate(names):
            (folder / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = np.full((40, 40, 3), 90 + 80 * shade + i, np.uint8)
                PIL.Image.fromarray(pixels).save(folder / split / name / f"line\nbreak {i}.png")
    (folder / "train/寿司/bad\none.jpg").write_text("no image")
    out = tmp_path / "run"
    arguments = ["folder", "--data", str(folder), "--out", str(out), *SMALL, "--epochs", "1", "--devices", "1"]
    assert main([*arguments, "--skip-bad-images", "--balance", "weights"]) == 0
    printed = capsys.readouterr().out
    assert "classes: hot dogs 🌭 4, 寿司 5" in printed
    assert r"寿司/bad\none.jpg: not an image that PIL knows" in printed
    assert json.loads((out / "classes.json").read_text(encoding="utf-8")) == list(names)


@pytest.mark.slow
def test_a_thousand_classes(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(1000):
            (tmp_path / "photos" / split / f"class {label}").mkdir(parents=True)
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / "photos" / split / f"class {label}" / "1.png")
    arguments = ["folder", "--data", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), *SMALL[:-1], "200"]
    assert main([*arguments, "--epochs", "1", "--devices", "1", "--balance", "sampler"]) == 0
    printed = capsys.readouterr().out
    assert "1,000 classes, 1 training images each" in printed
    assert "on 1000 training and 1000 test images of 1000 classes" in printed
    assert len(json.loads((tmp_path / "run/classes.json").read_text())) == 1000


@pytest.mark.slow
def test_a_photograph_that_disappears_while_streaming_and_comes_back(photos, tmp_path):
    whole, out, away = tmp_path / "whole", tmp_path / "run", tmp_path / "away.jpg"
    arguments = ["folder", "--data", photos, *SMALL, "--epochs", 8, "--input", "stream"]
    finished(*arguments, "--out", whole)
    process = start(*arguments, "--out", out)
    while process.poll() is None and not has_records(out):
        time.sleep(0.02)
    lost = photos / "train/salad/7.jpg"
    lost.rename(away)
    errors = ended(process, 2)
    remedy = "Put it right and go on with --resume, or pass --skip-bad-images."
    assert errors.endswith(f"error: {lost}: No such file or directory. {remedy}\n")
    away.rename(lost)
    finished(*arguments, "--out", out, "--resume")
    ours, theirs = load_file(out / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_run_folder_that_cannot_be_made(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out .*/file/run: cannot be written .*Pass another --out"):
        main(["folder", "--data", str(photos), "--out", str(tmp_path / "file/run"), *SMALL])


def test_flags_change_the_preset():
    name, arguments = parse(["hotdog", "--lr", "0.5", "--no-sync-bn", "--head", "reuse", "--head-map", "a=1", "b=2"])
    assert name == "hotdog"
    assert arguments.config.optim.lr == 0.5
    assert arguments.config.optim.momentum == 0
    assert not arguments.config.sync_bn
    assert arguments.config.model.head_map == ("a=1", "b=2")
    assert parse([])[0] == "demo"


def test_help_lists_presets_and_flags():
    printed = finished("--help")
    for word in ("demo", "hotdog", "ants-bees", "--lr", "--freeze", "--head-lr-mult", "--resume", "--skip-bad-images"):
        assert word in printed


@pytest.mark.slow
def test_pmap_from_the_command_line(tmp_path):
    for parallel in ("jit", "pmap"):
        finished("--parallel", parallel, "--epochs", 2, "--out", tmp_path / parallel, env=environment(2))
    losses = [[record["loss"] for record in records(tmp_path / parallel)] for parallel in ("jit", "pmap")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
