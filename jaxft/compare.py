"""Fine-tuned against from scratch, and other arms: python -m jaxft.compare [PRESET] [--arms …] [--seeds N]."""

import sys
from collections.abc import Sequence

from jaxft.errors import run_command
from jaxft.huge_pages import start_with_huge_pages


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    from jaxft.comparison.arguments import parse  # Only now, as in jaxft.train.
    from jaxft.comparison.plan import Plan

    name, arguments = parse(sys.argv[1:] if argv is None else argv)
    plan = Plan(name, arguments.config, arguments.comparison.arms, arguments.comparison.seeds)
    from jaxft.comparison.command import run

    return run(plan, arguments.options, arguments.hosts)


if __name__ == "__main__":
    start_with_huge_pages()
    run_command(main)
