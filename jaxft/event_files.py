"""TensorBoard's event files, written without TensorFlow, which may be there or not."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jaxft.config import Config, by_flag
from jaxft.config_file import to_json
from jaxft.records import Record, Watcher, measured


@contextmanager
def event_files(out: Path, config: Config, past: Sequence[Record]) -> Iterator[Watcher]:
    """Event files in RUN/tensorboard; each split is a run of its own, so that TensorBoard lays them in one chart.

    Each time that a run is taken up they begin anew, with all that is past, and have what was written before forgotten.

    Raises:
        OSError: a file cannot be written; also when told of a record.
    """
    # An optional extra. Of it only what imports no TensorFlow, where that is installed.
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.plugins.text.summary_v2 import text_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    with ExitStack() as stack:

        def opened(folder: Path) -> Callable[..., None]:
            file = stack.enter_context(next_event_file(folder).open("xb"))

            def write(**fields: Any) -> None:
                RecordWriter(file).write(Event(wall_time=time.time(), **fields).SerializeToString())
                file.flush()

            write(file_version="brain.Event:2")
            write(session_log=SessionLog(status=SessionLog.START), step=0)
            return write

        folder = out / "tensorboard"
        names = ("train", "val", "test") if config.images.holdout else ("train", "test")
        splits = {split: opened(folder / split) for split in names}
        about = opened(folder)
        about(summary=text_pb("config", f"```\n{to_json(config)}```"))
        about(summary=hparams_pb(hyperparameters(config), trial_id=str(out)))

        def watch(record: Record) -> None:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in measured(record).items()]
            splits[record.split](step=record.step, summary=Summary(value=values))

        for record in past:
            watch(record)
        yield watch


def next_event_file(folder: Path) -> Path:
    """An event file that sorts behind those which are there, whatever the clock says: so TensorBoard reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    suffixes = [path.suffix[1:] for path in folder.glob("events.out.tfevents.*")]
    number = max((int(suffix) for suffix in suffixes if suffix.isdecimal()), default=-1) + 1
    return folder / f"events.out.tfevents.{number:010d}"


def hyperparameters(config: Config) -> dict[str, bool | int | float | str]:
    """The config's values as TensorBoard's table of hyperparameters takes them."""
    flat = {flag.removeprefix("--"): value for flag, value in by_flag(config).items() if value is not None}
    return {name: " ".join(value) if isinstance(value, tuple) else value for name, value in flat.items()}
