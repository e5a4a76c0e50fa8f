"""Small pictures of every kind, made here: what the health check says of each, and of pictures that are there twice."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

from jaxft.data.counts import class_counts, count_notes
from jaxft.data.duplicates import difference_hashes, near, same_content, thumbnail, thumbnails
from jaxft.data.findings import Finding, findings
from jaxft.data.health import Facts, examine, examine_splits
from jaxft.data.leakage import TAIL_BYTES, find_leaks, leakage_notes
from jaxft.data.sources import ArraySource, FileSource, Splits, open_folder
from jaxft.data.traits import kind_of
from pictures import RGB, encoded, frames, photo, sound, write


def wide_png(colour_type: int, channels: int) -> bytes:
    """16 bits a channel, which PIL does not write in colour. Source: the PNG specification."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header, row = struct.pack(">IIBBBBB", 8, 8, 16, colour_type, 0, 0, 0), b"\0" + bytes(range(16)) * channels
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 8)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def with_late_exif(item: bytes) -> bytes:
    """A PNG whose orientation, 6, stands behind its pixels."""
    body = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    exif = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    return item[:-12] + exif + item[-12:]


def oriented(orientation: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[274] = orientation
    return exif


def palette() -> PIL.Image.Image:
    return photo(16, 16).convert("P", palette=PIL.Image.Palette.ADAPTIVE)


KINDS = {
    "rgb.png": (encoded(RGB), "PNG", ()),
    "rgb.jpg": (encoded(RGB, "JPEG"), "JPEG", ()),
    "RGB.JPEG": (encoded(RGB, "JPEG"), "JPEG", ()),
    "rgb.bmp": (encoded(RGB, "BMP"), "BMP", ()),
    "rgb.ppm": (encoded(RGB, "PPM"), "PPM", ()),
    "rgb.webp": (encoded(RGB, "WEBP"), "WEBP", ()),
    "palette.png": (encoded(palette()), "PNG", ()),
    "grey.jpg": (encoded(RGB.convert("L"), "JPEG"), "JPEG", ("greyscale",)),
    "bits.png": (encoded(RGB.convert("1")), "PNG", ("greyscale",)),
    "cmyk.jpg": (encoded(RGB.convert("CMYK"), "JPEG"), "JPEG", ("CMYK",)),
    "cmyk.tif": (encoded(RGB.convert("CMYK"), "TIFF"), "TIFF", ("CMYK",)),
    "wide-grey.png": (encoded(PIL.Image.fromarray(np.eye(8, dtype=np.uint16))), "PNG", ("greyscale", "16-bit")),
    "wide-rgb.png": (wide_png(2, 3), "PNG", ("16-bit",)),
    "wide-grey-alpha.png": (wide_png(4, 2), "PNG", ("greyscale", "16-bit", "with transparency")),
    "wide-rgb.ppm": (b"P6 8 8 65535\n" + bytes(8 * 8 * 6), "PPM", ("16-bit",)),
    "wide.pgm": (b"P5 8 8 1023\n" + bytes(8 * 8 * 2), "PPM", ("greyscale", "16-bit")),
    "alpha.png": (encoded(RGB.convert("RGBA")), "PNG", ("with transparency",)),
    "hole.png": (encoded(palette(), transparency=3), "PNG", ("with transparency",)),
    "animated.webp": (frames("WEBP"), "WEBP", ("animated",)),
    "pages.tiff": (frames("TIFF"), "TIFF", ("animated",)),
    "gif.png": (frames("GIF"), "GIF", ("animated", "misnamed")),
    "png.jpg": (encoded(RGB), "PNG", ("misnamed",)),
    "SHOUTED.PNG": (encoded(RGB, "JPEG"), "JPEG", ("misnamed",)),
    "stereo.jpg": (frames("MPO"), "MPO", ()),
    "upright.jpg": (encoded(RGB, "JPEG", exif=oriented(1)), "JPEG", ()),
    "turned.jpg": (encoded(RGB, "JPEG", exif=oriented(6)), "JPEG", ("EXIF-rotated",)),
    "flipped.png": (encoded(RGB, exif=oriented(2)), "PNG", ("EXIF-rotated",)),
    "late.png": (with_late_exif(encoded(RGB)), "PNG", ("EXIF-rotated",)),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_told(tmp_path, name):
    content, kind, traits = KINDS[name]
    (tmp_path / name).write_bytes(content)
    facts = examine(tmp_path / name, 3)
    assert (facts.label, facts.bad) == (3, "")
    assert (facts.format, facts.traits) == (kind, traits)
    assert kind_of(content) == (kind, tuple(trait for trait in traits if trait != "misnamed"))


def test_sizes_are_upright_and_those_of_the_file(tmp_path):
    for name, size in (("turned.jpg", (24, 16)), ("late.png", (24, 16)), ("flipped.png", (16, 24))):
        (tmp_path / name).write_bytes(KINDS[name][0])
        assert examine(tmp_path / name, 0).size == size
    (tmp_path / "large.jpg").write_bytes(encoded(photo(701, 500), "JPEG"))
    assert examine(tmp_path / "large.jpg", 0).size == (701, 500)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "not an image that PIL knows"),
        (encoded(photo(300, 300), "JPEG")[:-1000], "truncated"),
        (encoded(photo(300, 300))[:-3000], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "EPS files are not read"),
    ],
)
def test_an_unreadable_file_has_a_reason(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    facts = examine(tmp_path / "a.jpg", 1)
    assert reason in facts.bad
    assert facts == Facts(1, bad=facts.bad)


def test_a_broken_link_has_a_reason(tmp_path):
    assert examine(tmp_path / "gone.jpg", 1).bad == "No such file or directory"


def test_pixels_are_examined_too():
    facts = examine(np.asarray(RGB), 0)
    assert (facts.format, facts.size, facts.traits, facts.bad) == ("pixels", (16, 24), (), "")
    assert facts.digest == examine(np.asarray(RGB).copy(), 0).digest
    assert facts.digest != examine(np.asarray(RGB).reshape(24, 16, 3), 0).digest


# Nearly the same.


def thumb(*images: PIL.Image.Image | bytes) -> np.ndarray:
    opened = [PIL.Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image for image in images]
    return thumbnails([thumbnail(image) for image in opened])


def test_a_difference_hash_is_its_definition():
    rows = np.random.default_rng(0).integers(0, 256, (3, 8, 9), dtype=np.uint8)
    hashes, clear = difference_hashes(rows)
    for picture, found in zip(rows.tolist(), hashes.tolist(), strict=True):
        expected = {i for i in range(64) if picture[i // 8][i % 8 + 1] > picture[i // 8][i % 8]}
        # The bits lie in bytes, the first the highest.
        assert {i for i in range(64) if found.to_bytes(8, "little")[i // 8] >> (7 - i % 8) & 1} == expected
    assert clear.all()


def test_a_photograph_is_found_again_re_encoded_smaller_trimmed_and_brighter():
    one = photo(300, 400)
    again = [
        encoded(one, "JPEG", quality=30),
        one.resize((150, 110), PIL.Image.Resampling.LANCZOS),
        one.crop((4, 3, 396, 297)),
        one.point(lambda level: 40 + level * 0.8),
        one.convert("L"),
    ]
    among = thumb(*(photo(30, 40, seed) for seed in range(1, 200)), one)
    assert [(i, other) for i, other, _ in near(thumb(*again), among)] == [(i, 199) for i in range(len(again))]
    assert near(thumb(encoded(one)), among)[0].bits == 0


def test_other_photographs_are_not():
    many = thumb(*(photo(60, 80, seed) for seed in range(700)))
    assert near(many) == []
    assert near(many[:300], many[300:]) == []


def test_within_a_set_each_is_compared_with_those_before_it():
    several = [photo(60, 80, seed) for seed in range(600)]
    several[550] = several[2]
    several[599] = several[550]
    assert [(i, other) for i, other, _ in near(thumb(*several))] == [(550, 2), (599, 2)]


def test_flat_pictures_are_not_called_alike():
    flat = [PIL.Image.new("RGB", (64, 64), (level, level, level)) for level in (0, 7, 255)]
    grain = np.random.default_rng(0).integers(199, 202, (2, 64, 64, 3), dtype=np.uint8)
    stripes = []
    for height in (10, 30):
        stripes.append(PIL.Image.new("RGB", (64, 64), "white"))
        PIL.ImageDraw.Draw(stripes[-1]).rectangle((0, height, 64, height + 9), "black")
    things = []
    for box in ((20, 20, 40, 44), (22, 18, 42, 42)):
        things.append(PIL.Image.new("RGB", (64, 64), "white"))
        PIL.ImageDraw.Draw(things[-1]).ellipse(box, "red")
    every = thumb(*flat, *map(PIL.Image.fromarray, grain), *stripes, *things)
    assert near(every) == []
    assert not difference_hashes(every)[1][:7].any()


def test_nothing_is_like_nothing():
    assert near(thumb()) == near(thumb(), thumb(RGB)) == near(thumb(RGB), thumb()) == near(thumb(RGB)) == []


def test_same_content():
    assert same_content([b"a", b"", b"b", b"a", b"", b"c", b"a"]) == [[0, 3, 6]]


# What is found in a set.


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


# What train says at its start.


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


class Bytes:
    """A source that has to be read to be looked at, as tfds's."""

    class_names = ("a", "b")

    def __init__(self, *items: bytes):
        self.items = items
        self.asked = 0

    def __len__(self) -> int:
        return len(self.items)

    def read(self, i: int) -> tuple[bytes, int]:
        self.asked += 1
        return self.items[i], i % 2


def test_encoded_bytes_are_not_read_for_it_but_checked():
    items = [encoded(photo(20, 20, seed)) for seed in range(8)]
    train, test = Bytes(*items[:5]), Bytes(*items[4:])
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


def labelled(counts: dict[str, int]) -> FileSource:
    labels = [label for label, num in enumerate(counts.values()) for _ in range(num)]
    return FileSource([Path("x")] * len(labels), labels, tuple(counts))


def test_counts():
    source = labelled({"ants": 2, "none": 0, "bees": 3})
    assert class_counts(source).tolist() == [2, 0, 3]
    assert class_counts(Bytes(b"", b"", b"")).tolist() == [2, 1]
    assert class_counts(ArraySource(np.zeros((0, 2, 2, 3), np.uint8), np.zeros(0, int), ("a",))).tolist() == [0]


def test_few_classes_are_counted_one_by_one():
    assert count_notes(labelled({"ants": 124, "bees": 121})) == ("classes: ants 124, bees 121",)


def test_of_many_classes_the_range():
    counts = {f"c{i}": 10 + i**2 for i in range(20)}
    assert count_notes(labelled(counts))[:1] == (
        "20 classes, 10 to 371 training images each (median 100): fewest c0, most c19",
    )
    assert count_notes(labelled(dict.fromkeys(counts, 7))) == ("20 classes, 7 training images each",)


def test_the_hint_to_balance():
    source = labelled({"ants": 2, "bees": 10})
    assert count_notes(source)[1:] == (
        "unbalanced: bees has 5 times the training images of ants (10 and 2). "
        "--balance weights or --balance sampler makes up for it.",
    )
    assert count_notes(source, balanced=True) == ("classes: ants 2, bees 10",)
    assert len(count_notes(labelled({"ants": 2, "bees": 9}))) == 1
    assert count_notes(labelled({"ants": 2, "none": 0})) == ("classes: ants 2, none 0",)
