"""Fine-tune a ResNet on a folder of photographs: python -m jaxft.train [PRESET] [--flags]."""

import os
import sys
import time
from collections.abc import Sequence

from jaxft.arguments import parse
from jaxft.console import Display, Terminal
from jaxft.errors import EXIT_NONFINITE, EXIT_STOPPED, run_command
from jaxft.launch import Processes, find
from jaxft.parallel import make_deterministic
from jaxft.processes import is_first, joined
from jaxft.session import DivergedError
from jaxft.training import train


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    started = time.monotonic()
    name, arguments = parse(sys.argv[1:] if argv is None else argv)
    config, hosts = arguments.config, arguments.hosts
    if config.deterministic:
        make_deterministic()
    flags = Processes(hosts.coordinator, hosts.num_processes, hosts.process_id)
    with joined(find(flags, os.environ), hosts.heartbeat_timeout):
        console = Terminal(soft_wrap=True, quiet=not is_first())
        with Display(console, config.epochs) as display:
            try:
                result = train(name, config, arguments.options, display, started=started)
            except DivergedError as error:
                if is_first():
                    print(f"error: {error}", file=sys.stderr)
                return EXIT_NONFINITE
        return EXIT_STOPPED if result.summary is None else 0


if __name__ == "__main__":
    run_command(main)
