"""Test images that are training images, found in passing, and named."""

import os
from pathlib import Path

import numpy as np
import pytest

from jaxft.config import Config, ImageConfig
from jaxft.data.findings import findings
from jaxft.data.folders import open_folder
from jaxft.data.health import examine_splits
from jaxft.data.leakage import TAIL_BYTES, find_leaks, leakage_notes
from jaxft.data.sources import ArraySource, Splits
from jaxft.sweeping import fit_many
from pictures import RGB, BytesSource, encoded, photo, sound, write


def opened(folder: Path) -> Splits:
    return open_folder(folder, val_fraction=0.2, seed=0)


def test_leaks_are_named(tmp_path):
    files = sound(num=5)
    for i in range(4):
        files[f"test/ants/{i}.png"] = files[f"train/ants/{i}.png"]
    write(tmp_path, files)
    assert leakage_notes(opened(tmp_path), "photos") == (
        "leakage: 4 of 10 test images are also training images: test/ants/0.png = train/ants/0.png, test/ants/1.png = "
        "train/ants/1.png, test/ants/2.png = train/ants/2.png, …; python -m jaxft.data.check photos --all lists them",
    )


def test_one_leak_is_named_in_the_singular_by_the_first_of_its_copies(tmp_path):
    files = sound()
    files["test/bees/x.png"] = files["train/bees/copy.png"] = files["train/bees/1.png"]
    write(tmp_path, files)
    (note,) = leakage_notes(opened(tmp_path))
    assert note.startswith("leakage: 1 of 7 test images is also a training image: test/bees/x.png = train/bees/1.png; ")


def test_copies_among_training_images_leak_into_what_is_held_out(tmp_path, monkeypatch):
    files = sound(num=4)
    files |= {f"train/ants/copy-{i}.png": files["train/ants/0.png"] for i in range(4)}
    write(tmp_path, files)
    said: list[str] = []
    monkeypatch.setattr(fit_many, "train_members", lambda *_, **__: iter([]))
    monkeypatch.setattr(fit_many, "rank", lambda *_: [])
    config = Config(data=str(tmp_path), batch_size=2, images=ImageConfig(holdout=0.5))
    fit_many.fit_many([config], hooks=fit_many.Hooks(say=said.append), averages=False)
    (note,) = [line for line in said if line.startswith("leakage")]
    assert note.startswith(
        "leakage: 2 of 6 held-out images are also training images: ants/copy-2.png = ants/0.png, ants/copy-3.png = "
        "ants/0.png; "
    )


@pytest.mark.parametrize("place", [0, -1])
def test_files_of_one_size_that_differ_anywhere_are_no_leaks(tmp_path, place):
    files = {name: content + bytes(2 * TAIL_BYTES) for name, content in sound().items()}
    for name in ("test/ants/0.png", "test/ants/1.png"):
        body = bytearray(files["train/ants/0.png"])
        body[place] ^= 1
        files[name] = bytes(body)
    files["test/ants/2.png"] = files["train/bees/2.png"] = b""
    write(tmp_path, files)
    assert find_leaks(opened(tmp_path)) == []
    assert leakage_notes(opened(tmp_path)) == ()


def test_leaks_among_files_that_cannot_be_read_are_passed_over(tmp_path):
    write(tmp_path, sound())
    for split in ("train", "test"):
        (tmp_path / split / "ants/gone.jpg").symlink_to(tmp_path / "nowhere")
    assert leakage_notes(opened(tmp_path)) == ()


def test_leaks_in_memory():
    images = np.stack([np.asarray(photo(60, 60, seed)) for seed in range(6)])
    labels = np.zeros(3, np.int64)
    images[4] = images[1]
    images[5] = images[2]
    images[5, 0, 0] ^= 1
    train, test = ArraySource(images[:3], labels, ("a",)), ArraySource(images[3:], labels, ("a",))
    assert find_leaks(Splits(train, test, ())) == [(1, 1)]
    assert "test image 1 = training image 1" in leakage_notes(Splits(train, test, ()))[0]


def test_encoded_bytes_are_not_read_for_it_but_checked():
    items = [encoded(photo(20, 20, seed)) for seed in range(8)]
    train, test = BytesSource([*items[:5]]), BytesSource([*items[4:]])
    assert leakage_notes(Splits(train, test, ())) == ()
    assert train.asked + test.asked <= 2
    found = findings(Splits(train, test, ()), examine_splits(Splits(train, test, ()), lambda *_: None))
    assert [finding.lines for finding in found] == [("test image 0 = training image 4",)]


def test_too_many_files_of_one_size_are_said_not_to_be_compared(tmp_path, monkeypatch):
    write(tmp_path, dict.fromkeys(sound(), b"same"))
    monkeypatch.setattr("jaxft.data.leakage.MOST_READ", 11)
    assert leakage_notes(opened(tmp_path)) == (
        "leakage was not looked for among so many files: python -m jaxft.data.check DATA does",
    )


def test_names_of_any_kind_stay_on_their_line(tmp_path):
    write(tmp_path, sound())
    odd = [b"\xff\xfe.png", "μέλισσα é.png".encode()]
    for name in odd:
        for split in ("train", "test"):
            Path(os.fsdecode(os.fsencode(tmp_path / split / "bees") + b"/" + name)).write_bytes(
                encoded(photo(20, 20, name[0]))
            )
    (note,) = leakage_notes(opened(tmp_path))
    assert r"test/bees/\udcff\udcfe.png = train/bees/\udcff\udcfe.png" in note
    assert "test/bees/μέλισσα é.png = train/bees/μέλισσα é.png" in note
    note.encode()


def test_files_of_a_folder_without_splits_are_named_from_it(tmp_path):
    same = encoded(RGB)
    write(
        tmp_path, {f"a/{i}.png": same for i in range(5)} | {f"a-b/{i}.png": encoded(photo(9, 9, i)) for i in range(5)}
    )
    assert " test images is also a training image: a/" in leakage_notes(opened(tmp_path))[0]
