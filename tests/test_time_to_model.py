"""benchmarks/time_to_model.py: both sides get the recipe that it names, and the command that it prints is one."""

import shlex
import sys
from pathlib import Path

import pytest
import torch
import torchvision
import tyro

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from configs import FOLDER
from jaxft.arguments import parse
from jaxft.config import differences
from time_to_model import Arguments, Case, Timed, Turn, command_words, report, shared_words, take_turn, words_of
from time_to_model_torch import loaders

ARGUMENTS = Arguments((Path("ants"), Path("hot dogs")), Path("w.pth"), head_flags=("cached-views=5", "augment=none"))


@pytest.mark.parametrize(
    ("mode", "flag", "changed"),
    [
        ("full", "", set()),
        ("layer2", "", {"--freeze"}),
        ("head", "cached-views=5", {"--freeze", "--cached-views"}),
        ("head", "augment=none", {"--freeze", "--augment"}),
    ],
)
def test_jaxft_trains_the_preset_but_for_what_a_row_says(mode, flag, changed):
    case = Case(Path("ants"), mode, flag)
    _, arguments = parse(["folder", *shared_words(ARGUMENTS, case), *words_of(case)])
    assert set(differences(FOLDER, arguments.config)) == {"--weights", *changed}


def test_without_augmentation_pytorch_trains_on_what_it_would_test_on(photos):
    train, test = loaders(photos, "none", 4)
    assert str(train.dataset.transform) == str(test.dataset.transform)  # pyright: ignore[reportAttributeAccessIssue]
    random, _ = loaders(photos, "random", 4)
    assert "RandomResizedCrop" in str(random.dataset.transform)  # pyright: ignore[reportAttributeAccessIssue]


def test_the_command_that_is_printed_is_one():
    assert tyro.cli(Arguments, args=shlex.split(command_words(ARGUMENTS))) == ARGUMENTS


def test_a_ratio_is_that_of_each_turn():
    turns = [Turn(Timed(8, 9, 0.5), Timed(torch, 17, 0.25), Timed(4, 5, 0.5)) for torch in (16, 8, 20)]
    lines = report(ARGUMENTS, {Case(Path("ants"), "head", "augment=none"): turns}).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ants")]
    assert [row[1:3] for row in rows] == [
        ["head only, `--augment none`", side] for side in ("PyTorch", "jaxft, empty cache folder", "jaxft, warm caches")
    ]
    assert [(row[4], row[6]) for row in rows] == [("1.00", "0.250"), ("2.00", "0.500"), ("4.00", "0.500")]


@pytest.mark.slow
def test_both_sides_save_a_model(photos, tmp_path):
    weights = tmp_path / "w.pth"
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    arguments = Arguments((photos,), weights, epochs=1, batch_size=8)
    turn = take_turn(arguments, Case(photos, "head", "augment=none"), tmp_path)
    assert turn.torch is not None
    for side in turn:
        assert 0 < side.model < side.whole
        assert 0 <= side.accuracy <= 1
    assert (tmp_path / "model.pth").stat().st_size > 40_000_000
