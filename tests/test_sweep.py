"""Many recipes as one program: each member is the run alone, and what is ranked, averaged, kept and told."""

import io
import json
import math
import os
import shutil
import signal
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from scipy.special import softmax
from test_faults import compiled_once  # noqa: F401

import jaxft
import jaxft.arguments
from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig, RegularConfig, ScheduleConfig, StagesConfig
from jaxft.config_file import read_config
from jaxft.data import kitchen
from jaxft.data.sources import ArraySource, Splits, hold_out
from jaxft.errors import EXIT_MISTAKE, EXIT_STOPPED, UserError, run_command
from jaxft.sweep import main
from jaxft.sweeping import command, groups
from jaxft.sweeping.arguments import parse
from jaxft.sweeping.choice import ensemble, rank, soup
from jaxft.sweeping.figure import flag_across
from jaxft.sweeping.fit_many import HOLDOUT, Hooks, fit_many
from jaxft.sweeping.folder import Epoch, Member, read_members
from jaxft.sweeping.grid import in_words, parse_values, recipes_of, take_grid
from jaxft.sweeping.groups import structures
from jaxft.sweeping.series import Trained, rungs

NAMES = ("hot dog", "anything else")
SMALL = Config(
    data="posters",
    model=ModelConfig(width=16, weights="demo"),
    images=ImageConfig(image_size=32),
    optim=OptimConfig(lr=2e-3),
    epochs=2,
    batch_size=16,
    devices=1,
)
HEAD = replace(
    SMALL,
    model=replace(SMALL.model, freeze="backbone"),
    images=ImageConfig(image_size=32, augment=("none",)),
)
"""Trains on kept features."""
RATES = (1e-3, 3e-2)
TOO_FAST = 1e37
"""Ten times that, the head's own, is nearly the largest number that there is."""
FULL = (
    OptimConfig(lr=2e-3),
    OptimConfig(lr=4e-3, momentum=0.5, weight_decay=1e-2, l2_sp=0.1, layer_decay=0.5),
    OptimConfig(lr=1e-3, momentum=0.0, clip_norm=0.5, head_lr_mult=1.0),
)
SMOOTHING = (0.0, 0.2, 0.0)
COURSE = replace(
    SMALL,
    schedule=ScheduleConfig(schedule="cosine", warmup_epochs=0.5),
    stages=StagesConfig(head_epochs=1),
    regular=RegularConfig(ema=0.8),
)


def with_rate(config: Config, lr: float) -> Config:
    return replace(config, optim=replace(config.optim, lr=lr))


class Untouchable:
    """A test set that nobody may look at."""

    class_names = NAMES

    def __len__(self) -> int:
        return 4

    def read(self, i):
        raise AssertionError("the test set was looked at")


@pytest.fixture(scope="module")
def posters():
    """Twenty of each class of the demo's, as arrays."""
    images, labels, _ = kitchen.target_set("train")
    rows = np.concatenate([np.flatnonzero(labels == label)[:20] for label in (0, 1)])
    return ArraySource(images[rows], labels[rows], NAMES)


@pytest.fixture(scope="module")
def sweep(posters):
    """Sweeps on them."""

    def run(configs, seeds, **more):
        return fit_many(configs, seeds=seeds, data=Splits(posters, Untouchable()), **more)

    return run


@pytest.fixture(scope="module")
def alone(posters, tmp_path_factory):
    """Held-out loss and accuracy, epoch by epoch, of the run of one config and seed."""

    def run(config, seed):
        data = Splits(*hold_out(posters, HOLDOUT))
        out = tmp_path_factory.mktemp("alone") / "run"
        result = jaxft.fit(replace(config, seed=seed), out=out, data=data, verbose=False)
        return np.array([(record.loss, record.accuracy) for record in result.records if record.split == "test"])

    return run


@pytest.fixture(scope="module")
def heads(sweep):
    """Two rates and one at which the head diverges, two seeds: one program."""
    return sweep([with_rate(HEAD, lr) for lr in (RATES[0], TOO_FAST, RATES[1])], (3, 4))


