"""The range test: rates and losses against computations by hand, what it suggests, and the command as users run it."""

import shlex
import signal
from dataclasses import replace
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import jaxft
from jaxft import arguments
from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig, ScheduleConfig, StagesConfig, by_flag
from jaxft.console import Display, Terminal
from jaxft.course import Part
from jaxft.data import kitchen
from jaxft.data.augment import make_augment
from jaxft.data.batches import shuffled_order
from jaxft.data.sources import ArraySource, Splits
from jaxft.errors import UserError
from jaxft.frozen import train_features
from jaxft.lrfind import main
from jaxft.optim_config import STAGES
from jaxft.options import Options
from jaxft.parallel import all_devices
from jaxft.range_test.arguments import words_of_run
from jaxft.range_test.curve import Curve, has_diverged, read_curve
from jaxft.range_test.figure import draw_range_test
from jaxft.range_test.finder import check_alone, course_under, rising, sweep, untested
from jaxft.range_test.ramp import Ramp
from jaxft.step import Metrics
from jaxft.training import Opened, open_run, open_sources
from runs import ended, finished, same_bits, start

DECAY, MOMENTUM, BATCH = 0.01, 0.9, 16
SMALL = Config(
    data="posters",
    model=ModelConfig(width=16, weights="demo", freeze="layer2"),
    images=ImageConfig(image_size=32, augment=("flip",)),
    optim=OptimConfig(weight_decay=DECAY, momentum=MOMENTUM, head_lr_mult=3, layer_decay=0.5),
    batch_size=BATCH,
    devices=1,
    input="mmap",
)
HEAD = replace(SMALL, model=replace(SMALL.model, freeze="backbone"), images=ImageConfig(32, augment=("none",)))
FLAGS = ("--image-size", "32", "--freeze", "backbone", "--augment", "none", "--devices", "1", "--steps", "20")
RAMP = Ramp(1e-5, 3e-3, 10)
SILENT = lambda *_: None  # noqa: E731


@pytest.fixture(scope="module")
def posters() -> Splits:
    """A part of the demo's posters; those to test on cannot be read."""
    images, labels, names = kitchen.target_set("train")

    class Unread:
        class_names = names

        def __len__(self):
            return 40

        def read(self, i):
            raise AssertionError("a range test reads no test image")

    return Splits(ArraySource(images[:48], labels[:48], names), Unread(), ())


def opened(config: Config, ramp: Ramp, splits: Splits) -> Opened:
    """What a range test of these images opens."""

    config, options, devices = replace(config, optim=replace(config.optim, lr=ramp.lr_to)), Options(), all_devices(1)
    splits, pretrained = open_sources(config, options, splits, 1)
    with Display(Terminal(quiet=True), 1) as display:
        return open_run(config, options, untested(splits), pretrained, devices, display, course_under(ramp))


@pytest.fixture(scope="module")
def head(posters) -> Opened:
    """A test of the head alone, on one device."""
    return opened(HEAD, RAMP, posters)


