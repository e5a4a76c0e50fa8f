"""A run as Weights & Biases has it: one, however often it is resumed, and kept here where it cannot be sent."""

import json
import os
import secrets
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jaxft.config import Config
from jaxft.config_file import to_json
from jaxft.errors import UserError, reason
from jaxft.holdout import out_of_patience
from jaxft.records import Record, Watcher, measured
from jaxft.run_folder import replace_text

NAME = "Weights & Biases"
WAIT_SECONDS = 20.0  # For it to answer, at the start and at the end.
FLUSH_SECONDS = 1.0  # Whoever kills this process kills the one that keeps what is logged offline, too.

Say = Callable[[str], None]


class Mark(NamedTuple):
    """What the run is called there, and the last step that was logged; kept in RUN/wandb/jaxft.json."""

    id: str
    step: int = -1


def quiet() -> None:
    """Keep what it prints off the terminal, unless the user wants it; before it is imported."""
    os.environ.setdefault("WANDB_SILENT", "true")


def check_account() -> None:
    """Raise a UserError where it would ask for a key: nobody may be there to answer."""
    import wandb  # An optional extra.

    try:
        offline = wandb.setup().settings.mode in ("offline", "dryrun", "disabled")
        known = offline or wandb.login(prompt=False, verify=False)
    except Exception as error:  # Of its own many kinds.
        raise UserError(f"--wandb: {reason(error)}. Put that right, or leave --wandb out.") from None
    if not known:
        raise UserError(
            "--wandb: no API key. Run wandb login or set WANDB_API_KEY; or set WANDB_MODE=offline, and send the run "
            "later by wandb sync."
        )


@contextmanager
def wandb_run(out: Path, config: Config, project: str, past: Sequence[Record], say: Say) -> Iterator[Watcher]:
    """Logs records to Weights & Biases, those of the past too where it lacks them.

    Raises:
        Exception: of its own many kinds.
    """
    mark = read_mark(out)
    write_mark(out, mark)
    run = begin(out, config, project, mark.id, say)
    # It takes no step back. The steps that a crash has lost here, and not there, come again and are the same.
    first = mark.step + 1 if run.offline else run.step
    tested, row = 0, {}
    told: list[Record] = []

    def watch(record: Record) -> None:
        nonlocal tested, row
        row = {f"{name}/{record.split}": value for name, value in measured(record).items()} | row
        told.append(record)
        if record.split == "val" or (record.split == "train" and int(record.epoch) > tested):
            return  # The test is of the same step.
        tested += record.split == "test"
        if record.step >= first:
            # Before it is logged: a step may rather be missing there than be there twice.
            write_mark(out, mark._replace(step=record.step))
            run.log(row, step=record.step, commit=True)
        row = {}

    for record in past:
        watch(record)
    try:
        yield watch
    finally:
        try:
            run.finish(exit_code=0 if tested >= config.epochs or out_of_patience(told, config) else 1)
        except TimeoutError:
            again = f"--resume --out {shlex.quote(str(out))} --wandb {shlex.quote(project)}"
            say(f"{NAME} has not taken everything within {WAIT_SECONDS:g} seconds; {again} sends the rest")


def begin(out: Path, config: Config, project: str, run_id: str, say: Say) -> Any:
    """The run there, begun or taken up; offline where it cannot be reached, and says so."""
    import wandb  # An optional extra.

    team, _, name = project.rpartition("/")
    init = partial(
        wandb.init,
        entity=team or None,
        project=name,
        name=out.absolute().name,
        id=run_id,
        resume="allow",
        dir=out,
        config=json.loads(to_json(config)),
        allow_val_change=True,
        settings=wandb.Settings(
            console="off",
            init_timeout=WAIT_SECONDS,
            finish_timeout=WAIT_SECONDS,
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=FLUSH_SECONDS,
        ),
    )
    away = ""
    try:
        run = init()
    except wandb.Error as error:
        wandb.teardown()  # Otherwise the run's name is taken.
        run, away = init(mode="offline"), f" ({reason(error)})"
    if run.offline and not run.disabled:
        say(f"{NAME}: offline{away}; wandb sync {shlex.quote(str(out / 'wandb'))}/offline-run-* sends the run there")
    elif not run.disabled:
        say(f"{NAME}: {run.url}")
    return run


def read_mark(out: Path) -> Mark:
    """The run's mark; a new one where there is none."""
    path = mark_path(out)
    return Mark(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Mark(secrets.token_hex(4))


def write_mark(out: Path, mark: Mark) -> None:
    """Keep the mark in the run's folder."""
    path = mark_path(out)
    path.parent.mkdir(exist_ok=True)
    replace_text(path, json.dumps(mark._asdict()) + "\n")


def mark_path(out: Path) -> Path:
    """Where the mark is kept."""
    return out / "wandb" / "jaxft.json"
