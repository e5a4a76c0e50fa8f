"""The three ways of feeding a run: the same batches and the same run, and what each does where images fail."""

import dataclasses
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import DEMO
from convert.pretrained import load_pretrained
from jaxft.build import build
from jaxft.config import Config, ImageConfig
from jaxft.data import feed as feeds
from jaxft.data.batches import Share, share_of, shuffled_order
from jaxft.data.canvas import Canvas, Decoded, EvalCrop, decode_set
from jaxft.data.feed import Feed, Streamed, mapped_feed, streamed_feed
from jaxft.data.plan import Keep
from jaxft.data.prepare import load_data, make_feed, stores
from jaxft.data.resident import Store, take, take_eval
from jaxft.data.sources import ArraySource, FileSource, Splits, with_held_out
from jaxft.errors import UserError
from jaxft.loop import Hooks, Record, fit
from pictures import photo_files, spoil

WAYS = ("resident", "mmap", "stream")
IMAGES = ImageConfig(image_size=32, canvas=48)
CLASSES = ("a", "b")
WHOLE = share_of(4)


@pytest.fixture
def splits(tmp_path: Path) -> Splits:
    train, test = photo_files(tmp_path / "train"), photo_files(tmp_path / "test")
    return Splits(train, FileSource(test.paths[:7], test.labels[:7], CLASSES), ())


def opened(
    splits: Splits, way: str, cache: Path | None, share: Share | None = None, **changes
) -> tuple[Feed, tuple[Store, Store] | None]:
    config = Config(images=IMAGES, input=way, batch_size=4, seed=3, **changes)  # pyright: ignore[reportArgumentType]
    data = load_data(splits, config, Keep(cache, 10**9), 10**9, lambda *_: None)
    return make_feed(data, config, pytest.fail, share), stores(data)


def whole_batches(feed: Feed, sets: tuple[Store, Store] | None, first: int, num: int) -> tuple[list, list]:
    """Batches as the step sees them: picks are taken out of their store."""
    with closing(feed.train(first)) as train, closing(feed.test()) as test:
        batches, tests = list(islice(train, num)), list(test)
    if sets is not None:
        train_set, test_set = jax.device_put(sets)
        batches = [jax.jit(take)(train_set, picks) for picks in batches]
        tests = [jax.jit(take_eval)(test_set, picks) for picks in tests]
    return batches, tests


@pytest.mark.parametrize("balance", ["none", "sampler"])
def test_the_three_ways_give_the_same_batches_bit_for_bit(splits, balance, tmp_path):
    ours = [whole_batches(*opened(splits, way, tmp_path / "cache", balance=balance), 5, 9) for way in WAYS]
    ours.append(whole_batches(*opened(splits, "mmap", None, balance=balance), 5, 9))
    expected = jax.tree.leaves(ours[0])
    assert len(expected) == 9 * 4 + 2 * 3
    for other in ours[1:]:
        leaves = jax.tree.leaves(other)
        assert [leaf.dtype for leaf in leaves] == [leaf.dtype for leaf in expected]
        for leaf, wanted in zip(leaves, expected, strict=True):
            # What fills the last evaluation batch counts for nothing.
            np.testing.assert_array_equal(leaf[:3], wanted[:3])
    batches, tests = ours[1]
    assert [batch.weights.tolist() for batch in tests] == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batches[0].positions.tolist() == [0, 1, 2, 3]


def test_rows_of_a_batch_belong_together():
    numbers = np.arange(10, dtype=np.int32)
    images = np.broadcast_to(numbers.astype(np.uint8)[:, None, None, None], (10, 4, 4, 3))
    numbered = Decoded(images, np.stack([numbers + 1] * 2, 1), numbers, tuple(map(str, numbers)), ())
    feed = mapped_feed(numbered, numbered, shuffled_order(10, 4, 0), share_of(4))
    with closing(feed.train(5)) as batches:
        batch = next(batches)
    np.testing.assert_array_equal(batch.images[:, 0, 0, 0], batch.labels)
    np.testing.assert_array_equal(batch.sizes[:, 0], batch.labels + 1)
    np.testing.assert_array_equal(batch.labels, shuffled_order(10, 4, 0)(5))


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "devices"), [("jit", 1), ("pmap", 2)])
def test_the_three_ways_are_one_run(splits, parallel, devices, tmp_path):
    runs = []
    for way in WAYS:
        records: list[Record] = []
        config = dataclasses.replace(DEMO, images=IMAGES, input=way, batch_size=4, parallel=parallel, devices=devices)
        data = load_data(splits, config, Keep(tmp_path / "cache", 10**9), 10**9, lambda *_: None)
        run = build(config, CLASSES, load_pretrained(config.model, tmp_path), stores=stores(data))
        hooks = Hooks(records.append)
        feed = make_feed(data, config, pytest.fail)
        state = fit(run, feed, images_per_step=4, num_epochs=2, hooks=hooks).state
        runs.append((jax.device_get(state), [record._replace(images_per_second=0.0) for record in records]))
    for state, records in runs[1:]:
        assert records == runs[0][1]
        for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(runs[0][0]), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_little_is_made_before_it_is_asked_for(splits):
    train, made = decode_set(splits.train, Canvas(48), cache_dir=None), []
    feed = mapped_feed(train, train, lambda step: made.append(step) or np.arange(4), share_of(4))
    with closing(feed.train(0)) as batches:
        for taken in range(1, 5):
            next(batches)
            time.sleep(0.1)
            assert taken <= len(made) <= taken + feeds.BATCHES_AHEAD
    assert feed.host_bytes == (5 * 4 + 12) * 48 * 48 * 3