@pytest.mark.parametrize("ramp", [Ramp(), Ramp(1e-8, 10.0, 1000), Ramp(1e-3, 2e-3, 10)])
def test_the_rate_at_each_update_is_the_closed_form(ramp):
    expected = np.geomspace(ramp.lr_from, ramp.lr_to, ramp.steps)
    np.testing.assert_allclose(ramp.rates(), expected, rtol=1e-12)
    factors = [float(rising(ramp)(jnp.int32(t))) for t in range(0, ramp.steps, ramp.steps // 10)]
    np.testing.assert_allclose(factors, expected[:: ramp.steps // 10] / ramp.lr_to, rtol=1e-5)


def test_the_losses_of_a_head_are_those_of_numpy(head):
    run, feed = head.run, head.feed
    assert run.frozen is not None
    assert feed.once is not None
    store = train_features(run, run.frozen, feed.once, feed.num_train, SILENT)
    features, labels = np.asarray(store.images, np.float64), np.asarray(store.labels)
    weights = {name: np.asarray(leaf, np.float64) for name, leaf in run.state.params["fc"].items()}
    momentum = {name: np.zeros_like(leaf) for name, leaf in weights.items()}
    order, expected = shuffled_order(len(labels), BATCH, HEAD.seed), []
    for t, rate in enumerate(np.geomspace(RAMP.lr_from, RAMP.lr_to, RAMP.steps)):
        x, y = features[order(t)], np.eye(2)[labels[order(t)]]
        logits = x @ weights["kernel"] + weights["bias"]
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        expected.append(-(y * np.log(probabilities)).sum(1).mean())
        error = (probabilities - y) / BATCH
        for name, gradient in (("kernel", x.T @ error), ("bias", error.sum(0))):
            momentum[name] = MOMENTUM * momentum[name] + gradient + DECAY * weights[name]
            weights[name] = weights[name] - 3 * rate * momentum[name]
    losses = sweep(run, feed, RAMP, SILENT)
    assert max(expected) > 1.1 * min(expected)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-6)


def test_the_losses_of_a_network_are_those_of_plain_steps_and_the_state_stays(posters):
    _, _, _, feed, run = opened(SMALL, RAMP, posters)
    before = jax.tree.map(np.array, run.state)
    augment = make_augment(("flip",), 32, "short")
    multipliers = {stage: 0.5 ** (len(STAGES) - 1 - i) for i, stage in enumerate(STAGES)} | {"head": 3.0, "frozen": 0.0}

    @jax.jit
    def step(params, stats, momentum, batch, key, rate):
        def loss_of(params):
            images = augment(key, batch).images
            variables = {"params": params, "batch_stats": stats}
            model = run.model.clone(axis_name=None)
            logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
            own = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.labels[:, None], 1)
            return -own.mean(), updated["batch_stats"]

        (loss, stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        momentum = jax.tree.map(lambda m, g, p: MOMENTUM * m + g + DECAY * p, momentum, gradients, params)
        params = jax.tree.map(lambda p, m, label: p - rate * multipliers[label] * m, params, momentum, run.labels)
        return params, stats, momentum, loss

    params, stats = jax.tree.map(jnp.array, (before.params, before.batch_stats))
    momentum, expected = jax.tree.map(jnp.zeros_like, params), []
    rates = np.geomspace(RAMP.lr_from, RAMP.lr_to, RAMP.steps)
    for t, (batch, rate) in enumerate(zip(islice(feed.train(0), RAMP.steps), rates, strict=True)):
        params, stats, momentum, loss = step(params, stats, momentum, batch, jax.random.fold_in(run.key, t), rate)
        expected.append(float(loss))
    losses = sweep(run, feed, RAMP, SILENT)
    np.testing.assert_allclose(losses, expected, rtol=2e-3)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: same_bits(np.array(a), b), run.state, before)))
    assert sweep(run, feed, RAMP, SILENT) == losses


def test_the_library_gives_the_same_and_reads_no_test_image(head, posters, capsys):
    curve = jaxft.find_lr(HEAD, data=posters, verbose=False, **vars(RAMP))
    assert capsys.readouterr() == ("", "")
    assert curve.losses.tolist() == sweep(head.run, head.feed, RAMP, SILENT)
    np.testing.assert_array_equal(curve.rates, RAMP.rates())


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_two_devices_are_as_one(head, posters, parallel):
    config = replace(HEAD, devices=2, parallel=parallel)
    two = jaxft.find_lr(config, data=posters, verbose=False, **vars(RAMP)).losses
    np.testing.assert_allclose(two, sweep(head.run, head.feed, RAMP, SILENT), rtol=1e-4, atol=1e-6)


def test_a_network_that_falls_apart_ends_the_test_early(head):
    def step(state, batch, key):
        return state, Metrics(next(losses), jnp.float32(0))

    told = []
    run = head.run._replace(train_step=step, frozen=None)
    for after, number in (([np.nan], 40), ([np.inf], 40), ([9.0] * 60, 60)):
        losses = iter([jnp.float32(loss) for loss in [1.0] * 20 + [0.5] * 20 + after])
        found = sweep(run, head.feed, Ramp(), lambda *seen: told.append(seen))
        assert found[:40] == [1.0] * 20 + [0.5] * 20
        assert 40 <= len(found) <= number
        assert np.isfinite(found).all()
    assert told[0] == ("trying learning rates", 1, 100)


def test_an_explosion_at_once_is_no_curve(head, posters, monkeypatch):
    monkeypatch.setattr("jaxft.range_test.finder.open_run", lambda *_: head)
    monkeypatch.setattr("jaxft.range_test.finder.sweep", lambda *_: [1.0, 9.0])
    with pytest.raises(UserError, match=r"--lr-from 1: the loss explodes within 3 updates.* smaller --lr-from"):
        jaxft.find_lr(HEAD, data=posters, lr_from=1.0, lr_to=2.0, verbose=False)


