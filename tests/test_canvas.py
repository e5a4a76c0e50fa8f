"""Whole sets decoded: in order, on all cores, the bad ones named or left out."""

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from jaxft.data import canvas
from jaxft.data.canvas import Canvas, Decoded, EvalCrop, canvas_size, decode_set, eval_crop, to_canvas
from jaxft.data.folders import open_folder
from jaxft.data.sharing import Sharing
from jaxft.data.sources import ArraySource, FileSource
from jaxft.errors import UserError
from pictures import BytesSource, encoded, photo, photo_files, same, spoil


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


CROP = EvalCrop(32, "short")


@pytest.fixture
def photos(tmp_path: Path) -> FileSource:
    return photo_files(tmp_path / "photos")


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


def test_the_number_of_workers_and_what_they_do_ahead_change_nothing(photos, monkeypatch):
    spoil(photos, 3, 4)
    expected = decode_set(photos, CROP, cache_dir=None, skip_bad=True)
    for workers, ahead in ((1, 5), (7, 1), (7, 100)):
        monkeypatch.setattr(canvas, "num_cores", lambda workers=workers: workers)
        monkeypatch.setattr(canvas, "AHEAD", ahead)
        assert same(decode_set(photos, CROP, cache_dir=None, skip_bad=True), expected)


def test_threads_leave_the_warning_filters_alone(photos, monkeypatch):
    monkeypatch.setattr(canvas, "num_cores", lambda: 8)
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


def in_two_processes(work: Callable[[Sharing], Any]) -> list[Any]:
    """What each of two makes of its `Sharing`: threads that hear of each other as processes do."""
    both, told = threading.Barrier(2, timeout=20), [None, None]

    def exchange(mine: int, thing: Any) -> list[Any]:
        told[mine] = thing
        both.wait()
        heard = list(told)
        both.wait()
        return heard

    def sharing(i: int) -> Sharing:
        return Sharing(i, 2, lambda array: np.stack(exchange(i, array)), lambda content: exchange(i, content))

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda i: work(sharing(i)), range(2)))


@pytest.mark.parametrize("cached", [False, True])
def test_two_processes_decode_half_each_and_have_it_all(tmp_path, monkeypatch, cached):
    monkeypatch.setattr("jaxft.data.canvas.SHARE", 2)
    items = [encoded(photo(60 + i, 50, seed=i)) for i in range(11)]
    items[3] = b"no image"
    sources = [BytesSource(items) for _ in range(3)]
    alone = decode_set(sources[2], Canvas(48), cache_dir=None, skip_bad=True)

    def decode(sharing: Sharing) -> Decoded:
        cache = tmp_path / str(sharing.id) if cached else None
        return decode_set(sources[sharing.id], Canvas(48), cache_dir=cache, skip_bad=True, sharing=sharing)

    assert all(same(decoded, alone) for decoded in in_two_processes(decode))
    if not cached:
        assert [source.asked for source in sources] == [6, 5, 11]
        return
    # Both have kept it; where one loses its file, both decode again.
    (found,) = (tmp_path / "1").iterdir()
    kept = found.read_bytes()
    assert all(same(decoded, alone) for decoded in in_two_processes(decode))
    found.unlink()
    assert all(same(decoded, alone) for decoded in in_two_processes(decode))
    assert found.read_bytes() == kept


def test_of_processes_that_share_a_cache_folder_one_writes(tmp_path, monkeypatch):
    written = []
    write = canvas.cache.write
    monkeypatch.setattr(canvas.cache, "write", lambda *a: written.append(threading.get_ident()) or write(*a))
    source = BytesSource([encoded(photo(60, 50, seed=i)) for i in range(5)])
    decoded = in_two_processes(lambda sharing: decode_set(source, Canvas(48), cache_dir=tmp_path, sharing=sharing))
    assert len(written) == 1
    assert same(*decoded)


def test_a_cache_that_one_process_cannot_write_stops_both(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise UserError("no room")

    monkeypatch.setattr(canvas.cache, "write", full)
    source = BytesSource([encoded(photo(60, 50, seed=i)) for i in range(5)])

    def decode(sharing: Sharing) -> str:
        with pytest.raises(UserError) as caught:
            decode_set(source, Canvas(48), cache_dir=tmp_path, sharing=sharing)
        return str(caught.value)

    messages = sorted(in_two_processes(decode))
    assert messages == ["another process could not keep the decoded images: it says why.", "no room"]


def test_a_bad_image_stops_both_processes():
    source = BytesSource([encoded(photo(60, 50)), b"no image"])

    def decode(sharing: Sharing) -> str:
        with pytest.raises(UserError) as caught:
            decode_set(source, Canvas(48), cache_dir=None, sharing=sharing)
        return str(caught.value)

    messages = in_two_processes(decode)
    assert messages[0] == messages[1]
    assert "image 1: not an image that PIL knows" in messages[0]


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
    png = encoded(photo(64, 64))
    source = BytesSource([png, png, b"", png])
    source.class_names = ("a", "b", "never seen")
    assert len(decode_set(source, CROP, cache_dir=None, skip_bad=True).labels) == 3


def test_the_tutorials_set_whole(shared, tmp_path):
    train = open_folder(shared / "data" / "hymenoptera", val_fraction=0.2, seed=0).train
    decoded = decode_set(train, Canvas(canvas_size(train, 224)), cache_dir=tmp_path)
    assert decoded.images.shape == (244, 384, 384, 3)
    assert np.bincount(decoded.labels).tolist() == [123, 121]
    with PIL.Image.open(decoded.names[100]) as image:
        assert decoded.sizes[100].tolist() == [image.height, image.width]
