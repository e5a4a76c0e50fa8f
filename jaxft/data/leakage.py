"""Test images that are also training images, byte for byte: found without reading much, to be told before a run."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxft.data.images import Encoded
from jaxft.data.sources import Source, Splits, in_memory, shown

TAIL_BYTES = 4096
MOST_READ = 20_000
NAMED = 3
DIGEST = partial(hashlib.blake2b, digest_size=16)


class Leak(NamedTuple):
    """A test image and the first training image of the same content, by their places in their sources."""

    test: int
    train: int


class TooManyError(Exception):
    """More files of equal sizes than can be compared in passing."""


def leakage_notes(splits: Splits, spec: str = "DATA", *, tested: str = "test") -> tuple[str, ...]:
    """A line on test images that are also training images; none where there are none. `tested` is what they are called.

    Files are told apart by their sizes, then by their last 4 KiB, and the few that are left by all of their content;
    arrays likewise. A source that would have to be read whole for it (encoded bytes, as tfds gives them) is passed
    over: `python -m jaxft.data.check` reads every image and looks there too. Where more than 20,000 files share their
    sizes across the splits the line says that nothing was compared.
    """
    try:
        leaks = find_leaks(splits)
    except TooManyError:
        return (f"leakage was not looked for among so many files: python -m jaxft.data.check {spec} does",)
    if not leaks:
        return ()
    name = namer(splits, tested)
    some = ", ".join(f"{name('test', leak.test)} = {name('train', leak.train)}" for leak in leaks[:NAMED])
    more = ", …" if len(leaks) > NAMED else ""
    return (
        f"leakage: {leaked(len(leaks), len(splits.test), tested)}: {some}{more}; "
        f"python -m jaxft.data.check {spec} --all lists them",
    )


def leaked(num: int, num_test: int, tested: str = "test") -> str:
    """How many test images are training images, in words."""
    also = "is also a training image" if num == 1 else "are also training images"
    return f"{num:,} of {num_test:,} {tested} images {also}"


def find_leaks(splits: Splits) -> list[Leak]:
    """Every test image whose bytes are also a training image's; empty files, which are no images, left out.

    Raises:
        TooManyError: more than 20,000 files left to compare once their sizes are known.
    """
    if not (_is_cheap(splits.train) and _is_cheap(splits.test)):
        return []
    train = dict(enumerate(splits.train.read(i)[0] for i in range(len(splits.train))))
    test = dict(enumerate(splits.test.read(i)[0] for i in range(len(splits.test))))
    matched: dict[int, list[int]] = {}
    for key in (_size, _tail, _content):
        if key is _tail and sum(isinstance(item, Path) for item in (*train.values(), *test.values())) > MOST_READ:
            raise TooManyError
        matched = _match(key, train, test)
        test = {i: test[i] for i in matched}
        train = {j: train[j] for j in sorted({j for places in matched.values() for j in places})}
    return [Leak(i, places[0]) for i, places in matched.items()]


def _is_cheap(source: Source) -> bool:
    """Whether to read an image of it is to name it: a path, or pixels in memory."""
    return in_memory(source) or (len(source) > 0 and isinstance(source.read(0)[0], Path))


def _match(
    key: Callable[[Encoded], Hashable], train: dict[int, Encoded], test: dict[int, Encoded]
) -> dict[int, list[int]]:
    """The training images whose key a test image shares, for each that shares one."""
    places: dict[Hashable, list[int]] = defaultdict(list)
    for j, item in train.items():
        places[key(item)].append(j)
    places.pop(None, None)  # What cannot be read is told by decoding.
    return {i: found for i, item in test.items() if (found := places.get(key(item)))}


def _size(item: Encoded) -> Hashable:
    if not isinstance(item, Path):
        return item.shape if isinstance(item, np.ndarray) else len(item) or None
    try:
        return os.stat(item).st_size or None
    except OSError:
        return None


def _tail(item: Encoded) -> Hashable:
    if isinstance(item, np.ndarray):
        return item.reshape(-1)[-TAIL_BYTES:].tobytes()
    if isinstance(item, bytes):
        return item[-TAIL_BYTES:]
    try:
        with item.open("rb", buffering=0) as file:
            file.seek(max(os.fstat(file.fileno()).st_size - TAIL_BYTES, 0))
            return file.read(TAIL_BYTES)
    except OSError:
        return None


def _content(item: Encoded) -> Hashable:
    try:
        return content(item)
    except OSError:
        return None


def content(item: Encoded) -> bytes:
    """A digest of all bytes of an image, of an array's shape too.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(item, Path):
        with item.open("rb") as file:
            return hashlib.file_digest(file, DIGEST).digest()
    if isinstance(item, np.ndarray):
        return DIGEST(repr(item.shape).encode() + item.tobytes()).digest()
    return DIGEST(item).digest()


def namer(splits: Splits, tested: str = "test") -> Callable[[str, int], str]:
    """A function that names image i of "train" or "test": its path in the folder that holds all, or its place."""
    cheap = [source for source in (splits.train, splits.test) if _is_cheap(source)]
    root = _common_folder(source.read(i)[0] for source in cheap for i in range(len(source)))

    def name(split: str, i: int) -> str:
        item = (splits.train if split == "train" else splits.test).read(i)[0]
        if not isinstance(item, Path):
            return f"{'training' if split == 'train' else tested} image {i}"
        return shown(os.path.relpath(item, root) if root else item)

    return name


def _common_folder(items: Iterable[Encoded]) -> str:
    """The innermost folder that all files lie in; empty where there is none."""
    paths = [os.fspath(item) for item in items if isinstance(item, Path)]
    try:
        # What the first and the last by name have in common, all have.
        return os.path.commonpath([os.path.dirname(min(paths)), os.path.dirname(max(paths))]) if paths else ""
    except ValueError:
        return ""
