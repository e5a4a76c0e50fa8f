"""python -m jaxft.data.check: what it prints and its exit status."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxft.data.check import class_table, finding_lines, main, verdict
from jaxft.data.findings import Finding
from jaxft.data.sources import ArraySource, Splits
from jaxft.errors import UserError
from pictures import RGB, encoded, frames, photo, sound, write


def rows(printed: str) -> dict[str, list[str]]:
    """The rows of all tables that were printed, by their first cells."""
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if line[:1] == "│"]
    return {first: rest for first, *rest in cells}


def run(folder: Path, *flags: str) -> int:
    return main([str(folder), *flags])


def test_a_sound_set(tmp_path, capsys):
    write(tmp_path, sound())
    assert run(tmp_path) == 0
    printed = capsys.readouterr().out
    assert rows(printed) == {
        "ants": ["3", "3"],
        "bees": ["3", "3"],
        "all": ["6", "6"],
        **{name: ["40 × 50", "40 × 50"] for name in ("smallest", "median", "largest")},
        "PNG": ["6", "6"],
    }
    assert printed.endswith("\nnothing wrong found\n")


def test_a_set_with_everything(tmp_path, capsys):
    files = sound(num=4)
    files["train/ants/a b.jpg"] = b"<html>"
    files["train/ants/[red]c.png"] = frames("GIF")
    files["train/bees/grey.jpg"] = encoded(photo(10, 200, 70).convert("L"), "JPEG")
    files["test/bees/cmyk.jpg"] = encoded(photo(60, 61, 71).convert("CMYK"), "JPEG")
    files["test/ants/leak.png"] = files["train/ants/0.png"]
    files["train/bees/notes.txt"] = b"hello"
    write(tmp_path, files)
    assert run(tmp_path) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("ignored 1 entry that is not an image")
    table = rows(printed)
    assert table["all"] == ["11", "10"]
    assert table["smallest"] == ["16 × 16", "40 × 50"]
    assert table["median"] == ["40 × 50", "40 × 50"]
    assert table["largest"] == ["10 × 200", "60 × 61"]
    assert (table["PNG"], table["JPEG"], table["GIF"]) == (["8", "9"], ["1", "1"], ["1", "0"])
    expected = {"greyscale": ["1", "0"], "CMYK": ["0", "1"], "animated": ["1", "0"], "cannot be decoded": ["1", "0"]}
    assert table | expected == table
    assert "16-bit" not in table
    lines = printed.splitlines()
    for line, below in (
        ("wrong: 1 image cannot be decoded. ", "  train/ants/a b.jpg: not an image that PIL knows"),
        ("wrong: 1 of 10 test images is also a training image, ", "  test/ants/leak.png = train/ants/0.png"),
        ("hint: 1 file holds another format than its name says. ", "  train/ants/[red]c.png holds GIF"),
    ):
        assert lines[next(i for i, each in enumerate(lines) if each.startswith(line)) + 1] == below
    assert lines[-1] == (
        "wrong: 1 image cannot be decoded; 1 of 10 test images is also a training image, byte for byte (leakage)"
    )


def test_hints_alone_are_not_wrong(tmp_path, capsys):
    write(tmp_path, {**sound(), "test/ants/png.jpg": encoded(RGB)})
    assert run(tmp_path) == 0
    assert capsys.readouterr().out.endswith("  test/ants/png.jpg holds PNG\nnothing wrong found\n")


def test_the_first_few_of_many_and_all(tmp_path, capsys):
    write(tmp_path, sound() | {f"train/ants/bad{i}.jpg": b"" for i in range(7)})
    assert run(tmp_path) == 1
    printed = capsys.readouterr().out
    assert "bad4.jpg: empty file\n  and 2 more: --all lists them\n" in printed
    assert "bad5" not in printed
    run(tmp_path, "--all")
    printed = capsys.readouterr().out
    assert "bad6.jpg: empty file\n" in printed
    assert "more" not in printed


def test_many_classes_are_one_line_and_with_all_a_table(tmp_path, capsys):
    classes = {f"class{k:02}/{i}.png": encoded(photo(9, 9, 10 * k + i)) for k in range(21) for i in range(4)}
    write(tmp_path, classes)
    assert run(tmp_path, "--val-fraction", "0.5") == 0
    printed = capsys.readouterr().out
    assert "21 classes, 2 training images each" in printed
    assert "class07" not in rows(printed)
    run(tmp_path, "--val-fraction", "0.25", "--all")
    assert rows(capsys.readouterr().out)["class07"] == ["3", "1"]


def test_the_seed_is_that_of_the_split(tmp_path, capsys):
    twice = encoded(RGB)
    files = {f"{name}/{i}.png": encoded(photo(9, 9, i + 50 * (name == "a"))) for name in "ab" for i in range(10)}
    write(tmp_path, files | {"a/0.png": twice, "a/9.png": twice})
    told = set()
    for seed in range(12):
        assert run(tmp_path, "--seed", str(seed)) == 1
        told.add("leakage" in capsys.readouterr().out)
    assert told == {True, False}


def test_names_that_are_no_text(tmp_path, capsys):
    write(tmp_path, sound())
    Path(os.fsdecode(os.fsencode(tmp_path / "train/ants") + b"/\xff \xce\xbc.jpg")).write_bytes(b"")
    assert run(tmp_path) == 1
    assert "\n  train/ants/\\udcff μ.jpg: empty file\n" in capsys.readouterr().out


def test_class_names_are_no_markup():
    pixels, labels = np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1])
    source = ArraySource(pixels, labels, ("[bold]a", "b[/]"))
    table = class_table(Splits(source, source, ()))
    assert [str(cell) for cell in table.columns[0].cells] == [r"\[bold]a", r"b\[/]", "all"]


def test_the_lines_and_the_verdict():
    found = [Finding("two are bad", "Mend them.", ("a", "b"), True), Finding("look", "", (), False)]
    assert finding_lines(found, 1) == [
        "wrong: two are bad. Mend them.",
        "  a",
        "  and 1 more: --all lists them",
        "hint: look.",
    ]
    assert verdict(found) == "wrong: two are bad"
    assert verdict(found[1:]) == "nothing wrong found"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("nowhere",), "no such folder"),
        (("demo", "--val-fraction", "2"), "--val-fraction 2.0: must lie between 0 and 1"),
        (("demo", "--seed", "-1"), "--seed -1: must lie in 0"),
    ],
)
def test_mistakes(flags, message):
    with pytest.raises(UserError, match=message):
        main(flags)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-W", "error", "-m", "jaxft.data.check", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)


def test_as_a_command(tmp_path):
    write(tmp_path, sound() | {"train/ants/bad.jpg": b""})
    done = command(tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith("\nwrong: 1 image cannot be decoded\n")
    done = command(tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --data ")
    assert "Traceback" not in done.stderr


def test_photographs_found_in_the_wild(shared, capsys):
    assert run(shared / "data/hymenoptera") == 0
    printed = capsys.readouterr().out
    assert "imageNotFound.gif" in printed
    table = rows(printed)
    assert (table["ants"], table["bees"], table["JPEG"]) == (["123", "70"], ["121", "83"], ["244", "153"])
    assert printed.endswith("nothing wrong found\n")
