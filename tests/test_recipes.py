"""Runs with every flag of README's "a better recipe": stopped anywhere and carried on, and what they tell."""

import json

import pytest

from jaxft.errors import EXIT_STOPPED
from test_faults import run, same_run, stop_after  # noqa: F401

pytestmark = pytest.mark.usefixtures("compiled_once")

RUN = ("--epochs", "4", "--batch-size", "100", "--image-size", "32", "--devices", "1")
RECIPE = (
    *("--schedule", "cosine", "--warmup-epochs", "0.5", "--layer-decay", "0.7", "--stage-lr-mult", "stem=0.1"),
    *("--head-epochs", "1", "--unfreeze-epochs", "1", "--batch-norm", "frozen-stats", "--no-decay-norms"),
    *("--l2-sp", "0.01", "--clip-norm", "1", "--label-smoothing", "0.1", "--dropout", "0.3", "--ema", "0.9"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe") / "run"
    assert run(*RUN, *RECIPE, "--out", out) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("records", [1, 4, 8])
def test_a_recipe_that_is_stopped_goes_on_to_the_same_end(whole, tmp_path, stop_after, records):  # noqa: F811
    out = tmp_path / "run"
    stop_after(records)
    assert run(*RUN, *RECIPE, "--out", out) == EXIT_STOPPED
    stop_after(0)
    assert run("--resume", "--out", out) == 0
    assert same_run(out, whole)


@pytest.mark.slow
def test_a_recipe_tells_what_it_does(whole, capsys):
    assert run("--resume", "--out", whole) == 0
    printed = capsys.readouterr().out
    assert "the head alone for 1 epoch, then as fast as the rest" in printed
    assert "stages join from layer4 down, one every epoch" in printed
    assert "learning rates: cosine after a warm-up of 0.5 epochs, in each part" in printed
    assert "0.0014" in printed  # layer3: 0.002 times 0.7.
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert "Learning rate, of the whole" in page
    assert "For 1 epoch the head alone" in page
    config = json.loads((whole / "config.json").read_text())
    assert config["stages"] == {"head_epochs": 1, "unfreeze_epochs": 1}
