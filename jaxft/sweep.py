"""Many recipes as one program, and the best of them: python -m jaxft.sweep [PRESET] --lr 1e-4:1e-1:8 [--seeds N]."""

import sys
from collections.abc import Sequence

from jaxft.errors import run_command
from jaxft.huge_pages import start_with_huge_pages


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    from jaxft.sweeping.arguments import parse  # Only now, as in jaxft.train.

    plan, options = parse(sys.argv[1:] if argv is None else argv)
    from jaxft.sweeping.command import run

    return run(plan, options)


if __name__ == "__main__":
    start_with_huge_pages()
    run_command(main)
