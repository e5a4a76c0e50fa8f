"""Rows for a terminal, for scripts, as CSV and as lines of JSON, read back by their usual readers."""

import csv
import io
import json

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from jaxft.rows import Guess, Row, csv_rows, guesses, json_rows, tab_rows, terminal_rows

CLASSES = ("ants", "bees", 'küche, "neu"')
ODD = 'a,b "c"\n\td.jpg'
ROWS = (
    Row("a.jpg", (Guess("bees", 0.75), Guess(CLASSES[2], 0.1))),
    Row(ODD, error="empty file"),
    Row("蟻.jpg", (Guess("ants", 1e-10), Guess("bees", 0.0))),
)


@pytest.fixture
def written(tmp_path):
    """Gives what is written of the rows; each is there once it is written."""
    path = tmp_path / "rows"

    def of(make, *arguments) -> str:
        with path.open("w", encoding="utf-8", newline="") as file:
            write = make(file, *arguments)
            for row in ROWS:
                before = path.stat().st_size
                write(row)
                assert path.stat().st_size > before
        return path.read_bytes().decode()

    return of


def test_the_best_classes_in_float32s_own_digits():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(7)).astype(np.float32)
    names = [f"class {i}" for i in range(7)]
    best = guesses(probabilities, names, 7)
    assert [guess.class_name for guess in best] == [names[i] for i in sorted(range(7), key=lambda i: -probabilities[i])]
    assert [np.float32(guess.probability) for guess in best] == sorted(probabilities, reverse=True)
    assert max(len(str(guess.probability)) for guess in best) <= len("0.0123456789")
    assert guesses(np.array([0.5, 0.5], np.float32), names[:2], 1) == (("class 0", 0.5),)


def test_csv(written):
    text = written(csv_rows, 2)
    assert text.startswith("file,class,probability,class2,probability2,error\r\na.jpg,bees,0.75,")
    assert list(csv.reader(io.StringIO(text, newline="")))[1:] == [
        ["a.jpg", "bees", "0.75", CLASSES[2], "0.1", ""],
        [ODD, "", "", "", "", "empty file"],
        ["蟻.jpg", "ants", "1e-10", "bees", "0.0", ""],
    ]


def test_json(written):
    lines = written(json_rows).splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "file": "a.jpg",
            "class": "bees",
            "probability": 0.75,
            "top": [{"class": "bees", "probability": 0.75}, {"class": CLASSES[2], "probability": 0.1}],
        },
        {"file": ODD, "error": "empty file"},
        {
            "file": "蟻.jpg",
            "class": "ants",
            "probability": 1e-10,
            "top": [{"class": "ants", "probability": 1e-10}, {"class": "bees", "probability": 0.0}],
        },
    ]
    assert "küche" in lines[0]


def test_tabs(written):
    assert [line.split("\t") for line in written(tab_rows, 2).splitlines()] == [
        ["a.jpg", "bees", "0.75", CLASSES[2], "0.1", ""],
        [r'a,b "c"\n\td.jpg', "", "", "", "", "empty file"],
        ["蟻.jpg", "ants", "1e-10", "bees", "0.0", ""],
    ]


def test_a_terminal():
    console = Console(file=io.StringIO(), width=100)
    write = terminal_rows(console, 2, [row.file for row in ROWS], CLASSES)
    for row in ROWS:
        write(row)
    assert console.file.getvalue().splitlines() == [
        "file              class          probability  class2        probability2",
        'a.jpg             bees                0.7500  küche, "neu"        0.1000',
        r'a,b "c"\n\td.jpg  empty file',
        "蟻.jpg            ants                0.0000  bees                0.0000",
    ]


@pytest.mark.parametrize(("width", "name"), [(80, f"{'a/' * 40}1.jpg"), (20, f"{'蟻/' * 40}1.jpg")])
def test_a_long_path_ends_its_column(width, name):
    console = Console(file=io.StringIO(), width=width)
    write = terminal_rows(console, 1, ["1.jpg", name], ("ants",))
    write(Row("1.jpg", (Guess("ants", 1.0),)))
    write(Row(name, (Guess("ants", 1.0),)))
    header, short, long = console.file.getvalue().splitlines()
    of_file = max(width - len("  class  probability"), 24)
    assert short == f"{'1.jpg':{of_file}}  ants        1.0000"
    assert header == f"{'file':{of_file}}  class  probability"
    end, ants = long.split("  ", 1)
    assert ants.strip() == "ants        1.0000"
    assert end[0] == "…"
    assert name.endswith(end[1:])
    assert of_file - 2 <= cell_len(end) <= of_file
    assert cell_len(long) == len(short)
