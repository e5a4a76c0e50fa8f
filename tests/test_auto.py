"""`--recipe auto`: what is tried, what is affordable, and that the best of it on the held-out images is chosen."""

from dataclasses import replace

import numpy as np
import pytest

import jaxft.command
from configs import preset
from jaxft.arguments import parse
from jaxft.config import Config
from jaxft.config_file import read_config, to_json, with_flags
from jaxft.data.kitchen import target_set
from jaxft.data.sources import ArraySource, Source, Splits
from jaxft.errors import UserError
from jaxft.options import Options
from jaxft.sweeping import auto
from jaxft.sweeping.auto import Choice, Stopwatch, Tried, affordable, choose_recipe, head_recipes, pick
from jaxft.sweeping.choice import Ranked
from jaxft.sweeping.fit_many import Sweep
from jaxft.train import main

NAMES = ("hot_dog", "not_hot_dog")
CONFIG = replace(preset("demo"), epochs=1, batch_size=16)


class Untouchable(Source):
    """A set that must not be read."""

    class_names = NAMES

    def __len__(self) -> int:
        return 4

    def read(self, i: int):
        raise AssertionError("the test set was read")


def some(each: int) -> ArraySource:
    images, labels, _ = target_set("train")
    rows = np.concatenate([np.flatnonzero(labels == label)[:each] for label in (0, 1)])
    return ArraySource(images[rows], labels[rows], NAMES)


def test_more_is_tried_the_more_time_there_is():
    assert affordable(10, 60, 3) == (3, 2)
    assert affordable(10, 59, 3) == (3, 1)
    assert affordable(10, 29, 3) == (1, 1)
    assert affordable(10, 9, 3) is None


def test_a_pass_is_timed_without_its_first_batch_and_alone(monkeypatch):
    times = iter([0.0, 10.0, 100.0, 101.0, 102.0])
    monkeypatch.setattr(auto.time, "monotonic", lambda: next(times))
    watch = Stopwatch(lambda *_: None)
    for done in (32, 64, 32, 64, 80):
        watch.progress("decoding", done, 80)
        watch.progress("computing training features", done, 80)
    assert watch.seconds_of_a_pass(96) == pytest.approx(2 / 48 * 96)


def test_of_what_accuracy_cannot_tell_apart_the_loss_decides():
    def tried(accuracy: float, loss: float) -> Tried:
        return Tried(CONFIG, {}, Ranked(0, (), 1, accuracy, None, loss))

    # Of 100 images, one standard error of 0.9 is 0.03.
    found = [tried(0.90, 1.5), tried(0.875, 0.4), tried(0.86, 0.1), tried(0.89, float("nan"))]
    assert pick(found, 100) is found[1]
    assert pick(found, 10) is found[2]
    assert pick(found[:1], 100) is found[0]


def test_a_schedule_of_ones_own_is_kept():
    own = replace(CONFIG, schedule=replace(CONFIG.schedule, schedule="linear"))
    assert len(head_recipes(CONFIG)) == 2 * len(head_recipes(own))
    assert not any("--schedule" in changes for changes in head_recipes(own))


@pytest.fixture
def tried(monkeypatch):
    """Sweeps that give every recipe with a certain value the best accuracy, without training."""
    asked, best = [], {"freeze": "none"}

    def fit_many(configs, *, seeds, hooks, **_):
        asked.append((configs[0].model.freeze, len(configs), len(seeds)))
        for done in (16, 32):
            hooks.progress("computing training features", done, 32)
        ranked = [
            Ranked(i, (), 1, 0.9 if config.model.freeze == best["freeze"] else 0.5, None, 0.1 * i)
            for i, config in enumerate(configs)
        ]
        return Sweep(sorted(ranked, key=lambda each: -each.accuracy), NAMES, None)

    monkeypatch.setattr(auto, "fit_many", fit_many)
    return asked, best


@pytest.mark.parametrize("freeze", ["backbone", "layer2", "none"])
def test_the_best_round_is_chosen(tried, freeze):
    asked, best = tried
    best["freeze"] = freeze
    choice = choose_recipe(CONFIG, 10, data=Splits(some(20), Untouchable()))
    assert [each for each, _, _ in asked] == ["backbone", "layer2", "none"]
    assert (choice.config.model.freeze, choice.accuracy) == (freeze, 0.9)
    assert f"--freeze {freeze}" in choice.flags


