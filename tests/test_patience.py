"""What is held out of training, what it chooses, and runs that it ends early."""

import dataclasses
import json
import os
import shutil
import signal
from contextlib import closing
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import jaxft
from configs import DEMO
from jaxft.comparison.arms import configs_of, find_arms
from jaxft.config import Config, ImageConfig, OptimConfig, RegularConfig, StagesConfig
from jaxft.course import plan_course
from jaxft.data.batches import epoch_ends
from jaxft.data.folders import open_folder
from jaxft.data.kitchen import target_set
from jaxft.data.plan import Keep
from jaxft.data.prepare import load_data, make_feed, stores
from jaxft.data.resident import take, take_eval
from jaxft.data.sources import ArraySource, Splits, hold_out, with_held_out
from jaxft.errors import UserError
from jaxft.holdout import chosen, epochs_in_parts, out_of_patience, score
from jaxft.options import Options
from jaxft.records import Record
from jaxft.run_list import read_run
from jaxft.session import Result
from jaxft.training import fit
from marks import FULL
from reports import Page
from runs import records, same_model, without_speed

pytestmark = pytest.mark.usefixtures("compiled_once")

WAYS = ("resident", "mmap", "stream")
LAST = 14
"""The step that ends epoch 4 of 28 training images, eight an update."""


@cache
def splits() -> Splits:
    """Of 20 and 9 images of each class."""
    sets = []
    for split, num in (("train", 20), ("test", 9)):
        images, labels, names = target_set(split)
        rows = np.concatenate([np.flatnonzero(labels == label)[:num] for label in (0, 1)])
        sets.append(ArraySource(images[rows], labels[rows], names))
    return Splits(*sets)


def configured(patience: int | None = 2, *, regular: RegularConfig = RegularConfig(), **changes) -> Config:  # noqa: B008
    """A run that learns its 28 photographs by heart: on the others its loss is lowest after the fourth epoch."""
    images = ImageConfig(image_size=32, augment=("none",), holdout=0.3)
    regular = dataclasses.replace(regular, patience=patience)
    config = dataclasses.replace(DEMO, images=images, optim=OptimConfig(lr=1e-3), regular=regular, epochs=8)
    return dataclasses.replace(config, **({"batch_size": 8, "devices": 1, "precision": "float32"} | changes))


def ran(config: Config, out: Path, data: Splits | None = None, **arguments) -> Result:
    arguments = {"verbose": False, "options": Options(cache=False)} | arguments
    return fit(config, out=out, data=data or splits(), **arguments)


