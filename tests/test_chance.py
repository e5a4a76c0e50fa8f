"""The verdict's statistics, against other ways to the same numbers and against what chance does in a simulation."""

import math

import numpy as np
import pytest
import scipy.stats

from jaxft.comparison.chance import crossed, difference, log_odds, resampled
from jaxft.comparison.verdict import judge, shortened


def hits(num_right: int, num: int = 200) -> np.ndarray:
    return np.arange(num) < num_right


def draw(rng: np.random.Generator, num_seeds: int, num_images: int, lead: float, seed_sd: float) -> list[np.ndarray]:
    """Hits of two arms that share the images' difficulty; `lead` and the seeds' spread are on the scale of it."""
    hard, arms = rng.normal(1.5, 1.5, num_images), []
    for k in range(2):
        own = hard + rng.normal(0, 0.5, num_images) + (lead if k == 0 else 0)
        seeds = rng.normal(0, seed_sd, (num_seeds, 1))
        arms.append(own + seeds + rng.normal(0, 1, (num_seeds, num_images)) > 0)
    return arms


def test_one_seed_is_the_paired_delta_method_of_two_proportions():
    # Of 98 images and Bonett and Price's two: 61 both hit, 20 the first alone, 7 the second alone, 12 neither.
    a = np.repeat([True, True, False, False], [61, 19, 6, 12])
    b = np.repeat([True, False, True, False], [61, 19, 6, 12])
    found = difference([a], [b])
    p, q, both = 81 / 100, 68 / 100, 61 / 100
    variance = 1 / (p * (1 - p)) + 1 / (q * (1 - q)) - 2 * (both - p * q) / (p * (1 - p) * q * (1 - q))
    assert math.log(found.odds_ratio) == pytest.approx(math.log(p / (1 - p)) - math.log(q / (1 - q)))
    assert found.log_error == pytest.approx(math.sqrt(variance / 99))  # ddof 1
    assert found.accuracy == pytest.approx(13 / 98)
    assert found.df == 99
    # As sure as McNemar's exact test of 19 against 6.
    assert found.p == pytest.approx(scipy.stats.binomtest(6, 25).pvalue, abs=0.012)
    low, high = np.log([found.low, found.high])
    assert (low + high) / 2 == pytest.approx(math.log(found.odds_ratio))
    assert (high - low) / 2 == pytest.approx(found.log_error * scipy.stats.t.ppf(0.975, 99))


def test_several_seeds_are_a_two_way_analysis_of_variance():
    rng = np.random.default_rng(0)
    table = rng.normal(0, 3, (4, 1)) + rng.normal(0, 2, 30) + rng.normal(0, 1, (4, 30))
    found = crossed(table)
    # The mean squares by projection, in another order of things.
    rows, columns = np.kron(np.eye(4), np.ones((30, 1))), np.kron(np.ones((4, 1)), np.eye(30))
    flat = table.reshape(-1)

    def squares(design: np.ndarray) -> float:
        fitted = design @ np.linalg.lstsq(design, flat, rcond=None)[0]
        return float(((fitted - flat.mean()) ** 2).sum())

    seeds, images = squares(rows), squares(columns)
    rest = float(((flat - flat.mean()) ** 2).sum()) - seeds - images
    ms, mi, mr = seeds / 3, images / 29, rest / 87
    assert min(ms, mi) > mr
    total = ms + mi - mr
    assert found.mean == pytest.approx(table.mean())
    assert found.error == pytest.approx(math.sqrt(total / 120))
    assert found.df == pytest.approx(total**2 / (ms**2 / 3 + mi**2 / 29 + mr**2 / 87))


def test_no_component_of_the_variance_is_below_nothing():
    # The seeds' means are equal to the last digit, and so are the images': all the variance is the rest's.
    table = np.array([[1.0, -1.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.0]])
    assert crossed(table).error == pytest.approx(math.sqrt(4 / 3 / 8))


def test_the_log_odds_of_each_image_have_the_mean_and_the_variance_of_the_whole():
    values = log_odds(hits(150))
    assert values.mean() == pytest.approx(math.log(3))
    assert values.var() / 200 == pytest.approx(1 / 150 + 1 / 50)


def test_seeds_with_test_images_of_their_own_are_nadeau_and_bengios():
    rng = np.random.default_rng(1)
    rows = [rng.normal(mean, 0.1, 50) for mean in (0.3, 0.5, 0.9)]
    means = [row.mean() for row in rows]
    found = resampled(rows, 0.25)
    assert found.error == pytest.approx(np.std(means, ddof=1) * math.sqrt(1 / 3 + 0.25))
    assert (found.mean, found.df) == (pytest.approx(np.mean(means)), 2)
    # Without the overlap it is the t test of the seeds' means.
    plain = resampled(rows, 0.0)
    t = scipy.stats.ttest_1samp(means, 0)
    assert plain.mean / plain.error == pytest.approx(t.statistic)
    # Means that happen to be equal do not make the images' chance go away.
    same = [rng.permutation(rows[0]) for _ in range(3)]
    assert resampled(same, 0.0).error == pytest.approx(rows[0].std(ddof=1) / math.sqrt(50 * 3))


