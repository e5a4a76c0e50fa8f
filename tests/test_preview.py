import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from jaxft.config import Config, ImageConfig
from jaxft.config_file import to_json
from jaxft.data import grid, preview
from jaxft.data.grid import Cell, draw_grid, shortened
from jaxft.data.load import open_splits
from jaxft.data.sources import with_held_out
from jaxft.errors import UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    """Wide photographs of one class, tall ones of the other, a bad file among them; names in several scripts."""
    rng = np.random.default_rng(0)
    for name, shape in (("蚂蚁 $x_$ 🐜", (40, 60, 3)), ("пчёлы", (70, 40, 3))):
        for split in ("train", "val"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(4):
                image = PIL.Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
                image.save(tmp_path / "photos" / split / name / f"نحل {i}.png")
    (tmp_path / "photos/train/пчёлы/bad.png").write_bytes(b"no image")
    return tmp_path / "photos"


def size_of(path: Path) -> tuple[int, int]:
    with PIL.Image.open(path) as opened:
        opened.load()
        return opened.size


def test_it_draws_any_script_without_a_warning(folder, tmp_path, capsys):
    out = tmp_path / "preview.png"
    argv = [str(folder), "--image-size", "32", "--images", "3", "--views", "2", "--out", str(out)]
    assert preview.main([*argv, "--augment", "strong"]) == 0
    assert capsys.readouterr().out == f"written to {out}\n"
    width, height = size_of(out)
    assert width > 4 * 200
    assert height > 3 * 200
    assert preview.main(argv) == 0
    assert size_of(out) == (width, height)


def test_what_a_run_holds_out_is_not_shown(folder, monkeypatch, tmp_path):
    config = Config(data=str(folder), images=ImageConfig(holdout=0.5))
    (tmp_path / "config.json").write_text(to_json(config))
    sources = []
    monkeypatch.setattr(preview, "choose", lambda source, *_: sources.append(source) or [])
    monkeypatch.setattr(preview, "make_rows", lambda *_: [])
    monkeypatch.setattr(preview, "draw_grid", lambda *_: None)
    assert preview.main(["--config", str(tmp_path / "config.json")]) == 0
    assert len(sources[0]) == len(with_held_out(open_splits(config, tmp_path), 0.5).train) == 5


def test_a_runs_config_is_the_base(folder, tmp_path):
    base = Config(data=str(folder), seed=5, images=ImageConfig(image_size=40, augment=("crop", "erase")))
    (tmp_path / "config.json").write_text(to_json(base))
    config = ["--config", str(tmp_path / "config.json")]

    def resolved(*argv: str) -> Config:
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(preview, "make_rows", lambda *args: seen.append(args[2]) or [])
            patch.setattr(preview, "draw_grid", lambda *_: None)
            assert preview.main(argv) == 0
        return seen[0]

    assert resolved(*config) == base
    changed = resolved(*config, "--augment", "light", "--canvas", "48", "--eval-resize", "squash", "--seed", "0")
    images = dataclasses.replace(base.images, augment=("light",), canvas=48, eval_resize="squash")
    assert changed == dataclasses.replace(base, images=images, seed=0)
    assert resolved(str(folder)) == Config(data=str(folder))


def test_views_are_those_of_the_training_function(folder, tmp_path):
    config = Config(data=str(folder), images=ImageConfig(image_size=32, augment=("none",)))
    source = open_splits(config, tmp_path).train
    photos = preview.choose(source, config, 3)
    assert [photo.label for photo, _ in photos] == [0, 1, 0, 1]
    assert [photo.pixels.shape for photo, _ in photos if photo.pixels is not None] == [(64, 64, 3)] * 4
    rows = preview.make_rows(photos, source.class_names, config, 3, 2)
    assert [len(row) for row in rows] == [4, 4, 4]
    for row, (photo, crop) in zip(rows, photos, strict=False):
        before, first, second, evaluated = row
        assert before.lines == (source.class_names[photo.label], Path(photo.name).name)
        assert before.pixels.shape[:2] == ((64, 37) if photo.label == 0 else (43, 64))
        np.testing.assert_array_equal(first.pixels, second.pixels)
        np.testing.assert_array_equal(evaluated.pixels, crop)
        # The centre crop of training is that of evaluation, but for the canvas in between.
        assert np.abs(first.pixels.astype(int) - evaluated.pixels).mean() < 25
    drawn = dataclasses.replace(config, images=ImageConfig(image_size=32))
    first, second = preview.make_rows(photos, source.class_names, drawn, 1, 2)[0][1:3]
    assert np.abs(first.pixels.astype(int) - second.pixels).mean() > 25


def test_mixed_labels_are_told_with_their_shares():
    told = [preview.in_words(shares) for shares in ((("ants", 70), ("bees", 30)), (("ants", 100),), ())]
    assert told == ["ants 70 % bees 30 %", "ants", ""]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no data: pass a folder of class folders, demo, or --config RUN/config.json"),
        (["demo", "--images", "0"], "--images 0: must be at least 1"),
        (["demo", "--views", "0"], "--views 0: must be at least 1"),
        (["demo", "--augment", "crp"], r"--augment crp: no such op. Did you mean crop\?"),
        (["--config", "nowhere.json"], "--config nowhere.json: cannot be read"),
        (["demo", "--image-size", "64", "--out", "nowhere/a.png"], "--out nowhere/a.png: cannot be written"),
        (["demo", "--image-size", "64", "--out", "a.docx"], "--out a.docx: cannot be written"),
    ],
)
def test_mistakes(argv, message):
    with pytest.raises(UserError, match=message):
        preview.main(argv)


def test_a_set_of_bad_files(folder):
    for path in folder.glob("train/*/*"):
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"of 9 images looked at, fewer than two can be decoded"):
        preview.main([str(folder), "--image-size", "32"])


def test_it_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "jaxft.data.preview"], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert (done.returncode, done.stderr[:15]) == (2, "error: no data:")


# The grid.


def test_long_and_broken_lines():
    assert shortened("bees") == "bees"
    assert shortened("a\nb\tc") == "a b c"
    short = shortened("a" * 40 + "end.jpeg")
    assert len(short) == grid.SHOWN
    assert short.endswith("end.jpeg")


def test_rows_need_not_have_one_shape(tmp_path):
    pixels = np.zeros((4, 9, 3), np.uint8)
    rows = [[Cell(pixels, ("a", "b")), Cell(pixels, ())], [Cell(pixels, ("$",))]]
    draw_grid(rows, ["one", "two"], "$title", tmp_path / "a.png")
    assert size_of(tmp_path / "a.png")[0] == round((2 * grid.CELL + 0.2) * grid.DPI)
