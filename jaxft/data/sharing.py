"""How several processes share out work on a data set; the means to do so come from jaxft.processes."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Sharing(NamedTuple):
    """One of several processes, and how it hears of the others."""

    id: int
    num: int
    gather: Callable[[np.ndarray], np.ndarray]
    """An array of [...] of each, of one shape, to [num, ...]."""
    exchange: Callable[[bytes], list[bytes]]
    """Anything of each to all, in the order of the processes."""


def in_all(sharing: Sharing | None, holds: bool) -> bool:
    """Whether something holds in every process."""
    return holds if sharing is None else all(text == b"1" for text in sharing.exchange(b"1" if holds else b"0"))


def writes(sharing: Sharing | None, path: Path) -> bool:
    """Whether this process is the one that writes a file: the first of those on its host that would."""
    if sharing is None:
        return True
    mine = f"{socket.gethostname()} {path.absolute()}".encode()
    return sharing.exchange(mine).index(mine) == sharing.id