def test_when_a_test_ends():
    calm = np.array([1.0] * 20 + [0.15] * 30)
    assert not has_diverged(calm, 100)
    assert not has_diverged(np.append(calm, 40.0), 100)  # One batch is no end; of four times the first it has a fifth.
    assert not has_diverged(np.append(calm, [0.9] * 50), 200)  # Not above where it began.
    assert has_diverged(np.append(calm, [2.0] * 20), 100)
    assert has_diverged(np.append(calm, np.nan), 100)
    assert has_diverged(np.append(calm, np.inf), 100)


def valley(middle: float, half_width: float, ramp: Ramp, noise: float = 0.0, seed: int = 0) -> list[float]:
    """Losses that fall from 1 to 0.2 and rise as they fell, so many decades to each side of the middle at 0.6."""
    away = np.abs(np.log10(ramp.rates() / middle))
    losses = 0.2 + 0.8 / (1 + np.exp(-6 * (away - half_width)))
    return (losses + noise * np.random.default_rng(seed).normal(size=len(losses))).tolist()


@pytest.mark.parametrize(("middle", "half_width"), [(1e-3, 1.0), (1e-3, 0.6), (3e-3, 1.2), (1e-4, 0.8)])
@pytest.mark.parametrize("steps", [50, 100, 400])
def test_the_suggestion_is_the_middle_of_the_valley(middle, half_width, steps):
    ramp = Ramp(steps=steps)
    curve = read_curve(ramp, valley(middle, half_width, ramp))
    assert curve.valley is not None
    one_update = 1e6 ** (1 / (steps - 1))
    assert curve.suggestion == pytest.approx(middle, rel=one_update - 1 + 0.06)
    decades = np.log10(np.array(curve.valley) / middle)
    np.testing.assert_allclose(decades, [-half_width, half_width], atol=0.12 + 6 / steps)
    noisy = [read_curve(ramp, valley(middle, half_width, ramp, 0.15, seed)).suggestion for seed in range(20)]
    assert max(noisy) < 3 * min(noisy)


def test_an_explosion_does_not_move_the_suggestion():
    ramp = Ramp()
    losses = valley(1e-3, 1.0, ramp)[:70]
    assert read_curve(ramp, [*losses, 1e9]).suggestion == read_curve(ramp, [*losses, 4.0]).suggestion


def test_what_is_wrong_with_the_range_is_told():
    ramp = Ramp(1e-6, 1e-3, 100)
    curve = read_curve(ramp, valley(1e-3, 1.0, ramp))
    assert curve.suggestion == pytest.approx(3e-4, rel=0.2)  # Of 1e-4 to the end.
    assert curve.why.endswith("It has not risen again at 0.001: a larger --lr-to would suggest a larger rate.")
    whole = read_curve(Ramp(), valley(1e-3, 1.0, Ramp()))
    assert "--lr-to" not in whole.why
    assert f"{whole.suggestion:g} is the middle" in whole.why


def test_what_does_not_fall_has_no_suggestion():
    rng, ramp = np.random.default_rng(0), Ramp()
    chance = [read_curve(ramp, (1 + 0.1 * rng.normal(size=100)).tolist()).suggestion for _ in range(200)]
    assert sum(found is not None for found in chance) <= 4
    curve = read_curve(ramp, np.linspace(1, 2, 100).tolist())
    assert (curve.suggestion, curve.valley) == (None, None)
    assert "is nowhere lower than" in curve.why


def test_a_run_in_parts_is_tested_in_its_last_and_without_its_schedule():
    stages = StagesConfig(head_epochs=2, unfreeze_epochs=1)
    config = Config(epochs=9, stages=stages, schedule=ScheduleConfig("cosine"))
    course = course_under(RAMP)(config, 100)
    assert course.parts == [Part(0, (), new_head=False)]
    assert course.schedule is not None
    np.testing.assert_allclose([float(course.schedule(t)) for t in range(10)], RAMP.rates() / RAMP.lr_to, rtol=1e-5)
    assert course_under(RAMP)(replace(config, epochs=4), 100).parts == [Part(0, STAGES[:3], new_head=False)]
    assert course_under(RAMP)(Config(), 100).parts == [Part(0)]


