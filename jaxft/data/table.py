"""A table of photographs: a CSV file with the columns path and label, and split where it says the split."""

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxft.data.sources import FileSource, Splits, shown, some, split_source
from jaxft.errors import UserError

COLUMNS = ("path", "label", "split")
NEEDED = ("path", "label")
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
TEST_NAMES = ("val", "test")
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")


class Row(NamedTuple):
    """A photograph of the table; `split` is "" where there is no such column. Lines are counted from 1."""

    line: int
    path: Path
    label: str
    split: str


def open_table(table: Path, *, val_fraction: float, seed: int) -> Splits:
    """The files that a CSV file lists, relative to its folder; without a column split, split by class and seed.

    Class names are the labels, sorted, as numbers where all of them are whole numbers. The rows for val (or validation)
    are the test set, or else those for test. The file is UTF-8 and quoted as Excel quotes.

    Raises:
        UserError: no such file or no such table: missing columns or values, files that are not there, a file twice with
            different labels or splits, one class only, test classes without a training row.
    """
    rows = list(_read_rows(table))
    if not rows:
        raise UserError(f"{shown(table)}: a header and no rows. Give every photograph a line.")
    _check_files(rows, table)
    rows, notes = _without_repeats(rows, table)
    train, test, unused = _by_split(rows, table)
    notes += unused
    classes = _class_names(train, table)
    source = _as_source(train, classes)
    if test:
        notes += _compare_classes(train, test, table)
        return Splits(source, _as_source(test, classes), notes)
    lacks = "rows for val or test" if train[0].split else "column split"
    splits = split_source(source, where=shown(table), lacks=lacks, val_fraction=val_fraction, seed=seed)
    return splits._replace(notes=splits.notes + notes)


def _read_rows(table: Path) -> Iterator[Row]:
    """Every row that is not blank."""
    # Strict: a quote that is never closed would swallow the rest of the file.
    reader = csv.reader(io.StringIO(_read_text(table), newline=""), strict=True)
    line = 1
    try:
        header = next(reader, [])
        places = _places(header, table)
        line = reader.line_num + 1
        for fields in reader:
            if fields:
                yield _row(fields, places, len(header), table, line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f'{_at(table, line)}: {error}. Put what holds commas, quotes or newlines in quotes: "a ""b"", c.jpg".'
        ) from None


def _read_text(table: Path) -> str:
    try:
        encoded = table.read_bytes()
    except OSError as error:
        raise UserError(f"--data {shown(table)}: cannot be read ({error.strerror}). Pass a CSV file.") from None
    try:
        return encoded.decode("utf-8-sig")  # Excel begins a file with a byte order mark.
    except UnicodeDecodeError as error:
        line = encoded.count(b"\n", 0, error.start) + 1
        raise UserError(f"{_at(table, line)}: not UTF-8 ({error.reason}). Save it as CSV UTF-8.") from None


def _places(header: Sequence[str], table: Path) -> dict[str, int]:
    """Where the columns are that we read, by name."""
    if not any(header):
        raise UserError(f"{shown(table)}: no header. Its first line must be path,label or path,label,split.")
    names = [name.strip().lower() for name in header]
    there = ", ".join(shown(name) or '""' for name in header)
    missing = [name for name in NEEDED if name not in names]
    if missing:
        hint = "Separate columns by commas." if len(header) == 1 else "Name the columns in the first line."
        raise UserError(f"{shown(table)}: no column {' and no column '.join(missing)}; there is {there}. {hint}")
    double = [name for name in COLUMNS if names.count(name) > 1]
    if double:
        raise UserError(f"{shown(table)}: column {double[0]} is there twice ({there}). Keep one.")
    return {name: names.index(name) for name in COLUMNS if name in names}


