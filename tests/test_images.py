import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from torchvision.transforms import CenterCrop, Compose, Resize

from jaxft.data.canvas import Canvas, EvalCrop, eval_crop, to_canvas
from jaxft.data.images import BadImageError, decode, pixel_size

RED, HALF_RED = (255, 0, 0), (255, 0, 0, 128)


def encoded(image: PIL.Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(item: bytes) -> tuple[int, ...]:
    image = decode(item)
    assert image.mode == "RGB"
    return image.getpixel((1, 1))


def wide_grey(kind: str) -> bytes:
    values = np.full((4, 4), 0x8040, np.uint16)
    return encoded(PIL.Image.fromarray(values), kind)


def palette(transparent: bool) -> bytes:
    image = PIL.Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    return encoded(image, "PNG", **({"transparency": 1} if transparent else {}))


def animation() -> bytes:
    frames = [PIL.Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (encoded(PIL.Image.new("L", (4, 4), 77), "PNG"), (77, 77, 77)),
        (encoded(PIL.Image.new("1", (4, 4), 1), "PNG"), (255, 255, 255)),
        (encoded(PIL.Image.new("RGBA", (4, 4), HALF_RED), "PNG"), (255, 127, 127)),
        (encoded(PIL.Image.new("LA", (4, 4), (0, 0)), "PNG"), (255, 255, 255)),
        (palette(transparent=False), RED),
        (palette(transparent=True), (255, 255, 255)),
        (wide_grey("PNG"), (128, 128, 128)),
        (wide_grey("TIFF"), (128, 128, 128)),
        (animation(), RED),
        (encoded(PIL.Image.new("RGB", (4, 4), RED), "BMP"), RED),
    ],
    ids=["grey", "1 bit", "RGBA", "LA", "palette", "clear palette", "16 bit PNG", "16 bit TIFF", "animated", "bmp"],
)
def test_every_mode_becomes_what_a_viewer_shows(item, expected):
    np.testing.assert_allclose(pixel(item), expected, atol=1)


def test_cmyk_jpeg():
    red = PIL.Image.new("RGB", (16, 16), (220, 30, 40))
    np.testing.assert_allclose(pixel(encoded(red.convert("CMYK"), "JPEG", quality=95)), (220, 30, 40), atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = PIL.Image.new("RGB", (32, 16), (0, 0, 255))
    upright.paste(RED, (0, 0, 16, 8))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL.Image.Transpose that a camera would have done
    stored = upright.transpose(PIL.Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(upright))


def noisy_jpeg(side: int = 64) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return encoded(PIL.Image.fromarray(pixels), "JPEG")


def bomb() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""
    whole = encoded(PIL.Image.new("RGB", (1, 1)), "PNG")
    header = b"IHDR" + struct.pack(">II", 60000, 60000) + whole[24:29]
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (b"these are words", "not an image that PIL knows"),
        (b"", "not an image that PIL knows"),
        (noisy_jpeg()[:1500], "truncated"),
        (noisy_jpeg()[:30], "(?i)truncated|not an image"),
        (bomb(), "more than [0-9,]+ pixels: a decompression bomb?"),
        (encoded(PIL.Image.new("F", (4, 4), 0.5), "TIFF"), "floating-point pixels"),
    ],
    ids=["text", "empty", "truncated", "header only", "bomb", "float"],
)
def test_bad_images_have_a_reason(item, reason):
    with pytest.raises(BadImageError, match=reason):
        decode(item)


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(BadImageError, match="No such file"):
        decode(tmp_path / "gone.jpg")
    assert pixel_size(tmp_path / "gone.jpg") == (0, 0)


def test_sizes_come_from_the_header():
    assert pixel_size(encoded(PIL.Image.new("RGB", (30, 20)), "PNG")) == (20, 30)
    assert pixel_size(np.zeros((5, 7, 3), np.uint8)) == (5, 7)


def torchvision_crop(image: PIL.Image.Image, resize: str) -> np.ndarray:
    size = 256 if resize == "short" else [256, 256]
    return np.asarray(Compose([Resize(size), CenterCrop(224)])(image))


@pytest.mark.parametrize("resize", ["short", "squash"])
@pytest.mark.parametrize(
    "size", [(1, 1), (300, 200), (200, 300), (1000, 99), (99, 1000), (256, 256), (257, 255), (40, 60)]
)
def test_evaluation_crop_is_torchvisions_bit_for_bit(size, resize):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = PIL.Image.fromarray(pixels)
    np.testing.assert_array_equal(eval_crop(image, EvalCrop(224, resize)), torchvision_crop(image, resize))


@pytest.mark.parametrize("resize", ["short", "squash"])
def test_evaluation_crop_of_photographs(shared, resize):
    for path in sorted((shared / "data/hymenoptera/val/ants").iterdir())[:8]:
        with PIL.Image.open(path) as image:
            expected = torchvision_crop(image.convert("RGB"), resize)
        np.testing.assert_array_equal(eval_crop(decode(path), EvalCrop(224, resize)), expected, err_msg=str(path))


def test_canvas_is_the_whole_photograph():
    image = PIL.Image.new("RGB", (90, 30), RED)
    image.paste((0, 0, 255), (45, 0, 90, 30))
    canvas = to_canvas(image, Canvas(64))
    assert canvas.shape == (64, 64, 3)
    assert tuple(canvas[32, 2]) == RED
    assert tuple(canvas[32, 61]) == (0, 0, 255)