@pytest.fixture(scope="module")
def early(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("early") / "run"
    ran(configured(), out)
    return out


def ending_by(losses: list[float], patience: int) -> tuple[int, int]:
    """The epoch with the lowest loss and the one after which patience is at an end, both counted from 1."""
    best = 0
    for epoch in range(1, len(losses)):
        if losses[epoch] < losses[best]:
            best = epoch
        elif epoch - best == patience:
            return best + 1, epoch + 1
    return best + 1, len(losses)


def held_out_losses(out: Path) -> list[float]:
    return [record["loss"] for record in records(out) if record["split"] == "val"]


def assert_ended_early(out: Path, config: Config, tmp_path: Path) -> None:
    """By its records, and with the model of a run that ends where it was best."""
    whole = ran(dataclasses.replace(config, regular=dataclasses.replace(config.regular, patience=None)), tmp_path / "w")
    losses = [record.loss for record in whole.records if record.split == "val"]
    best, end = ending_by(losses, config.regular.patience or 0)
    assert best < end < config.epochs
    assert held_out_losses(out) == losses[:end]
    short = dataclasses.replace(config, epochs=best, regular=dataclasses.replace(config.regular, patience=None))
    ran(short, tmp_path / "short")
    assert same_model(out, tmp_path / "short")
    assert not same_model(out, tmp_path / "w")


# What is held out.


@pytest.mark.parametrize("way", WAYS)
def test_what_is_held_out_is_not_trained_on(way):
    """Each image is of one shade, which says which it is."""
    shades = np.arange(45, dtype=np.uint8)
    images = np.broadcast_to(shades[:, None, None, None], (45, 40, 40, 3))
    train = ArraySource(images[:40], np.repeat([0, 1, 2], [8, 12, 20]), ("a", "b", "c"))
    data = Splits(train, ArraySource(images[40:], np.array([0, 1, 2, 0, 1]), train.class_names))
    config = configured(batch_size=4, input=way)
    loaded = load_data(with_held_out(data, 0.3), config, Keep(None, 0), 10**9, lambda *_: None)
    feed, sets = make_feed(loaded, config, pytest.fail), stores(loaded)
    num_train = 40 - (2 + 4 + 6)
    with closing(feed.train(0)) as batches, closing(feed.val()) as val, closing(feed.test()) as test:
        trained, held_out, tested = list(islice(batches, 3 * num_train // 4)), list(val), list(test)
    if sets is not None:
        trained = [take(sets[0], batch) for batch in trained]
        held_out, tested = ([take_eval(sets[1], batch) for batch in each] for each in (held_out, tested))

    def seen(batches) -> list[tuple[int, int]]:
        """Shades and labels of the images that count."""
        found = [(batch.images[:, 0, 0, 0], batch.labels, getattr(batch, "weights", None)) for batch in batches]
        return [
            (int(shade), int(label))
            for shades, labels, weights in found
            for i, (shade, label) in enumerate(zip(shades, labels, strict=True))
            if weights is None or weights[i]
        ]

    assert sorted(seen(tested)) == [(40, 0), (41, 1), (42, 2), (43, 0), (44, 1)]
    assert np.bincount([label for _, label in seen(held_out)]).tolist() == [2, 4, 6]
    assert not set(seen(held_out)) & set(seen(trained))
    assert sorted(set(seen(trained))) == sorted(set(zip(range(40), train.labels, strict=True)) - set(seen(held_out)))
    assert len(seen(held_out)) == feed.num_val == loaded.num_val == 12
    assert len(seen(trained)) == 3 * feed.num_train


def test_without_a_holdout_nothing_is_apart():
    assert with_held_out(splits(), 0.0) is splits()


@pytest.mark.parametrize("way", ["resident", pytest.param("mmap", marks=pytest.mark.slow), "stream"])
def test_its_record_is_what_the_model_says_of_those_images(way, tmp_path):
    config = configured(patience=None, epochs=2, input=way)
    result = ran(config, tmp_path / "run")
    _, held_out = hold_out(splits().train, 0.3)
    rows = list(held_out.rows)
    images, labels = splits().train.images[rows], splits().train.labels[rows]
    for split, source in (("val", ArraySource(images, labels, held_out.class_names)), ("test", splits().test)):
        record = [each for each in result.records if each.split == split][-1]
        probabilities = jaxft.load(tmp_path / "run").predict(list(source.images))
        own = probabilities[np.arange(len(source)), source.labels].astype(np.float64)
        assert record.accuracy == (probabilities.argmax(1) == source.labels).mean()
        assert record.loss == pytest.approx(-np.log(own).mean(), rel=1e-4)
    assert [record.split for record in result.records if record.split != "train"] == ["val", "test"] * 2
    summary = result.summary or {}
    held = [record for record in result.records if record.split == "val"]
    assert (summary["val_accuracy"], summary["val_loss"], summary["chosen_epoch"]) == (
        held[-1].accuracy,
        held[-1].loss,
        2,
    )
    assert "stopped_by_patience" not in summary


def test_a_holdout_of_files_keeps_the_test_sets_cache(photos, tmp_path):
    kept = Keep(tmp_path / "cache", 10**9)
    config = configured()
    for fraction in (0.0, 0.3):
        data = with_held_out(open_folder(photos), fraction)
        load_data(data, config, kept, 10**9, lambda *_: None)
    assert len(list((tmp_path / "cache").glob("evalcrop-*.npy"))) == 2
    assert len(list((tmp_path / "cache").glob("canvas-*.npy"))) == 2


# The end, as a function of the records.


def told(*losses: float) -> list[Record]:
    """An epoch a loss, of five steps each, with the rest of its records."""
    found = []
    for epoch, loss in enumerate(losses, 1):
        found += [Record(5 * epoch, epoch, split, loss, 1 / (1 + loss), 1.0) for split in ("train", "val")]
        found.append(Record(5 * epoch, epoch, "test", 1 / loss, 0.5, 1.0))
    return found


@pytest.mark.parametrize(
    ("losses", "patience", "stages", "over"),
    [
        ((), 1, {}, False),
        ((3.0,), 1, {}, False),
        ((3.0, 2.0), 1, {}, False),
        ((3.0, 3.0), 1, {}, True),
        ((1.0, 2.0, 1.5), 2, {}, True),
        ((1.0, 2.0, 1.5), 3, {}, False),
        ((2.0, 3.0, 1.0, 2.0), 2, {}, False),
        ((1.0, 2.0, 3.0, 4.0), 2, {"head_epochs": 2}, True),
        ((1.0, 2.0, 3.0), 2, {"head_epochs": 2}, False),
        ((1.0, 2.0, 3.0, 2.5, 2.4), 2, {"unfreeze_epochs": 1}, False),
        ((1.0, 2.0, 3.0, 2.5, 2.4, 2.3), 2, {"unfreeze_epochs": 1}, True),
    ],
)
def test_epochs_in_a_row_that_do_not_lower_the_loss(losses, patience, stages, over):
    assert out_of_patience(told(*losses), configured(patience, stages=StagesConfig(**stages), epochs=9)) is over


def test_the_model_is_that_of_the_lowest_loss_the_earliest_of_equals():
    held = told(3.0, 1.0, 2.0, 1.0)
    assert chosen(held, configured(3)).epoch == 2  # pyright: ignore[reportOptionalMemberAccess]
    assert chosen(held, configured(None)).epoch == 4  # pyright: ignore[reportOptionalMemberAccess]
    assert chosen([each for each in held if each.split == "test"], configured(None)) is None


def test_the_best_is_by_what_is_held_out_or_else_by_the_test_set():
    assert score(told(3.0, 1.0)) == -1.0
    assert score([each for each in told(3.0, 1.0) if each.split != "val"]) == 0.5
    assert score([Record(1, 1.0, "test", 2.0, 0.25, 1.0)]) == 0.25


@pytest.mark.parametrize("freeze", ["none", "stem", "layer2", "layer3"])
@pytest.mark.parametrize(
    "stages", [{"head_epochs": 3}, {"unfreeze_epochs": 2}, {"head_epochs": 1, "unfreeze_epochs": 1}]
)
def test_patience_counts_from_where_all_trains(freeze, stages):
    config = configured(stages=StagesConfig(**stages), epochs=12)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, freeze=freeze))
    last = plan_course(config, 28).parts[-1]
    assert last.waiting == ()
    assert [0, *epoch_ends(28, 8, 12)][epochs_in_parts(config)] == last.first_step


# Runs that end early.


def test_a_run_ends_where_its_records_say_with_the_model_of_its_best_epoch(early, tmp_path):
    assert_ended_early(early, configured(), tmp_path)
    summary = json.loads((early / "summary.json").read_text())
    best, end = ending_by(held_out_losses(early), 2)
    assert best == 4  # Neither the first nor among the two newest.
    assert (summary["chosen_epoch"], summary["epochs"], summary["stopped_by_patience"]) == (best, end, 2)
    val, test = ([each for each in records(early) if each["split"] == split] for split in ("val", "test"))
    assert (summary["val_loss"], summary["val_accuracy"]) == (val[best - 1]["loss"], val[best - 1]["accuracy"])
    assert (summary["final_loss"], summary["final_accuracy"]) == (test[best - 1]["loss"], test[best - 1]["accuracy"])
    probabilities = jaxft.load(early).predict(list(splits().test.images))
    assert summary["final_accuracy"] == (probabilities.argmax(1) == splits().test.labels).mean()


def test_it_says_so(early, tmp_path, capsys):
    shutil.copytree(early, tmp_path / "run")
    ran(configured(), tmp_path / "run", verbose=True, resume=True)
    printed = " ".join(capsys.readouterr().out.split())
    assert "on 28 training, 12 held-out and 18 test images of 2 classes" in printed
    assert "ends where 2 epochs in a row have not lowered the held-out loss" in printed
    best, _ = ending_by(held_out_losses(early), 2)
    assert f"stopped early: the held-out loss was lowest after epoch {best}" in printed


def test_a_run_that_was_over_is_over_when_it_is_resumed(early, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(early, out)
    (out / "model.safetensors").unlink()
    again = ran(configured(), out, resume=True)
    assert again.summary is not None
    assert without_speed(out) == without_speed(early)
    assert same_model(out, early)


class CrashError(Exception):
    """In the middle of a run."""


@pytest.mark.parametrize(
    ("step", "split"),
    [
        pytest.param(5, "train", marks=pytest.mark.slow),
        (LAST, "val"),
        pytest.param(LAST + 2, "train", marks=pytest.mark.slow),
        (21, "test"),
    ],
)
def test_a_run_that_was_killed_ends_like_one_that_was_not(early, tmp_path, step, split):
    def crash(record: Record) -> None:
        if record.step >= step and record.split == split:
            raise CrashError

    out, options = tmp_path / "run", Options(cache=False, save_minutes=1e-9)
    with pytest.raises(CrashError):
        ran(configured(), out, options=options, callback=crash)
    ran(configured(), out, resume=True)
    assert without_speed(out) == without_speed(early)
    assert same_model(out, early)
    assert json.loads((out / "summary.json").read_text())["chosen_epoch"] == ending_by(held_out_losses(early), 2)[0]


def test_a_run_that_was_stopped_at_its_last_step_is_over(early, tmp_path):
    """And not to be resumed."""

    def stop(record: Record) -> None:
        if record.split == "train" and record.step == records(early)[-1]["step"]:
            os.kill(os.getpid(), signal.SIGTERM)

    result = ran(configured(), tmp_path / "run", callback=stop)
    assert result.summary is not None
    assert same_model(tmp_path / "run", early)


def test_more_patience_goes_on_from_there(early, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(early, out)
    with pytest.raises(UserError, match="--patience: 2 -> 9"):
        ran(configured(9), out, resume=True)
    forced = Options(cache=False, force=True, resume=True)
    less = configured(images=dataclasses.replace(configured().images, holdout=0.2))
    with pytest.raises(UserError, match=r"--holdout: 0.3 -> 0.2, and --patience chooses .* Leave the flag out"):
        ran(less, out, resume=True, options=forced)
    ran(configured(9), out, resume=True, options=forced)
    ran(configured(9), tmp_path / "whole")
    assert without_speed(out) == without_speed(tmp_path / "whole")
    assert same_model(out, tmp_path / "whole")


def test_the_best_checkpoint_that_is_not_there(early, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(early, out)
    shutil.rmtree(out / "checkpoints" / str(LAST))
    with pytest.raises(
        UserError, match=rf"checkpoints/{LAST}: the best checkpoint cannot be read .* with another --out"
    ):
        ran(configured(), out, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"input": "stream"},
        FULL({"parallel": "pmap", "devices": 2}),
        FULL({"devices": 2, "sync_bn": False}),
        {"regular": RegularConfig(ema=0.5)},
        {"model": dataclasses.replace(DEMO.model, freeze="layer3"), "parallel": "pmap", "devices": 2},
    ],
    ids=str,
)
def test_whatever_else_a_run_does(changes, tmp_path):
    config = configured(**changes)
    if "model" in changes:
        config = dataclasses.replace(config, optim=OptimConfig(lr=5e-2), epochs=12)
    ran(config, tmp_path / "run")
    assert_ended_early(tmp_path / "run", config, tmp_path)


# What else reads such a run.


def test_the_list_of_runs_has_it_finished(early, tmp_path):
    listed = read_run(early)
    assert (listed.state, listed.results.step, listed.steps) == ("finished", 21, 21)
    shutil.copytree(early, tmp_path / "run")
    config = json.loads((early / "config.json").read_text())
    config["regular"]["patience"] = 3
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    assert read_run(tmp_path / "run").state == "stopped"


def test_the_report_shows_it(early):
    page = Page((early / "report.html").read_text(encoding="utf-8"))
    assert "Chosen epoch 4" in page.text
    assert "held out" in page.text
    assert "Held-out loss" in page.text
    assert "At the end of its training the run counted" not in page.text


def test_a_comparison_has_as_many_epochs_for_each():
    with pytest.raises(UserError, match="--patience 2: what is compared trains for the same number of epochs"):
        configs_of(find_arms(("pretrained", "scratch")), configured())
