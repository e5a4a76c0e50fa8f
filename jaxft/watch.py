"""Who else hears of a run: TensorBoard and Weights & Biases, told of each record as metrics.jsonl is."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from pathlib import Path

from jaxft import wandb_run
from jaxft.config import Config
from jaxft.errors import UserError, reason
from jaxft.event_files import event_files
from jaxft.options import Options
from jaxft.processes import is_first
from jaxft.records import Record, Watcher
from jaxft.wandb_run import Say

NEEDED = {"tensorboard": "tensorboard.compat.proto.event_pb2", "wandb": "wandb.sdk"}
"""By option, a module without which its package is of no use; also a folder may have the package's name."""


def check_watchers(options: Options) -> None:
    """Raise a UserError where a watcher lacks its package, or Weights & Biases an account."""
    wandb_run.quiet()
    for name, module in NEEDED.items():
        if getattr(options, name):
            try:
                import_module(module)
            except Exception as error:  # Not only ImportError: its protobuf may be of another version.
                remedy = f'Run pip install "jaxft[{name}]", or leave --{name} out.'
                raise UserError(f"--{name} needs {name} ({reason(error)}). {remedy}") from None
    if options.wandb:
        wandb_run.check_account()


@contextmanager
def watching(
    out: Path, config: Config, options: Options, past: Sequence[Record], say: Say
) -> Iterator[Sequence[Watcher]]:
    """The watchers that the options ask for, in process 0; `past` are the records that a resumed run begins with."""
    openings = {}
    if options.tensorboard and is_first():
        openings["TensorBoard"] = event_files(out, config, past)
    if options.wandb and is_first():
        openings[wandb_run.NAME] = wandb_run.wandb_run(out, config, options.wandb, past, say)
    with ExitStack() as stack:
        yield [stack.enter_context(forgiven(name, opening, say)) for name, opening in openings.items()]


@contextmanager
def forgiven(name: str, opening: AbstractContextManager[Watcher], say: Say) -> Iterator[Watcher]:
    """A watcher whose first error is told in a line, and which then hears of no more records.

    What it keeps is a copy, of which nothing is lost that metrics.jsonl has: no reason to end a run.
    """
    watcher: Watcher | None = None
    told = False

    @contextmanager
    def forgiving(*kinds: type[BaseException]) -> Iterator[None]:
        nonlocal watcher, told
        try:
            yield
        except kinds as error:
            if not told:
                say(f"{name}: {reason(error)}. It hears no more of this run, which goes on")
            watcher, told = None, True

    def watch(record: Record) -> None:
        if watcher is not None:
            with forgiving(Exception):
                watcher(record)

    with forgiving(Exception):
        watcher = opening.__enter__()
    entered = watcher is not None
    try:
        yield watch
    finally:
        if entered:
            # Whoever presses Ctrl-C now does not want to wait for it, and the run has been saved.
            with forgiving(Exception, KeyboardInterrupt):
                opening.__exit__(None, None, None)
