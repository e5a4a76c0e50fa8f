"""What the command line `jaxft.train` runs once it is read; here JAX and all that stands on it are imported."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jaxft.arguments import Arguments, Hosts
from jaxft.config import Config
from jaxft.console import Display, Terminal
from jaxft.errors import EXIT_NONFINITE, EXIT_STOPPED
from jaxft.launch import Processes, find
from jaxft.parallel import make_deterministic
from jaxft.processes import is_first, joined
from jaxft.session import DivergedError
from jaxft.training import train


@contextmanager
def among_processes(config: Config, hosts: Hosts) -> Iterator[None]:
    """In there JAX knows of the run's other processes, and computes as the config wants it.

    Raises:
        UserError: the processes do not find each other.
    """
    if config.deterministic:
        make_deterministic()
    flags = Processes(hosts.coordinator, hosts.num_processes, hosts.process_id)
    with joined(find(flags, os.environ), hosts.heartbeat_timeout):
        yield


def run(name: str, arguments: Arguments, started: float) -> int:
    """A run among its other processes and on a terminal, `started` by the monotonic clock; returns the exit status.

    Raises:
        UserError: what the user can mend.
    """
    config = arguments.config
    with among_processes(config, arguments.hosts):
        console = Terminal(soft_wrap=True, quiet=not is_first())
        with Display(console, config.epochs) as display:
            try:
                result = train(name, config, arguments.options, display, started=started)
            except DivergedError as error:
                if is_first():
                    print(f"error: {error}", file=sys.stderr)
                return EXIT_NONFINITE
        return EXIT_STOPPED if result.summary is None else 0
