"""Arrays, names that are hard to print, and the split that every kind of data shares."""

from pathlib import Path

import numpy as np
import pytest

from jaxft.data.sources import ArraySource, FileSource, Source, Subset, hold_out, shown, some, split_source
from jaxft.errors import UserError


def test_arrays_are_read_back():
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    source = ArraySource(images, np.array([1, 0], np.int32), ("a", "b"))
    pixels, label = source.read(0)
    np.testing.assert_array_equal(pixels, images[0])
    assert (len(source), label) == (2, 1)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), [0, 1], r"images are float32 \[2, 4, 4, 3\]. Pass uint8"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], r"images are uint8 \[2, 4, 4\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0], "2 images and labels of shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), [1, 2], "labels lie in 1 to 2, but 2 classes are named"),
        (np.zeros((2, 4, 4, 3), np.uint8), [-1, 0], "labels lie in -1 to 0"),
    ],
)
def test_arrays_of_the_wrong_kind_are_refused(images, labels, message):
    with pytest.raises(UserError, match=message):
        ArraySource(images, np.array(labels), ("a", "b"))


@pytest.mark.parametrize("dtype", [*"bBhHiIlLqQ"])
def test_labels_of_any_width_are_plain_numbers(dtype):
    _, label = ArraySource(np.zeros((2, 4, 4, 3), np.uint8), np.array([1, 0], dtype), ("a", "b")).read(0)
    assert (label, type(label)) == (1, int)


def test_labels_may_be_a_list():
    source = ArraySource(np.zeros((2, 4, 4, 3), np.uint8), [1, 0], ("a", "b"))
    assert [source.read(i)[1] for i in range(len(source))] == [1, 0]
    assert len(ArraySource(np.zeros((0, 4, 4, 3), np.uint8), [], ("a", "b"))) == 0
    with pytest.raises(UserError, match="labels lie in 0 to 2"):
        ArraySource(np.zeros((2, 4, 4, 3), np.uint8), [0, 2], ("a", "b"))


@pytest.mark.parametrize("labels", [np.array([0.0, 1.0]), np.array([False, True])])
def test_labels_that_do_not_count_are_refused(labels):
    with pytest.raises(UserError, match=f"labels are {labels.dtype}. Pass whole numbers, counted from 0"):
        ArraySource(np.zeros((2, 4, 4, 3), np.uint8), labels, ("a", "b"))


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("plain name (1).jpg", "plain name (1).jpg"),
        ("蜜蜂 und Ameisen é.jpg", "蜜蜂 und Ameisen é.jpg"),
        ("at 3.00\u202fPM\u3000.png", "at 3.00\u202fPM\u3000.png"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("two\nlines\r\t.jpg", r"two\nlines\r\t.jpg"),
        ("\x1b[31mred\x00\x85\u2028", r"\x1b[31mred\x00\x85\u2028"),
        ("gpj.\u202eabc", r"gpj.\u202eabc"),
        ("caf\udce9.txt", r"caf\udce9.txt"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_a_name_is_shown_on_one_line(name, printed):
    assert shown(name) == shown(Path(name)) == printed
    assert len(shown(name).encode().decode().splitlines()) == 1


def test_the_first_names_are_shown():
    assert some(["a\nb", "c"]) == r"a\nb, c"
    assert some([Path("a"), Path("b"), Path("c"), Path("d")]) == "a, b, c, …"


def test_the_split_does_not_mind_how_classes_are_mixed():
    """The same images are chosen, and each side keeps the source's order."""
    names, labels = ("a", "b", "none"), [1, 0, 0, 1, 0, 1, 1, 0, 0, 1] * 3
    source = FileSource([Path(str(i)) for i in range(len(labels))], labels, names)
    splits = split_source(source, where="here", lacks="test", val_fraction=0.2, seed=3)
    chosen = []
    for label in (0, 1):
        rows = [i for i, each in enumerate(labels) if each == label]
        order = np.random.default_rng([3, label]).permutation(len(rows))
        chosen += [rows[i] for i in order[:3]]
    assert list(splits.test.rows) == sorted(chosen)
    assert splits.test.labels.tolist() == [labels[i] for i in sorted(chosen)]
    assert list(splits.train.rows) == sorted(set(range(len(labels))) - set(chosen))
    assert splits.test.read(0) == (Path(str(min(chosen))), labels[min(chosen)])
    assert splits.notes == ("here has no test: 20% of each class, chosen by the seed, is the test set",)


def test_part_of_a_part_is_held_out():
    files = FileSource([Path(str(i)) for i in range(20)], [i % 2 for i in range(20)], ("a", "b"))
    part = Subset(files, range(2, 16))
    rest, held = hold_out(part, 0.3)
    rows = [int(str(each.read(i)[0])) for each in (rest, held) for i in range(len(each))]
    assert sorted(rows) == list(range(2, 16))
    assert np.bincount(held.labels).tolist() == [2, 2]
    assert hold_out(part, 0.3)[1].rows == held.rows
    with pytest.raises(UserError, match="class a to train on has one image: it cannot be in both training and what is"):
        hold_out(Subset(files, [0, 1, 3]), 0.3)


def test_every_kind_is_a_source():
    arrays = ArraySource(np.zeros((2, 4, 4, 3), np.uint8), [1, 0], ("a", "b"))
    for source in (arrays, Subset(arrays, [1]), FileSource([], [], ("a", "b"))):
        assert isinstance(source, Source)
        assert source.class_names == ("a", "b")
