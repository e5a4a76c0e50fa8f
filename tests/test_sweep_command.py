"""python -m jaxft.sweep: what it leaves and prints, and how it goes on."""

import io
import json
import os
import shutil
import signal
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import jaxft
import jaxft.arguments
from jaxft.config_file import read_config
from jaxft.errors import EXIT_MISTAKE, EXIT_STOPPED, run_command
from jaxft.sweep import main
from jaxft.sweeping import command, groups
from jaxft.sweeping.folder import read_members
from jaxft.sweeping.grid import in_words

pytestmark = pytest.mark.usefixtures("compiled_once")

FLAGS = (
    *("--arch", "resnet18", "--width", "16", "--weights", "demo", "--image-size", "32", "--batch-size", "8"),
    *("--freeze", "backbone", "--augment", "none", "--epochs", "2", "--devices", "1", "--seeds", "2"),
)
GRID = ("--lr", "1e-4,1e-2", "--momentum", "0.0,0.5,0.9")


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """Twelve noisy pictures of each of two classes; what there is to test on cannot be decoded."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("unseen")
    for name, colour in (("hot dogs", (140, 90, 60)), ("salad", (90, 110, 70))):
        for split in ("train", "val"):
            (folder / split / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.clip(np.array(colour) + rng.normal(0, 60, (48, 40, 3)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / "train" / name / f"{i}.jpg")
        (folder / "val" / name / "0.jpg").write_bytes(b"no image")
    return folder


def run(*arguments):
    return main([*map(str, arguments)])


@pytest.fixture(scope="module")
def finished(unseen, tmp_path_factory):
    """A finished sweep's folder, and what was printed."""
    out, printed = tmp_path_factory.mktemp("finished") / "sweep", io.StringIO()
    with redirect_stdout(printed):
        assert run("folder", "--data", unseen, *FLAGS, *GRID, "--out", out) == 0
    return out, printed.getvalue()


@pytest.fixture
def swept(finished, tmp_path):
    """A copy of that folder."""
    return Path(shutil.copytree(finished[0], tmp_path / "sweep"))


def lines(out):
    return (out / "members.jsonl").read_text().splitlines()


def without_averages(out):
    return {key: value for key, value in json.loads((out / "sweep.json").read_text()).items() if key != "averages"}


def test_a_sweep_leaves_its_results(finished, tmp_path):
    out, printed = finished
    content = json.loads((out / "sweep.json").read_text())
    assert len(lines(out)) == 12
    recipes = content["recipes"]
    assert len(recipes) == 6
    assert [row["accuracy"] for row in recipes] == sorted((row["accuracy"] for row in recipes), reverse=True)
    assert all(row["epochs"] == 2 and len(row["members"]) == 2 for row in recipes)
    best = read_config(out / "best.json")
    assert best.images.holdout == 0
    assert {"--lr": best.optim.lr, "--momentum": best.optim.momentum} == recipes[0]["flags"]
    _, arguments = jaxft.arguments.parse(["--config", str(out / "best.json"), "--out", str(tmp_path / "run")])
    assert arguments.config == best
    with PIL.Image.open(out / "sweep.png") as image:
        image.load()
        assert min(image.size) > 300
    assert (out / "sweep.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")
    assert "6 recipes, 2 seeds each, 2 epochs" in printed
    assert "20 images to train on, 4 held out to choose by; the test set is not looked at" in printed
    assert "means over 2 seeds, ± standard error" in printed
    assert f"best by the held-out images: {in_words(recipes[0]['flags'])}" in printed
    assert f"python -m jaxft.train --config {out / 'best.json'}" in printed
    for row in recipes:
        assert f"{row['accuracy']:.4f} ± {row['standard_error']:.4f}" in printed
    assert (out / "soup.safetensors").exists() == (content["averages"]["soup"]["members"] > 1)


@pytest.mark.slow
def test_the_best_recipe_trains_on_all_training_images(finished, photos, tmp_path):
    config = replace(read_config(finished[0] / "best.json"), data=str(photos))
    result = jaxft.fit(config, out=tmp_path / "run", verbose=False)
    assert [record.step for record in result.records if record.split == "test"] == [3, 6]  # 24 images by 8.


def test_a_soup_is_a_model(unseen, tmp_path, monkeypatch):
    """Whatever members it takes: a score that grows with each call has it take all."""
    calls = iter(range(1000))
    monkeypatch.setattr("jaxft.sweeping.choice.score", lambda *_: (next(calls) / 1000, -1.0))
    out = tmp_path / "sweep"
    assert run("folder", "--data", unseen, *FLAGS, *GRID, "--out", out) == 0
    model = jaxft.load(out / "soup.safetensors")
    assert model.class_names == ("hot dogs", "salad")
    assert model.predict([next((unseen / "train").rglob("*.jpg"))]).shape == (1, 2)


