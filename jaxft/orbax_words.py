"""What Orbax and TensorStore say of a disk that fails: the reason of it, for a message, and less on the terminal."""

import logging
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any


def why(error: Exception) -> str | None:
    """The operating system's words for what went wrong; TensorStore gives its number in the text of its own errors."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    found = re.search(r"(?:os_error_code='|OS error )(\d+)", str(error))
    return os.strerror(int(found[1])) if found else None


def quiet_orbax() -> None:
    """Keep Orbax's log off the terminal, and what its abandoned writers say of a full disk: `wait` raises it."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_not_orbax)
    if not (isinstance(sys.unraisablehook, partial) and sys.unraisablehook.func is _print_unraisable):
        sys.unraisablehook = partial(_print_unraisable, sys.unraisablehook)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return not re.search(r"orbax[/\\-]checkpoint", f"{record.pathname} {record.getMessage()}")


def _print_unraisable(print_it: Callable[[Any], Any], unraisable: Any) -> None:
    # TensorStore calls back into an event loop that Orbax has closed after another writer's failure.
    if unraisable.object is not None or str(unraisable.exc_value) != "Event loop is closed":
        print_it(unraisable)