def test_few_images_leave_the_body_as_it_is(tried):
    said: list[str] = []
    choose_recipe(CONFIG, 10, data=Splits(some(9), Untouchable()), say=said.append)
    assert [each for each, _, _ in tried[0]] == ["backbone"]
    assert any("a class has 7 images to train on, fewer than 8" in line for line in said)


def test_a_small_budget_leaves_rounds_out(tried):
    said: list[str] = []
    choose_recipe(CONFIG, 1e-9, data=Splits(some(20), Untouchable()), say=said.append)
    assert [each for each, _, _ in tried[0]] == ["backbone"]
    assert sum("Pass a larger --budget" in line for line in said) == 2


@pytest.mark.slow
def test_a_recipe_is_found_without_the_test_set(tmp_path, monkeypatch):
    monkeypatch.setattr(auto, "PASSES", {"layer2": 2.0})
    said: list[str] = []
    config = replace(CONFIG, images=replace(CONFIG.images, image_size=32))
    options = Options(cache_dir=tmp_path)
    choice = choose_recipe(config, 100, data=Splits(some(20), Untouchable()), options=options, say=said.append)
    assert choice.config.epochs == config.epochs
    assert 0.5 <= choice.accuracy <= 1
    assert parse(["demo", *choice.flags.split()])[1].config.optim == choice.config.optim
    assert len([line for line in said if "held-out accuracy" in line]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights", "none"], "--weights none has nothing to"),
        (["--freeze", "layer1"], "--recipe auto with --freeze layer1: it says itself what is frozen"),
        (["--head-epochs", "1"], "--recipe auto with --head-epochs 1: it says itself what trains"),
    ],
)
def test_what_leaves_nothing_to_choose_is_refused(flags, message):
    with pytest.raises(UserError, match=message):
        choose_recipe(parse(["demo", *flags])[1].config, 1)


def test_a_run_of_a_found_recipe_is_carried_on_by_its_own_command(tmp_path, monkeypatch, capsys):
    words = ["demo", "--image-size", "32", "--epochs", "1", "--devices", "1", "--recipe", "auto"]
    words += ["--out", str(tmp_path / "run")]
    changes = {
        "--freeze": "backbone",
        "--augment": "none",
        "--lr": 0.05,
        "--schedule": "cosine",
        "--warmup-epochs": 0.5,
    }
    found: list[Config] = []

    def choose(config, *_, **__):
        found.append(with_flags(config, changes))
        return Choice(found[0], "--lr 0.05", 0.75, 0.5)

    monkeypatch.setattr(jaxft.command, "choose_recipe", choose)
    for words_too in ([], ["--resume"]):
        assert main([*words, *words_too]) == 0
        assert read_config(tmp_path / "run" / "config.json") == found[0]
    assert len(found) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "auto: chosen --lr 0.05 (held-out accuracy 0.7500, loss 0.5000): the lowest loss of what comes within"
        in printed
    )
    assert f"auto: the recipe is the one that {tmp_path / 'run'} has" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [(["demo", "--resume"], "--resume needs the run's folder"), (["demo", "--out", "{taken}"], "holds a run already")],
)
def test_a_folder_that_cannot_be_is_told_before_the_sweeps(words, message, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxft.command, "choose_recipe", lambda *_, **__: pytest.fail("a sweep began"))
    (tmp_path / "config.json").write_text(to_json(CONFIG))
    with pytest.raises(UserError, match=message):
        main([*(word.format(taken=tmp_path) for word in words), "--recipe", "auto"])


def test_a_budget_is_some_minutes(capsys):
    assert parse(["demo", "--recipe", "auto", "--budget", "2"])[1].finder.budget == 2
    with pytest.raises(SystemExit, match="2"):
        parse(["demo", "--recipe", "auto", "--budget", "0"])
    assert "--budget 0.0: must be more than 0 minutes" in capsys.readouterr().err