def _row(fields: Sequence[str], places: dict[str, int], num_columns: int, table: Path, line: int) -> Row:
    if len(fields) != num_columns:
        raise UserError(
            f"{_at(table, line)}: {len(fields)} values, the header has {num_columns}. Put what holds commas in quotes."
        )
    values = {name: fields[place] for name, place in places.items()}
    for name, value in values.items():
        if not value.strip():
            raise UserError(f"{_at(table, line)}: the {name} is empty. Fill it in, or remove the line.")
    split = SPLITS.get(values["split"].strip().lower(), "") if "split" in values else ""
    if "split" in values and not split:
        raise UserError(
            f"{_at(table, line)}: split {shown(values['split'])}: no such split. Write one of {', '.join(SPLITS)}."
        )
    return Row(line, table.parent / values["path"], values["label"].strip(), split)


def _check_files(rows: Sequence[Row], table: Path) -> None:
    missing = [row for row in rows if not os.path.isfile(row.path)]
    if missing:
        raise UserError(
            f"{shown(table)}: {len(missing)} of {len(rows)} files are not there: {some([row.path for row in missing])} "
            f"(line {missing[0].line} first). Paths are relative to the table's folder, or absolute."
        )


def _without_repeats(rows: Sequence[Row], table: Path) -> tuple[list[Row], tuple[str, ...]]:
    """Each file once: one that came twice could land on both sides of the split."""
    first: dict[str, Row] = {}
    for row in rows:
        earlier = first.setdefault(os.path.normpath(row.path), row)
        for name, one, other in (("labels", earlier.label, row.label), ("splits", earlier.split, row.split)):
            if one != other:
                raise UserError(
                    f"{shown(table)}: {shown(row.path)} has two {name}: {shown(one)} in line {earlier.line}, "
                    f"{shown(other)} in line {row.line}. Keep one."
                )
    num = len(rows) - len(first)
    note = f"{shown(table)} lists files again in {num} {'row' if num == 1 else 'rows'}: each is used once"
    return list(first.values()), (note,) if num else ()


def _by_split(rows: Sequence[Row], table: Path) -> tuple[list[Row], list[Row], tuple[str, ...]]:
    """The rows to train on and to test on, and a note about those for neither."""
    by_split: dict[str, list[Row]] = {}
    for row in rows:
        by_split.setdefault(row.split or "train", []).append(row)
    if "train" not in by_split:
        raise UserError(f"{shown(table)}: no row has split train, only {', '.join(sorted(by_split))}. Name some so.")
    test_name = next((name for name in TEST_NAMES if name in by_split), "")
    unused = [name for name in TEST_NAMES if name in by_split and name != test_name]
    notes = tuple(f"not used in {shown(table)}: {len(by_split[name])} rows for {name}" for name in unused)
    return by_split["train"], by_split.get(test_name, []), notes


def _class_names(rows: Sequence[Row], table: Path) -> tuple[str, ...]:
    """The labels, sorted."""
    labels = {row.label for row in rows}
    if len(labels) < 2:
        raise UserError(f"{shown(table)} has one class only, {shown(*labels)}. A classifier needs at least two.")
    if all(WHOLE_NUMBER.fullmatch(label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _compare_classes(train: Sequence[Row], test: Sequence[Row], table: Path) -> tuple[str, ...]:
    """Refuse classes that were never trained on; note those that are never tested."""
    trained, tested = {row.label for row in train}, {row.label for row in test}
    if tested - trained:
        names = ", ".join(map(shown, sorted(tested - trained)))
        raise UserError(f"{shown(table)}: classes with test rows and no training rows: {names}. Give each a train row.")
    untested = sorted(trained - tested)
    return (f"classes of {shown(table)} with no test rows: {', '.join(map(shown, untested))}",) if untested else ()


def _as_source(rows: Sequence[Row], classes: tuple[str, ...]) -> FileSource:
    labels = {label: i for i, label in enumerate(classes)}
    names = tuple(map(shown, classes))
    return FileSource(tuple(row.path for row in rows), tuple(labels[row.label] for row in rows), names)


def _at(table: Path, line: int) -> str:
    return f"{shown(table)}, line {line}"
