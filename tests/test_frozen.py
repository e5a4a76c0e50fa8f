"""Features of frozen stages, computed once: the same run as without them, and what they save."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import DEMO
from convert.pretrained import load_pretrained
from jaxft import loop
from jaxft.build import build
from jaxft.config import Config, ImageConfig, OptimConfig
from jaxft.data.augment import Batch
from jaxft.data.batches import shuffled_order, view_order
from jaxft.data.kitchen import TARGET_CLASSES, target_set
from jaxft.data.plan import Keep
from jaxft.data.prepare import load_data, make_feed
from jaxft.data.resident import Picks, Store
from jaxft.data.sources import ArraySource, FileSource, Source, Splits
from jaxft.errors import UserError
from jaxft.features import frozen_part, top_of
from jaxft.frozen import plan_features
from jaxft.options import Options
from jaxft.records import Record
from jaxft.resnet import STAGES, make_resnet
from jaxft.session import Result
from jaxft.training import fit
from marks import FULL
from pictures import photo_files, spoil
from runs import records, same_model, without_speed

GB = 10**9


@functools.cache
def splits() -> Splits:
    """Of 22 and 13 images: with batches of 8, one straddles epochs, and the last test batch has to be filled."""
    sets = (target_set(split) for split in ("train", "test"))
    train, test = (
        ArraySource(images[:num], labels[:num], names)
        for num, (images, labels, names) in zip((22, 13), sets, strict=True)
    )
    return Splits(train, test, ())


HOLDOUT = ImageConfig(image_size=32, augment=("none",), holdout=0.3)


def configured(freeze: str, *augment: str, cached_views: int | None = None, **changes) -> Config:
    images = ImageConfig(image_size=32, augment=augment or ("none",), cached_views=cached_views, skip_bad_images=True)
    config = dataclasses.replace(DEMO, images=images, batch_size=8, epochs=3, devices=1, precision="float32")
    return dataclasses.replace(config, model=dataclasses.replace(DEMO.model, freeze=freeze), **changes)


def ran(config: Config, out: Path, data: Splits | None = None, **options) -> Result:
    return fit(config, out=out, data=data or splits(), verbose=False, options=Options(cache=False), **options)


def assert_one_run(out: Path, other: Path) -> None:
    """The same records and models, to rounding."""
    ours, theirs = records(out), records(other)
    for name in ("step", "split", "accuracy"):
        assert [record[name] for record in ours] == [record[name] for record in theirs]
    np.testing.assert_allclose([r["loss"] for r in ours], [r["loss"] for r in theirs], rtol=1e-5, atol=1e-6)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, other))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)


def both_ways(config: Config, tmp_path: Path, capfd, data: Splits | None = None) -> None:
    """Run with features kept, and without, and compare."""
    kept, anew = tmp_path / "kept", tmp_path / "anew"
    options = {"data": data or splits(), "options": Options(cache=False)}
    fit(config, out=kept, **options)
    assert "computed once and kept" in " ".join(capfd.readouterr().out.split())
    fit(dataclasses.replace(config, cache_features=False), out=anew, **options)
    assert "computed anew in each epoch" in " ".join(capfd.readouterr().out.split())
    assert_one_run(kept, anew)


# The network in two parts.


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("freeze", [pytest.param("stem", marks=pytest.mark.slow), FULL("layer1"), "layer3", "backbone"])
def test_the_two_parts_are_the_network(freeze, train):
    frozen = STAGES if freeze == "backbone" else STAGES[: STAGES.index(freeze) + 1]
    model = make_resnet("resnet18", num_classes=3, width=4, frozen=frozen)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 64, 64, 3)), jnp.float32)
    variables = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))
    whole, updated = model.apply(variables, images, train=train, mutable=["batch_stats"])
    features = frozen_part(model, top_of(freeze))(variables, images)
    upper = model.clone(after=top_of(freeze))
    logits, updated_above = upper.apply(variables, features, train=train, mutable=["batch_stats"])
    np.testing.assert_array_equal(logits, whole)
    assert jax.tree.structure(updated) == jax.tree.structure(updated_above)
    jax.tree.map(np.testing.assert_array_equal, updated, updated_above)


# The same run.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("freeze", "changes"),
    [
        ("backbone", {}),
        FULL("stem", {}),
        FULL("layer3", {}),
        FULL("layer3", {"devices": 4}),
        ("layer3", {"devices": 4, "parallel": "pmap", "accumulate": 2, "batch_size": 4}),
        FULL("layer3", {"sync_bn": False, "devices": 2, "input": "mmap"}),
        ("backbone", {"parallel": "pmap", "devices": 2, "input": "stream"}),
        ("backbone", {"accumulate": 2, "devices": 2, "batch_size": 4, "balance": "weights"}),
        ("backbone", {"balance": "sampler", "optim": OptimConfig("adamw")}),
        FULL("backbone", {"images": HOLDOUT}),
        ("layer3", {"images": HOLDOUT, "parallel": "pmap", "devices": 2, "input": "stream"}),
    ],
    ids=str,
)
def test_features_that_are_kept_make_the_same_run(freeze, changes, tmp_path, capfd):
    both_ways(configured(freeze, **changes), tmp_path, capfd)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("freeze", "changes"),
    [
        ("backbone", {}),
        ("layer3", {"devices": 2, "balance": "sampler"}),
        FULL("layer2", {"parallel": "pmap", "devices": 2}),
    ],
    ids=str,
)
def test_so_do_a_few_views(freeze, changes, tmp_path, capfd):
    both_ways(configured(freeze, "crop", "flip", "jitter", cached_views=2, **changes), tmp_path, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("augment", [("none",), ("flip",)])
def test_a_streamed_image_that_is_skipped_has_no_features(augment, tmp_path, capfd):
    train, test = photo_files(tmp_path / "train"), photo_files(tmp_path / "test")
    spoil(train, 5, 6)
    spoil(test, 1, 8)
    views = None if augment == ("none",) else 2
    config = configured("backbone", *augment, cached_views=views, input="stream")
    both_ways(config, tmp_path, capfd, Splits(train, FileSource(test.paths[:11], test.labels[:11], ("a", "b")), ()))


@pytest.mark.slow
@pytest.mark.parametrize("views", [None, 2])
def test_a_run_that_is_carried_on_is_the_run_that_was_not_stopped(views, tmp_path):
    config = configured("layer3", *(() if views is None else ("crop",)), cached_views=views)
    ran(config, tmp_path / "whole")

    class StoppedError(Exception):
        """In the middle of the second epoch."""

    def stop(record) -> None:
        if record.step == 4:
            raise StoppedError

    options = Options(cache=False, save_minutes=1e-9)
    with pytest.raises(StoppedError):
        fit(config, out=tmp_path / "run", data=splits(), verbose=False, options=options, callback=stop)
    again = ran(config, tmp_path / "run", resume=True)
    assert again.summary is not None
    assert without_speed(tmp_path / "run") == without_speed(tmp_path / "whole")
    assert same_model(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_it_may_be_carried_on_without_them(tmp_path):
    config = configured("backbone")
    ran(dataclasses.replace(config, epochs=3), tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        fit(
            config,
            out=tmp_path / "run",
            data=splits(),
            verbose=False,
            options=Options(cache=False),
            callback=lambda record: 1 / (record.step != 4),
        )
    ran(dataclasses.replace(config, cache_features=False), tmp_path / "run", resume=True)
    assert_one_run(tmp_path / "run", tmp_path / "whole")


# Views.


def test_epoch_e_takes_view_e_of_as_many_as_there_are():
    order = shuffled_order(10, 4, seed=0)
    rows = np.concatenate([view_order(order, 10, 4, num_views=3)(step) for step in range(10)])
    views, images = np.divmod(rows, 10)
    np.testing.assert_array_equal(views, np.repeat([0, 1, 2, 0], 10))
    np.testing.assert_array_equal(images, np.concatenate([order(step) for step in range(10)]))


# What it saves.


class Noted:
    """A source that notes what is read of it."""

    def __init__(self, source: Source):
        self.source, self.class_names, self.rows = source, source.class_names, []

    def __len__(self) -> int:
        return len(self.source)

    def read(self, i: int):
        self.rows.append(i)
        return self.source.read(i)


def test_five_epochs_cost_one_forward_pass():
    """Counted: what is read, and what goes through the frozen part."""
    config = configured("backbone", input="stream", epochs=5)
    config = dataclasses.replace(config, images=dataclasses.replace(config.images, canvas=48))
    train, test = (Noted(source) for source in splits()[:2])
    data = load_data(Splits(train, test, ()), config, Keep(None, 0), GB, lambda *_: None)
    run = build(config, TARGET_CLASSES, load_pretrained(config.model, Path("unused")), features=1)
    assert run.frozen is not None
    calls = []

    def counted(fill):
        return lambda store, read, *rest: calls.append(len(read[0])) or fill(store, read, *rest)

    fill_training, fill_test = map(counted, run.frozen[2:])
    run = run._replace(frozen=run.frozen._replace(fill_training=fill_training, fill_test=fill_test))
    train.rows.clear()
    test.rows.clear()
    seen: list[Record] = []
    feed = make_feed(data, config, pytest.fail, features=True)
    loop.fit(run, feed, images_per_step=8, num_epochs=5, hooks=loop.Hooks(seen.append))
    assert [record.epoch for record in seen if record.split == "test"] == [1, 2, 3, 4, 5]
    assert calls == [8] * 5  # 22 images, and 13.
    assert sorted(set(train.rows)) == list(range(22))
    assert len([row for row in train.rows if row < 21]) == 21  # The last one fills the last batch.
    assert sorted(test.rows) == list(range(13))


@pytest.mark.slow
def test_steps_above_frozen_stages_cost_what_is_above():
    """In FLOPs, and of whole ResNet18s at 64 pixels: a head's step is a product, with the batch, of a matrix."""
    costs = {freeze: step_flops(freeze, features=1) for freeze in ("layer3", "backbone")}
    for freeze, above in costs.items():
        assert above < {"layer3": 0.55, "backbone": 0.005}[freeze] * step_flops(freeze, features=None)


