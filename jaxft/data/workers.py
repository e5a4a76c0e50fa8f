"""Work done ahead, in threads: PIL and NumPy let go of the interpreter while they decode, resize and copy."""

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

import grain

AHEAD = 4  # Images that a thread may have decoded before they are asked for.

T = TypeVar("T")


def in_order(make: Callable[[int], T], start: int, stop: int, *, threads: int, ahead: int) -> Generator[T, None, None]:
    """make(start), make(start + 1), …, made in threads, at most `ahead` of them before they are asked for."""
    dataset = grain.MapDataset.range(start, stop).map(lambda i: make(int(i)))
    made: Any = iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)))
    with closing(made):
        yield from made
