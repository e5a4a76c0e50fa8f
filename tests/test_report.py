"""The report: what it says, that it says what the run said, and what it makes of hostile names and of holes."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

import jaxft
from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig
from jaxft.config_file import read_config
from jaxft.data.canvas import EvalCrop, decode_set
from jaxft.data.feed import Streamed
from jaxft.data.load import open_splits
from jaxft.data.sources import labels_of
from jaxft.errors import UserError
from jaxft.model_file import describe_model, save_model
from jaxft.report.__main__ import main
from jaxft.report.finished import Finished
from jaxft.report.gallery import Gallery, Picture
from jaxft.report.page import changed_flags, data_name, make_page, stages
from jaxft.report.scoring import Scored, score_split
from jaxft.report.words import NBSP, chance, counted, duration, number, percent
from jaxft.report.write import try_report, write_report
from jaxft.training import fit
from reports import HOSTILE, Page, records, write_photos, write_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that has trained, and what it printed of its report: nothing."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_photos(folder / "photos", ("ants", "bees"), 12, 9)
    config = Config(
        data=str(data),
        model=ModelConfig(width=16, weights="demo"),
        images=ImageConfig(image_size=32),
        optim=OptimConfig(lr=1e-3),
        epochs=2,
        batch_size=8,
    )
    return fit(config, out=folder / "run", verbose=False)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a run whose names are markup."""
    folder = tmp_path_factory.mktemp("<b>hostile & folder")
    data = write_photos(folder / "<i>photos", HOSTILE, 6, 3)
    out = write_run(folder / "<u>run", data, 0.25)
    assert main([str(out)]) == 0
    return (out / "report.html").read_text(encoding="utf-8")


# A run that was trained.


def test_its_numbers_are_the_runs(finished):
    page = Page((finished.out / "report.html").read_text(encoding="utf-8"))
    classifier, config = jaxft.load(finished.out), read_config(finished.out / "config.json")
    source = open_splits(config, Path()).test
    labels = labels_of(source)
    # The way that photographs take from files, tested against PyTorch elsewhere.
    predicted = classifier.predict([source.read(i)[0] for i in range(len(source))]).argmax(1)
    assert float(np.mean(predicted == labels)) == finished.summary["final_accuracy"]
    right = int(np.sum(predicted == labels))
    assert f"Of 18 images that it was not trained on, the network names {right} rightly and {18 - right}" in page.text
    assert f"{percent(right / 18)} test accuracy".replace(NBSP, " ") in page.text
    assert "At the end of its training the run counted" not in page.text
    counts = confusion_matrix(labels, predicted)
    for row, wanted in zip(page.tables[1][2:], counts, strict=True):
        shares = [f"{count}{percent(count / sum(wanted))}" if count else "0" for count in wanted]
        assert row[1:3] == shares
    scores = precision_recall_fscore_support(labels, predicted, zero_division=np.nan)
    for row, (name, *wanted) in zip(page.tables[2][1:3], zip(("ants", "bees"), *scores, strict=True), strict=True):
        assert row == [name, *map(percent, wanted[:3]), str(wanted[3])]


def test_accuracy_is_the_summarys_to_the_bit(finished, tmp_path):
    config, classifier = read_config(finished.out / "config.json"), jaxft.load(finished.out)
    source = open_splits(config, tmp_path).test
    recipe = EvalCrop(32, "short")
    decoded = decode_set(source, recipe, cache_dir=None)
    streamed = Streamed(source, recipe, labels_of(source))
    for split in (decoded, streamed):
        scored = score_split(classifier, split, skip_bad=False)
        right = (scored.probabilities.argmax(1) == scored.labels).sum()
        assert right / len(scored.labels) == finished.summary["final_accuracy"]
        np.testing.assert_array_equal(scored.rows, np.arange(18))
        files = [source.read(i)[0] for i in range(18)]
        np.testing.assert_allclose(scored.probabilities, classifier.predict(files), atol=1e-6)


def test_made_anew_it_is_the_same(finished, tmp_path, capsys):
    before = (finished.out / "report.html").read_bytes()
    assert main([str(finished.out), "--out", str(tmp_path / "again.html")]) == 0
    assert capsys.readouterr().out.endswith(f"written to {tmp_path / 'again.html'}\n")
    assert (tmp_path / "again.html").read_bytes() == before
    assert len(before) < 400_000


