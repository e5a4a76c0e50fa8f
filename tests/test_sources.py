import os
import re

import numpy as np
import PIL.Image
import pytest

from jaxft.data import canvas as canvas_module
from jaxft.data.canvas import Canvas, EvalCrop, canvas_size, decode_set
from jaxft.data.sources import ArraySource, FileSource, open_folder
from jaxft.errors import UserError


def save(path, colour=(9, 9, 9), size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Four cats, four dogs and a note in train; a cat and a dog in val."""
    for i, name in enumerate("abcd"):
        for j, kind in enumerate(("cats", "dogs")):
            save(tmp_path / f"train/{kind}/{name}.png", (60 * i, 100 * j, 7))
    for kind in ("cats", "dogs"):
        save(tmp_path / f"val/{kind}/z.jpg")
    (tmp_path / "train/cats/notes.txt").write_text("words")
    (tmp_path / "train/.DS_Store").write_text("")
    return tmp_path


def opened(folder, val_fraction=0.25, seed=0):
    return open_folder(folder, val_fraction=val_fraction, seed=seed)


def test_train_and_val(photos):
    train, test, notes = opened(photos)
    assert train.class_names == ("cats", "dogs")
    assert [(path.name, label) for path, label in map(train.read, range(len(train)))] == [
        (f"{name}.png", label) for label in (0, 1) for name in "abcd"
    ]
    assert len(test) == 2
    assert len(notes) == 1
    assert re.search("ignored 1 entry .*notes.txt", notes[0])


def test_class_folders_alone_are_split_by_class_and_seed(photos):
    train, test, notes = opened(photos / "train", val_fraction=0.5, seed=1)
    again = opened(photos / "train", val_fraction=0.5, seed=1)
    other = opened(photos / "train", val_fraction=0.5, seed=2)
    assert (train, test) == (again.train, again.test)
    assert test != other.test
    items = [source.read(i) for source in (train, test) for i in range(len(source))]
    assert len(set(items)) == 8
    assert [label for _, label in test.items] == [0, 0, 1, 1]
    assert "50% of each class, chosen by the seed" in notes[0]
    assert len(opened(photos / "train", val_fraction=0.01).test) == 2
    assert len(opened(photos / "train", val_fraction=0.99).train) == 2


def test_train_without_val_is_split(photos):
    (photos / "val").rename(photos / "other")
    train, test, _ = opened(photos)
    assert (len(train), len(test)) == (6, 2)


def test_links_are_followed(photos, tmp_path):
    (photos / "train/birds").symlink_to(photos / "train/cats")
    (photos / "val/birds").symlink_to(photos / "val/cats")
    assert opened(photos).train.class_names == ("birds", "cats", "dogs")


def test_names_with_spaces_other_letters_and_newlines(tmp_path):
    for kind in ("hot dog", "не хот-дог"):
        for name in ("a b.jpg", "new\nline.jpg"):
            save(tmp_path / kind / name)
    train, test, _ = opened(tmp_path)
    assert train.class_names == ("hot dog", "не хот-дог")
    assert len(decode_set(train, Canvas(32)).labels) + len(test) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f / "trian", r"trian: no such folder; .* is there. Did you mean .*/train\?"),
        (lambda f: f / "far/away", "far/away: no such folder"),
        (lambda f: f / "train/cats/notes.txt", "a file, not a folder"),
        (lambda f: f / "train/cats", "has no class folders"),
        (lambda f: f / "empty", "has no class folders"),
    ],
)
def test_folders_that_cannot_be(photos, change, message):
    (photos / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        opened(change(photos))


def test_empty_class(photos):
    (photos / "train/birds").mkdir()
    with pytest.raises(UserError, match=r"class folder .*/birds has no image in it \(it has nothing\)"):
        opened(photos)
    (photos / "train/birds/a.gif").write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"it has \.gif"):
        opened(photos)


def test_nested_classes(photos):
    save(photos / "all/pets/cats/a.jpg")
    save(photos / "all/wild/wolf/a.jpg")
    with pytest.raises(UserError, match="pets holds folders, not images .*pass --data .*pets"):
        opened(photos / "all")


def test_one_class_only(tmp_path):
    save(tmp_path / "cats/a.jpg")
    with pytest.raises(UserError, match="has one class only, cats. A classifier needs at least two"):
        opened(tmp_path)


def test_one_image_in_a_class_to_split(photos):
    save(photos / "train/birds/a.jpg")
    with pytest.raises(UserError, match="class birds in .* has one image"):
        opened(photos / "train")


def test_different_classes_in_train_and_val(photos):
    save(photos / "val/birds/a.jpg")
    with pytest.raises(UserError, match="different classes: birds only in one"):
        opened(photos)


def test_shared_sets_have_the_stated_counts(shared):
    train, test, notes = open_folder(shared / "data/hymenoptera", val_fraction=0.2, seed=0)
    assert (len(train), len(test), train.class_names) == (244, 153, ("ants", "bees"))
    assert "imageNotFound.gif" in notes[0]
    train, test, notes = open_folder(shared / "data/hotdog", val_fraction=0.2, seed=0)
    assert (len(train), len(test), notes) == (2000, 800, ())


def test_decoded_rows_are_the_sources(photos):
    train = opened(photos).train
    decoded = decode_set(train, Canvas(32))
    assert decoded.images.shape == (8, 32, 32, 3)
    assert decoded.labels.tolist() == [0] * 4 + [1] * 4
    np.testing.assert_array_equal(decoded.images[:, 0, 0], [(60 * i, 100 * j, 7) for j in (0, 1) for i in range(4)])
    np.testing.assert_array_equal(decoded.sizes, [[30, 40]] * 8)
    assert decoded.names[0].endswith("train/cats/a.png")


def test_bad_images_stop_the_run_or_are_skipped_and_listed(photos):
    (photos / "train/dogs/a.png").write_text("words")
    (photos / "train/cats/b.png").write_bytes(b"")
    train = opened(photos).train
    with pytest.raises(UserError) as caught:
        decode_set(train, Canvas(32))
    for line in ("2 of 8 images cannot be decoded", "dogs/a.png: not an image", "cats/b.png", "--skip-bad-images"):
        assert line in str(caught.value)
    decoded = decode_set(train, Canvas(32), skip_bad=True)
    assert decoded.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [re.sub(".*/", "", line) for line in decoded.skipped] == [
        "b.png: not an image that PIL knows",
        "a.png: not an image that PIL knows",
    ]
    assert all("b.png" not in name or "dogs" in name for name in decoded.names)


def test_a_class_of_bad_images_only(photos):
    for path in (photos / "train/dogs").iterdir():
        path.write_text("words")
    with pytest.raises(UserError, match="class dogs: no image can be decoded"):
        decode_set(opened(photos).train, Canvas(32), skip_bad=True)


@pytest.fixture
def decodes(monkeypatch):
    """The items that were decoded, in any order."""
    seen = []
    original = canvas_module.decode
    monkeypatch.setattr(canvas_module, "decode", lambda item: (seen.append(item), original(item))[1])
    return seen


def test_the_cache_is_used_until_a_file_changes(photos, tmp_path, decodes):
    cache = tmp_path / "cache"
    train = opened(photos).train
    first = decode_set(train, Canvas(32), cache_dir=cache)
    assert len(decodes) == 8
    again = decode_set(train, Canvas(32), cache_dir=cache)
    assert len(decodes) == 8
    np.testing.assert_array_equal(first.images, again.images)
    assert isinstance(again.images, np.memmap)
    decode_set(train, EvalCrop(32, "short"), cache_dir=cache)
    assert len(decodes) == 16
    os.utime(photos / "train/cats/a.png", ns=(1, 1))
    decode_set(train, Canvas(32), cache_dir=cache)
    assert len(decodes) == 24


def test_a_damaged_cache_is_made_again(photos, tmp_path, decodes):
    cache = tmp_path / "cache"
    train = opened(photos).train
    expected = decode_set(train, Canvas(32), cache_dir=cache).images.copy()
    (file,) = cache.glob("*/images.npy")
    file.write_bytes(file.read_bytes()[:1000])
    np.testing.assert_array_equal(decode_set(train, Canvas(32), cache_dir=cache).images, expected)
    assert len(decodes) == 16
    decode_set(train, Canvas(32), cache_dir=cache)
    assert len(decodes) == 16


def test_a_stop_while_decoding_leaves_no_cache(photos, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_set(opened(photos).train, Canvas(32), cache_dir=cache, progress=stop)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(photos, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="cannot be kept there .*another --cache-dir"):
        decode_set(opened(photos).train, Canvas(32), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("sides", "expected"), [((500, 400), 384), ((300, 260), 288), ((100, 90), 224), ((240, 400), 320)]
)
def test_canvas_follows_the_short_sides(tmp_path, sides, expected):
    images = [save(tmp_path / f"c{i}/a.jpg", size=(side + 100, side)) for i, side in enumerate(sides)]
    assert canvas_size(FileSource(tuple((path, 0) for path in images), ("a", "b")), 224) == expected


def test_arrays():
    source = ArraySource(np.full((3, 8, 9, 3), 5, np.uint8), np.array([0, 1, 1]), ("a", "b"))
    decoded = decode_set(source, Canvas(32))
    assert decoded.labels.tolist() == [0, 1, 1]
    assert (decoded.images == 5).all()
    assert decoded.names == ("image 0", "image 1", "image 2")