def test_the_command_draws_prints_and_names_a_command_that_parses(tmp_path, capsys):
    out = tmp_path / "found.png"
    assert main([*FLAGS, "--lr", "7", "--head-lr-mult", "5", "--lr-from", "1e-5", "--out", str(out)]) == 0
    *printed, command = capsys.readouterr().out.splitlines()
    assert list(tmp_path.iterdir()) == [out]
    with PIL.Image.open(out) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels == (0x00, 0x72, 0xB2)).all(-1).any(0).mean() > 0.5  # The curve, from side to side,
    assert (pixels == (0xD5, 0x5E, 0x00)).all(-1).mean(0).max() > 0.4  # and the suggestion, from top to bottom.
    text = " ".join(printed)
    assert f"the figure is {out}" in text
    assert "--lr from 1e-05 to 1 over 20 updates of 32 images" in text
    assert "test images" not in text
    python, *words = shlex.split(command)
    assert [python, *words[:2]] == ["python", "-m", "jaxft.train"]
    name, found = arguments.parse(words[2:])
    lr = found.config.optim.lr
    assert f"{lr:g} is the middle of this range" in text
    _, given = arguments.parse([*FLAGS[:-2], "--head-lr-mult", "5", "--lr", str(lr)])
    assert name == "demo"
    assert by_flag(found.config) == by_flag(given.config)
    assert 1e-5 < lr < 1


def test_no_fall_is_status_1_and_no_command(tmp_path, capsys):
    assert main([*FLAGS, "--lr-to", "1e-5", "--out", str(tmp_path / "flat.svg")]) == 1
    printed = capsys.readouterr().out
    assert "No rate can be suggested: try others than 1e-06 to 1e-05" in printed
    assert "jaxft.train" not in printed
    assert (tmp_path / "flat.svg").read_text().lstrip().startswith("<?xml")


def test_which_words_are_the_runs():
    given = "folder --data x --lr=3 --lr-from 1e-5 --augment crop flip --lr_to 2 --steps=9 --out a.png --lr 1 --seed 2"
    assert words_of_run(given.split()) == ["folder", "--data", "x", "--augment", "crop", "flip", "--seed", "2"]
    assert words_of_run(["--config", "RUN/config.json", "--lr-to", "1"]) == ["--config", "RUN/config.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr-from", "1", "--lr-to", "0.1"], "--lr-from 1.0 and --lr-to 0.1: the rate has to rise. Pass a smaller"),
        (["--lr-from", "0"], "--lr-from 0.0: must be a positive number, e.g. 1e-06"),
        (["--lr-to", "inf"], "--lr-to inf: must be a positive number, e.g. 1.0"),
        (["--steps", "9"], "--steps 9: too few to make a curve. Pass --steps 10 or more"),
        (["--out", "a.jpg"], "--out a.jpg: a figure ends in .png, .svg, .pdf. Pass --out a.png."),
        (["--out", "curve"], "Pass --out curve.png."),
        (["--out", "no/such/a.png"], "--out no/such/a.png: no folder no/such. Make it, or pass --out a.png."),
        (["--out", "."], "--out .: not a file. Pass --out lrfind.png."),
        (["demoo"], "demoo: no such preset. Did you mean demo?"),
        (["--lr-form", "1"], "--lr-form"),
        (["--resume"], "--resume"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_read(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UserError, SystemExit)) as told:
        main(words)
    assert message in f"{told.value} {' '.join(capsys.readouterr().err.replace('│', ' ').split())}"
    assert not list(tmp_path.iterdir())


def test_a_mistake_exits_2_with_one_message(tmp_path):
    printed = finished("--lr-from", 1, "--out", tmp_path / "a.png", command="lrfind", status=2)
    words = " ".join(printed.replace("│", " ").split())
    assert "--lr-from 1.0 and --lr-to 1.0: the rate has to rise. Pass a smaller --lr-from, or a larger" in words


def test_ctrl_c_leaves_nothing(tmp_path):
    process = start(*FLAGS[:-1], 10**6, "--out", tmp_path / "a.png", command="lrfind")
    assert process.stdout is not None
    assert any("--lr from" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    assert ended(process, 130).endswith("interrupted: nothing was written\n")
    assert not list(tmp_path.iterdir())


def test_several_processes_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="a range test is for one process, and this is one of 4. Start it in one"):
        check_alone(4)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(UserError, match="one of 2"):
        main([*FLAGS, "--out", str(tmp_path / "a.png")])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
@pytest.mark.parametrize("falls", [True, False])
def test_any_curve_can_be_drawn(tmp_path, suffix, falls):
    ramp = Ramp()
    curve = read_curve(ramp, valley(1e-3, 1.0, ramp)[:80] if falls else [0.0] * 11)
    assert (curve.suggestion is not None) == falls
    draw_range_test(curve, "a_1 $x_1$ 写真", tmp_path / f"f.{suffix}")
    assert (tmp_path / f"f.{suffix}").stat().st_size > 1000


def test_the_curve_is_a_plain_tuple():
    assert Curve._fields == ("rates", "losses", "smoothed", "suggestion", "valley", "why")
