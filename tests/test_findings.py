"""What is found in sets that are made here, and in one from the wild."""

from pathlib import Path

from jaxft.data.findings import Finding, findings
from jaxft.data.folders import open_folder
from jaxft.data.health import examine_splits
from pictures import encoded, photo, sound, write


def check(folder: Path) -> dict[str, Finding]:
    splits = open_folder(folder, val_fraction=0.2, seed=0)
    return {finding.title: finding for finding in findings(splits, examine_splits(splits, lambda *_: None))}


def test_of_a_sound_set_nothing(tmp_path):
    write(tmp_path, sound())
    assert check(tmp_path) == {}


def test_copies_of_each_kind(tmp_path):
    files = sound()
    files["train/ants/copy.png"] = files["train/ants/copy too.png"] = files["train/ants/0.png"]
    files["train/bees/contradiction.png"] = files["train/ants/1.png"]
    files["test/bees/leak.png"] = files["train/bees/2.png"]
    files["test/ants/leak.png"] = files["train/ants/0.png"]
    files["test/ants/other label.png"] = files["train/bees/0.png"]
    files["test/bees/twin.png"] = files["test/bees/0.png"]
    write(tmp_path, files)
    found = check(tmp_path)
    assert {title: finding.lines for title, finding in found.items()} == {
        "3 of 10 test images are also training images, byte for byte (leakage)": (
            "test/ants/leak.png = train/ants/0.png = train/ants/copy too.png = train/ants/copy.png",
            "test/ants/other label.png = train/bees/0.png",
            "test/bees/leak.png = train/bees/2.png",
        ),
        "2 images are in more than one class, byte for byte": (
            "train/ants/1.png (ants) = train/bees/contradiction.png (bees)",
            "train/bees/0.png (bees) = test/ants/other label.png (ants)",
        ),
        "3 images are copies of others of their class and split, byte for byte": (
            "train/ants/0.png = train/ants/copy too.png = train/ants/copy.png",
            "test/bees/0.png = test/bees/twin.png",
        ),
    }
    assert all(finding.wrong for finding in found.values())


def test_unreadable_files_are_neither_copies_nor_leaks(tmp_path):
    files = sound()
    files["train/ants/x.jpg"] = files["train/ants/y.jpg"] = files["test/ants/z.jpg"] = b"no image"
    write(tmp_path, files)
    found = check(tmp_path)
    assert list(found) == ["3 images cannot be decoded"]
    assert found["3 images cannot be decoded"].lines[2] == "test/ants/z.jpg: not an image that PIL knows"


def test_a_class_with_hardly_an_image(tmp_path):
    files = sound(num=2)
    del files["train/ants/1.png"]
    files["test/bees/0.png"] = files["test/bees/1.png"] = b""
    write(tmp_path, files)
    found = check(tmp_path)["2 classes have hardly an image"]
    assert found.wrong
    assert found.lines == ("ants: 1 training and 2 test images", "bees: 2 training and 0 test images")


def test_hints(tmp_path):
    files = sound(num=2)
    files["train/ants/gif.png"] = encoded(photo(40, 50, 99), "GIF")
    files["test/bees/again.jpg"] = encoded(photo(40, 50, 0), "JPEG", quality=60)
    files["test/bees/again.webp"] = encoded(photo(40, 50, 5), "WEBP")
    files |= {f"train/bees/{seed}.jpg": encoded(photo(30, 30, seed), "JPEG") for seed in range(100, 113)}
    write(tmp_path, files)
    found = check(tmp_path)
    assert not any(finding.wrong for finding in found.values())
    titles = {
        "1 test image looks nearly like a training image": "test/bees/again.jpg ~ train/ants/0.png",
        "1 image looks nearly like another of its split": "test/bees/again.webp ~ test/ants/1.png",
        "1 file holds another format than its name says": "train/ants/gif.png holds GIF",
        "unbalanced: bees has 5 times the training images of ants (15 and 3)": "",
    }
    assert list(found) == list(titles)
    for title, line in titles.items():
        assert "".join(found[title].lines).startswith(line)
    assert found["1 image looks nearly like another of its split"].lines[0].endswith("bits; classes bees and ants)")


def test_a_set_too_large_to_compare_says_so(tmp_path, monkeypatch):
    files = sound()
    files["test/bees/again.jpg"] = encoded(photo(40, 50, 0), "JPEG")
    write(tmp_path, files)
    monkeypatch.setattr("jaxft.data.findings.MOST_COMPARED", 12)
    found = check(tmp_path)
    assert [(title, finding.wrong) for title, finding in found.items()] == [
        ("more than 12 images: nearly identical ones were not looked for", False)
    ]
    monkeypatch.setattr("jaxft.data.findings.MOST_COMPARED", 13)
    assert list(check(tmp_path)) == ["1 test image looks nearly like a training image"]


def test_progress_counts_every_image(tmp_path):
    write(tmp_path, sound())
    told = []
    examine_splits(open_folder(tmp_path, val_fraction=0.2, seed=0), lambda *words: told.append(words))
    expected = [(f"decoding {what} images", i, 6) for what in ("training", "test") for i in range(1, 7)]
    assert told == expected


def test_photographs_found_in_the_wild(shared):
    found = check(shared / "data/hymenoptera")
    assert found == {}