def test_what_was_trained_and_how(finished):
    config = read_config(finished.out / "config.json")
    classifier = jaxft.load(finished.out)
    found = stages(classifier.variables["params"], config)
    assert [stage.name for stage in found] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    # torchvision's own counts, for a ResNet18 a quarter as wide.
    assert [stage.parameters for stage in found[:2]] == [3 * 49 * 16 + 32, 4 * (9 * 16 * 16 + 32)]
    assert sum(stage.parameters for stage in found) == sum(
        leaf.size for leaf in jax.tree.leaves(classifier.variables["params"])
    )
    assert [(stage.trained, stage.lr) for stage in found[4:]] == [(True, 1e-3), (True, 1e-2)]
    frozen = stages(classifier.variables["params"], replace(config, model=replace(config.model, freeze="layer2")))
    assert [(stage.trained, stage.lr, stage.weight_decay) for stage in frozen] == [
        *[(False, 0.0, 0.0)] * 3,
        *[(True, 1e-3, 1e-4)] * 2,
        (True, 1e-2, 1e-4),
    ]
    flags = [flag for flag, _, _ in changed_flags(config)]
    assert flags == ["--data", "--width", "--weights", "--image-size", "--epochs", "--batch-size"]


# Names that would be markup.


def test_hostile_names_are_text(hostile):
    page = Page(hostile)
    kinds = {name for name, _ in page.elements}
    assert not kinds & {"i", "u", "iframe", "object", "embed", "base", "form"}
    assert len(page.all("script")) == 1
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    for text in (
        *('<script>alert("1")<∕script>', "a & 'b' <b>", r"نحل عسل \u202e", "bees 🐝 with a name that goes on"),
        *("resnet18 on <i>photos", "Report of the run <u>run", "<img src=x onerror=alert(1)> '0\".png"),
    ):
        assert text in page.text
    assert len([json.loads(chart["data-stops"] or "") for chart in page.all("div") if "data-stops" in chart]) == 3


def test_nothing_can_be_asked_for(hostile):
    page = Page(hostile)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert not re.search(r"(href|src)=\"(?!data:)", hostile)
    assert "url(" not in hostile
    assert "@import" not in hostile


def test_images_say_what_they_are(hostile):
    page = Page(hostile)
    assert all(image["alt"] for image in page.all("img"))
    least_sure, maps, views = 12, 2 * 6, 6 * 6
    (wrong,) = re.findall(r"rightly and (\d+) wrongly", page.text)
    assert len(page.all("img")) == min(int(wrong), 12) + least_sure + maps + views
    # Of mixup, both classes with their shares.
    assert re.search(r"'b' <b> \d+ % نحل|<∕script> \d+ % a & 'b'", page.text)


def test_a_run_that_says_otherwise_is_told(hostile):
    text = Page(hostile).text
    (found,) = re.findall(r"([\d.]+) % test accuracy", text)
    assert found != "25.0"
    assert "At the end of its training the run counted 25.00 %; the images that this page is made from give" in text


def test_class_names_that_cannot_be_printed(made_up, tmp_path):
    """Folders' names are made printable where they are read; a program may bring any."""
    out, _ = made_up
    config, classifier = read_config(out / "config.json"), jaxft.load(out)
    names = ("line\nbreak\x07", "\u202eright to left")
    save_model(out / "model.safetensors", classifier.variables, describe_model(config, names))
    source = replace(open_splits(config, tmp_path).test, class_names=names)
    streamed = Streamed(source, EvalCrop(32, "short"), labels_of(source))
    text = write_report(out, streamed, streamed).read_text()
    assert not re.search(r"[\x07\u202e]", text)
    assert r"line\nbreak\x07" in text
    assert r"\u202eright to left" in text


# Holes.


