"""The one kind of error that is the user's to mend, and the exit statuses of every command."""

import os
import sys
from collections.abc import Callable
from textwrap import shorten
from typing import NoReturn

EXIT_FOUND = 1
EXIT_MISTAKE = 2
EXIT_NONFINITE = 3
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141
"""As of a process that SIGPIPE ended: who read what it printed has gone, as `head` does."""

BEFORE_TRAINING = "interrupted before training: nothing was saved"


class UserError(ValueError):
    """What the user can mend. The message says what, where, both values and the remedy."""


def reason(error: BaseException) -> str:
    """What went wrong, in part of a line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return shorten(str(error), 200).rstrip(".") or type(error).__name__


def nearest_batch_sizes(batch_size: int, multiple: int) -> str:
    """The flags to pass in place of a batch size that is no multiple."""
    below, above = batch_size // multiple * multiple, -(-batch_size // multiple) * multiple
    return " or ".join(f"--batch-size {size}" for size in (below, above) if size)


def let_go_of_stdout() -> None:
    """Have what is still to be printed go nowhere: nobody reads it, and Python would try once more at the end."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def run_command(command: Callable[[], int], *, interrupted: str = "interrupted") -> NoReturn:
    """Run a command line and exit with its status; a UserError becomes one message and exit status 2.

    `interrupted` is what Ctrl-C has it say.
    """
    try:
        status = command()
        sys.stdout.flush()
    except BrokenPipeError:
        let_go_of_stdout()
        status = EXIT_PIPE
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = EXIT_MISTAKE
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        status = EXIT_INTERRUPTED
    sys.exit(status)
