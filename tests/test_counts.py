"""How many images each class has, in a line or two."""

from pathlib import Path

import numpy as np

from jaxft.data.counts import class_counts, count_notes
from jaxft.data.sources import ArraySource, FileSource
from pictures import BytesSource


def labelled(counts: dict[str, int]) -> FileSource:
    labels = [label for label, num in enumerate(counts.values()) for _ in range(num)]
    return FileSource([Path("x")] * len(labels), labels, tuple(counts))


def test_counts():
    source = labelled({"ants": 2, "none": 0, "bees": 3})
    assert class_counts(source).tolist() == [2, 0, 3]
    assert class_counts(BytesSource([b"", b"", b""])).tolist() == [2, 1]
    assert class_counts(ArraySource(np.zeros((0, 2, 2, 3), np.uint8), np.zeros(0, int), ("a",))).tolist() == [0]


def test_few_classes_are_counted_one_by_one():
    assert count_notes(labelled({"ants": 124, "bees": 121})) == ("classes: ants 124, bees 121",)


def test_of_many_classes_the_range():
    counts = {f"c{i}": 10 + i**2 for i in range(20)}
    assert count_notes(labelled(counts))[:1] == (
        "20 classes, 10 to 371 training images each (median 100): fewest c0, most c19",
    )
    assert count_notes(labelled(dict.fromkeys(counts, 7))) == ("20 classes, 7 training images each",)


def test_the_hint_to_balance():
    source = labelled({"ants": 2, "bees": 10})
    assert count_notes(source)[1:] == (
        "unbalanced: bees has 5 times the training images of ants (10 and 2). "
        "--balance weights or --balance sampler makes up for it.",
    )
    assert count_notes(source, balanced=True) == ("classes: ants 2, bees 10",)
    assert len(count_notes(labelled({"ants": 2, "bees": 9}))) == 1
    assert count_notes(labelled({"ants": 2, "none": 0})) == ("classes: ants 2, none 0",)
