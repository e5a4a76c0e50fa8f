"""python -m jaxft.predict: what it prints and writes, its exit status, and how it ends."""

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torchvision.transforms import v2

import jaxft
import jaxft.classifier
from convert.torchvision import to_variables
from jaxft.config import Config, ImageConfig
from jaxft.errors import UserError
from jaxft.model_file import describe_model, save_model
from jaxft.overlay import overlay
from jaxft.predict import main, summary
from jaxft.resnet import make_resnet
from parity.network import random_state
from pictures import photo
from runs import SMALL, environment, finished

CLASSES = ("ants", "bees", "küche")
SIDE = 48
ODD = ('a,b "c".png', "two\nlines.png", "tab\t.png", os.fsdecode(b"\xff.png"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Seven photographs, two of one name, and two files that are none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    names = ("0.jpg", "1.png", "2.jpg", "3.png", "4.webp", "sub/0.jpg", "sub/9.png")
    for seed, name in enumerate(names):
        photo(50 + 9 * seed, 130 - 7 * seed, seed).save(folder / name)
    (folder / "bad.jpg").write_bytes(b"no image")
    (folder / "empty.png").touch()
    return folder


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Path:
    """A run's folder with a ResNet18, trained nowhere, that sees more than one class in the photographs."""
    state = random_state("resnet18", num_classes=len(CLASSES))
    network = torchvision.models.resnet18(num_classes=len(CLASSES)).eval()
    network.load_state_dict({name: torch.tensor(array) for name, array in state.items()}, strict=False)
    state["fc.bias"] -= logits(network, good(folder)).mean(0).numpy()
    return saved(tmp_path_factory.mktemp("run"), state, CLASSES)


def saved(out: Path, state: dict, classes: Sequence[str]) -> Path:
    variables = to_variables(state, make_resnet("resnet18", num_classes=len(classes)))
    description = describe_model(Config(images=ImageConfig(image_size=SIDE)), classes)
    save_model(out / "model.safetensors", variables, description)
    return out


def good(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.*")) if path.stem not in ("bad", "empty")]


def logits(network: torch.nn.Module, paths: Sequence[Path]) -> torch.Tensor:
    """By torchvision's transforms."""
    transform = v2.Compose(
        [
            v2.Resize(round(SIDE * 256 / 224)),
            v2.CenterCrop(SIDE),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.no_grad():
        return network(torch.stack([transform(PIL.Image.open(path).convert("RGB")) for path in paths]))


def predicted(*arguments: object) -> int:
    return main([*map(str, arguments), "--devices", "1"])


def test_a_folder_as_torchvision_has_it(run, folder, capfd):
    assert predicted(run, folder, "--json", "--top-k", 3) == 1
    printed = capfd.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    network = torchvision.models.resnet18(num_classes=len(CLASSES)).eval()
    network.load_state_dict(load_file(run / "model.safetensors"), strict=True)
    expected = logits(network, good(folder)).softmax(-1).numpy()
    right = [row for row in rows if "error" not in row]
    assert [row["file"] for row in right] == [str(path) for path in good(folder)]
    for row, probabilities in zip(right, expected, strict=True):
        assert row["class"] == row["top"][0]["class"] == CLASSES[probabilities.argmax()]
        assert [guess["class"] for guess in row["top"]] == [CLASSES[i] for i in np.argsort(-probabilities)]
        found = [guess["probability"] for guess in row["top"]]
        np.testing.assert_allclose(found, np.sort(probabilities)[::-1], atol=2e-5)
        assert row["probability"] == row["top"][0]["probability"]
    assert len({row["class"] for row in right}) > 1
    wrong = {Path(row["file"]).name: row["error"] for row in rows if "error" in row}
    assert wrong == {"bad.jpg": "not an image that PIL knows", "empty.png": "empty file"}
    assert printed.err == "2 of 9 images could not be read; the rows say why\n"


@pytest.mark.slow
def test_a_runs_test_photographs_as_its_own_evaluation_has_them(photos, tmp_path, capfd):
    finished("folder", *SMALL, "--data", photos, "--epochs", 2, "--out", tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert predicted(tmp_path / "run", photos / "val", "--json", "--top-k", 2) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    by_class = [{guess["class"]: guess["probability"] for guess in row["top"]} for row in rows]
    own = [told[Path(row["file"]).parent.name] for told, row in zip(by_class, rows, strict=True)]
    assert np.mean([p > 0.5 for p in own]) == summary["final_accuracy"]
    np.testing.assert_allclose(-np.log(own).mean(), summary["final_loss"], rtol=1e-4)


def test_every_form_says_the_same(run, folder, tmp_path, capfd):
    flags = (run, folder, "--top-k", 2)
    assert predicted(*flags, "--csv", tmp_path / "rows.csv") == 1
    assert capfd.readouterr().out.startswith(f"written to {tmp_path}/rows.csv: 7 images: ")
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8-sig") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["file", "class", "probability", "class2", "probability2", "error"]
    assert [row[0] for row in rows] == [str(path) for path in sorted(folder.rglob("*.*"))]
    predicted(*flags, "--csv", "-")
    assert list(csv.reader(io.StringIO(capfd.readouterr().out)))[1:] == rows
    predicted(*flags)
    assert [line.split("\t") for line in capfd.readouterr().out.splitlines()] == rows
    predicted(*flags, "--json")
    for line, row in zip(capfd.readouterr().out.splitlines(), rows, strict=True):
        told = json.loads(line)
        top = [str(guess[name]) for guess in told.get("top", ()) for name in ("class", "probability")]
        assert [told["file"], *(top or [""] * 4), told.get("error", "")] == row


def test_a_terminal_has_a_table_and_a_last_line(run, folder, capfd, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert predicted(run, good(folder)[0]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 2
    assert predicted(run, folder / "sub", folder / "bad.jpg") == 1
    printed = capfd.readouterr()
    header, first, second, bad, last = printed.out.splitlines()
    assert header.split() == ["file", "class", "probability"]
    assert first.split()[0].endswith("sub/0.jpg")
    assert second.split()[0].endswith("sub/9.png")
    assert bad.split()[0].endswith("/bad.jpg")
    assert bad.endswith("  not an image that PIL knows")
    assert last.startswith("2 images: ")
    assert printed.err == "1 of 3 images could not be read; the rows say why\n"


def test_the_last_line_names_the_commonest_classes():
    assert summary(Counter({"bees": 2, "ants": 1})) == "3 images: 2 bees, 1 ants"
    many = Counter({f"class {i}": 2000 - i for i in range(12)})
    assert summary(many).startswith("23,934 images: 2,000 class 0, 1,999 class 1, ")
    assert summary(many).endswith(", 1,991 class 9, 3,979 of 2 other classes")


def test_names_that_are_no_plain_text_come_back(run, tmp_path, capfdbinary):
    for name in ODD:
        photo(50, 60).save(tmp_path / name, "PNG")
    names = [str(tmp_path / name) for name in ODD]
    assert predicted(run, *names, "--csv", tmp_path / "rows.csv") == 0
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        assert [row["file"] for row in csv.DictReader(file)] == names
    assert predicted(run, *names, "--json") == 0
    lines = capfdbinary.readouterr().out.splitlines()[1:]
    assert [json.loads(line)["file"] for line in lines] == names
    assert predicted(run, *names) == 0
    assert [line.count(b"\t") for line in capfdbinary.readouterr().out.splitlines()] == [3] * len(names)


def test_csv_has_a_mark_for_excel_where_it_needs_one(run, folder, tmp_path):
    photo(50, 60).save(tmp_path / "1.png")
    ascii_only = saved(tmp_path, random_state("resnet18", num_classes=3), ("ants", "bees", "wasps"))
    for out, mark in ((ascii_only, b"file,"), (run, b"\xef\xbb\xbffile,")):
        predicted(out, tmp_path / "1.png", "--csv", tmp_path / "rows.csv")
        assert (tmp_path / "rows.csv").read_bytes().startswith(mark)


def test_a_list_on_standard_input(run, folder, capfd, monkeypatch):
    listed = f"{folder}/3.png\n{folder}/gone.jpg\n{folder}/0.jpg\n{folder}/3.png\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed.encode())))
    assert predicted(run, "-") == 1
    rows = [line.split("\t") for line in capfd.readouterr().out.splitlines()]
    assert [Path(row[0]).name for row in rows] == ["3.png", "gone.jpg", "0.jpg"]
    assert [row[3] for row in rows] == ["", "No such file or directory", ""]


def test_rows_come_while_the_rest_waits(run, tmp_path, monkeypatch, capfd):
    """Of 60 photographs, few are decoded when the first row is written; all of them are in the end."""
    photo(50, 60).save(tmp_path / "00.png")
    for i in range(1, 60):
        (tmp_path / f"{i:02}.png").symlink_to(tmp_path / "00.png")
    decoded, ahead = [], []
    render = jaxft.classifier.render

    def counted(*arguments):
        decoded.append(1)
        return render(*arguments)

    def noted(probabilities, *arguments):
        ahead.append(len(decoded) - len(ahead))
        return guesses(probabilities, *arguments)

    guesses = jaxft.predict.guesses
    monkeypatch.setattr(jaxft.classifier, "num_cores", lambda: 1)
    monkeypatch.setattr(jaxft.classifier, "render", counted)
    monkeypatch.setattr(jaxft.predict, "guesses", noted)
    assert predicted(run, tmp_path, "--batch-size", 4) == 0
    assert len(ahead) == len(decoded) == len(capfd.readouterr().out.splitlines()) == 60
    assert max(ahead) <= 3 * 4 + 4 + 4 + 2


def test_heat_maps(run, folder, tmp_path):
    cam = tmp_path / "maps"
    assert predicted(run, folder, "--cam", cam, "--csv", tmp_path / "rows.csv") == 1
    names = [path.relative_to(folder) for path in good(folder)]
    assert sorted(path.relative_to(cam) for path in cam.rglob("*.*")) == sorted(Path(f"{n}.cam.jpg") for n in names)
    classifier = jaxft.load(run, devices=1)
    for name, row in zip(names, classifier.stream([folder / name for name in names], with_maps=True), strict=True):
        drawn = np.asarray(PIL.Image.open(cam / f"{name}.cam.jpg")).astype(float)
        best, *others = np.argsort(-row.probabilities)
        off = [abs(drawn - overlay(row.crop, row.maps[..., k])).mean() for k in (best, *others)]
        assert off[0] < 3
        assert min(off[1:]) > 2 * off[0]


def test_heat_maps_never_lie_over_photographs(run, folder, tmp_path):
    (tmp_path / "maps").mkdir()
    before = (folder / "0.jpg").read_bytes()
    (tmp_path / "maps/0.jpg.cam.jpg").symlink_to(folder / "0.jpg")
    assert predicted(run, folder / "0.jpg", "--cam", tmp_path / "maps") == 0
    assert (folder / "0.jpg").read_bytes() == before
    assert not (tmp_path / "maps/0.jpg.cam.jpg").is_symlink()
    for name in ("1.jpg", "1.jpg.cam.jpg"):
        photo(50, 60).save(tmp_path / name)
    with pytest.raises(UserError, match=r"1.jpg.cam.jpg is one of the photographs, and would be overwritten by"):
        predicted(run, tmp_path / "1.jpg", tmp_path / "1.jpg.cam.jpg", "--cam", tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"link/1.jpg.cam.jpg is one of the photographs"):
        predicted(run, tmp_path / "1.jpg", tmp_path / "1.jpg.cam.jpg", "--cam", tmp_path / "link")
    photo(50, 60).save(tmp_path / f"{'x' * 250}.png"[-255:])
    with pytest.raises(UserError, match=r"x.png is too long to add .cam.jpg to it."):
        predicted(run, *tmp_path.glob("x*.png"), "--cam", tmp_path / "maps")
    with pytest.raises(UserError, match=r"photos0: the folder of the photographs. Pass another, such as"):
        predicted(run, folder, "--cam", f"{folder}/")


def test_heat_maps_inside_the_folder_are_no_photographs_the_next_time(run, tmp_path, capfd):
    photo(50, 60).save(tmp_path / "1.jpg")
    for _ in range(2):
        assert predicted(run, tmp_path, "--cam", tmp_path / "maps") == 0
        assert len(capfd.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "^no photographs: pass files, folders, patterns, or - for"),
        (("nowhere.jpg",), "^nowhere.jpg: no such file or folder"),
        (("PHOTO", "--csv", "a.csv", "--json"), "^--csv a.csv and --json: pass one of them"),
        (("PHOTO", "--csv", "b.JPG"), "^--csv b.JPG: the name of a picture, which would be overwritten"),
        (("PHOTO", "--csv", "/no/a.csv"), r"^--csv /no/a.csv: cannot be written \(No such file or directory\). Pass"),
        (("PHOTO", "--csv", "/dev/full"), r"^--csv /dev/full: cannot be written \(No space left on device\). Pass"),
        (("PHOTO", "--cam", "/dev/null"), r"^--cam /dev/null: /dev/null cannot be written \(File exists\). Pass"),
        (("PHOTO", "--top-k", "0"), "^--top-k 0: must be at least 1"),
        (("PHOTO", "--top-k", "4"), "^--top-k 4: the network knows 3 classes. Pass --top-k 3 or fewer."),
        (("PHOTO", "--batch-size", "0"), "^--batch-size 0: must be at least 1"),
    ],
)
def test_mistakes(run, folder, flags, message):
    with pytest.raises(UserError, match=message):
        predicted(run, *(good(folder)[0] if flag == "PHOTO" else flag for flag in flags))


def test_no_run(folder):
    with pytest.raises(UserError, match=r"no run, for it has no model.safetensors. Pass a run's folder."):
        predicted(folder, folder)


def command(*arguments: object, **options) -> subprocess.Popen:
    words = [sys.executable, "-W", "error", "-m", "jaxft.predict", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, cwd=Path(__file__).parents[1], env=environment(), **pipes | options)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """So many photographs that a run on them does not end by itself before it is stopped."""
    folder = tmp_path_factory.mktemp("many")
    photo(50, 60).save(folder / "0000.png")
    for i in range(1, 5000):
        (folder / f"{i:04}.png").symlink_to(folder / "0000.png")
    return folder


@pytest.mark.slow
def test_ctrl_c_ends_it_with_whole_rows(run, many, tmp_path):
    rows = tmp_path / "rows.csv"
    process = command(run, many, "--csv", rows, "--batch-size", 1)
    while not rows.exists() or rows.stat().st_size < 1000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (130, b"", b"interrupted: the rows so far are written\n")
    with rows.open(newline="", encoding="utf-8-sig") as file:
        found = list(csv.DictReader(file))
    assert 5 < len(found) < 5000
    assert all(row["class"] in CLASSES and row["error"] == "" for row in found)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--json",), ("--csv", "-"), ()])
def test_a_reader_that_goes_away_ends_it_silently(run, many, flags):
    process = command(run, many, "--batch-size", 1, *flags)
    assert b"0000.png" in process.stdout.readline() + process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert (process.stderr.read(), process.wait(60)) == (b"", 141)


@pytest.mark.slow
def test_a_last_line_that_nobody_reads(run, folder, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    process = command(run, folder / "0.jpg", "--csv", tmp_path / "rows.csv", stdout=writing)
    os.close(writing)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (141, b"")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_bar_where_the_rows_go_elsewhere(run, folder, flags):
    """Standard error is a terminal; standard output is the same one, or a pipe."""
    terminal, inside = pty.openpty()
    pipes = {} if flags else {"stdout": inside}
    with command(run, folder / "sub", *flags, stderr=inside, **pipes) as process:
        os.close(inside)
        shown = b""
        with suppress(OSError):  # As Linux ends a terminal that nobody has open any more.
            while some := os.read(terminal, 4096):
                shown += some
        os.close(terminal)
        rows = process.stdout.read() if flags else shown
    assert (b"classifying" in shown) == bool(flags)
    assert rows.count(b"sub/") == 2


@pytest.mark.slow
def test_as_a_command(run, folder):
    process = command(run, folder / "0.jpg", folder / "bad.jpg")
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, b"1 of 2 images could not be read; the rows say why\n")
    assert len(out.splitlines()) == 2
    with open("/dev/full", "w") as full:
        process = command(run, folder / "sub", stdout=full)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith(b"error: standard output: cannot be written (No space left on device). Pass --csv FILE")
