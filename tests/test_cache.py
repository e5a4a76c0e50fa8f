"""The cache of decoded images: killed, damaged, outdated, too large, on a full disk."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from disks import on_a_disk
from jaxft.data import canvas, images
from jaxft.data.canvas import EvalCrop, decode_set
from jaxft.data.sources import ArraySource, FileSource
from jaxft.errors import UserError
from pictures import BytesSource, encoded, photo, photo_files, same, spoil

CROP = EvalCrop(32, "short")
JPEG, PNG = encoded(photo(64, 64), "JPEG"), encoded(photo(64, 64))


@pytest.fixture
def photos(tmp_path: Path) -> FileSource:
    return photo_files(tmp_path / "photos")


@pytest.fixture
def decodings(monkeypatch) -> list:
    """What has been decoded."""
    done = []

    def counted(item, recipe):
        done.append(item)
        return images.render(item, recipe)

    monkeypatch.setattr(canvas, "render", counted)
    return done


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


def test_a_run_stopped_midway_leaves_nothing(photos, tmp_path):
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
    "a pixel": lambda whole: whole[:20_000] + bytes([whole[20_000] ^ 1]) + whole[20_001:],
    "pixels never written": lambda whole: whole[:9000] + bytes(4096) + whole[13_096:],
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
    again = decode_set(photos, CROP, cache_dir=tmp_path / "cache")
    assert again.notes == (f"{file} was damaged: its images have been decoded anew",)
    assert same(again._replace(notes=()), expected)
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
    assert json.loads(file.read_bytes()[128 + outer.images.nbytes : -32])["bad"] == []


def test_two_real_processes_at_once_leave_one_whole_file(tmp_path):
    code = """
        import sys
        from pathlib import Path
        from jaxft.data.canvas import Canvas, decode_set
        from jaxft.data.sources import FileSource
        paths = sorted(Path(sys.argv[1]).iterdir()) * 20
        images = decode_set(FileSource(paths, [0, 1] * 120, ("a", "b")), Canvas(48), cache_dir=Path(sys.argv[2])).images
        print(int(images.sum()), type(images).__name__)
    """
    photo_files(tmp_path / "photos")
    words = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "photos"), str(tmp_path / "cache")]
    pipes = {"stdout": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[1]}
    runs = [subprocess.Popen(words, **pipes) for _ in range(2)]
    printed = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert printed[0] == printed[1]
    assert printed[0].endswith(" memmap\n")
    assert len(list((tmp_path / "cache").iterdir())) == 1


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
        UserError, match=r"0.00 GB are needed and 0.00 GB free\). Make room, pass another --cache-dir, or"
    ):
        decode_set(photos, CROP, cache_dir=tmp_path / "cache")
    assert decodings == []


# Room.


def aged(cache: Path, days: int) -> None:
    for file in cache.iterdir():
        stamp = file.stat().st_mtime - days * 86_400
        os.utime(file, (stamp, stamp))


def test_the_files_unused_for_longest_make_room(photos, decodings, tmp_path):
    cache, size = tmp_path / "cache", 12 * 3 * 32**2
    recipes = [CROP, EvalCrop(32, "squash"), EvalCrop(33, "short")]
    for recipe in recipes[:2]:
        decode_set(photos, recipe, cache_dir=cache)
        aged(cache, days=1)
    decode_set(photos, recipes[0], cache_dir=cache)  # Older, but used last.
    decode_set(photos, recipes[2], cache_dir=cache, cache_limit=round(2.9 * size))
    assert {file.name.rsplit("-", 1)[0] for file in cache.iterdir()} == {"evalcrop-32", "evalcrop-33"}
    decodings.clear()
    decode_set(photos, recipes[0], cache_dir=cache)
    assert decodings == []
    decode_set(photos, recipes[1], cache_dir=cache)
    assert len(decodings) == 12


def test_a_set_larger_than_the_limit_is_refused_and_costs_no_other_its_place(photos, decodings, tmp_path):
    decode_set(photos, CROP, cache_dir=tmp_path / "cache")
    decodings.clear()
    with pytest.raises(UserError, match=r"take 0.00 GB, and --cache-limit is 1e-05 GB. Raise it, or"):
        decode_set(photos, EvalCrop(32, "squash"), cache_dir=tmp_path / "cache", cache_limit=10_000)
    assert decodings == []
    assert len(list((tmp_path / "cache").iterdir())) == 1


# Disks that are full or cannot be written, for real.


def on_a_small_disk(folder: Path, options: str, code: str) -> str:
    """What `code` prints with a file system in memory mounted at `folder`."""
    words = [sys.executable, "-c", textwrap.dedent(code)]
    return on_a_disk(folder, options, words, os.environ | {"FOLDER": str(folder)}).stdout


TRY = """
import os, shutil
from pathlib import Path
from types import SimpleNamespace
from jaxft.data.canvas import Canvas, decode_set
from jaxft.data.sources import ArraySource
from jaxft.errors import UserError
import numpy as np
def decode(num):
    images = np.random.default_rng(0).integers(0, 256, (num, 64, 64, 3), np.uint8)
    source = ArraySource(images, np.arange(num) % 2, ("a", "b"))
    try:
        print(len(decode_set(source, Canvas(64), cache_dir=Path(os.environ["FOLDER"])).labels), "decoded")
    except UserError as error:
        print(error)
    print(sorted(path.name[:9] for path in Path(os.environ["FOLDER"]).iterdir()))
"""


def test_a_disk_that_is_full_before_or_in_the_middle(tmp_path):
    lied = "shutil.disk_usage = lambda folder: SimpleNamespace(free=10**12)\n"
    printed = on_a_small_disk(tmp_path / "disk", "size=1m", TRY + "decode(40)\ndecode(100)\n" + lied + "decode(100)\n")
    lines = printed.splitlines()
    assert lines[:2] == ["40 decoded", "['canvas-64']"]
    assert "(0.00 GB are needed and 0.00 GB free). Make room, pass another --cache-dir, or pass --no-cache." in lines[2]
    assert "the decoded images cannot be kept there (No space left on device). Make room" in lines[4]
    # Neither half a file nor a loss of the one that was there.
    assert lines[3] == lines[5] == "['canvas-64']"


def test_a_cache_folder_that_can_only_be_read_is_read(tmp_path):
    locked = 'import subprocess; subprocess.run(["mount", "-o", "remount,ro", os.environ["FOLDER"]], check=True)\n'
    printed = on_a_small_disk(tmp_path / "disk", "size=9m", TRY + "decode(40)\n" + locked + "decode(40)\ndecode(41)\n")
    lines = printed.splitlines()
    assert lines[0] == lines[2] == "40 decoded"
    assert "(Read-only file system). Make room, pass another --cache-dir, or pass --no-cache." in lines[4]
