"""What the command line `jaxft.train` runs once it is read; here JAX and all that stands on it are imported."""

import os
import sys

from jaxft.arguments import Arguments
from jaxft.console import Display, Terminal
from jaxft.errors import EXIT_NONFINITE, EXIT_STOPPED
from jaxft.launch import Processes, find
from jaxft.parallel import make_deterministic
from jaxft.processes import is_first, joined
from jaxft.session import DivergedError
from jaxft.training import train


def run(name: str, arguments: Arguments, started: float) -> int:
    """A run among its other processes and on a terminal, `started` by the monotonic clock; returns the exit status.

    Raises:
        UserError: what the user can mend.
    """
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
