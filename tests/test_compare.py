"""The comparison as its users run it: the demo on small images, two arms and more, stopped, resumed and refused."""

import html
import json
import math
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import scipy.stats
from matplotlib.colors import to_rgb
from rich.console import Console

import jaxft
from configs import preset
from jaxft.compare import main
from jaxft.comparison.arguments import parse
from jaxft.comparison.arms import ARMS, configs_of
from jaxft.comparison.chance import difference
from jaxft.comparison.figure import STYLES, draw_comparison
from jaxft.comparison.page import run_cell
from jaxft.comparison.plan import Plan, make_trials
from jaxft.comparison.results import ArmResult, Curve, Spread, arm_result, points
from jaxft.comparison.series import check_trials
from jaxft.comparison.trials import Outcome, clock_of
from jaxft.config import Config, by_flag
from jaxft.data.kitchen import target_set
from jaxft.errors import UserError
from jaxft.records import Record
from marks import FULL
from runs import SMALL, ended, environment, finished, records, same_model, start, start_processes

FLAGS = ("--image-size", "32", "--batch-size", "50", "--epochs", "2")
ARM_NAMES = ("pretrained", "lp-ft")
TIMES = {"seconds_to_best", "wall_seconds", "images_per_second"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> tuple[Path, str]:
    """Two arms with two seeds, two epochs each: the folder, and what was printed."""
    out = tmp_path_factory.mktemp("compared") / "out"
    return out, finished(*FLAGS, "--arms", *ARM_NAMES, "--seeds", 2, "--out", out, command="compare")


def content(out: Path) -> dict[str, Any]:
    return json.loads((out / "compare.json").read_text())


def timeless(value: Any) -> Any:
    """JSON without what depends on the clock."""
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in TIMES}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [record for record in records(folder) if record["split"] == "test"]


def test_every_trial_is_a_run_of_its_own(compared):
    out, printed = compared
    for arm in ARM_NAMES:
        for seed in (0, 1):
            folder = out / arm / f"seed-{seed}"
            summary = json.loads((folder / "summary.json").read_text())
            assert f"{arm}, seed {seed}: test accuracy {evaluations(folder)[-1]['accuracy']:.4f}" in printed
            assert json.loads((folder / "config.json").read_text())["seed"] == seed
            assert "epoch 1/" in (folder / "log.txt").read_text()
            assert "epoch 1/" not in printed
            assert summary["final_accuracy"] == evaluations(folder)[-1]["accuracy"]
    assert len(re.findall(r"about \d+:\d\d left", printed)) == 3
    assert not (out / "config.json").exists()


def test_the_chapters_two_recipes():
    # As the hotdog preset's docstring has them: --weights none --lr 6.4e-2 --head-lr-mult 1.
    pretrained, scratch = configs_of([ARMS["pretrained"], ARMS["scratch"]], preset("hotdog")).values()
    assert pretrained == preset("hotdog")
    changes = {"--weights": "none", "--lr": pytest.approx(6.4e-2), "--head-lr-mult": 1}
    assert by_flag(scratch) == by_flag(pretrained) | changes


def test_probing_and_tuning_is_a_run_whose_head_trains_first(compared):
    out, _ = compared
    config = json.loads((out / "lp-ft/seed-0/config.json").read_text())
    assert config["stages"]["head_epochs"] == 1
    assert (config["model"]["freeze"], config["epochs"]) == ("none", 2)
    told = content(out)["arms"]["lp-ft"]["runs"][0]
    assert told["folder"] == "lp-ft/seed-0"
    assert [record["loss"] for record in told["records"]] == [
        record["loss"] for record in records(out / "lp-ft/seed-0")
    ]


