"""Small pictures of every kind, made here: what the health check says of each."""

import struct
import zlib

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

from jaxft.data.health import Facts, examine
from jaxft.data.traits import kind_of
from pictures import RGB, encoded, frames, photo


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
