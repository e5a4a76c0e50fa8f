"""benchmarks/recipes.py: what its recipes change, and its table against NumPy."""

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from configs import FOLDER
from jaxft.arguments import parse
from jaxft.config import differences
from recipes import PRESET, RECIPES, Finished, rows


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_preset_with_its_flags_changed(name):
    _, arguments = parse(["folder", *shlex.split(RECIPES[name])])
    flags = {word for word in shlex.split(RECIPES[name]) if word.startswith("--")} - {"--recipe", "--budget"}
    assert (arguments.finder.recipe == "auto") == ("--recipe" in RECIPES[name])
    assert set(differences(FOLDER, arguments.config)) == flags
    assert bool(flags) == (name not in (PRESET, "auto"))


def test_no_two_recipes_are_one():
    found = [parse(["folder", *shlex.split(flags)])[1] for flags in RECIPES.values()]
    assert len({(each.config, each.finder) for each in found}) == len(RECIPES)


def test_the_table_pairs_each_seed_with_the_presets():
    accuracies = {PRESET: [0.80, 0.90, 0.82], "head-first": [0.83, 0.92, 0.86]}
    losses = {PRESET: [0.5, 0.3, 0.4], "head-first": [0.45, 0.31, 0.30]}
    done = {
        name: [Finished(accuracy, loss, "here") for accuracy, loss in zip(accuracies[name], losses[name], strict=True)]
        for name in accuracies
    }

    def figures(values, form):
        mean, error = np.mean(values), np.sqrt(np.sum((values - np.mean(values)) ** 2) / 2 / 3)
        return f"{mean:{form}} ± {error:.4f}"

    base, other = rows(done)
    assert base == [
        *(PRESET, "", figures(accuracies[PRESET], ".4f"), "", figures(losses[PRESET], ".4f"), ""),
        "0.800 0.900 0.820",
    ]
    assert other == [
        *("head-first", "`--head-epochs 1`"),
        *(figures(accuracies["head-first"], ".4f"), "+0.0300 ± 0.0058"),
        *(figures(losses["head-first"], ".4f"), figures(np.subtract(losses["head-first"], losses[PRESET]), "+.4f")),
        "0.830 0.920 0.860",
    ]