def test_figures_are_means_and_standard_errors_of_what_the_runs_wrote(compared):
    out, printed = compared
    folders = [out / "pretrained" / f"seed-{seed}" for seed in (0, 1)]
    tests, told = [evaluations(folder) for folder in folders], content(out)["arms"]["pretrained"]
    expected = {
        "final_accuracy": [own[-1]["accuracy"] for own in tests],
        "final_loss": [own[-1]["loss"] for own in tests],
        "best_accuracy": [max(test["accuracy"] for test in own) for own in tests],
        "wall_seconds": [json.loads((folder / "summary.json").read_text())["wall_seconds"] for folder in folders],
    }
    for name, values in expected.items():
        assert told["figures"][name]["mean"] == pytest.approx(np.mean(values))
        assert told["figures"][name]["error"] == pytest.approx(scipy.stats.sem(values))
    mean, error = np.mean(expected["final_accuracy"]), scipy.stats.sem(expected["final_accuracy"])
    assert f"{mean:.4f} ± {error:.4f}" in printed
    losses = np.array([[r["loss"] for r in records(folder) if r["split"] == "train"] for folder in folders])
    np.testing.assert_allclose(told["curves"]["train loss"]["mean"], losses.mean(0))
    np.testing.assert_allclose(told["curves"]["train loss"]["error"], scipy.stats.sem(losses))
    assert told["curves"]["test accuracy"]["epochs"] == [1, 2]


def test_the_verdict_is_on_the_models_hits_on_the_test_images(compared):
    out, printed = compared
    verdict, images, labels = content(out)["verdict"], *target_set("test")[:2]
    hits = {
        arm: [jaxft.load(out / arm / f"seed-{seed}").predict(images).argmax(1) == labels for seed in (0, 1)]
        for arm in ARM_NAMES
    }
    for arm in ARM_NAMES:
        for seed in (0, 1):
            assert hits[arm][seed].mean() == evaluations(out / arm / f"seed-{seed}")[-1]["accuracy"]
    assert " ".join(verdict["sentence"].split()) in " ".join(printed.split())
    order = sorted(ARM_NAMES, key=lambda arm: -np.mean(hits[arm]))
    assert [pair["other"] for pair in verdict["pairs"]] == order[1:]
    for pair in verdict["pairs"]:
        found = difference(hits[pair["best"]], hits[pair["other"]], num_comparisons=1)
        assert pair["difference"] == pytest.approx(found._asdict())
    assert (verdict["winner"] is not None) == all(pair["difference"]["low"] > 1 for pair in verdict["pairs"])