def test_the_order_of_the_arms_and_a_ratio_of_one():
    rng = np.random.default_rng(2)
    a, b = draw(rng, 3, 100, 0.5, 0.2)
    there, back = difference(list(a), list(b)), difference(list(b), list(a))
    assert there.accuracy == pytest.approx(-back.accuracy)
    assert there.odds_ratio == pytest.approx(1 / back.odds_ratio)
    assert (there.low, there.p) == (pytest.approx(1 / back.high), pytest.approx(back.p))
    equal = difference(list(a), list(a))
    assert (equal.accuracy, equal.odds_ratio, equal.p) == (0, pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize("right", [0, 1, 5])
def test_perfect_and_hopeless_arms_have_finite_odds(right):
    for num_seeds in (1, 2):
        found = difference([hits(5, 5)] * num_seeds, [hits(right, 5)] * num_seeds)
        assert np.isfinite(found).all()
        assert found.low < found.odds_ratio < found.high


@pytest.mark.parametrize(("num_seeds", "seed_sd"), [(3, 0.0), (3, 0.5), (5, 0.5), (8, 0.2)])
def test_chance_alone_is_rarely_taken_for_more(num_seeds, seed_sd):
    rng, num = np.random.default_rng(3), 600
    p = [difference(*map(list, draw(rng, num_seeds, 100, 0.0, seed_sd))).p for _ in range(num)]
    wrong = int(np.sum(np.array(p) < 0.05))
    # Of 600, more than 46 would be rarer than 1 in 300 at a rate of 0.05.
    assert wrong <= scipy.stats.binom.ppf(0.997, num, 0.05)


def test_a_real_lead_is_found_although_one_arm_scatters():
    rng, num = np.random.default_rng(4), 200
    p = [difference(*map(list, draw(rng, 5, 200, 1.6, 0.4))).p for _ in range(num)]
    assert np.mean(np.array(p) < 0.05) > 0.9


def arm(*rights: int) -> dict[int, np.ndarray]:
    """An arm's hits, as many of 200 with each seed from 0 on."""
    return {seed: hits(right) for seed, right in enumerate(rights)}


def test_a_clear_win():
    found = judge({"scratch": arm(150, 120, 160), "pretrained": arm(190, 185, 192)}, None)
    assert found.winner == "pretrained"
    assert found.sentence.startswith(
        "pretrained wins: test accuracy 0.945 against 0.717 of scratch, 0.228 more, the odds"
    )
    assert found.sentence.endswith("more than chance.")
    assert "3 seeds and of 200 test images" in found.method
    assert "Bonferroni" not in found.method


def test_a_tie():
    found = judge({"a": arm(150, 152, 151), "b": arm(151, 150, 152)}, None)
    assert found.winner is None
    assert found.sentence.startswith("No clear winner: a has test accuracy 0.755 and b 0.755")
    assert found.sentence.endswith("that may be chance.")


def test_one_seed_sees_the_images_alone():
    found = judge({"a": arm(190), "b": arm(150)}, 0.25)
    assert found.winner == "a"
    assert "another seed may tell otherwise" in found.method


def test_of_several_arms_the_winner_is_better_than_each():
    arms = {"worst": arm(100, 105, 98), "best": arm(190, 185, 192), "next": arm(150, 155, 149)}
    found = judge(arms, None)
    assert found.winner == "best"
    assert "against 0.757 of next" in found.sentence
    assert "against each of the others" in found.sentence
    assert [pair.other for pair in found.pairs] == ["next", "worst"]
    # Two chances to be wrong: the pairs alone are surer.
    alone = difference([hits(n) for n in (190, 185, 192)], [hits(n) for n in (150, 155, 149)])
    assert found.pairs[0].difference.p == pytest.approx(2 * alone.p)
    assert found.pairs[0].difference.low < alone.low
    near = judge(arms | {"near": arm(189, 184, 192)}, None)
    assert near.winner is None
    assert "and near 0.9" in near.sentence
    assert near.sentence.endswith("that may be chance. Worse than best by more than chance: next, worst.")


def test_an_arm_without_a_seed_in_common_keeps_the_best_from_winning():
    arms = {"a": arm(190, 188), "b": arm(120, 125), "c": {7: hits(100)}}
    assert judge(arms, None).winner is None
    assert judge({"a": arm(190)}, None).sentence.startswith("No verdict")
    assert judge({}, None).sentence.startswith("No verdict")


def test_test_sets_of_each_seeds_own_are_said():
    found = judge({"a": arm(190, 188), "b": arm(120, 125)}, 0.25)
    assert "Nadeau and Bengio" in found.method
    assert "1 degree of" in found.method


def test_ratios_in_words():
    assert [shortened(x) for x in (0.001, 0.5, 3.456, 12.3, 1e9)] == ["under 0.01", "0.50", "3.46", "12", "over 1,000"]
