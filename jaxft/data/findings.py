"""What is wrong with a set, and what only might be, from the facts of its images."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from jaxft.data.counts import BALANCE, class_counts, unbalanced
from jaxft.data.duplicates import NEAR_BITS, NEAR_CORRELATION, near, same_content, thumbnails
from jaxft.data.health import Facts, Health
from jaxft.data.leakage import leaked, namer
from jaxft.data.sources import Splits
from jaxft.data.traits import MISNAMED

FEWEST = 2
MOST_COMPARED = 200_000


class Finding(NamedTuple):
    """Something wrong with a set or, where `wrong` is false, a hint: what, what to do, and the images that it is of."""

    title: str
    remedy: str
    lines: tuple[str, ...]
    wrong: bool = True


Namer = Callable[[str, int], str]


class _Image(NamedTuple):
    split: str
    i: int
    facts: Facts


def findings(splits: Splits, health: Health) -> list[Finding]:
    """All that there is to say of a set, the worst first.

    Wrong are: images that cannot be decoded; classes of fewer than 2 training images or no test image, those that
    cannot be decoded left out; the same bytes in training and test, under two labels, or twice under one label in a
    split. Hints are: pictures that look nearly the same, files of another format than their names say, and classes of
    very different sizes.
    """
    images = [_Image("train", i, facts) for i, facts in enumerate(health.train)]
    images += [_Image("test", i, facts) for i, facts in enumerate(health.test)]
    name = namer(splits)
    names, groups = splits.train.class_names, same_content([image.facts.digest for image in images])
    same = [[images[place] for place in group] for group in groups]
    found = [
        _undecodable(images, name),
        _few(names, health),
        _leaks(same, len(health.test), name),
        _contradictions(same, names, name),
        _copies(same, name),
        *_look_alikes(images, same, names, name),
        _misnamed(images, name),
        _unbalanced(splits),
    ]
    return [finding for finding in found if finding is not None]


def _finding(num: int, one: str, more: str, remedy: str, lines: Iterable[str], wrong: bool = True) -> Finding | None:
    """A finding in the singular or the plural; none of nothing."""
    title = one if num == 1 else more.format(f"{num:,}")
    return Finding(title, remedy, tuple(lines), wrong) if num else None


def _undecodable(images: Sequence[_Image], name: Namer) -> Finding | None:
    bad = [f"{name(image.split, image.i)}: {image.facts.bad}" for image in images if image.facts.bad]
    remedy = "Mend or remove them; train leaves them out with --skip-bad-images."
    return _finding(len(bad), "1 image cannot be decoded", "{} images cannot be decoded", remedy, bad)


def _few(names: Sequence[str], health: Health) -> Finding | None:
    train, test = (Counter(facts.label for facts in split if not facts.bad) for split in health)
    few = [
        f"{name}: {train[label]} training and {test[label]} test images"
        for label, name in enumerate(names)
        if train[label] < FEWEST or not test[label]
    ]
    one, more = "1 class has hardly an image", "{} classes have hardly an image"
    return _finding(len(few), one, more, f"Each needs {FEWEST} training images and a test image at least.", few)


def _leaks(same: Sequence[Sequence[_Image]], num_test: int, name: Namer) -> Finding | None:
    lines = []
    for group in same:
        train = [image for image in group if image.split == "train"]
        lines += [_equal([image, *train], name) for image in group if image.split == "test" and train]
    title = leaked(len(lines), num_test) + ", byte for byte (leakage)"
    return _finding(len(lines), title, title, "Accuracy on them says nothing: remove them from one side.", lines)


def _contradictions(same: Sequence[Sequence[_Image]], names: Sequence[str], name: Namer) -> Finding | None:
    lines = [
        " = ".join(f"{name(image.split, image.i)} ({names[image.facts.label]})" for image in group)
        for group in same
        if len({image.facts.label for image in group}) > 1
    ]
    one, more = (
        "1 image is in more than one class, byte for byte",
        "{} images are in more than one class, byte for byte",
    )
    return _finding(len(lines), one, more, "Keep it where it belongs.", lines)


def _copies(same: Sequence[Sequence[_Image]], name: Namer) -> Finding | None:
    lines, num = [], 0
    for group in same:
        for key in dict.fromkeys((image.split, image.facts.label) for image in group):
            twins = [image for image in group if (image.split, image.facts.label) == key]
            num += len(twins) - 1
            lines += [_equal(twins, name)] if len(twins) > 1 else []
    one = "1 image is a copy of another of its class and split, byte for byte"
    more = "{} images are copies of others of their class and split, byte for byte"
    return _finding(num, one, more, "They count more than once: keep one of each.", lines)


def _equal(group: Sequence[_Image], name: Namer) -> str:
    return " = ".join(name(image.split, image.i) for image in group)


def _look_alikes(
    images: Sequence[_Image], same: Sequence[Sequence[_Image]], names: Sequence[str], name: Namer
) -> list[Finding | None]:
    """Hints at pictures of different bytes that look nearly the same, across the splits and within them."""
    if len(images) > MOST_COMPARED:
        title = f"more than {MOST_COMPARED:,} images: nearly identical ones were not looked for"
        return [Finding(title, "", (), wrong=False)]
    # Of the same bytes one stands for all, a training image where there is one.
    repeated = {(image.split, image.i) for image in chain.from_iterable(group[1:] for group in same)}
    told = [image for image in images if not image.facts.bad and (image.split, image.i) not in repeated]
    train, test = ([image for image in told if image.split == split] for split in ("train", "test"))
    seen, asked = (thumbnails([image.facts.thumbnail for image in split]) for split in (train, test))

    def lines(queries: Sequence[_Image], others: Sequence[_Image], pairs: Iterable[tuple[int, int, int]]) -> list[str]:
        return [_alike(queries[i], others[j], bits, names, name) for i, j, bits in pairs]

    across = lines(test, train, near(asked, seen))
    within = [*lines(train, train, near(seen)), *lines(test, test, near(asked))]
    how = f"Look at them (hashes at most {NEAR_BITS} of 64 bits apart, correlation of {NEAR_CORRELATION} or more)."
    one, more = "1 test image looks nearly like a training image", "{} test images look nearly like a training image"
    first = _finding(len(across), one, more, how, across, wrong=False)
    one = "1 image looks nearly like another of its split"
    more = "{} images look nearly like another of their split"
    return [first, _finding(len(within), one, more, how, within, wrong=False)]


def _alike(image: _Image, other: _Image, bits: int, names: Sequence[str], name: Namer) -> str:
    a, b = names[image.facts.label], names[other.facts.label]
    classes = "" if a == b else f"; classes {a} and {b}"
    return f"{name(image.split, image.i)} ~ {name(other.split, other.i)} ({bits} bits{classes})"


def _misnamed(images: Sequence[_Image], name: Namer) -> Finding | None:
    lines = [
        f"{name(image.split, image.i)} holds {image.facts.format}" for image in images if MISNAMED in image.facts.traits
    ]
    one, more = "1 file holds another format than its name says", "{} files hold another format than their names say"
    return _finding(len(lines), one, more, "jaxft reads them all the same; other programs may not.", lines, wrong=False)


def _unbalanced(splits: Splits) -> Finding | None:
    sentence = unbalanced(splits.train.class_names, class_counts(splits.train))
    return Finding(sentence.rstrip("."), BALANCE, (), wrong=False) if sentence else None
