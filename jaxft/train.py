"""Fine-tune a ResNet on a folder of photographs: python -m jaxft.train [PRESET] [--flags]."""

import sys
import time
from collections.abc import Sequence

from jaxft.errors import BEFORE_TRAINING, run_command
from jaxft.huge_pages import start_with_huge_pages


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    started = time.monotonic()
    from jaxft.arguments import parse  # Only now: a process that starts anew need not import it twice.

    name, arguments = parse(sys.argv[1:] if argv is None else argv)
    from jaxft.command import run  # Only now: JAX takes a second to import, and --help and a mistyped flag need none.

    return run(name, arguments, started)


if __name__ == "__main__":
    start_with_huge_pages()
    run_command(main, interrupted=BEFORE_TRAINING)
