"""Images as people have them, against closed forms, PIL and torchvision."""

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torchvision.transforms as T

from jaxft.data import images
from jaxft.data.canvas import decode_set
from jaxft.data.images import BadImageError, Canvas, EvalCrop, decode, eval_crop, to_canvas
from pictures import BytesSource, encoded, photo


def pixels(item) -> np.ndarray:
    return np.asarray(decode(item))


# Decoding: what a viewer shows.


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_come_back_exactly(kind):
    image = photo(9, 14)
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(pixels(encoded(image, kind, **options)), np.asarray(image))


def test_a_plain_jpeg_is_what_torchvisions_loader_gives(tmp_path):
    photo(40, 31).save(tmp_path / "a.jpg", quality=90)
    with PIL.Image.open(tmp_path / "a.jpg") as opened:
        np.testing.assert_array_equal(pixels(tmp_path / "a.jpg"), np.asarray(opened.convert("RGB")))


def test_an_array_is_its_own_image():
    array = np.asarray(photo(3, 4)).copy()
    np.testing.assert_array_equal(pixels(array), array)


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_an_array_of_another_kind_is_refused(array):
    with pytest.raises(BadImageError, match=r"in place of uint8 \[h, w, 3\]"):
        decode(array)


def test_one_pixel():
    item = encoded(PIL.Image.new("RGB", (1, 1), (9, 8, 7)))
    assert pixels(item).tolist() == [[[9, 8, 7]]]
    np.testing.assert_array_equal(to_canvas(decode(item), 32), np.full((32, 32, 3), (9, 8, 7)))
    np.testing.assert_array_equal(eval_crop(decode(item), EvalCrop(32, "short")), np.full((32, 32, 3), (9, 8, 7)))


def test_grey_becomes_three_equal_channels():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(pixels(encoded(PIL.Image.fromarray(grey))), np.stack([grey] * 3, -1))


def test_one_bit():
    bits = np.eye(8, dtype=bool)
    np.testing.assert_array_equal(pixels(encoded(PIL.Image.fromarray(bits)))[..., 0], np.where(bits, 255, 0))