def step_flops(freeze: str, features: int | None) -> float:
    config = dataclasses.replace(configured(freeze), images=ImageConfig(image_size=64, augment=("none",)))
    run = build(config, TARGET_CLASSES, load_pretrained(config.model, Path("unused")), features=features)
    rows = np.arange(8, dtype=np.int32)
    if run.frozen is None:
        batch = (np.zeros((8, 72, 72, 3), np.uint8), np.full((8, 2), 72, np.int32), rows % 2, rows)
        arguments = (run.state, Batch._make(batch), run.key)
    else:
        kept = jnp.zeros((100, *run.frozen.features.shape[1:]), run.frozen.features.dtype)
        arguments = (run.state, Picks(rows, rows), run.key, Store(kept, None, jnp.zeros(100, jnp.int32)))
    return run.train_step.lower(*arguments).compile().cost_analysis()["flops"]


@pytest.mark.parametrize(("freeze", "dtype"), [("layer3", jnp.bfloat16), ("backbone", jnp.float32)])
def test_features_are_kept_as_the_network_has_them(freeze, dtype):
    config = dataclasses.replace(configured(freeze), precision="bfloat16")
    run = build(config, TARGET_CLASSES, load_pretrained(config.model, Path("unused")), features=1)
    assert run.frozen is not None
    assert run.frozen.features.dtype == dtype


