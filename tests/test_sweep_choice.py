"""The order of a sweep's recipes, and its averages of weights and of predictions."""

import math

import numpy as np
import pytest
from scipy.special import softmax

from jaxft.sweeping.choice import ensemble, rank, soup
from jaxft.sweeping.folder import Epoch, Member
from jaxft.sweeping.series import Trained


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