def test_a_palette():
    index = PIL.Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2), "L").convert("P")
    index.putpalette([1, 2, 3, 40, 50, 60, 200, 0, 0, 0, 0, 255])
    assert pixels(encoded(index)).tolist() == [[[1, 2, 3], [40, 50, 60]], [[200, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize("scale", [1, 257])
def test_sixteen_bit_grey_is_scaled_not_clipped(scale):
    wide = (np.arange(256, dtype=np.uint16) * scale).reshape(16, 16)
    expected = wide // 256
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels(encoded(PIL.Image.fromarray(wide), kind))[..., 0], expected)
    pgm = b"P5 16 16 65535\n" + wide.astype(">u2").tobytes()
    np.testing.assert_array_equal(pixels(pgm)[..., 0], expected)


def png(bit_depth: int, colour_type: int, rows: np.ndarray) -> bytes:
    """A PNG of a kind that PIL does not write. Source: the PNG specification."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = rows.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows.astype(">u2")))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_sixteen_bit_colour():
    wide = np.random.default_rng(0).integers(0, 2**16, (5, 4, 3), dtype=np.uint16)
    np.testing.assert_allclose(pixels(png(16, 2, wide)), wide / 257, atol=1)


def test_sixteen_bit_colour_with_alpha_lies_on_white():
    wide = np.random.default_rng(0).integers(0, 2**16, (5, 4, 4), dtype=np.uint16)
    colour, alpha = wide[..., :3] / 257, wide[..., 3:] / 65535
    np.testing.assert_allclose(pixels(png(16, 6, wide)), colour * alpha + 255 * (1 - alpha), atol=2)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_white(mode):
    rng = np.random.default_rng(0)
    channels = rng.integers(0, 256, (6, 7, 4 if mode == "RGBA" else 2), dtype=np.uint8)
    alpha = channels[..., -1:] / 255
    expected = np.broadcast_to(channels[..., :-1] * alpha + 255 * (1 - alpha), (6, 7, 3))
    np.testing.assert_allclose(pixels(encoded(PIL.Image.fromarray(channels, mode))), expected, atol=1)


def test_a_transparent_colour_of_a_palette_is_white():
    index = PIL.Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    index.putpalette([10, 20, 30, 0, 0, 0])
    for transparency in (1, bytes([255, 0])):
        assert pixels(encoded(index, transparency=transparency)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_a_transparent_colour_of_rgb_is_white():
    item = encoded(PIL.Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)), transparency=(4, 5, 6))
    assert pixels(item).tolist() == [[[1, 2, 3], [255, 255, 255]]]


def test_cmyk_tiff():
    item = encoded(PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")
    np.testing.assert_array_equal(pixels(item), np.full((8, 8, 3), (255, 0, 0)))


@pytest.mark.parametrize("ycck", [False, True])
def test_a_cmyk_jpeg_of_adobes_kind_is_not_a_negative(ycck):
    # Inks are inverted on disk, as Adobe does. The same inks as YCCK: red's 255 - R, G, B are 0, 255, 255, which by
    # JFIF's matrix are Y 178.8, Cb 171.0, Cr 0.5.
    inks = (255 - 179, 255 - 171, 255 - 0, 0) if ycck else (0, 255, 255, 0)
    item = encoded(PIL.Image.new("CMYK", (16, 16), inks), "JPEG", quality=100)
    transform = item.index(b"Adobe") + 11
    assert item[transform] == 0
    if ycck:
        item = item[:transform] + b"\x02" + item[transform + 1 :]
    np.testing.assert_allclose(pixels(item).reshape(-1, 3), np.broadcast_to((255, 0, 0), (256, 3)), atol=3)


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_of_an_animation_the_first_frame(kind, options):
    frames = [PIL.Image.new("RGB", (6, 5), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    item = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(pixels(item), np.full((5, 6, 3), (255, 0, 0)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :16] = 255
    # Where the stored top left corner is to be seen. Source: the EXIF standard, tag 274.
    seen = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left"}
    seen |= {5: "top left", 6: "top right", 7: "bottom right", 8: "bottom left"}
    exif = PIL.Image.Exif()
    exif[274] = orientation
    options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    upright = pixels(encoded(PIL.Image.fromarray(stored), kind, exif=exif, **options)).astype(int)
    assert upright.shape == ((48, 32, 3) if orientation >= 5 else (32, 48, 3))
    corners = {
        f"{y} {x}": upright[i, j, 0] for y, i in (("top", 2), ("bottom", -3)) for x, j in (("left", 2), ("right", -3))
    }
    assert {name for name, value in corners.items() if value > 200} == {seen[orientation]}


def test_the_two_turns_of_a_phone_agree_with_pil():
    image = photo(20, 30)
    for orientation in range(1, 9):
        exif = PIL.Image.Exif()
        exif[274] = orientation
        item = encoded(image, exif=exif)
        with PIL.Image.open(io.BytesIO(item)) as opened:
            np.testing.assert_array_equal(pixels(item), np.asarray(PIL.ImageOps.exif_transpose(opened)))


def test_broken_exif_does_not_cost_the_picture():
    image = photo(16, 16)
    plain = encoded(image, "JPEG")
    words = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04up!\0\0\0\0\0"
    for exif in (words, b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        np.testing.assert_array_equal(pixels(encoded(image, "JPEG", exif=exif)), pixels(plain))


def test_pils_warnings_do_not_escape(recwarn):
    item = encoded(photo(16, 16), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12")
    with pytest.warns(UserWarning, match="Corrupt EXIF"), PIL.Image.open(io.BytesIO(item)) as opened:
        opened.getexif()
    warnings.simplefilter("always")
    decode(item)
    assert len(recwarn) == 0


# Decoding: what is refused, and why.


JPEG = encoded(photo(64, 64), "JPEG")
PNG = encoded(photo(64, 64))
BAD = {
    "text": (b"<html>404 not found</html>", "not an image that PIL knows"),
    "empty": (b"", "empty file"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], "truncated"),
    "jpeg of a header only": (JPEG[:20], "truncated|not an image|[Ee]nd|reading"),
    "truncated png": (PNG[: len(PNG) // 2], "truncated"),
    "float": (encoded(PIL.Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point pixels"),
    "postscript": (encoded(photo(4, 4), "EPS"), "EPS files are not read"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("as_file", [False, True])
def test_a_bad_image_is_refused_with_its_reason(what, as_file, tmp_path):
    item, message = BAD[what]
    if as_file:
        (tmp_path / "a.jpg").write_bytes(item)
        item = tmp_path / "a.jpg"
    with pytest.raises(BadImageError, match=message):
        decode(item)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [13_500, 20_000])
def test_a_decompression_bomb_is_refused_from_its_header(side, monkeypatch):
    # PIL refuses both by itself, unless someone has lifted its limit.
    assert side**2 > 178_956_970
    item = png(16, 2, np.zeros((1, 1, 3)))
    bomb = item.replace(struct.pack(">II", 1, 1), struct.pack(">II", side, side))
    bomb = bomb[:29] + struct.pack(">I", zlib.crc32(bomb[12:29])) + bomb[33:]
    with pytest.raises(BadImageError, match="more than 178,956,970 pixels: a decompression bomb"):
        decode(bomb)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(BadImageError, match=f"{side} × {side} is more than 178,956,970"):
        decode(bomb)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(BadImageError, match="No such file"):
        decode(tmp_path / "gone.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(BadImageError, match="Is a directory"):
        decode(tmp_path / "folder.jpg")


# Evaluation crops and canvases.

SHAPES = [(224, 224), (256, 256), (300, 200), (200, 300), (333, 777), (97, 31), (31, 97), (1, 1), (2, 60), (60, 2)]


def torchvisions(crop: EvalCrop) -> T.Compose:
    side = round(256 * crop.size / 224)
    return T.Compose([T.Resize(side if crop.resize == "short" else [side, side]), T.CenterCrop(crop.size)])


@pytest.mark.parametrize("size", [224, 160, 65, 32])
@pytest.mark.parametrize("resize", ["short", "squash"])
def test_eval_crops_are_torchvisions_bit_for_bit(size, resize):
    crop = EvalCrop(size, resize)
    for shape in SHAPES:
        image = photo(*shape)
        np.testing.assert_array_equal(eval_crop(image, crop), np.asarray(torchvisions(crop)(image)), str(shape))


def test_a_photograph_as_thin_as_a_thread_is_bad_not_a_full_memory():
    thread = PIL.Image.new("RGB", (9_000, 1))
    with pytest.raises(BadImageError, match="9000 × 1 pixels: too long and thin"):
        eval_crop(thread, EvalCrop(224, "short"))
    assert eval_crop(thread, EvalCrop(224, "squash")).shape == (224, 224, 3)


def lanczos(length: int, size: int) -> np.ndarray:
    """Lanczos-3 weights [size, length], widened by the scale, in float64."""
    scale = length / size
    x = (np.arange(length) + 0.5 - (np.arange(size)[:, None] + 0.5) * scale) / max(scale, 1)
    weights = np.where(abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("shape", [(90, 140), (33, 20), (64, 64)])
def test_a_canvas_is_a_lanczos_squash(shape):
    # Soft, for PIL cuts its overshoots between the two passes.
    image = photo(*shape).point(lambda value: 64 + value // 2)
    down = lanczos(shape[0], 64) @ np.asarray(image, np.float64).transpose(2, 0, 1) @ lanczos(shape[1], 64).T
    np.testing.assert_allclose(to_canvas(image, 64), down.transpose(1, 2, 0), atol=1.2)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_scaled_by_its_decoder_with_no_visible_loss(orientation, monkeypatch):
    exif = PIL.Image.Exif()
    exif[274] = orientation
    item = encoded(photo(520, 700), "JPEG", quality=95, exif=exif)
    image, size = images.decode_sized(item, least=2 * 64)
    # 520 / 128 is above 4: the decoder scales by 4.
    assert sorted(image.size) == [130, 175]
    assert size == ((700, 520) if orientation == 6 else (520, 700))
    full = to_canvas(decode(item), 64).astype(int)
    assert abs(full - to_canvas(image, 64)).mean() < 0.6
    decoded = decode_set(BytesSource([item]), Canvas(64), cache_dir=None)
    np.testing.assert_array_equal(decoded.images[0], to_canvas(image, 64))
    assert decoded.sizes.tolist() == [list(size)]


def test_an_evaluation_crop_is_never_scaled_by_the_decoder():
    item = encoded(photo(1100, 1200), "JPEG")
    crop = EvalCrop(64, "short")
    decoded = decode_set(BytesSource([item]), crop, cache_dir=None)
    with PIL.Image.open(io.BytesIO(item)) as opened:
        np.testing.assert_array_equal(decoded.images[0], np.asarray(torchvisions(crop)(opened)))


# Bounded memory.

PEAK = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from jaxft.data.images import Canvas, EvalCrop, render
recipe, path = eval(sys.argv[1]), Path(sys.argv[2])
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM:"))
before = peak()
with ThreadPoolExecutor(2) as pool:
    for pixels, size, bad in pool.map(lambda _: render(path, recipe), range(2)):
        assert (size, bad) == ((12_000, 12_000), None)
        assert abs(int(pixels.mean()) - 100) <= 1
print(peak() - before)
"""


@pytest.fixture(scope="module")
def huge(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("huge") / "12000.jpg"
    code = f"import PIL.Image; PIL.Image.new('RGB', (12_000, 12_000), (100, 100, 100)).save({str(path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "megabytes"), [("Canvas(384)", 60), ('EvalCrop(224, "short")', 700)])
def test_two_photographs_of_144_megapixels_at_once_take_bounded_memory(recipe, megabytes, huge):
    # A canvas is made from an eighth of the picture; for an exact crop all of it is decoded, at four bytes a pixel.
    words = [sys.executable, "-W", "ignore", "-c", PEAK, recipe, str(huge)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert float(done.stdout) < megabytes