def page_of(tmp_path, probabilities, labels, names) -> Page:
    """The page of made-up predictions, without pictures."""
    labels = np.asarray(labels, np.int32)
    scored = Scored(
        np.arange(len(labels)), labels, np.asarray(probabilities, np.float32), np.zeros((len(labels), 1, 1))
    )
    right = float((scored.probabilities.argmax(1) == labels).mean())
    summary = {
        "final_accuracy": right, "final_loss": 0.5, "best_accuracy": right, "best_epoch": 2.0, "epochs": 2.0,
        "steps": 10, "train_images_per_second": None, "wall_seconds": 3.2, "devices": ["cpu"], "versions": {"jax": "1"},
    }  # fmt: skip
    run = Finished(tmp_path, Config(), records(2, right), summary)
    kernel = {"conv1": {"kernel": np.zeros(4)}, "bn1": {"scale": np.zeros(2)}, "fc": {"kernel": np.zeros(6)}}
    params = kernel | {f"layer{i}_0": {"conv1": {"kernel": np.zeros(i)}} for i in range(1, 5)}
    wrong = int((scored.probabilities.argmax(1) != labels).sum())
    picture = Picture("data:image/jpeg;base64,", "a.jpg", names[0], names[-1], False, 0.1, [(names[-1], 0.9)])
    return Page(make_page(run, names, params, scored, Gallery([picture] * min(wrong, 12), [], [], [])))


def test_a_class_without_a_test_image(tmp_path):
    page = page_of(tmp_path, [[0.9, 0.1, 0], [0.2, 0.8, 0], [0.3, 0.7, 0]], [0, 1, 0], ["a", "b", "c"])
    assert page.tables[2][3] == ["c", "–", "–", "–", "0"]
    assert page.tables[2][4] == ["Mean", *(f"{value}{NBSP}%" for value in ("75.0", "75.0", "66.7")), "3"]
    assert page.tables[1][4] == ["c", "0", "0", "0", "0"]
    assert "The one mistake" in page.text


def test_classes_of_one_image(tmp_path):
    page = page_of(tmp_path, np.eye(3), [0, 1, 2], ["a", "b", "c"])
    assert "100.0 % test accuracy" in page.text
    assert "No mistakes" in page.text
    assert [row[-1] for row in page.tables[2][1:]] == ["1", "1", "1", "3"]


def test_all_wrong(tmp_path):
    page = page_of(tmp_path, np.eye(2)[[0] * 20], [1] * 20, ["a", "b"])
    assert "the network names 0 rightly and 20 wrongly" in page.text
    assert "The 12 surest mistakes of 20" in page.text
    assert page.tables[2][1:3] == [
        ["a", f"0.0{NBSP}%", "–", f"0.0{NBSP}%", "0"],
        ["b", "–", f"0.0{NBSP}%", f"0.0{NBSP}%", "20"],
    ]
    assert "it is surer than it should be" in page.text


def test_many_classes_have_their_confusions_listed(tmp_path):
    labels = np.repeat(np.arange(30), 4)
    predicted = np.where(np.arange(120) % 4 == 0, (labels + 1) % 30, labels)
    predicted[:4] = 7
    page = page_of(tmp_path, np.eye(30)[predicted], labels, [f"class {i}" for i in range(30)])
    assert page.tables[1][0] == ["True class", "Taken for", "Images", "Share of the class"]
    assert page.tables[1][1] == ["class 0", "class 7", "4", f"100.0{NBSP}%"]
    assert len(page.tables[1]) == 26
    assert len(page.tables[2]) == 32


def test_many_classes_without_a_mistake(tmp_path):
    page = page_of(tmp_path, np.eye(30), range(30), [f"class {i}" for i in range(30)])
    assert "None is taken for another" in page.text


# The command.


@pytest.fixture
def made_up(tmp_path):
    data = write_photos(tmp_path / "photos", ("a", "b"), 4, 2)
    return write_run(tmp_path / "run", data, 0.5), data


