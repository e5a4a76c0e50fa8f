"""The recipes of a sweep: what its lists and ranges say, which are refused, and which share a program."""

import numpy as np
import pytest

from jaxft.config import Config, ImageConfig, ModelConfig
from jaxft.errors import EXIT_MISTAKE, UserError
from jaxft.sweep import main
from jaxft.sweeping.arguments import parse
from jaxft.sweeping.figure import flag_across
from jaxft.sweeping.grid import parse_values, recipes_of, take_grid
from jaxft.sweeping.groups import structures


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
    views = Config(model=ModelConfig(freeze="backbone"), images=ImageConfig(cached_views=2))  # Drawn by the seed.
    assert list(structures([views], (0, 1))) == [([0], [0]), ([0], [1])]


def test_the_figure_is_across_numbers():
    assert flag_across({"--freeze": ["a", "b", "c"], "--lr": [1, 2], "--momentum": [0, 0.5, 0.9]}) == "--momentum"
    assert flag_across({"--freeze": ["a", "b", "c"]}) == ""
