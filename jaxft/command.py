"""What the command line `jaxft.train` runs once it is read; here JAX and all that stands on it are imported."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from jaxft.arguments import Arguments, Hosts
from jaxft.checks import check
from jaxft.compiled import keep_compiled
from jaxft.config import Config
from jaxft.config_file import read_config
from jaxft.console import Display, Terminal
from jaxft.errors import EXIT_NONFINITE, EXIT_STOPPED
from jaxft.launch import Processes, find
from jaxft.parallel import make_deterministic
from jaxft.processes import is_first, joined
from jaxft.run_folder import find_run_folder, holds_run
from jaxft.session import DivergedError
from jaxft.sweeping.auto import choose_recipe, with_recipe_of
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


def found_recipe(name: str, config: Config, arguments: Arguments, display: Display) -> Config:
    """The config with the recipe that does best on held-out training images, or with that of the run to carry on.

    Raises:
        UserError: what the user can mend; or several processes.
    """
    check(
        jax.process_count() == 1,
        "--recipe auto needs one process. Find the recipe on one host and pass its RUN/config.json with --config.",
    )
    options, minutes = arguments.options, arguments.finder.budget
    out = find_run_folder(options.out, name, resume=options.resume)  # Told before the sweeps where it cannot be.
    if options.resume and holds_run(out):
        display.say(f"auto: the recipe is the one that {out} has")
        return with_recipe_of(config, read_config(out / "config.json"))
    if options.cache:
        keep_compiled(options.cache_folder)
    choice = choose_recipe(config, minutes, options=options, say=display.say, progress=display.working)
    reached = f"held-out accuracy {choice.accuracy:.4f}, loss {choice.loss:.4f}"
    why = "the lowest loss of what comes within a standard error of the best accuracy"
    display.say(f"auto: chosen {choice.flags} ({reached}): {why}")
    return choice.config


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
                if arguments.finder.recipe == "auto":
                    config = found_recipe(name, config, arguments, display)
                result = train(name, config, arguments.options, display, started=started)
            except DivergedError as error:
                if is_first():
                    print(f"error: {error}", file=sys.stderr)
                return EXIT_NONFINITE
        return EXIT_STOPPED if result.summary is None else 0
