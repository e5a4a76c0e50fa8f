import numpy as np
import pytest

from jaxft.data.kitchen import NOT_HOT_DOGS, SOURCE_CLASSES, TARGET_CLASSES, render, source_set, target_set
from jaxft.data.kitchen_shapes import THINGS


@pytest.fixture(scope="module")
def target():
    return {split: target_set(split) for split in ("train", "test")}


def test_the_worlds():
    assert len(SOURCE_CLASSES) == 12
    assert "hot_dog" in SOURCE_CLASSES
    assert set(NOT_HOT_DOGS) - set(SOURCE_CLASSES) == {"eclair", "fish", "mug", "pencil"}


@pytest.mark.parametrize("style", ["photo", "poster"])
@pytest.mark.parametrize("thing", THINGS)
def test_a_seed_is_a_picture(thing, style):
    first = render(thing, style, 7)
    assert first.shape == (80, 80, 3)
    np.testing.assert_array_equal(first, render(thing, style, 7))
    assert np.abs(first.astype(int) - render(thing, style, 8)).mean() > 5


@pytest.mark.parametrize("thing", THINGS)
def test_every_thing_fills_its_frame_sensibly(thing):
    for seed in range(20):
        points = np.concatenate([shape.points for shape in THINGS[thing](np.random.default_rng(seed))])
        assert np.isfinite(points).all()
        assert 1.2 < np.ptp(points, axis=0).max() < 2.4
        assert np.abs(points).max() < 1.3


def test_target_is_balanced_and_small(target):
    images, labels, class_names = target["train"]
    assert class_names == TARGET_CLASSES
    assert np.bincount(labels).tolist() == [100, 100]
    assert np.bincount(target["test"][1]).tolist() == [200, 200]
    assert images.shape == (200, 80, 80, 3)
    assert images.dtype == np.uint8


def test_no_test_picture_is_trained_on(target):
    train, test = ({image.tobytes() for image in target[split][0]} for split in ("train", "test"))
    assert not train & test
    assert (len(train), len(test)) == (200, 400)


def test_source_is_balanced():
    images, labels, class_names = source_set("test")
    assert class_names == SOURCE_CLASSES
    assert np.bincount(labels).tolist() == [50] * 12
    assert len({image.tobytes() for image in images}) == 600