def by_member(sweep) -> dict[tuple[int, int], np.ndarray]:
    """Held-out loss and accuracy, epoch by epoch, of each recipe and seed."""
    return {
        (member.recipe, member.seed): np.array([(epoch.loss, epoch.accuracy) for epoch in member.epochs])
        for each in sweep.ranked
        for member in each.members
    }


def same(found, expected):
    assert found.keys() == expected.keys()
    for member in found:
        np.testing.assert_allclose(found[member], expected[member], rtol=1e-5, atol=1e-5, err_msg=str(member))


# Each member is the run alone.


def test_a_head_is_the_run_alone(heads, alone):
    found = {member: curve for member, curve in by_member(heads).items() if member[0] != 1}
    same(found, {(recipe, seed): alone(with_rate(HEAD, RATES[recipe // 2]), seed) for recipe, seed in found})


def test_one_that_diverges_comes_last_and_is_in_no_average(heads):
    assert [each.recipe for each in heads.ranked][-1] == 1
    assert math.isnan(heads.ranked[-1].loss)
    assert all(math.isfinite(each.loss) for each in heads.ranked[:-1])
    chosen = {member.recipe for each in (heads.averages.soup, heads.averages.ensemble) for member in each.members}
    assert 1 not in chosen


@pytest.mark.slow
def test_a_whole_network_is_the_run_alone(sweep, alone, monkeypatch):
    monkeypatch.setattr(groups, "fitting", lambda *_, **__: (2, 3))
    configs = [
        replace(SMALL, optim=optim, regular=RegularConfig(label_smoothing=smoothing))
        for optim, smoothing in zip(FULL, SMOOTHING, strict=True)
    ]
    assert len(list(structures(configs, (0, 1)))) == 1
    found = by_member(sweep(configs, (0, 1)))
    some = {member: found[member] for member in ((0, 0), (1, 1), (2, 0))}
    same(some, {(recipe, seed): alone(configs[recipe], seed) for recipe, seed in some})


@pytest.mark.slow
def test_a_course_of_several_parts_is_the_run_alone(sweep, alone, monkeypatch):
    monkeypatch.setattr(groups, "fitting", lambda *_, **__: (2, 2))
    configs = [with_rate(COURSE, lr) for lr in (1e-3, 4e-3)]
    found = by_member(sweep(configs, (0, 1)))
    some = {member: found[member] for member in ((0, 1), (1, 0))}
    same(some, {(recipe, seed): alone(configs[recipe], seed) for recipe, seed in some})


def test_four_devices_train_as_one_does(sweep):
    configs = [with_rate(HEAD, lr) for lr in (1e-3, 2e-3, 4e-3, 8e-3, 3e-2)]
    one, four = sweep(configs, (0, 1)), sweep([replace(config, devices=4) for config in configs], (0, 1))
    same(by_member(four), by_member(one))
    assert [each.recipe for each in four.ranked] == [each.recipe for each in one.ranked]


@pytest.mark.slow
def test_two_devices_train_whole_networks_as_one_does(sweep):
    configs = [with_rate(SMALL, lr) for lr in (1e-3, 2e-3, 4e-3)]
    one, two = sweep(configs, (0,)), sweep([replace(config, devices=2) for config in configs], (0,))
    same(by_member(two), by_member(one))


# Halving.


@pytest.mark.parametrize(
    ("num_epochs", "num_recipes", "halving", "expected"),
    [
        (9, 9, 3, [(1, 3), (3, 1), (9, 1)]),
        (27, 9, 3, [(3, 3), (9, 1), (27, 1)]),
        (10, 8, 2, [(1, 4), (2, 2), (5, 1), (10, 1)]),
        (4, 5, 2, [(1, 3), (2, 2), (4, 2)]),
        (5, 1, 3, [(5, 1)]),
        (1, 9, 3, [(1, 9)]),
    ],
)
def test_rungs(num_epochs, num_recipes, halving, expected):
    assert rungs(num_epochs, num_recipes, halving) == expected


@pytest.mark.parametrize("at_once", [None, (1, 2)], ids=["at once", "in chunks"])
def test_halving_leaves_the_figures_of_what_survives(sweep, monkeypatch, at_once):
    if at_once is not None:
        monkeypatch.setattr(groups, "fitting", lambda *_, **__: at_once)
    configs = [with_rate(replace(HEAD, epochs=4), lr) for lr in (1e-5, 3e-2, 1e-4, 1e-2)]
    whole, halved = sweep(configs, (0, 1)), sweep(configs, (0, 1), halving=2)
    expected = by_member(whole)
    found = by_member(halved)
    same(found, {member: curve[: len(found[member])] for member, curve in expected.items()})
    assert [each.num_epochs for each in halved.ranked] == [4, 2, 1, 1]
    assert [each.given_up for each in halved.ranked] == [False, True, True, True]
    after_one = sorted(range(4), key=lambda i: tuple(np.mean([expected[i, s][0] for s in (0, 1)], 0)[::-1] * (1, -1)))
    assert {each.recipe for each in halved.ranked[2:]} == set(after_one[:2])
    best = {member.recipe for member in halved.averages.ensemble.members}
    assert best == {halved.ranked[0].recipe}


# The grid.


def test_values_are_lists_or_ranges():
    assert parse_values("--lr", "0,1e-4,2") == [0, 1e-4, 2]
    assert parse_values("--freeze", "none,layer2") == ["none", "layer2"]
    assert parse_values("--clip-norm", "None,0.5") == [None, 0.5]
    assert parse_values("--lr", "1e-4:1e-1:4") == [1e-4, 1e-3, 1e-2, 1e-1]
    assert parse_values("--lr", "1:1e-2:3") == [1, 0.1, 0.01]
    np.testing.assert_allclose(parse_values("--lr", "1e-3:2e-3:3"), [1e-3, 1.414e-3, 2e-3], rtol=1e-12)


@pytest.mark.parametrize("text", ["1e-4:1e-1", "0:1:3", "1e-4:1e-1:1", "1:1:3", "a:b:3", "1e-4:1e-1:2.5", "1:inf:3"])
def test_no_range(text):
    with pytest.raises(UserError, match=f"--lr {text}: no range. Write FROM:TO:HOW_MANY"):
        parse_values("--lr", text)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--lr", "1e-4,1e-4"), r"--lr 1e-4,1e-4: no value may be there twice"),
        (("--freeze", "none,layer9"), r"layer9"),
        (("--momentum", "0,fast"), r"momentum must be float, not 'fast'"),
        (("--holdout", "0.1,0.2"), "--holdout: all recipes are chosen by the same images"),
        (("--patience", "2", "--holdout", "0.1"), "--patience: a sweep trains every recipe for as many epochs"),
        (("--on-nonfinite", "skip"), "--on-nonfinite skip: a recipe that diverges is ranked last"),
    ],
)
def test_mistakes_are_told(flags, message, tmp_path):
    with pytest.raises(UserError, match=message):
        main([*flags, "--out", str(tmp_path / "sweep")])


@pytest.mark.parametrize(
    ("flags", "message"),
    [(("--seeds", "0"), "--seeds 0: must be at least 1"), (("--halving", "1"), "--halving 1: must be at least 2")],
)
def test_mistakes_on_the_command_line_are_told(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == EXIT_MISTAKE
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_recipes_are_all_combinations():
    grid, words = take_grid(["folder", "--lr=1e-3,1e-2", "--epochs", "3", "--freeze", "none,layer2", "--seed", "1"])
    assert words == ["folder", "--epochs", "3", "--seed", "1"]
    assert grid == {"--lr": [1e-3, 1e-2], "--freeze": ["none", "layer2"]}
    recipes = [(config.optim.lr, config.model.freeze) for config in recipes_of(Config(), dict(sorted(grid.items())))]
    assert recipes == [(1e-3, "none"), (1e-2, "none"), (1e-3, "layer2"), (1e-2, "layer2")]


def test_without_lists_rates_around_the_presets_are_tried():
    plan, _ = parse(["demo", "--lr", "0.01"])
    np.testing.assert_allclose(plan.grid["--lr"], [1e-3, 3.162e-3, 1e-2, 3.162e-2, 1e-1])
    assert (plan.preset, plan.num_seeds, plan.halving, list(plan.seeds)) == ("demo", 3, None, [0, 1, 2])


def test_what_shares_a_program():
    grid = {
        "--freeze": ["none", "layer2"],
        "--optimizer": ["sgd", "adamw"],
        "--lr": [1e-3, 1e-2],
        "--label-smoothing": [0.0, 0.1],
    }
    configs = recipes_of(Config(), grid)
    found = [places for places, seeds in structures(configs, (0, 1)) if seeds == (0, 1)]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    numbers = {
        "--momentum": [0.0, 0.9],
        "--weight-decay": [0.0, 0.1],
        "--clip-norm": [None, 1.0],
        "--l2-sp": [0.0, 0.1],
        "--layer-decay": [0.5, 1.0],
    }
    assert len(list(structures(recipes_of(Config(), numbers), (0,)))) == 1
    for flag in ("--batch-size", "--epochs", "--image-size", "--dropout", "--warmup-epochs"):
        (values,) = ([64, 96],) if flag != "--dropout" else ([0.1, 0.2],)
        assert len(list(structures(recipes_of(Config(epochs=200), {flag: values}), (0,)))) == 2, flag
    views = replace(HEAD, images=ImageConfig(cached_views=2))  # Drawn by the seed.
    assert list(structures([views], (0, 1))) == [([0], [0]), ([0], [1])]


# Choice.


def member(recipe, seed, *figures):
    return Member(recipe, seed, [Epoch(1.0, loss, accuracy) for loss, accuracy in figures])


def test_rank_is_by_mean_accuracy_then_loss_with_what_was_given_up_behind():
    members = [
        *(member(0, seed, (0.9, 0.5), (0.3, accuracy)) for seed, accuracy in enumerate((0.7, 0.9))),
        *(member(1, seed, (0.9, 0.5), (0.2, 0.8)) for seed in (0, 1)),
        *(member(2, seed, (0.1, 1.0)) for seed in (0, 1)),
        *(member(3, seed, (0.9, 0.5), (loss, 0.99)) for seed, loss in enumerate((0.1, math.nan))),
    ]
    ranked = rank(members)
    assert [each.recipe for each in ranked] == [1, 0, 3, 2]
    assert ranked[1].accuracy == pytest.approx(0.8)
    assert ranked[1].error == pytest.approx(np.std([0.7, 0.9], ddof=1) / np.sqrt(2))
    assert ranked[0].error == 0
    assert [each.given_up for each in ranked] == [False, False, False, True]
    assert rank(members[4:5])[0].error is None
    # One that has fewer epochs of its own was not given up.
    assert [each.recipe for each in rank(members, [2, 2, 1, 2])] == [2, 1, 0, 3]


def linear(seed, recipe=0, scale=1.0):
    rng = np.random.default_rng([seed, recipe])
    weights = {"kernel": rng.normal(0, scale, (5, 3)), "bias": rng.normal(0, scale, 3)}
    return {name: leaf.astype(np.float32) for name, leaf in weights.items()}


FEATURES = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
LABELS = (FEATURES @ linear(9)["kernel"]).argmax(1)


def logits_of(variables):
    return FEATURES @ variables["kernel"] + variables["bias"]


def predict(variables):
    return softmax(logits_of(variables), 1)


def figures_of(logits):
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return float((logits.argmax(1) == LABELS).mean()), float(-log[np.arange(len(LABELS)), LABELS].mean())


def made_up(seeds):
    """Members near the truth, the best first."""
    found = []
    for recipe, seed in enumerate(seeds):
        variables = {name: linear(9)[name] * (name == "kernel") + linear(1, recipe)[name] for name in linear(0)}
        accuracy, loss = figures_of(logits_of(variables))
        found.append(Trained(member(recipe, seed, (loss, accuracy)), variables))
    return sorted(found, key=lambda each: each.member.score, reverse=True)


def greedy(best):
    """The members that a soup or an ensemble of linear members takes, by plain NumPy: both average the logits."""
    chosen = [best[0]]
    score = (figures_of(logits_of(best[0].variables))[0], -figures_of(logits_of(best[0].variables))[1])
    for each in best[1:]:
        accuracy, loss = figures_of(np.mean([logits_of(one.variables) for one in [*chosen, each]], 0))
        if (accuracy, -loss) > score:
            chosen, score = [*chosen, each], (accuracy, -loss)
    return [each.member for each in chosen], score[0], -score[1]


def test_of_linear_heads_the_mean_of_weights_is_the_mean_of_logits():
    best = made_up([0] * 6)
    of_soup, variables = soup(best, predict, LABELS)
    of_ensemble = ensemble(best, predict, LABELS)
    members, accuracy, loss = greedy(best)
    assert 1 < len(members) < 6
    for average in (of_soup, of_ensemble):
        assert average.members == members
        np.testing.assert_allclose((average.accuracy, average.loss), (accuracy, loss), rtol=1e-5)
    mean = {name: np.mean([best[_place(best, one)].variables[name] for one in members], 0) for name in variables}
    for name, leaf in mean.items():
        np.testing.assert_allclose(variables[name], leaf, rtol=1e-6, atol=1e-7)


def _place(best, one):
    return [each.member for each in best].index(one)


def test_a_soup_takes_members_that_begin_alike():
    second = greedy(made_up([0] * 6))[0][1].recipe  # Taken as long as its seed does not count.
    best = made_up([int(recipe == second) for recipe in range(6)])
    assert {one.seed for one in greedy(best)[0]} == {0, 1}
    of_soup, _ = soup(best, predict, LABELS)
    assert {one.seed for one in of_soup.members} == {best[0].member.seed}
    assert of_soup.members == greedy([each for each in best if each.member.seed == best[0].member.seed])[0]
    assert ensemble(best, predict, LABELS).members == greedy(best)[0]


def test_an_average_that_is_no_better_is_left():
    best = made_up([0])
    worse = {name: -leaf for name, leaf in best[0].variables.items()}
    both = [*best, Trained(member(1, 0, (9.0, 0.1)), worse)]
    of_soup, variables = soup(both, predict, LABELS)
    assert of_soup.members == ensemble(both, predict, LABELS).members == [best[0].member]
    assert variables is best[0].variables


def test_a_sweeps_averages_are_on_the_held_out_images(heads):
    best, of_soup, of_ensemble, _ = heads.averages
    last = best.epochs[-1]
    assert best.score == max(one.score for each in heads.ranked[:-1] for one in each.members)
    for average in (of_soup, of_ensemble):
        assert average.members[0] == best
        if len(average.members) == 1:
            assert (average.accuracy, average.loss) == pytest.approx((last.accuracy, last.loss), rel=1e-4)
        assert (average.accuracy, -average.loss) >= (last.accuracy, -last.loss - 1e-5)


def test_the_figure_is_across_numbers():
    assert flag_across({"--freeze": ["a", "b", "c"], "--lr": [1, 2], "--momentum": [0, 0.5, 0.9]}) == "--momentum"
    assert flag_across({"--freeze": ["a", "b", "c"]}) == ""


# The command.

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


def test_hooks_hear_of_everything(sweep):
    said, epochs, ended = [], [], []
    sweep([HEAD], (0, 1), hooks=Hooks(said.append, lambda *_: None, epochs.append, ended.extend))
    assert any("32 images to train on, 8 held out" in line for line in said)
    assert sum(epochs) == 2 * HEAD.epochs
    assert [(each.recipe, each.seed) for each in ended] == [(0, 0), (0, 1)]


def test_known_members_are_not_trained_anew(sweep):
    known = [member(0, seed, (0.5, 0.75), (0.25, 0.875)) for seed in (0, 1)]
    found = sweep([HEAD, with_rate(HEAD, 0.1)], (0, 1), known=known)
    assert by_member(found).keys() == {(i, s) for i in (0, 1) for s in (0, 1)}
    assert next(each for each in found.ranked if each.recipe == 0).accuracy == 0.875
    assert found.averages is None
