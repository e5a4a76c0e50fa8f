"""A run's folder: config.json, classes.json, metrics.jsonl, and at the end summary.json and curves.png."""

import fcntl
import json
import os
import shlex
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

from jaxft.config import Config
from jaxft.config_file import to_json
from jaxft.errors import UserError
from jaxft.records import Record, record_line

LOOKS, LOOK_SECONDS = 5, 0.02


def find_run_folder(out: Path | None, name: str, *, resume: bool) -> Path:
    """The folder `out`, or runs/NAME-DATE-TIME when None; nothing is written yet.

    Raises:
        UserError: it holds another run, or one that still lives; it cannot be written; or, with `resume` and no name,
            it holds none.
    """
    if out is None:
        if resume:
            raise UserError("--resume needs the run's folder. Pass --out RUN.")
        out = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    if holds_run(out):
        with held(out, new=not resume):
            pass
    elif resume and not name:
        raise UserError(f"--resume: {out} holds no run. Pass a preset and flags to start one there.")
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    for folder in (nearest, out / "checkpoints"):
        if folder.exists():
            with writing(out), TemporaryFile(dir=folder):
                pass
    return out


def holds_run(out: Path) -> bool:
    """Whether a run has begun there."""
    return (out / "config.json").exists()


def make_new_folder(path: Path) -> Path:
    """Make a folder of this name; with a number behind it where there is one already.

    Runs may start in the same second, and a clock may be set back.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for i in count(1):
            with suppress(FileExistsError):
                numbered = path if i == 1 else path.with_name(f"{path.name}-{i}")
                numbered.mkdir()
                return numbered
    raise AssertionError("there is always another number")


@contextmanager
def held(out: Path, *, new: bool) -> Iterator[None]:
    """Make the folder and keep other processes out of it; the system lets go of it when this process ends.

    Raises:
        UserError: another process holds it, it cannot be written or, with `new`, it holds a run.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = _locked(out / ".lock")
    with lock:
        try:
            # Only now, for another run may have come and gone since it was last looked.
            if new and holds_run(out):
                raise UserError(f"--out {out} holds a run already. Pass --resume to carry it on, or another --out.")
            with writing(out):
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                lock.flush()
            yield
        finally:
            with suppress(OSError):
                (out / ".lock").unlink()


def _locked(path: Path) -> TextIO:
    """The file at `path`, opened and locked.

    Raises:
        UserError: another process has locked it.
    """
    while True:
        lock = path.open("a+", encoding="utf-8")
        try:
            _lock(lock)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise UserError(
                f"--out {path.parent}: a run is going on there ({holder}). Wait, stop it, or pass another --out."
            ) from None
        # Its last holder may have removed it after it was opened here; then a third may hold another by that name.
        with suppress(FileNotFoundError):
            if os.path.samefile(path, lock.fileno()):
                return lock
        lock.close()


def _lock(lock: TextIO) -> None:
    """Lock a file; `is_held` may have it for a moment.

    Raises:
        BlockingIOError: another process has locked it.
    """
    for _ in range(LOOKS):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(LOOK_SECONDS)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(out: Path) -> bool:
    """Whether a run is going on there."""
    try:
        with (out / ".lock").open(encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # No lock, one that may not be looked at, or a file system without any.
        return False
    return False


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """A mishap in writing becomes a UserError."""
    try:
        yield
    except OSError as error:
        remedy = "Pass another --out."
        if holds_run(out):
            again = f"--resume --out {shlex.quote(str(out))}"
            remedy = f"Put that right and go on with {again}: what is in its checkpoints is good."
        raise UserError(f"--out {out}: cannot be written ({error.strerror}). {remedy}") from None


def describe(out: Path, config: Config, class_names: Sequence[str]) -> None:
    """Write what the run is: config.json and classes.json."""
    replace_text(out / "classes.json", json.dumps(class_names, ensure_ascii=False) + "\n")
    replace_text(out / "config.json", to_json(config))


def write_records(out: Path, records: Sequence[Record]) -> None:
    """Replace metrics.jsonl by these records."""
    replace_text(out / "metrics.jsonl", "".join(map(record_line, records)))


def read_records(out: Path) -> list[Record]:
    """The records in metrics.jsonl.

    Raises:
        UserError: it cannot be read.
    """
    path = out / "metrics.jsonl"
    try:
        return [Record(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not what a run writes ({error}). Pass another folder.") from None


def append_record(out: Path, record: Record) -> None:
    """Add a line to metrics.jsonl."""
    with writing(out), (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(record_line(record))


def replace_text(path: Path, text: str) -> None:
    """Write a file of the run's folder, whole or not at all."""
    with writing(path.parent):
        write_whole(path, text)


def write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    scratch = path.with_name(f".{path.name}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