def test_a_map_does_not_come_to_lie_in_memory(tmp_path):
    pixels = np.zeros((2000, 128, 128, 3), np.uint8)
    pixels[:] = np.arange(2000, dtype=np.uint8)[:, None, None, None]
    np.save(tmp_path / "a.npy", pixels)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    whole = Decoded(mapped, np.ones((2000, 2), np.int32), np.zeros(2000, np.int32), ("",) * 2000, ())

    def resident_bytes() -> int:
        """Of the files that are mapped into this process."""
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:"))

    feed = mapped_feed(whole, whole, shuffled_order(2000, 4, 0), share_of(4))
    with closing(feed.train(0)) as batches:
        next(batches)  # It brings libraries into memory, too.
        before, most = resident_bytes(), 0
        for _ in islice(batches, 500):
            most = max(most, resident_bytes() - before)
    assert most < 0.2 * pixels.nbytes
    assert feed.host_bytes < 0.2 * pixels.nbytes


def test_a_closed_feed_leaves_no_thread(splits):
    before = threading.active_count()
    for way in ("mmap", "stream"):
        feed, _ = opened(splits, way, None)
        with closing(feed.train(0)) as batches:
            next(batches)
            assert threading.active_count() > before
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.parametrize("way", WAYS)
def test_what_is_held_out_comes_by_itself(splits, way, tmp_path):
    """And the test set as without it."""
    config = Config(images=IMAGES, input=way, batch_size=4)
    plain, (_, test) = opened(splits, way, tmp_path / "cache"), whole_batches(*opened(splits, way, None), 0, 1)
    apart = with_held_out(splits, 0.4)
    data = load_data(apart, config, Keep(tmp_path / "cache", 10**9), 10**9, lambda *_: None)
    feed, sets = make_feed(data, config, pytest.fail), stores(data)
    assert (plain[0].num_val, list(plain[0].val())) == (0, [])
    assert feed.num_val == 4
    assert_same(whole_batches(feed, sets, 0, 1)[1], test)
    held_out = whole_batches(feed._replace(test=feed.val), sets, 0, 1)[1]
    assert apart.val is not None
    expected = decode_set(apart.val, EvalCrop(32, "short"))
    assert_same([batch.images for batch in held_out], [expected.images])
    assert_same([batch.labels for batch in held_out], [expected.labels])


# A share of each batch.


def joined(parts: Sequence[list]) -> list:
    """Batches of shares put together."""
    return [jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches) for batches in zip(*parts, strict=True)]


def assert_same(ours, theirs) -> None:
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert our.dtype == their.dtype
        np.testing.assert_array_equal(our, their)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_the_shares_of_two_processes_make_the_whole_batch(splits, way, accumulate, tmp_path):
    # Of five test images, the second process's part of the second batch only fills.
    splits = splits._replace(test=FileSource(splits.test.paths[:5], splits.test.labels[:5], CLASSES))

    def batches(share: Share) -> tuple[list, list]:
        return whole_batches(*opened(splits, way, tmp_path / "cache", share, accumulate=accumulate), 2, 5)

    of_two = partial(share_of, 4, accumulate=accumulate, num_devices=2)
    whole, halves = batches(of_two()), [batches(of_two(own=[i])) for i in range(2)]
    train, test = map(joined, zip(*halves, strict=True))
    assert_same(train, whole[0])
    assert [batch.weights.tolist() for batch in test] == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert_same([batch.weights for batch in test], [batch.weights for batch in whole[1]])
    for batch, wanted in zip(test, whole[1], strict=True):
        counts = batch.weights == 1
        assert_same((batch.images[counts], batch.labels[counts]), (wanted.images[counts], wanted.labels[counts]))
    for batch, one_device in zip(train, batches(share_of(4, accumulate=accumulate))[0], strict=True):
        assert one_device.positions.tolist() == list(range(4 * accumulate))
        assert_same(jax.tree.map(lambda x, at=batch.positions: np.asarray(x)[at], one_device), batch)


