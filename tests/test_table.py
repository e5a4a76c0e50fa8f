"""CSV files as people and Excel write them, and the message for every one that is refused."""

from pathlib import Path

import numpy as np
import pytest

from jaxft.config import Config
from jaxft.data.load import open_splits
from jaxft.data.sources import Splits
from jaxft.data.table import open_table
from jaxft.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 00.jpg to 19.jpg, empty: tables are read without opening the images."""
    for i in range(20):
        (tmp_path / f"{i:02}.jpg").touch()
    return tmp_path


def opened(folder: Path, text: str | bytes, val_fraction: float = 0.2, seed: int = 0) -> Splits:
    encoded = text if isinstance(text, bytes) else text.encode()
    (folder / "photos.csv").write_bytes(encoded)
    return open_table(folder / "photos.csv", val_fraction=val_fraction, seed=seed)


def items(source) -> list[tuple[str, int]]:
    return [(source.read(i)[0].name, source.read(i)[1]) for i in range(len(source))]


SPLIT = "path,label,split\n00.jpg,bee,train\n01.jpg,ant,train\n02.jpg,ant,{0}\n03.jpg,bee,{0}\n"


@pytest.mark.parametrize("name", ["val", "validation", "test", " Test "])
def test_a_table_says_the_split(folder, name):
    splits = opened(folder, SPLIT.format(name))
    assert splits.train.class_names == splits.test.class_names == ("ant", "bee")
    assert items(splits.train) == [("00.jpg", 1), ("01.jpg", 0)]
    assert items(splits.test) == [("02.jpg", 0), ("03.jpg", 1)]
    assert splits.notes == ()


def test_val_goes_before_test_which_is_noted(folder):
    splits = opened(folder, SPLIT.format("val") + "04.jpg,ant,test\n05.jpg,wasp,test\n")
    assert items(splits.test) == [("02.jpg", 0), ("03.jpg", 1)]
    assert splits.notes == (f"not used in {folder}/photos.csv: 2 rows for test",)


@pytest.mark.parametrize("column", ["", ",train"])
def test_without_a_split_a_part_of_each_class_is_for_testing(folder, column):
    header = "path,label,split\n" if column else "path,label\n"
    rows = [f"{i:02}.jpg,{'ab'[i % 2]}{column}\n" for i in range(20)]
    splits = opened(folder, header + "".join(rows), seed=3)
    # As folders are split: the images of a class in order, shuffled by seed and label.
    expected = [f"{2 * i + k:02}.jpg" for k in (0, 1) for i in np.random.default_rng([3, k]).permutation(10)[:2]]
    assert [name for name, _ in items(splits.test)] == sorted(expected)
    assert len(splits.train) == 16
    lacks = "rows for val or test" if column else "column split"
    assert splits.notes == (
        f"{folder}/photos.csv has no {lacks}: 20% of each class, chosen by the seed, is the test set",
    )


def test_what_excel_writes_is_read(folder):
    (folder / 'two\r\nlines, a "b".jpg').touch()
    text = (
        "\ufeff Label ,note,PATH,split\r\n"
        'ant,"a, b",00.jpg,train\r\n'
        '"bee\nof the wood",,"two\r\nlines, a ""b"".jpg",train\r\n'
        "\r\n"
        'ant ,,01.jpg,test\r\n"bee\nof the wood",,02.jpg,test\r\n'
    )
    splits = opened(folder, text)
    assert items(splits.train) == [("00.jpg", 0), ('two\r\nlines, a "b".jpg', 1)]
    assert splits.train.class_names == ("ant", r"bee\nof the wood")


def test_paths_are_relative_to_the_table_or_absolute(folder, monkeypatch):
    inside = folder / "蜜蜂 of the wood"
    inside.mkdir()
    (inside / "नाम १.png").touch()
    monkeypatch.chdir(inside)
    splits = opened(
        folder,
        f"path,label,split\n{inside.name}/नाम १.png,{inside.name},train\n{folder}/00.jpg,ant,train\n01.jpg,ant,val\n",
    )
    assert [splits.train.read(i)[0] for i in range(2)] == [inside / "नाम १.png", folder / "00.jpg"]
    assert splits.train.class_names == ("ant", "蜜蜂 of the wood")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["10", "9", "-1", "2"], ("-1", "2", "9", "10")),
        (["10", "9", "2b", "2"], ("10", "2", "2b", "9")),
        (["1.5", "10", "2"], ("1.5", "10", "2")),
    ],
)
def test_whole_numbers_are_sorted_as_numbers(folder, labels, expected):
    rows = [f"{i:02}.jpg,{label},{split}" for i, (label, split) in enumerate((a, "train") for a in labels)]
    splits = opened(folder, "path,label,split\n" + "\n".join(rows) + f"\n19.jpg,{labels[0]},test\n")
    assert splits.train.class_names == expected
    assert [expected[label] for _, label in items(splits.train)] == labels


def test_a_file_listed_again_is_used_once(folder):
    (folder / "x").mkdir()
    splits = opened(folder, SPLIT.format("val") + "./00.jpg,bee,train\n" + f"{folder}/x/../00.jpg,bee,train\n")
    assert items(splits.train) == [("00.jpg", 1), ("01.jpg", 0)]
    assert splits.notes == (f"{folder}/photos.csv lists files again in 2 rows: each is used once",)


def test_a_class_that_is_never_tested_is_noted(folder):
    splits = opened(folder, SPLIT.format("val") + "04.jpg,wasp,train\n")
    assert splits.train.class_names == ("ant", "bee", "wasp")
    assert splits.notes == (f"classes of {folder}/photos.csv with no test rows: wasp",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"photos.csv: no header. Its first line must be path,label or"),
        ("\n00.jpg,ant\n", r"photos.csv: no header"),
        ("path,label\n", r"photos.csv: a header and no rows. Give every photograph a line"),
        ("file,class,split\n", r"no column path and no column label; there is file, class, split. Name the columns"),
        ("path;label\n00.jpg;ant\n", r"there is path;label. Separate columns by commas"),
        ("path,label,Path\n", r"column path is there twice \(path, label, Path\). Keep one"),
        ("path,label\n00.jpg,a\n01.jpg,\n", r"photos.csv, line 3: the label is empty. Fill it in, or remove"),
        ('path,label\n"00.jpg","a\nb"\n\n ,a\n', r"photos.csv, line 5: the path is empty"),
        ("path,label,split\n00.jpg,a,\n", r"line 2: the split is empty"),
        ("path,label,split\n00.jpg,a,dev\n", r"line 2: split dev: no such split. Write one of train, val, valid"),
        ("path,label\n00.jpg,a\n0,1.jpg,b\n", r"line 3: 3 values, the header has 2. Put what holds commas"),
        ("path,label,split\n00.jpg,a\n", r"line 2: 2 values, the header has 3"),
        ('path,label\n00.jpg,a\n"01.jpg,b\n02.jpg,a\n', r"line 3: unexpected end of data. Put what holds"),
        ("path,label\n00.jpg,a\nno.jpg,b\n.,b\n", r"2 of 3 files are not there: .*/no.jpg, .* \(line 3 first\)"),
        ("path,label\n00.jpg,a\nn\\o\x85.jpg,b\n", r"1 of 2 files are not there: .*n\\o\\x85.jpg \("),
        ("path,label\n00.jpg,a\n./00.jpg,b\n", r"/00.jpg has two labels: a in line 2, b in line 3. Keep one"),
        ("path,label,split\n00.jpg,a,train\n00.jpg,a,val\n", r"has two splits: train in line 2, val in line 3"),
        ("path,label\n00.jpg,a\n01.jpg,a\n", r"has one class only, a. A classifier needs at least two"),
        ("path,label\n00.jpg,a\n01.jpg,b\n02.jpg,b\n", r"class a in .*photos.csv has one image"),
        (SPLIT.replace("train", "test").format("val"), r"no row has split train, only test, val. Name some so"),
        (SPLIT.format("val") + "04.jpg,wasp,val\n05.jpg,fly,val\n", r"no training rows: fly, wasp. Give each a train"),
        ("path,label\n00.jpg,caf\u00e9\n".encode("latin-1"), r"photos.csv, line 2: not UTF-8 \(.*Save it as CSV UTF-8"),
        ("path,label\n".encode("utf-16"), r"photos.csv, line 1: not UTF-8"),
        (b"path,label\n00.jpg," + b"a" * 200_000, r"line 2: field larger than field limit"),
    ],
)
def test_a_table_that_cannot_be_used_says_where_and_why(folder, text, message):
    with pytest.raises(UserError, match=message) as caught:
        opened(folder, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["photos.csv", "PHOTOS.CSV"])
def test_a_csv_is_data(folder, name):
    (folder / name).write_text(SPLIT.format("val"))
    splits = open_splits(Config(data=str(folder / name)), folder)
    assert items(splits.test) == [("02.jpg", 0), ("03.jpg", 1)]


def test_a_csv_that_is_not_there(folder):
    with pytest.raises(UserError, match=r"--data .*/none.csv: cannot be read \(No such file or directory\)"):
        open_splits(Config(data=str(folder / "none.csv")), folder)


def test_a_folder_may_be_named_like_a_table(folder):
    for name in ("a", "b"):
        (folder / "set.csv" / name).mkdir(parents=True)
        for i in range(2):
            (folder / "set.csv" / name / f"{i}.jpg").touch()
    assert len(open_splits(Config(data=str(folder / "set.csv")), folder).train) == 2
