"""What the command line `jaxft.lrfind` runs once it is read: the range test, on a terminal."""

import os
from pathlib import Path

from jaxft.config import Config
from jaxft.console import Display, Terminal
from jaxft.errors import EXIT_FOUND, UserError, reason
from jaxft.launch import Processes, find
from jaxft.parallel import make_deterministic
from jaxft.range_test.arguments import Asked
from jaxft.range_test.curve import Curve
from jaxft.range_test.finder import check_alone, run_test

LETTERS = 80
"""Of a title."""


def run(asked: Asked) -> int:
    """The test, its figure, and what it suggests; returns the exit status.

    Raises:
        UserError: what the user can mend.
    """
    config, ramp, out = asked.arguments.config, asked.arguments.ramp, asked.arguments.figure.out
    launched = find(Processes(), os.environ)
    check_alone((launched and launched.num) or 1)
    if config.deterministic:
        make_deterministic()
    with Display(Terminal(soft_wrap=True), config.epochs) as display:
        curve = run_test(config, ramp, asked.options, display)
        from jaxft.range_test.figure import draw_range_test  # Not before: matplotlib is slow to import.

        try:
            draw_range_test(curve, title_of(config), out)
        except OSError as error:
            raise UserError(f"--out {out}: cannot be written ({reason(error)}). Pass another --out.") from None
        tell(asked, curve, display)
    return EXIT_FOUND if curve.suggestion is None else 0


def title_of(config: Config) -> str:
    """What is tested, in a line that fits the figure: of paths and addresses, the last part."""
    data, weights = (Path(spec).name or spec for spec in (config.data, config.model.weights))
    title = f"{config.model.arch} on {data}, weights {weights}"
    return title if len(title) <= LETTERS else f"{title[:LETTERS]}…"


def tell(asked: Asked, curve: Curve, display: Display) -> None:
    """Say what came of it."""
    ramp, updates = asked.arguments.ramp, len(curve.losses)
    if updates < ramp.steps:
        display.say(f"ended after {updates} of {ramp.steps} updates, at {curve.rates[-1]:.1e}: the loss has exploded")
    display.say(curve.why)
    if curve.suggestion is None:
        display.say(
            f"No rate can be suggested: try others than {ramp.lr_from:g} to {ramp.lr_to:g} with --lr-from and --lr-to, "
            "or more --steps."
        )
    display.say(f"the figure is {asked.arguments.figure.out}")
    if curve.suggestion is not None:
        display.say(asked.command(curve.suggestion))
