"""Folders as people have them: every layout that is read, and every one that is refused, with the message."""

import os
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from jaxft.data.folders import EXTENSIONS, open_folder
from jaxft.data.sources import Splits
from jaxft.errors import UserError


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def numbered(num: int) -> list[str]:
    return [f"{i:03}.jpg" for i in range(num)]


def opened(folder: Path, val_fraction: float = 0.2, seed: int = 0) -> Splits:
    return open_folder(folder, val_fraction=val_fraction, seed=seed)


def items(source) -> list[tuple[Path, int]]:
    return [source.read(i) for i in range(len(source))]


@pytest.fixture
def two_splits(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in ("bees", "ants"):
            touch(tmp_path / split / name, "b.jpg", "a.png")
    return tmp_path


def test_the_extensions_are_torchvisions():
    assert EXTENSIONS == IMG_EXTENSIONS


@pytest.mark.parametrize("test_name", ["val", "test"])
def test_train_and_val_folders_agree_with_torchvision(two_splits, test_name):
    (two_splits / "val").rename(two_splits / test_name)
    splits = opened(two_splits)
    for source, split in ((splits.train, "train"), (splits.test, test_name)):
        # allow_empty and empty files: ImageFolder lists without opening.
        expected = ImageFolder(str(two_splits / split))
        assert list(source.class_names) == expected.classes == ["ants", "bees"]
        assert [(str(path), label) for path, label in items(source)] == expected.samples
    assert splits.notes == ()


def test_every_extension_in_any_case_is_an_image_and_the_rest_is_counted_and_named(tmp_path):
    good = [f"x{ext}" for ext in IMG_EXTENSIONS] + [f"Y{ext.upper()}" for ext in IMG_EXTENSIONS]
    for split in ("train", "val"):
        touch(tmp_path / split / "a", *good)
        touch(tmp_path / split / "b", "1.jpg")
    touch(tmp_path / "train" / "a", "a.gif", "b.txt", "c.jpg.part", "Thumbs.db", ".hidden.jpg")
    touch(tmp_path / "train" / ".cache", "1.jpg")
    splits = opened(tmp_path)
    assert sorted(path.name for path, label in items(splits.train) if label == 0) == sorted(good)
    (note,) = splits.notes
    assert note.startswith("ignored 4 entries that are not an image")
    folder = tmp_path / "train" / "a"
    assert note.endswith(f"{folder / 'Thumbs.db'}, {folder / 'a.gif'}, {folder / 'b.txt'}, …")


def test_one_ignored_file_is_named_alone(two_splits):
    touch(two_splits / "val" / "ants", "a.gif")
    (note,) = opened(two_splits).notes
    assert note.startswith("ignored 1 entry that is not")
    assert note.endswith(f": {two_splits / 'val' / 'ants' / 'a.gif'}")


def test_folders_beside_train_and_val_are_noted(two_splits):
    touch(two_splits / "test" / "ants", "a.jpg")
    touch(two_splits, "README.txt")
    assert opened(two_splits).notes == (f"not used in {two_splits}: README.txt, test",)


def test_links_to_files_and_folders_are_followed(two_splits, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    touch(elsewhere / "wasps", "w.jpg")
    for split in ("train", "val"):
        (two_splits / split / "wasps").symlink_to(elsewhere / "wasps")
    (two_splits / "train" / "ants" / "link.jpg").symlink_to(elsewhere / "wasps" / "w.jpg")
    splits = opened(two_splits)
    assert splits.train.class_names == ("ants", "bees", "wasps")
    assert len(splits.train) == 6
    assert len(splits.test) == 5


def test_a_pipe_named_like_an_image_is_not_opened(two_splits):
    os.mkfifo(two_splits / "train" / "ants" / "pipe.jpg")
    splits = opened(two_splits)
    assert len(splits.train) == 4
    assert "ignored 1 entry" in splits.notes[0]


def test_names_that_are_not_text_can_be_printed(two_splits):
    (two_splits / "train" / "ants" / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"")
    (note,) = opened(two_splits).notes
    assert note.encode().decode() == note
    assert r"caf\udce9.txt" in note


def test_names_of_any_kind_can_be_read(tmp_path):
    name = "蜜蜂 of the wood"
    for split in ("train", "val"):
        touch(tmp_path / split / name, "two\nlines.jpg", "नाम १.png")
        touch(tmp_path / split / "ants\nblack", "1.jpg")
    touch(tmp_path / "train" / name, "no\nphoto.txt")
    splits = opened(tmp_path)
    assert splits.train.class_names == (r"ants\nblack", name)
    assert [path.name for path, label in items(splits.train) if label == 1] == ["two\nlines.jpg", "नाम १.png"]
    assert splits.notes[0].endswith(rf"{tmp_path}/train/{name}/no\nphoto.txt")
    with pytest.raises(UserError, match=r"one\\nline: no such folder") as caught:
        opened(tmp_path / "one\nline")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("below_train", [False, True])
def test_class_folders_alone_are_split_within_each_class(tmp_path, below_train):
    root = tmp_path / "train" if below_train else tmp_path
    counts = {"a": 10, "b": 25, "c": 2, "d": 3}
    for name, num in counts.items():
        touch(root / name, *numbered(num))
    splits = opened(tmp_path, val_fraction=0.2)
    test, train = items(splits.test), items(splits.train)
    # A fifth of each class, and never none: 10 -> 2, 25 -> 5, 2 -> 1, 3 -> 1.
    assert np.bincount([label for _, label in test]).tolist() == [2, 5, 1, 1]
    assert np.bincount([label for _, label in train]).tolist() == [8, 20, 1, 2]
    everything = sorted(path for path, _ in train + test)
    assert everything == sorted(root / name / file for name, num in counts.items() for file in numbered(num))
    assert all(path.parent.name == splits.train.class_names[label] for path, label in train + test)
    assert splits.notes == (f"{root} has no val/ or test/: 20% of each class, chosen by the seed, is the test set",)


def test_the_split_is_fixed_by_the_seed(tmp_path):
    for name in "ab":
        touch(tmp_path / name, *numbered(40))
    first = opened(tmp_path, seed=3)
    assert items(opened(tmp_path, seed=3).test) == items(first.test)
    assert items(opened(tmp_path, seed=4).test) != items(first.test)
    # Pinned: an old run's folder must give the old test images.
    assert [path.name[:3] for path, label in items(first.test) if label == 0] == [
        "002",
        "011",
        "017",
        "020",
        "023",
        "030",
        "032",
        "033",
    ]
    by_class = [{path.name for path, label in items(first.test) if label == k} for k in (0, 1)]
    assert by_class[0] != by_class[1]


@pytest.mark.parametrize(("val_fraction", "num_test"), [(0.001, 1), (0.999, 3)])
def test_each_class_keeps_an_image_on_each_side(tmp_path, val_fraction, num_test):
    for name in "ab":
        touch(tmp_path / name, *numbered(4))
    splits = opened(tmp_path, val_fraction=val_fraction)
    assert (len(splits.test), len(splits.train)) == (2 * num_test, 2 * (4 - num_test))


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train"):
        touch(tmp_path / name, *numbered(3))
    assert opened(tmp_path).train.class_names == ("bus", "train")


def test_a_class_of_one_image_cannot_be_split(tmp_path):
    touch(tmp_path / "a", "1.jpg", "2.jpg")
    touch(tmp_path / "b", "1.jpg")
    with pytest.raises(UserError, match=r"class b in .* has one image.*Add one"):
        opened(tmp_path)


def test_different_classes_are_named_with_their_side(two_splits):
    touch(two_splits / "train" / "wasps", "1.jpg")
    touch(two_splits / "val" / "flies", "1.jpg")
    with pytest.raises(UserError, match="different classes; only in .*train: wasps; only in .*val: flies. Give both"):
        opened(two_splits)


def test_a_test_split_that_lacks_a_class_is_refused(two_splits):
    touch(two_splits / "train" / "wasps", "1.jpg")
    with pytest.raises(UserError, match=r"only in .*train: wasps\. Give both"):
        opened(two_splits)


def test_one_class_only(tmp_path):
    touch(tmp_path / "ants", *numbered(3))
    with pytest.raises(UserError, match="one class only, ants. A classifier needs at least two"):
        opened(tmp_path)


def test_an_empty_class_folder_is_named(two_splits):
    touch(two_splits / "train" / "wasps")
    with pytest.raises(
        UserError, match=r"class folder .*wasps has no image in it \(it has nothing\).*remove the folder"
    ):
        opened(two_splits)
    touch(two_splits / "train" / "wasps", "1.gif", "2.gif", "notes")
    with pytest.raises(UserError, match=r"wasps has no image in it \(it has \.gif, notes\)"):
        opened(two_splits)


def test_nested_class_folders_are_refused_with_a_hint(two_splits):
    touch(two_splits / "train" / "insects" / "wasps", "1.jpg")
    with pytest.raises(UserError, match=r"insects holds folders \(wasps\), not images.* or pass --data .*insects"):
        opened(two_splits)


@pytest.mark.parametrize("names", [("train", "val"), ("photos",)])
def test_images_without_class_folders(tmp_path, names):
    for name in names:
        touch(tmp_path / name, "1.jpg", "2.jpg")
    folder = tmp_path / names[0]
    with pytest.raises(UserError, match=rf"{folder} has no class folders. Put the images of each class into a folder"):
        opened(tmp_path if len(names) == 2 else folder)


def test_a_test_set_without_a_training_set(two_splits):
    (two_splits / "train").rename(two_splits / ".old")
    with pytest.raises(UserError, match=r"has val/ but no train/.*pass --data .*val to split those"):
        opened(two_splits)


def test_a_missing_folder_names_what_is_there_and_what_is_alike(tmp_path):
    touch(tmp_path / "hymenoptera" / "train")
    with pytest.raises(
        UserError, match=rf"hymenoptra: no such folder; {tmp_path} is there. Did you mean .*/hymenoptera\?"
    ):
        opened(tmp_path / "hymenoptra")
    with pytest.raises(UserError, match=rf"no such folder; {tmp_path} is there. Pass a folder of class folders"):
        opened(tmp_path / "zzz" / "deeper")


def test_a_missing_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--data nowhere: no such folder; \. is there"):
        opened(Path("nowhere"))


def test_a_file_is_not_a_folder(tmp_path):
    touch(tmp_path, "data.zip")
    with pytest.raises(UserError, match=r"data.zip: a file, not a folder. Pass the folder"):
        opened(tmp_path / "data.zip")


def test_a_folder_that_cannot_be_read(two_splits, monkeypatch):
    listed = os.scandir

    def locked(folder):
        if Path(folder).name == "bees":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(UserError, match=r"train/bees: cannot be read \(Permission denied\)"):
        opened(two_splits)


def test_the_tutorials_set(shared):
    splits = opened(shared / "data" / "hymenoptera")
    assert (len(splits.train), len(splits.test)) == (244, 153)
    assert splits.train.class_names == splits.test.class_names == ("ants", "bees")
    (note,) = splits.notes
    assert note.startswith("ignored 1 entry")
    assert note.endswith("train/ants/imageNotFound.gif")


def test_the_hot_dogs(shared):
    splits = opened(shared / "data" / "hotdog")
    assert splits.train.class_names == ("hotdog", "not-hotdog")
    assert np.bincount([label for _, label in items(splits.train)]).tolist() == [1000, 1000]
    assert np.bincount([label for _, label in items(splits.test)]).tolist() == [400, 400]
    assert splits.notes == ()
