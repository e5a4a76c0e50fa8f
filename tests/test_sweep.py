"""Many recipes as one program: each member is the run alone, also where recipes are given up on the way."""

import math
from dataclasses import replace

import numpy as np
import pytest

import jaxft
from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig, RegularConfig, ScheduleConfig, StagesConfig
from jaxft.data import kitchen
from jaxft.data.sources import ArraySource, Splits, hold_out
from jaxft.sweeping import groups
from jaxft.sweeping.fit_many import HOLDOUT, Hooks, fit_many
from jaxft.sweeping.folder import Epoch, Member
from jaxft.sweeping.groups import structures
from jaxft.sweeping.series import rungs

pytestmark = pytest.mark.usefixtures("compiled_once")

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


def test_a_sweeps_averages_are_on_the_held_out_images(heads):
    best, of_soup, of_ensemble, _ = heads.averages
    last = best.epochs[-1]
    assert best.score == max(one.score for each in heads.ranked[:-1] for one in each.members)
    for average in (of_soup, of_ensemble):
        assert average.members[0] == best
        if len(average.members) == 1:
            assert (average.accuracy, average.loss) == pytest.approx((last.accuracy, last.loss), rel=1e-4)
        assert (average.accuracy, -average.loss) >= (last.accuracy, -last.loss - 1e-5)


def test_hooks_hear_of_everything(sweep):
    said, epochs, ended = [], [], []
    sweep([HEAD], (0, 1), hooks=Hooks(said.append, lambda *_: None, epochs.append, ended.extend))
    assert any("32 images to train on, 8 held out" in line for line in said)
    assert sum(epochs) == 2 * HEAD.epochs
    assert [(each.recipe, each.seed) for each in ended] == [(0, 0), (0, 1)]


def test_known_members_are_not_trained_anew(sweep):
    known = [Member(0, seed, [Epoch(1.0, 0.5, 0.75), Epoch(1.0, 0.25, 0.875)]) for seed in (0, 1)]
    found = sweep([HEAD, with_rate(HEAD, 0.1)], (0, 1), known=known)
    assert by_member(found).keys() == {(i, s) for i in (0, 1) for s in (0, 1)}
    assert next(each for each in found.ranked if each.recipe == 0).accuracy == 0.875
    assert found.averages is None