def test_mistakes(made_up, tmp_path):
    out, data = made_up
    with pytest.raises(UserError, match=r"nowhere: not there. Pass a run's folder"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"--out .*none/a.html: its folder is not there. Pass a file in a folder"):
        main([str(out), "--out", str(tmp_path / "none/a.html")])
    with pytest.raises(UserError, match=r"--out /: is a folder. Pass a file"):
        main([str(out), "--out", "/"])
    other = write_photos(tmp_path / "other", ("a", "b", "c"), 4, 2)
    with pytest.raises(UserError, match=r"--data .*other has the classes a, b, c; the model has a, b. Pass the run"):
        main([str(out), "--data", str(other)])
    moved = data.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"photos: no such folder"):
        main([str(out)])
    assert main([str(out / "model.safetensors"), "--data", str(moved)]) == 0
    assert "resnet18 on photos" in (out / "report.html").read_text()
    summary = (out / "summary.json").read_text()
    (out / "summary.json").write_text(summary.replace("wall_seconds", "seconds"))
    with pytest.raises(UserError, match=r"run: no whole run \(summary.json has no wall_seconds\)"):
        main([str(out), "--data", str(moved)])
    (out / "summary.json").write_text(summary)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    (out / "metrics.jsonl").write_text("\n".join(line for line in lines if "train" in line))
    with pytest.raises(UserError, match=r"run: no whole run \(metrics.jsonl has no test record\)"):
        main([str(out), "--data", str(moved)])
    (out / "summary.json").unlink()
    with pytest.raises(UserError, match=r"run: no whole run .*summary.json"):
        main([str(out), "--data", str(moved)])
    (out / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no model.safetensors yet. Let it end first"):
        main([str(out)])


def test_a_report_that_cannot_be_made_is_told_and_no_more(made_up, tmp_path):
    out, _ = made_up
    source = open_splits(read_config(out / "config.json"), tmp_path).test
    streamed, said = Streamed(source, EvalCrop(32, "short"), labels_of(source)), []
    (out / "report.html").mkdir()
    try_report(out, streamed, streamed, said.append)
    (line,) = said
    assert line.startswith(f"no report.html yet: {out}/report.html: cannot be written (Is a directory).")
    assert line.endswith(f"Make it with python -m jaxft.report {out}")
    assert [path.name for path in out.glob(".*")] == []


def test_bad_images(made_up, capsys):
    out, data = made_up
    (data / "val/a/bad.jpg").write_text("words")
    with pytest.raises(UserError, match=r"1 of 5 images cannot be decoded"):
        main([str(out)])
    config = json.loads((out / "config.json").read_text())
    config["images"]["skip_bad_images"] = True
    (out / "config.json").write_text(json.dumps(config))
    assert main([str(out)]) == 0
    assert "Of 4 images" in Page((out / "report.html").read_text()).text


def test_streamed_images_that_cannot_be_decoded(made_up, tmp_path):
    out, data = made_up
    (data / "val/a/bad.jpg").write_text("words")
    source = open_splits(read_config(out / "config.json"), tmp_path).test
    streamed = Streamed(source, EvalCrop(32, "short"), labels_of(source))
    with pytest.raises(UserError, match=r"bad.jpg: not an image that PIL knows"):
        score_split(jaxft.load(out), streamed, skip_bad=False)
    scored = score_split(jaxft.load(out), streamed, skip_bad=True)
    assert len(scored.rows) == 4
    np.testing.assert_array_equal(scored.labels, labels_of(source)[scored.rows])
    for path in data.glob("val/*/*"):
        path.write_text("words")
    with pytest.raises(UserError, match="none of the test images can be decoded"):
        score_split(jaxft.load(out), streamed, skip_bad=True)


def test_it_is_a_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jaxft.report", str(tmp_path / "none")], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'none'}: not there. Pass a run's folder.\n")


# Words.


def test_numbers_in_words():
    assert [percent(0.91503), percent(float("nan")), percent(0.5, 0)] == [f"91.5{NBSP}%", "–", f"50{NBSP}%"]
    assert [chance(p).replace(NBSP, " ") for p in (1, 0.99999, 0.9994, 0.0001, 0)] == [
        "100.0 %", "> 99.9 %", "99.9 %", "< 0.1 %", "0.0 %",
    ]  # fmt: skip
    assert [duration(s).replace(NBSP, " ") for s in (0.4, 59.4, 59.6, 250, 3600 * 27 + 60)] == [
        "0 s", "59 s", "1 min 0 s", "4 min 10 s", "27 h 1 min",
    ]  # fmt: skip
    assert [number(x, 1) for x in (1.5, 12_345_678, 2.736e23)] == ["1.5", "12,345,678.0", "2.7e+23"]
    assert counted(["H100", "A100", "H100"]) == "1 × A100, 2 × H100"


def test_data_in_a_word():
    assert data_name("demo") == "demo"
    assert data_name("tfds:beans") == "tfds:beans"
    assert data_name("/a/b/photos/") == "photos"
    assert data_name("https://a.org/sets/hotdog.zip#sha1=f") == "hotdog.zip"
