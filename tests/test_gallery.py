"""A report's pictures, against the files they are of and what the classifier says of those."""

import base64
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import jaxft
from jaxft.config_file import read_config
from jaxft.data.canvas import Canvas, EvalCrop, decode_set
from jaxft.data.feed import Streamed
from jaxft.data.load import open_splits
from jaxft.data.sources import labels_of
from jaxft.overlay import overlay
from jaxft.report.gallery import MOST, NUM_MAPS, make_gallery, make_rows, pick_training, within
from jaxft.report.pictures import data_uri
from jaxft.report.scoring import score_crops, score_split
from reports import write_photos, write_run

NAMES = ("ants", "bees", "cats", "dogs")
SIZE = 96
"""So that a map has three rows, and the small photographs become smooth, which a JPEG keeps."""


def pixels_in(uri: str) -> np.ndarray:
    """The picture at a data: address."""
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)


def alike(uri: str, pixels: np.ndarray) -> bool:
    """Whether a JPEG is of these pixels, in brightness; of noise in colours it keeps less."""
    return float(np.abs((pixels_in(uri) - pixels) @ [0.299, 0.587, 0.114]).mean()) < 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with a head at random, its classifier, and its training and test sets, streamed."""
    folder = tmp_path_factory.mktemp("gallery")
    out = write_run(folder / "run", write_photos(folder / "photos", NAMES, 4, 6), 0.25, image_size=SIZE)
    config = read_config(out / "config.json")
    splits = open_splits(config, folder)
    sets = (
        Streamed(source, recipe, labels_of(source))
        for source, recipe in ((splits.train, Canvas(SIZE)), (splits.test, EvalCrop(SIZE, "short")))
    )
    return jaxft.load(out), config, *sets


@pytest.fixture(scope="module")
def gallery(made):
    return gallery_of(*made)


def gallery_of(classifier, config, train, test):
    scored = score_split(classifier, test, skip_bad=False)
    rows = make_rows(pick_training(train, config.seed), NAMES, config)
    return make_gallery(scored, NAMES, test, rows, config.data)


@pytest.fixture(scope="module")
def predictions(made):
    """What the classifier says of each file, by its name within the data's folder."""
    classifier, config, _, test = made
    paths = [test.source.read(i)[0] for i in range(len(test.labels))]
    found = classifier.stream(paths, with_maps=True)
    return {str(path.relative_to(config.data)): found for path, found in zip(paths, found, strict=True)}


def test_a_picture_is_of_its_file(gallery, predictions):
    assert len(gallery.mistakes) == MOST
    assert len(gallery.least_sure) == MOST
    for picture in (*gallery.mistakes, *gallery.least_sure, *(picture for picture, _ in gallery.maps)):
        found = predictions[picture.name]
        folder = Path(picture.name).parent.name
        assert picture.truth == folder
        order = np.argsort(-found.probabilities)
        assert picture.guess == NAMES[order[0]]
        assert picture.right == (picture.guess == folder)
        assert picture.truth_chance == pytest.approx(found.probabilities[NAMES.index(folder)], abs=1e-5)
        chances = [(NAMES[k], pytest.approx(found.probabilities[k], abs=1e-5)) for k in order[:3]]
        assert picture.chances == chances
        assert [name for name, other in predictions.items() if alike(picture.src, other.crop)] == [picture.name]


def test_mistakes_are_wrong_and_the_surest_first(gallery, predictions):
    assert not any(picture.right for picture in gallery.mistakes)
    sure = [picture.chances[0][1] for picture in gallery.mistakes]
    wrong = {name for name, found in predictions.items() if NAMES[found.probabilities.argmax()] not in name}
    left_out = wrong - {picture.name for picture in gallery.mistakes}
    assert sure == sorted(sure, reverse=True)
    assert sure[-1] >= max((predictions[name].probabilities.max() for name in left_out), default=0) - 1e-6


def test_a_map_is_the_predicted_classs(gallery, predictions):
    assert [picture.right for picture, _ in gallery.maps] == [False] * 3 + [True] * 3
    assert len(gallery.maps) == NUM_MAPS
    for picture, heat in gallery.maps:
        found = predictions[picture.name]
        drawn = [overlay(found.crop, found.maps[..., k]) for k in range(len(NAMES))]
        assert [name for name, pixels in zip(NAMES, drawn, strict=True) if alike(heat, pixels)] == [picture.guess]


def test_views_are_of_training_photographs(gallery, made):
    config = made[1]
    assert [row.truth for row in gallery.views] == ["ants", "bees", "cats", "dogs", "ants", "bees"]
    for row in gallery.views:
        assert row.name.startswith(f"train/{row.truth}/")
        with PIL.Image.open(Path(config.data) / row.name) as image:
            before = np.asarray(image.convert("RGB"))
        height, width, _ = pixels_in(row.src).shape
        assert width / height == pytest.approx(48 / 40, abs=0.03)
        assert np.abs(pixels_in(row.src).mean((0, 1)) - before.mean((0, 1))).max() < 4
        assert len(row.views) == 5
        assert all(shares[0][0] == row.truth or len(shares) == 1 for _, shares in row.views)
        assert all(pixels_in(src).shape == (SIZE, SIZE, 3) for src, _ in row.views)


def test_decoded_or_streamed_the_pictures_are_the_same(made, gallery):
    classifier, config, train, test = made
    decoded = [decode_set(data.source, data.recipe, cache_dir=None) for data in (train, test)]
    theirs = gallery_of(classifier, config, *decoded)
    assert [picture.src for picture in gallery.mistakes] == [picture.src for picture in theirs.mistakes]
    assert [picture.name for picture in gallery.least_sure] == [picture.name for picture in theirs.least_sure]
    for (_, heat), (_, other) in zip(gallery.maps, theirs.maps, strict=True):
        # a batch of another size rounds otherwise, which may turn a pixel of the map by one level
        assert np.abs(pixels_in(heat) - pixels_in(other)).mean() < 0.02
    assert gallery.views == theirs.views


def test_batches_change_nothing(made):
    classifier, _, _, test = made
    decoded = decode_set(test.source, test.recipe, cache_dir=None)
    whole = score_split(classifier, decoded, skip_bad=False)
    parts = list(score_crops(classifier, decoded.images[:23], most=8))
    assert [len(probabilities) for probabilities, _ in parts] == [8, 8, 7]
    np.testing.assert_allclose(np.concatenate([part for part, _ in parts]), whole.probabilities[:23], atol=1e-5)
    np.testing.assert_allclose(np.concatenate([part for _, part in parts]), whole.maps[:23], atol=1e-4)


def test_a_picture_is_small():
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    assert pixels_in(data_uri(noise)).shape == (120, 160, 3)
    assert len(data_uri(noise)) < 20_000
    assert pixels_in(data_uri(noise[:20, :20])).shape == (20, 20, 3)


def test_names_within_the_data():
    assert within("/data/photos/val/a/1.jpg", "/data/photos") == "val/a/1.jpg"
    assert within("/cache/data/set/val/a/1.jpg", "https://a.org/set.zip") == "val/a/1.jpg"
    assert within("image 3", "demo") == "image 3"
