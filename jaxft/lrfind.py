"""A learning rate for a run, by a range test: python -m jaxft.lrfind [PRESET] [--flags] [--out FILE.png]."""

import sys
from collections.abc import Sequence

from jaxft.errors import run_command
from jaxft.huge_pages import start_with_huge_pages


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    from jaxft.range_test.arguments import parse  # Only now, as in jaxft.train.

    asked = parse(sys.argv[1:] if argv is None else argv)
    from jaxft.range_test.command import run

    return run(asked)


if __name__ == "__main__":
    start_with_huge_pages()
    run_command(main, interrupted="interrupted: nothing was written")