class Listed:
    """Images that are noted as they are read."""

    class_names = ("only",)

    def __init__(self, num: int) -> None:
        self.num = num
        self.read_rows: list[int] = []

    def __len__(self) -> int:
        return self.num

    def read(self, i: int) -> tuple[np.ndarray, int]:
        self.read_rows.append(i)
        return np.full((40, 40, 3), i, np.uint8), 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_streamed_share_reads_its_own_rows_alone(accumulate, monkeypatch):
    monkeypatch.setattr(feeds, "num_cores", lambda: 2)
    train_set, test_set = Listed(256), Listed(21)
    order = shuffled_order(256, 8 * accumulate, 0)
    share = share_of(8, accumulate=accumulate, num_devices=4, own=[1, 2])
    feed = streamed_feed(
        Streamed(train_set, Canvas(48), np.zeros(256, np.int32)),
        Streamed(test_set, EvalCrop(32, "short"), np.zeros(21, np.int32)),
        order,
        share,
    )
    assert feed.host_bytes == (2 * 4 * accumulate + 8) * 3 * 48**2
    with closing(feed.train(0)) as batches:
        for step in range(3):
            np.testing.assert_array_equal(next(batches).images[:, 0, 0, 0], order(step)[share.train])
    own = np.concatenate([order(step)[share.train] for step in range(256 // (8 * accumulate))])
    assert 3 * 4 * accumulate <= len(train_set.read_rows) < 128
    assert set(train_set.read_rows) <= set(own.tolist())
    weights = [batch.weights.tolist() for batch in feed.test()]
    assert weights == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert sorted(test_set.read_rows) == [2, 3, 4, 5, 10, 11, 12, 13, 18, 19, 20]


def test_what_takes_a_bad_images_place_does_not_depend_on_the_share(splits):
    spoil(splits.train, 5, 6)
    spoil(splits.test, 1)
    whole, *halves = (
        (list(islice(feed.train(0), 6)), list(feed.test()))
        for feed in (
            streamed(splits, share_of(4, num_devices=2, own=own), skip_bad=True, report=lambda _: None)
            for own in (None, [0], [1])
        )
    )
    assert_same([joined(part) for part in zip(*halves, strict=True)], whole)


def streamed(splits: Splits, share: Share = WHOLE, **options) -> Feed:
    train = Streamed(splits.train, Canvas(48), np.array(splits.train.labels, np.int32))
    test = Streamed(splits.test, EvalCrop(32, "short"), np.array(splits.test.labels, np.int32))
    return streamed_feed(train, test, shuffled_order(12, 4, seed=3), share, **options)


def test_an_image_that_disappears_while_streaming_ends_the_run_with_its_name(splits):
    feed = streamed(splits)
    with closing(feed.train(0)) as batches:
        next(batches)
        splits.train.paths[5].unlink()
        with pytest.raises(UserError, match=r"05.png: No such file or directory. Put it right .*--resume, or"):
            list(islice(batches, 12))


def test_a_streamed_image_that_is_skipped_gives_its_place_to_the_next(splits):
    whole = list(islice(streamed(splits).train(0), 6))
    spoil(splits.train, 5, 6)
    spoil(splits.test, 1)
    lines: list[str] = []
    feed = streamed(splits, skip_bad=True, report=lines.append)
    batches = list(islice(feed.train(0), 6))
    order = np.concatenate([shuffled_order(12, 4, seed=3)(step) for step in range(6)])
    for place, row in enumerate(order):
        instead = 7 if row in (5, 6) else row
        ours = batches[place // 4].images[place % 4]
        wanted = decode_set(FileSource([splits.train.paths[instead]], [0], CLASSES), Canvas(48), cache_dir=None).images[
            0
        ]
        np.testing.assert_array_equal(ours, wanted)
        assert batches[place // 4].labels[place % 4] == instead % 2
    assert not np.array_equal(whole[0].images, batches[0].images) or not np.array_equal(
        whole[1].images, batches[1].images
    )
    tests = list(feed.test())
    assert [batch.weights.tolist() for batch in tests] == [[1, 0, 1, 1], [1, 1, 1, 0]]
    assert sorted(lines) == sorted(
        f"skipped {path}: not an image that PIL knows"
        for path in (splits.test.paths[1], splits.train.paths[5], splits.train.paths[6])
    )


def test_a_stream_without_one_good_image_ends(splits):
    spoil(splits.train, *range(12))
    feed = streamed(splits, skip_bad=True, report=lambda _: None)
    with pytest.raises(UserError, match="none of the training images can be decoded"):
        next(feed.train(0))


@pytest.mark.parametrize("way", WAYS)
def test_a_set_of_one_image(way):
    one = ArraySource(np.full((1, 50, 40, 3), 7, np.uint8), np.array([0]), ("only",))
    config = Config(images=IMAGES, input=way, batch_size=1)
    data = load_data(Splits(one, one, ()), config, Keep(None, 0), 10**9, lambda *_: None)
    batches, tests = whole_batches(make_feed(data, config, pytest.fail), stores(data), 0, 3)
    assert all((np.asarray(batch.images) == 7).all() for batch in (*batches, *tests))
    assert len(tests) == 1
    config = dataclasses.replace(config, batch_size=2)
    with pytest.raises(UserError, match=r"--batch-size 2 is larger than the training set \(1 images\)"):
        make_feed(data, config, pytest.fail)
    config = dataclasses.replace(config, batch_size=1, accumulate=2)
    with pytest.raises(
        UserError, match=r"2 images an update, more than the training set has \(1\). Pass --accumulate 1"
    ):
        make_feed(data, config, pytest.fail)