# When.


@pytest.mark.parametrize(
    ("config", "free", "num_views", "note"),
    [
        (configured("none"), GB, None, None),
        (configured("backbone", "crop"), GB, None, None),
        (configured("backbone", "cutmix"), GB, None, None),
        (
            configured("none", "crop", cached_views=2),
            GB,
            None,
            "features: --cached-views 2 changes nothing, for nothing is frozen",
        ),
        (
            configured("backbone", cache_features=False),
            GB,
            None,
            "features: computed anew in each epoch, for --no-cache-features was given",
        ),
        (
            configured("backbone"),  # 1,500 images of 128 float32 numbers.
            4 * 1500 * 512,
            1,
            "features: computed once and kept, for 0.8 MB of them fit into a quarter of the 3.1 MB free on a device",
        ),
        (
            configured("backbone"),
            4 * 1500 * 512 - 1,
            None,
            "features: computed anew in each epoch, for 0.8 MB of them are more than a quarter of the 3.1 MB free on a "
            "device",
        ),
        (
            configured("layer2", "flip", cached_views=3),  # 3,500 of 4 x 4 x 32.
            GB,
            3,
            "features of 3 views of each training image: computed once and kept, for 7.2 MB of them fit into a quarter "
            "of the 1.0 GB free on a device",
        ),
    ],
)
def test_features_are_kept_where_they_are_few_enough(config, free, num_views, note):
    assert plan_features(config, 1000, 500, "cpu", free) == (num_views, note)


@pytest.mark.parametrize(
    ("augment", "views", "message"),
    [
        (("crop", "mixup"), 2, "--cached-views 2: mixup and cutmix mix images that meet in a batch.*Leave them out"),
        (("strong",), 2, "--cached-views 2: mixup and cutmix"),
        (("none",), 4, "--cached-views 4: --augment none draws nothing.*Leave --cached-views out"),
        (("crop",), 0, "--cached-views 0: must be at least 1"),
    ],
)
def test_views_that_cannot_be(augment, views, message):
    with pytest.raises(UserError, match=message):
        ImageConfig(augment=augment, cached_views=views)
