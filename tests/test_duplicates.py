"""A photograph is found again, other photographs and flat pictures are not."""

import io

import numpy as np
import PIL.Image
import PIL.ImageDraw

from jaxft.data.duplicates import difference_hashes, near, same_content, thumbnail, thumbnails
from pictures import RGB, encoded, photo


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