@pytest.fixture
def one_at_a_time(monkeypatch):
    monkeypatch.setattr(groups, "fitting", lambda *_, **__: (1, 1))


def test_a_sweep_goes_on_with_what_is_left(swept, monkeypatch):
    out = swept
    before, results = lines(out), without_averages(out)
    (out / "members.jsonl").write_text("\n".join(before[:-1]) + "\n" + before[-1][:20])
    trained = []

    def keep(folder, members, keep=command.append_members):
        trained.extend(members)
        keep(folder, members)

    monkeypatch.setattr(command, "append_members", keep)
    assert run("--resume", "--out", out) == 0
    last = json.loads(before[-1])
    assert [(each.recipe, each.seed) for each in trained] == [(last["recipe"], last["seed"])]
    assert lines(out)[:-1] == before[:-1]
    np.testing.assert_allclose(json.loads(lines(out)[-1])["epochs"], last["epochs"], rtol=1e-5)
    again = without_averages(out)
    assert [row["flags"] for row in again["recipes"]] == [row["flags"] for row in results["recipes"]]
    trained.clear()
    assert run("--resume", "--out", out) == 0
    assert not trained


def test_another_plan_is_refused(swept, capsys):
    out = swept

    def refused(message, *arguments):
        with pytest.raises(SystemExit) as ended:
            run_command(lambda: run(*arguments))
        assert ended.value.code == EXIT_MISTAKE
        assert message in capsys.readouterr().err

    refused("holds a sweep already. Pass --resume", "--out", out)
    refused("--epochs: 2 -> 3", "--resume", "--out", out, "--epochs", "3")
    refused("num_seeds: 2 -> 5", "--resume", "--out", out, "--seeds", "5")
    refused("grid: {'--lr'", "--resume", "--out", out, "--lr", "1,2")
    refused("halving: None -> 3", "--resume", "--out", out, "--halving", "3")
    (out / "sweep-plan.json").write_text("{}")
    refused("not the plan of a sweep", "--resume", "--out", out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_sweep_that_is_stopped_goes_on(unseen, tmp_path, monkeypatch, capsys, one_at_a_time, number):
    out, keep = tmp_path / "sweep", command.append_members
    flags = ("folder", "--data", unseen, *FLAGS, *GRID[:2], "--out", out)
    before = signal.getsignal(number)

    def stop(folder, members):
        keep(folder, members)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(command, "append_members", stop)
    assert run(*flags) == EXIT_STOPPED
    assert signal.getsignal(number) == before
    assert f"stopped; python -m jaxft.sweep --resume --out {out} goes on" in capsys.readouterr().out
    assert len(lines(out)) == 1
    assert not (out / "sweep.json").exists()
    monkeypatch.setattr(command, "append_members", keep)
    assert run("--resume", "--out", out) == 0
    assert run(*flags[:-2], "--out", tmp_path / "whole") == 0
    assert read_members(out) == read_members(tmp_path / "whole")
    assert without_averages(out) == without_averages(tmp_path / "whole")


def test_a_sweep_with_halving_is_told(unseen, tmp_path, capsys):
    out = tmp_path / "sweep"
    flags = ("folder", "--data", unseen, *FLAGS, "--lr", "1e-5:1e37:4", "--halving", "2", "--out", out)
    assert run(*flags, "--no-sync-bn") == 0
    printed = capsys.readouterr().out
    assert "--no-sync-bn changes nothing here: each member sees whole batches on one device" in printed
    assert "--parallel" not in printed
    rows = json.loads((out / "sweep.json").read_text(), parse_constant=pytest.fail)["recipes"]
    assert [row["epochs"] for row in rows] == [2, 2, 1, 1]
    assert "epochs" in printed


@pytest.mark.parametrize("num_known", [1, 2, 3])
def test_a_sweep_with_halving_goes_on_with_what_was_not_given_up(unseen, tmp_path, one_at_a_time, num_known):
    out = tmp_path / "sweep"
    flags = ("folder", "--data", unseen, *FLAGS, "--lr", "1e-5:1e-2:4", "--seeds", "1", "--halving", "2", "--out", out)
    assert run(*flags) == 0
    whole, before = read_members(out), lines(out)
    assert [len(member.epochs) for member in whole] == [1, 1, 2, 2]
    (out / "members.jsonl").write_text("\n".join(before[:num_known]) + "\n" + before[num_known][:20])
    assert run("--resume", "--out", out) == 0
    assert lines(out)[:num_known] == before[:num_known]
    again = read_members(out)
    assert [(each.recipe, len(each.epochs)) for each in again] == [(each.recipe, len(each.epochs)) for each in whole]
    for each, other in zip(again, whole, strict=True):
        np.testing.assert_allclose(each.epochs, other.epochs, rtol=1e-5)