def test_the_figure_is_there_and_has_the_arms_colours(compared):
    out, _ = compared
    with PIL.Image.open(out / "compare.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels == 255).all(1).mean() > 0.5
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (pixels == colour).all(1).sum() > 200
    assert (out / "compare.svg").read_text().lstrip().startswith("<?xml")


def test_the_page_says_the_same_and_leads_to_the_runs_reports(compared):
    out, _ = compared
    page = (out / "compare.html").read_text(encoding="utf-8")
    text = html.unescape(" ".join(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(style|script).*?</\1>", "", page)).split()))
    told = content(out)
    assert told["verdict"]["sentence"] in text
    for name in ARM_NAMES:
        figures = told["arms"][name]["figures"]
        mean, error = (f"{100 * value:.2f}" for value in figures["final_accuracy"].values())
        assert f"{mean} % ± {error} %" in text.replace("\u00a0", " ")
    links = re.findall(r'href="([^"]+)"', page)
    assert links[0] == "data:,"
    assert [out / link for link in links[1:]] == [
        out / arm / f"seed-{seed}/report.html" for seed in (0, 1) for arm in ARM_NAMES
    ]
    assert all((out / link).exists() for link in links[1:])
    assert "//" not in re.sub(r"(?s)<(style|script).*?</\1>", "", page)


def test_the_page_leads_to_no_report_that_is_not_there(tmp_path):
    there, away = outcome(0, [0.5]), outcome(1, [0.75])
    report = tmp_path / there.trial.folder.relative_to("out") / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("")
    cells = []
    for each in (there, away):
        folder = tmp_path / each.trial.folder.relative_to("out")
        cells.append(run_cell(each._replace(trial=each.trial._replace(folder=folder)), tmp_path))
    assert cells == [(0.5, "pretrained/seed-0/report.html"), (0.75, None)]


def test_resuming_passes_over_what_has_ended_and_takes_more_seeds_and_arms(compared, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(compared[0], out)
    models = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    printed = finished("--resume", "--out", out, "--arms", "pretrained", "head", "--seeds", 1, command="compare")
    assert "pretrained, seed 0: there already" in printed
    assert "head, seed 0: test accuracy" in printed
    assert "lp-ft" not in printed
    assert {path: path.stat().st_mtime_ns for path in models} == models
    assert list(content(out)["arms"]) == ["pretrained", "head"]
    assert "another seed may tell otherwise" in " ".join(printed.split())
    # And what it was is remembered.
    assert json.loads((out / "plan.json").read_text())["arms"] == ["pretrained", "head"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [FULL(signal.SIGTERM), signal.SIGKILL])
def test_a_comparison_that_was_stopped_goes_on_to_the_same_end(compared, tmp_path, number):
    out = tmp_path / "out"
    process = start(*FLAGS, "--arms", *ARM_NAMES, "--seeds", 2, "--out", out, command="compare")
    going_on = out / "lp-ft/seed-0/metrics.jsonl"
    while process.poll() is None and not (going_on.exists() and going_on.read_text()):
        time.sleep(0.02)
    process.send_signal(number)
    printed = ended(process, 75 if number != signal.SIGKILL else -signal.SIGKILL)
    assert not (out / "compare.json").exists()
    if number != signal.SIGKILL:
        assert f"python -m jaxft.compare --resume --out {out} goes on" in printed
    printed = finished("--resume", "--out", out, command="compare")
    assert printed.count("there already") == 1
    ours, theirs = (timeless(content(folder)) for folder in (out, compared[0]))
    assert ours == theirs
    for arm in ARM_NAMES:
        assert same_model(out / arm / "seed-1", compared[0] / arm / "seed-1")


def test_a_signal_between_two_runs_stops_too(compared, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(compared[0], out)
    (out / "compare.json").unlink()
    process = start("--resume", "--out", out, "--seeds", 3, command="compare")
    assert process.stdout is not None
    assert any("lp-ft, seed 1: there already" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    assert "stopped; python -m jaxft.compare --resume --out" in ended(process, 75)
    assert not (out / "compare.json").exists()


@pytest.mark.slow
def test_a_seed_that_diverges_is_told_and_the_others_go_on(tmp_path):
    flags = (
        "--arms",
        "pretrained",
        "scratch",
        "--seeds",
        1,
        "--lr",
        "1e4",
        "--head-lr-mult",
        "1e-6",
        "--out",
        tmp_path / "out",
    )
    printed = finished(*FLAGS, *flags, command="compare", status=3)
    told = content(tmp_path / "out")
    assert any(told["arms"][arm]["diverged"] for arm in ("pretrained", "scratch"))
    for arm in ("pretrained", "scratch"):
        for seed, why in told["arms"][arm]["diverged"].items():
            assert f"{arm}, seed {seed}: {why}" in printed
            assert "non-finite at step" in why
    assert "1 of 1" in printed
    assert "No verdict" in printed


@pytest.mark.slow
def test_two_processes_compare_as_one(tmp_path):
    flags = (*FLAGS, "--seeds", 1, "--arms", "head", "lp-ft")
    whole, out = tmp_path / "whole", tmp_path / "out"
    finished(*flags, "--out", whole, command="compare", env=environment(2))
    printed = [ended(each) for each in start_processes(2, 1, *flags, "--out", out, command="compare")]
    assert "lp-ft, seed 0: test accuracy" in printed[0]
    assert "seed" not in printed[1]
    for arm in ("head", "lp-ft"):
        ours, theirs = (evaluations(folder / arm / "seed-0") for folder in (out, whole))
        assert [test["accuracy"] for test in ours] == [test["accuracy"] for test in theirs]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "pretrained", "scrach"], "--arms scrach: no such arm. Did you mean scratch?"),
        (["--arms", "pretrained", "zzz"], "Arms are pretrained, scratch, head, layer2, lp-ft, reuse."),
        (["--arms", "head"], "--arms head: there is nothing to compare. Name at least two"),
        (["--arms", "head", "head"], "is there twice"),
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--freeze", "layer1", "--arms", "pretrained", "head"], "head: --freeze layer1: this arm says itself"),
        (["--freeze", "backbone", "--arms", "pretrained", "lp-ft"], "lp-ft: --freeze backbone: this arm trains more"),
        (["--weights", "none"], "pretrained: --weights none: this arm needs pretrained weights. Leave it out"),
        (["--arms", "pretrained", "lp-ft", "--epochs", "1"], "lp-ft: --epochs 1: this arm has two parts"),
        (["--head", "reuse", "--arms", "pretrained", "reuse"], "reuse and pretrained would be the same runs"),
        (["--resume"], "--resume needs the run's folder"),
        (["--force"], "--force goes with --resume"),
        (["--seed", "4294967295"], "--seed 4294967296: must lie in 0 to 4294967295"),
        (["demoo"], "demoo: no such preset. Did you mean demo?"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_runs(tmp_path, capsys, arguments, message):
    out = [] if "--resume" in arguments else ["--out", str(tmp_path / "out")]
    with pytest.raises((UserError, SystemExit)) as told:
        main([*arguments, *out, "--devices", "1"])
    assert message in f"{told.value} {' '.join(capsys.readouterr().err.replace('│', ' ').split())}"
    assert not (tmp_path / "out").exists()


def test_arms_that_the_weights_do_not_allow(photos, tmp_path):
    other, out = tmp_path / "other", tmp_path / "out"
    for split in ("train", "val"):
        shutil.copytree(photos / split / "salad", other / split / "tractors")
        shutil.copytree(photos / split / "hot dogs", other / split / "moons")
    flags = ["folder", "--data", str(other), *SMALL, "--devices", "1", "--out", str(out)]
    with pytest.raises(UserError, match="reuse: --head reuse: demo knows none of moons, tractors"):
        main([*flags, "--arms", "pretrained", "reuse"])
    with pytest.raises(UserError, match="scratch: --freeze layer1 with --weights none would freeze random layers"):
        main([*flags, "--freeze", "layer1"])
    # One class that is known is enough.
    (other / "train/moons").rename(other / "train/hot dogs")
    (other / "val/moons").rename(other / "val/hot dogs")
    _, arguments = parse([*flags, "--arms", "pretrained", "reuse"])
    trials = make_trials(Plan("folder", arguments.config, arguments.comparison.arms, 1), out)
    check_trials(trials, arguments.options, 1, Console(quiet=True))
    assert not out.exists()


def test_folders_that_are_taken(compared, tmp_path):
    out, _ = compared
    flags = ["--devices", "1", *FLAGS]
    with pytest.raises(UserError, match="holds a comparison already. Pass --resume"):
        main([*flags, "--out", str(out)])
    with pytest.raises(UserError, match="holds a run, and no comparison"):
        main([*flags, "--out", str(out / "pretrained/seed-0")])
    with pytest.raises(UserError, match="holds no run. Pass a preset"):
        main(["--resume", "--out", str(tmp_path / "none")])
    with pytest.raises(UserError, match=r"(?s)started with another config.*--lr: 0.002 -> 0.5"):
        main(["--resume", "--out", str(out), "--lr", "0.5"])
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "plan.json").write_text('{"preset": "demo"}')
    with pytest.raises(UserError, match="plan.json: not the plan of a comparison"):
        main(["--resume", "--out", str(broken)])


@pytest.mark.parametrize("name", [name for name in ARMS if name != "scratch"])
@pytest.mark.parametrize("epochs", [2, 3, 15])
def test_every_arm_has_the_same_budget(name, epochs):
    (config,) = configs_of([ARMS[name]], Config(epochs=epochs)).values()
    assert config.epochs == epochs
    assert config.stages.head_epochs == (epochs // 2 if name == "lp-ft" else 0)


def test_arms_take_turns():
    trials = make_trials(Plan("demo", Config(seed=5), ("pretrained", "scratch"), 2), Path("out"))
    assert [(trial.arm, trial.seed) for trial in trials] == [
        ("pretrained", 5), ("scratch", 5), ("pretrained", 6), ("scratch", 6)
    ]  # fmt: skip
    assert trials[3].folder == Path("out/scratch/seed-6")


def record(step: int, split: str, accuracy: float = 0.5, rate: float = 10.0) -> Record:
    return Record(step, step / 4, split, 1 - accuracy, accuracy, rate)


def test_seconds_to_the_best_are_those_of_training_and_testing():
    # 4 steps of 8 images at 16 a second, 20 test images at 10 a second; 4 steps at 32 a second, and the test again.
    trained = [record(2, "train", rate=16), record(4, "train", rate=16)]
    own = [*trained, record(4, "test"), record(8, "train", rate=32), record(8, "test")]
    assert clock_of(own, images_per_step=8, num_test=20) == [1, 2, 4, 5, 7]


def outcome(seed: int, accuracies: list[float]) -> Outcome:
    trial = make_trials(Plan("demo", Config(seed=seed), ("pretrained", "scratch"), 1), Path("out"))[0]
    own = [record(4 * i + 4, split, a) for i, a in enumerate(accuracies) for split in ("train", "test")]
    return Outcome(trial, own, list(range(1, len(own) + 1)), 30.0, {}, np.array([True, False]))


def test_the_first_of_equally_good_epochs_is_the_best():
    found = arm_result(outcome(0, [0.5]).trial, [outcome(0, [0.5, 0.9, 0.9]), outcome(1, [0.5, 0.6, 0.7])], {})
    assert found.figures["best_accuracy"].mean == pytest.approx(0.8)
    assert found.figures["best_epoch"].mean == 2.5
    assert found.figures["seconds_to_best"] == Spread(5.0, 1.0)


def test_many_epochs_have_a_training_point_each():
    own = [record(1, "train", 0.2), record(4, "train", 0.6), record(4, "test")]
    own += [record(step, split) for step in (8, 12) for split in ("train", "test")]
    assert points(own, "train", "accuracy") == {1: pytest.approx(0.5), 2: 0.5, 3: 0.5}
    assert points(own[:3], "train", "accuracy") == {0.25: 0.2, 1: 0.6}


@pytest.mark.parametrize("num_arms", [0, 2, 6])
@pytest.mark.parametrize("num_epochs", [1, 30])
def test_the_figure_of_any_number_of_arms_and_epochs(tmp_path, num_arms, num_epochs):
    epochs = list(range(1, num_epochs + 1))
    arms = []
    for i, name in enumerate(list(ARMS)[:num_arms]):
        accuracy = Curve(epochs, [0.9 - 0.1 * i - 0.3 / epoch for epoch in epochs], [0.02] * num_epochs)
        loss = Curve(epochs, [3.0 / epoch + i for epoch in epochs], None)
        curves = {"train loss": loss, "train accuracy": accuracy, "test accuracy": accuracy}
        arms.append(ArmResult(name, outcome(0, [0.5]).trial, [], {}, {"final_accuracy": Spread(0.5, math.pi)}, curves))
    draw_comparison(arms, "a_1 $x_1$", [tmp_path / "f.png"])
    with PIL.Image.open(tmp_path / "f.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    below_the_legend = pixels[len(pixels) // 3 :]
    for colour, _ in STYLES[:num_arms]:
        assert (below_the_legend == [round(255 * each) for each in to_rgb(colour)]).all(-1).sum() > 20


def test_help_names_the_arms_and_the_flags():
    printed = " ".join(finished("--help", command="compare").split())
    for word in ("--arms", "--seeds", "lp-ft", "--lr", "--freeze", "--resume", "runs/compare-PRESET-DATE-TIME"):
        assert word in printed
