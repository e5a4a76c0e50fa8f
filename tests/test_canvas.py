"""Images as people have them, against closed forms, PIL and torchvision; and the cache, killed, damaged, outdated."""

import io
import json
import os
import shutil
import struct
import time
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torchvision.transforms as T

from jaxft.data import canvas, images
from jaxft.data.canvas import Canvas, EvalCrop, canvas_size, decode, decode_set, eval_crop, to_canvas
from jaxft.data.folders import open_folder
from jaxft.data.images import BadImageError
from jaxft.data.sources import ArraySource, FileSource
from jaxft.errors import UserError


def encoded(image: PIL.Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(height: int, width: int, seed: int = 0) -> PIL.Image.Image:
    """Smooth colours with a little grain: compresses and resizes as a photograph does."""
    rng = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC), np.float32)
    return PIL.Image.fromarray((smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8))


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
@pytest.mark.parametrize("side", [9_500, 14_000])
def test_a_decompression_bomb_is_refused_from_its_header(side, monkeypatch):
    # Above PIL's limit for a warning, and above twice that, its limit for an error.
    assert side**2 > 89_478_485
    item = png(16, 2, np.zeros((1, 1, 3)))
    bomb = item.replace(struct.pack(">II", 1, 1), struct.pack(">II", side, side))
    bomb = bomb[:29] + struct.pack(">I", zlib.crc32(bomb[12:29])) + bomb[33:]
    with pytest.raises(BadImageError, match="more than 89,478,485 pixels: a decompression bomb"):
        decode(bomb)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(BadImageError, match=f"{side} × {side} is more than 89,478,485"):
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


@pytest.mark.parametrize(
    ("short_sides", "image_size", "expected"),
    [
        ([300], 224, 320),
        ([320], 224, 320),
        ([100, 300, 5000], 224, 320),
        ([100], 224, 224),
        ([2000], 224, 384),
        ([2000], 112, 384),
        ([2000], 448, 768),
        ([80], 64, 96),
        ([], 224, 384),
    ],
)
def test_the_canvas_fits_the_sets_short_sides(short_sides, image_size, expected, tmp_path):
    for i, side in enumerate(short_sides):
        PIL.Image.new("L", (side + 7 * i, side)).save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.iterdir()) or [tmp_path / "gone.png"]
    assert canvas_size(FileSource(paths, [0] * len(paths), ("a",)), image_size) == expected


def test_the_largest_canvas_can_be_given():
    assert canvas_size(BytesSource([encoded(PIL.Image.new("L", (999, 999)))]), 224, largest=512) == 512


# Whole sets.


class BytesSource:
    """Encoded images in memory, in turn of class a and b."""

    class_names = ("a", "b")

    def __init__(self, items: list[bytes]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def read(self, i: int) -> tuple[bytes, int]:
        return self.items[i], i % 2


CROP = EvalCrop(32, "short")


@pytest.fixture
def photos(tmp_path: Path) -> FileSource:
    """Twelve photographs of different sizes in a folder, in turn of class a and b."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        photo(40 + 3 * i, 90 - 2 * i, seed=i).save(folder / f"{i:02}.png")
    return FileSource(sorted(folder.iterdir()), [i % 2 for i in range(12)], ("a", "b"))


@pytest.fixture
def decodings(monkeypatch) -> list:
    """What has been decoded."""
    done = []

    def counted(item, recipe):
        done.append(item)
        return images.render(item, recipe)

    monkeypatch.setattr(canvas, "render", counted)
    return done


def spoil(source: FileSource, *which: int) -> None:
    for i in which:
        source.paths[i].write_bytes(b"no image")


def same(a: canvas.Decoded, b: canvas.Decoded) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a[:3], b[:3], strict=True)) and a[3:] == b[3:]


@pytest.mark.parametrize("recipe", [Canvas(48), CROP])
@pytest.mark.parametrize("cached", [False, True])
def test_a_set_is_its_images_in_order(recipe, cached, photos, tmp_path):
    calls = []
    decoded = decode_set(
        photos, recipe, cache_dir=tmp_path / "cache" if cached else None, progress=lambda *call: calls.append(call)
    )
    for i, path in enumerate(photos.paths):
        with PIL.Image.open(path) as image:
            upright = image.convert("RGB")
        expected = to_canvas(upright, 48) if isinstance(recipe, Canvas) else eval_crop(upright, recipe)
        np.testing.assert_array_equal(decoded.images[i], expected)
    assert decoded.sizes.tolist() == [[40 + 3 * i, 90 - 2 * i] for i in range(12)]
    assert decoded.labels.tolist() == [0, 1] * 6
    assert decoded.names == tuple(map(str, photos.paths))
    assert decoded.skipped == ()
    assert (decoded.images.dtype, decoded.sizes.dtype, decoded.labels.dtype) == (np.uint8, np.int32, np.int32)
    assert calls == [(i + 1, 12) for i in range(12)]
    assert isinstance(decoded.images, np.memmap) == cached
    assert decoded.images.flags.writeable != cached


def test_the_number_of_workers_and_the_chunks_change_nothing(photos, monkeypatch):
    spoil(photos, 3, 4)
    expected = decode_set(photos, CROP, cache_dir=None, skip_bad=True)
    for workers, chunk in ((1, 5), (7, 1), (7, 1024)):
        monkeypatch.setattr(canvas, "_num_cores", lambda workers=workers: workers)
        monkeypatch.setattr(canvas, "CHUNK", chunk)
        assert same(decode_set(photos, CROP, cache_dir=None, skip_bad=True), expected)


def test_threads_leave_the_warning_filters_alone(photos, monkeypatch):
    monkeypatch.setattr(canvas, "_num_cores", lambda: 8)
    before = list(warnings.filters)
    decode_set(photos, CROP, cache_dir=None)
    assert warnings.filters == before


def test_warnings_of_pil_do_not_escape_from_the_threads():
    item = encoded(photo(16, 16), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12")
    assert len(decode_set(BytesSource([item] * 8), CROP, cache_dir=None).labels) == 8


def test_an_array_source_needs_no_decoder():
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    decoded = decode_set(ArraySource(arrays, np.array([0, 1, 1]), ("a", "b")), Canvas(48), cache_dir=None)
    np.testing.assert_array_equal(decoded.images, arrays)
    assert decoded.names == ("image 0", "image 1", "image 2")


def test_a_set_without_images():
    with pytest.raises(UserError, match="the set has no images"):
        decode_set(BytesSource([]), CROP, cache_dir=None)


@pytest.mark.parametrize("cached", [False, True])
def test_all_bad_images_are_named_in_one_error(photos, cached, tmp_path):
    spoil(photos, 2, 7)
    cache = tmp_path / "cache" if cached else None
    expected = (
        f"2 of 12 images cannot be decoded:\n  {photos.paths[2]}: not an image that PIL knows\n"
        f"  {photos.paths[7]}: not an image that PIL knows\nMend or remove them, or pass --skip-bad-images."
    )
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            decode_set(photos, CROP, cache_dir=cache)
        assert str(caught.value) == expected
    assert not cached or list((tmp_path / "cache").iterdir()) == []


def test_ten_of_many_bad_images_are_listed():
    with pytest.raises(UserError, match=r"(?s)^12 of 12 .*image 9: empty file\n  and 2 more\nMend") as caught:
        decode_set(BytesSource([b""] * 12), CROP, cache_dir=None)
    assert str(caught.value).count("empty file") == 10


@pytest.mark.parametrize("cached", [False, True])
def test_skipped_images_leave_no_gap(photos, cached, tmp_path):
    whole = decode_set(photos, CROP, cache_dir=None)
    spoil(photos, 0, 5, 6)
    kept = [1, 2, 3, 4, 7, 8, 9, 10, 11]
    for _ in range(2):
        decoded = decode_set(photos, CROP, cache_dir=tmp_path / "cache" if cached else None, skip_bad=True)
        for a, b in zip(decoded[:3], whole[:3], strict=True):
            np.testing.assert_array_equal(a, b[kept])
        assert decoded.names == tuple(whole.names[i] for i in kept)
        assert decoded.skipped == tuple(f"{photos.paths[i]}: not an image that PIL knows" for i in (0, 5, 6))


def test_a_class_of_bad_images_only_cannot_be_skipped(photos):
    spoil(photos, *range(1, 12, 2))
    with pytest.raises(UserError, match=r"class b: none of its images can be decoded. .*01.png: not an image"):
        decode_set(photos, CROP, cache_dir=None, skip_bad=True)


def test_a_class_that_had_no_images_is_no_matter_of_skipping():
    source = BytesSource([PNG, PNG, b"", PNG])
    source.class_names = ("a", "b", "never seen")
    assert len(decode_set(source, CROP, cache_dir=None, skip_bad=True).labels) == 3


# The cache.


def test_a_second_run_decodes_nothing(photos, decodings, tmp_path):
    first = decode_set(photos, CROP, cache_dir=tmp_path / "cache")
    assert len(decodings) == 12
    second = decode_set(photos, CROP, cache_dir=tmp_path / "cache")
    assert len(decodings) == 12
    assert same(first, second)


@pytest.mark.parametrize("change", ["time", "size", "one more", "label", "class names", "recipe", "code", "order"])
def test_what_changes_the_result_is_decoded_anew(change, photos, decodings, tmp_path, monkeypatch):
    decode_set(photos, CROP, cache_dir=tmp_path / "cache")
    decodings.clear()
    paths, labels, names = list(photos.paths), list(photos.labels), photos.class_names
    recipe = CROP
    if change == "time":
        stat = paths[3].stat()
        os.utime(paths[3], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "size":
        stat = paths[3].stat()
        paths[3].write_bytes(paths[3].read_bytes() + b" ")
        os.utime(paths[3], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "one more":
        paths, labels = [*paths, paths[0]], [*labels, 0]
    elif change == "label":
        labels[0] = 1
    elif change == "class names":
        names = ("a", "c")
    elif change == "recipe":
        recipe = EvalCrop(32, "squash")
    elif change == "code":
        monkeypatch.setattr(canvas, "CODE_VERSION", canvas.CODE_VERSION + 1)
    elif change == "order":
        paths[0], paths[2] = paths[2], paths[0]
    again = decode_set(FileSource(paths, labels, names), recipe, cache_dir=tmp_path / "cache")
    assert len(decodings) == len(paths)
    assert again.labels.tolist() == labels
    assert again.names == tuple(map(str, paths))


def test_bytes_and_arrays_are_known_by_their_content(decodings, tmp_path):
    arrays = np.stack([np.asarray(photo(40, 40, seed=i)) for i in range(2)])
    for _ in range(2):
        decode_set(BytesSource([PNG, JPEG]), CROP, cache_dir=tmp_path)
        decode_set(ArraySource(arrays, np.array([0, 1]), ("a", "b")), CROP, cache_dir=tmp_path)
        assert len(decodings) == 4
    arrays[0, 0, 0, 0] ^= 1
    decode_set(ArraySource(arrays, np.array([0, 1]), ("a", "b")), CROP, cache_dir=tmp_path)
    decode_set(BytesSource([JPEG, PNG]), CROP, cache_dir=tmp_path)
    assert len(decodings) == 8


def test_a_run_stopped_midway_leaves_nothing(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "CHUNK", 4)

    def stop(done, total):
        assert len(list((tmp_path / "cache").iterdir())) == 1
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_set(photos, CROP, cache_dir=tmp_path / "cache", progress=stop)
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(decode_set(photos, CROP, cache_dir=tmp_path / "cache").labels) == 12


def test_what_a_killed_run_left_is_never_read_and_is_cleared_after_a_day(photos, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    old, new = cache / ".building-old.npy", cache / ".building-new.npy"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    assert len(decode_set(photos, CROP, cache_dir=cache).labels) == 12
    assert not old.exists()
    assert new.exists()


DAMAGE = {
    "half": lambda whole: whole[: len(whole) // 2],
    "a byte short": lambda whole: whole[:-1],
    "empty": lambda whole: b"",
    "no tail": lambda whole: whole[: whole.rindex(b'{"sizes"')],
    "noise": lambda whole: bytes(1000),
    "other tail": lambda whole: whole[: whole.rindex(b'{"sizes"')] + b"[1]",
    "tail of another set": lambda whole: whole.replace(b'"labels": [0, ', b'"labels": ['),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_built_anew(damage, photos, decodings, tmp_path):
    first = decode_set(photos, CROP, cache_dir=tmp_path / "cache")
    expected = first._replace(images=np.array(first.images))
    del first
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(DAMAGE[damage](whole))
    assert file.read_bytes() != whole
    assert same(decode_set(photos, CROP, cache_dir=tmp_path / "cache"), expected)
    assert len(decodings) == 24
    assert file.read_bytes() == whole


def test_a_cache_of_another_shape_is_built_anew(photos, decodings, tmp_path):
    decode_set(photos, CROP, cache_dir=tmp_path)
    (file,) = tmp_path.glob("*.npy")
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"(12, 32, 32, 3)", b"(12, 32, 96, 1)"))
    assert decode_set(photos, CROP, cache_dir=tmp_path).images.shape == (12, 32, 32, 3)
    assert file.read_bytes() == whole


def test_two_processes_at_once_both_get_the_set(photos, tmp_path):
    cache, inner = tmp_path / "cache", []

    def other_run(done, total):
        if done == 6:
            inner.append(decode_set(photos, CROP, cache_dir=cache))

    outer = decode_set(photos, CROP, cache_dir=cache, progress=other_run)
    assert same(outer, inner[0])
    (file,) = cache.iterdir()
    # NumPy alone can read it, and what follows the pixels is JSON.
    np.testing.assert_array_equal(np.load(file), outer.images)
    assert json.loads(file.read_bytes()[-file.stat().st_size + 128 + outer.images.nbytes :])["bad"] == []


def test_a_cache_with_bad_images_decodes_those_alone(photos, decodings, tmp_path):
    spoil(photos, 4)
    first = decode_set(photos, CROP, cache_dir=tmp_path, skip_bad=True)
    decodings.clear()
    assert same(decode_set(photos, CROP, cache_dir=tmp_path, skip_bad=True), first)
    assert decodings == [photos.paths[4]]
    with pytest.raises(UserError, match=r"1 of 12 images cannot be decoded:\n  .*04.png"):
        decode_set(photos, CROP, cache_dir=tmp_path)


def test_an_image_mended_without_a_change_of_its_file_is_taken_up(photos, tmp_path, monkeypatch):
    # A permission given, say: it changes neither size nor time.
    with monkeypatch.context() as patch:
        patch.setattr(canvas, "render", lambda item, recipe: locked(item, recipe, photos.paths[4]))
        assert len(decode_set(photos, CROP, cache_dir=tmp_path, skip_bad=True).labels) == 11
    decoded = decode_set(photos, CROP, cache_dir=tmp_path, skip_bad=True)
    assert len(decoded.labels) == 12
    assert decoded.skipped == ()


def locked(item, recipe, path):
    return (None, (0, 0), "Permission denied") if item == path else images.render(item, recipe)


def test_a_cache_folder_that_cannot_be_written(photos, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"file/cache: the decoded images cannot be kept there \(Not a directory\)"):
        decode_set(photos, CROP, cache_dir=tmp_path / "file" / "cache")


def test_a_disk_too_full_is_told_before_the_work(photos, decodings, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(
        UserError, match=r"0.00 GB are needed and 0.00 GB free\). Make room or pass another --cache-dir"
    ):
        decode_set(photos, CROP, cache_dir=tmp_path / "cache")
    assert decodings == []


def test_the_tutorials_set_whole(shared, tmp_path):
    train = open_folder(shared / "data" / "hymenoptera", val_fraction=0.2, seed=0).train
    decoded = decode_set(train, Canvas(canvas_size(train, 224)), cache_dir=tmp_path)
    assert decoded.images.shape == (244, 384, 384, 3)
    assert np.bincount(decoded.labels).tolist() == [123, 121]
    with PIL.Image.open(decoded.names[100]) as image:
        assert decoded.sizes[100].tolist() == [image.height, image.width]
