"""What a run says while it works: tables at the start, a live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jaxft.build import Run
from jaxft.config import Config, OptimConfig, ScheduleConfig
from jaxft.data.feed import Feed
from jaxft.data.plan import gigabytes
from jaxft.data.prepare import Data
from jaxft.errors import let_go_of_stdout
from jaxft.frozen import FeaturePlan
from jaxft.head import Row
from jaxft.holdout import epochs_in_parts
from jaxft.optim import learning_rates
from jaxft.optim_config import STAGES
from jaxft.paths import count_by_label
from jaxft.records import Record


class Terminal(Console):
    """A console whose reader may go away, as `tee` does when Ctrl-C reaches it too: the run goes on without it."""

    def on_broken_pipe(self) -> None:
        """Say no more; rich would end the run here, before it has saved."""
        self.quiet = True
        let_go_of_stdout()


def live_line(console: Console) -> Progress:
    """Bars with a status and the time left, gone at the end; nothing where the console is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


class Display:
    """The run's progress on a console; a context manager.

    On a terminal a bar moves; elsewhere each epoch, and each tenth of the decoding of a large set, is a line.
    """

    def __init__(self, console: Console, num_epochs: int):
        self.console = console
        self.num_epochs = num_epochs
        self.last_train: Record | None = None
        self.last_val: Record | None = None
        self.skipped = 0
        self.started: float | None = None
        self.first_epoch = 0.0
        self.progress = live_line(console)
        self.tasks: dict[str, object] = {}

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def working(self, what: str, done: int, total: int) -> None:
        """Move a bar alone."""
        self._bar(what, done, total, f"{done}/{total}")

    def decoding(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` images are decoded, or whatever else goes before the first step."""
        self.working(what, done, total)
        if not self.console.is_terminal and done == total > 1:
            self.console.print(f"{what}: {done}/{total}")

    def say(self, line: str) -> None:
        """Show a line that the user should read."""
        self.console.print(line, highlight=False, markup=False)

    def alert(self, line: str) -> None:
        """Show a line that tells of a signal."""
        self.say(line)

    def resumed(self, step: int, records: Sequence[Record]) -> None:
        """Say where a run goes on."""
        self.first_epoch = records[-1].epoch if records else 0.0
        where = f"from step {step}" if step else "from the start: it has no checkpoint yet"
        self.say(f"going on {where}")

    def record(self, record: Record) -> None:
        """Show a record of the loop."""
        numbers = f"loss {record.loss:.4f}  accuracy {record.accuracy:.4f}  {record.images_per_second:.1f} images/s"
        if record.split == "train":
            self.started = self.started or time.monotonic()
            self.last_train = record
            self.skipped += record.skipped
            self._bar("training", record.epoch, self.num_epochs, numbers)
            return
        if record.split == "val":
            self.last_val = record
            return
        train, val = self.last_train, self.last_val
        before = f"train loss {train.loss:.4f} accuracy {train.accuracy:.4f}  " if train else ""
        held_out = f"held-out loss {val.loss:.4f} accuracy {val.accuracy:.4f}  " if val else ""
        rate = f"  {train.images_per_second:.1f} images/s" if train else ""
        self.console.print(
            f"epoch {record.epoch:.0f}/{self.num_epochs}  {before}{held_out}"
            f"test loss {record.loss:.4f} accuracy [bold]{record.accuracy:.4f}[/]{rate}{self._left(record)}",
            highlight=False,
        )
        if self.skipped:
            self.say(f"  {self.skipped} updates were left out: something in them was not finite")
            self.skipped = 0

    def finished(self, summary: Mapping[str, Any], out: Path, report: Path | None) -> None:
        """Say how it went and where it is."""
        if summary.get("chosen_epoch", summary["epochs"]) < summary["epochs"]:
            early = "stopped early: " if "stopped_by_patience" in summary else ""
            self.say(
                f"{early}the held-out loss was lowest after epoch {summary['chosen_epoch']:.0f}; that is the model"
            )
        where = f"the model and its figures are in {out}" + (f"; look at {report}" if report else "")
        self.console.print(
            f"test accuracy [bold]{summary['final_accuracy']:.4f}[/] (best {summary['best_accuracy']:.4f}) "
            f"after {summary['wall_seconds']:.0f} s; {where}",
            highlight=False,
        )

    def _left(self, record: Record) -> str:
        if self.started is None or record.epoch >= self.num_epochs:
            return ""
        done = record.epoch - self.first_epoch
        seconds = (time.monotonic() - self.started) / done * (self.num_epochs - record.epoch)
        return f"  {seconds // 60:.0f}:{seconds % 60:02.0f} left"

    def _bar(self, what: str, done: int | float, total: int, status: str) -> None:
        if what not in self.tasks:
            self.tasks[what] = self.progress.add_task(what, total=total, status=status)
        self.progress.update(self.tasks[what], completed=done, status=status, visible=done < total)  # pyright: ignore[reportArgumentType]


def parameter_table(counts: Mapping[str, int], config: OptimConfig) -> Table:
    """How many parameters train at which rate."""
    table = Table("parameters", "count", "learning rate", "weight decay", title="What trains", title_justify="left")
    rates = learning_rates(config)
    decay = f"{config.weight_decay:g}{'' if config.decay_norms else ', kernels'}"
    body = [stage for stage in reversed(STAGES) if stage in counts]
    alike = len({rates[stage] for stage in body}) == 1
    rows = [("backbone", body)] if alike else [(stage, [stage]) for stage in body]
    for name, labels in (("head", ["head"]), *rows, ("frozen", ["frozen"])):
        number = sum(counts.get(label, 0) for label in labels)
        if number:
            table.add_row(name, f"{number:,}", f"{rates[labels[0]]:g}", "0" if name == "frozen" else decay)
    return table


def head_table(rows: Sequence[Row]) -> Table:
    """Where each row of the new classifier came from."""
    table = Table("class", "row", "from", title="The new classifier", title_justify="left")
    for row in rows:
        drawn = row.source_index is None
        table.add_row(row.class_name, "Xavier" if drawn else str(row.source_index), "" if drawn else row.source_name)
    return table


def announce(config: Config, data: Data, feed: Feed, run: Run, features: FeaturePlan, display: Display) -> None:
    """Say at the start what will run: data, devices, and what trains."""
    devices = run.devices
    how = f"{data.plan.way}, for {data.plan.why}" if run.frozen is None else "each image once"
    most = f"; at most {gigabytes(feed.host_bytes)} of it in host memory at a time" if feed.host_bytes else ""
    held_out = f", {data.num_val} held-out" if data.num_val else ""
    for line in (
        *data.notes,
        f"{config.model.arch} (weights {config.model.weights}) on {len(data.train.labels)} training{held_out} and "
        f"{len(data.test.labels)} test images of {len(data.class_names)} classes; "
        f"{len(devices)} x {devices[0].device_kind}{_in_processes()}, {config.parallel}, "
        f"{jnp.dtype(run.model.dtype).name}",
        f"input: {how}{most}",
        *(() if features.note is None else (features.note,)),
        *compute_notes(config, devices[0].platform),
        *course_notes(config),
    ):
        display.say(line)
    display.console.print(parameter_table(count_by_label(run.state.params, run.labels), config.optim))
    if run.head_rows is not None:
        display.console.print(head_table(run.head_rows))


def compute_notes(config: Config, platform: str) -> Sequence[str]:
    """What the user should know of `--accumulate` and `--deterministic`."""
    notes = []
    if config.accumulate > 1:
        one, all_of_them = config.batch_size, config.images_per_step
        same = f"the run of --batch-size {all_of_them}, up to rounding: BatchNorm is frozen"
        other = f"BatchNorm's statistics are those of {one}, unlike with --batch-size {all_of_them}"
        frozen = config.model.freeze == "backbone" or config.model.batch_norm == "frozen-stats"
        notes.append(f"{config.accumulate} batches of {one} make an update; {same if frozen else other}")
    if config.deterministic:
        slower = "steps are slower, without autotuning and atomic sums"
        cost = slower if platform == "gpu" else "it costs nothing here"
        notes.append(f"deterministic: the same bits each time; {cost}")
    return notes


def course_notes(config: Config) -> Sequence[str]:
    """What trains when, and how the learning rates change."""
    notes, stages, schedule, patience = [], config.stages, config.schedule, config.regular.patience
    if stages.head_epochs:
        notes.append(f"the head alone for {epochs_in_words(stages.head_epochs)}, then as fast as the rest")
    if stages.unfreeze_epochs is not None:
        notes.append(f"stages join from layer4 down, one every {every(stages.unfreeze_epochs)}")
    if schedule != ScheduleConfig():
        falls = (
            f", times {schedule.decay_factor:g} every {every(schedule.decay_epochs)}"
            if schedule.schedule == "step"
            else ""
        )
        warm = f" after a warm-up of {epochs_in_words(schedule.warmup_epochs)}" if schedule.warmup_epochs else ""
        twice = ", in each part" if stages.head_epochs else ""
        notes.append(f"learning rates: {schedule.schedule}{falls}{warm}{twice}")
    if patience is not None:
        parts = epochs_in_parts(config)
        counted = f", counted from epoch {parts + 1} on" if parts else ""
        notes.append(
            f"ends where {epochs_in_words(patience)} in a row{counted} have not lowered the held-out loss; the model "
            "is that of the lowest"
        )
    return notes


def epochs_in_words(number: float) -> str:
    """`1 epoch`, `0.5 epochs`."""
    return f"{number:g} epoch{'' if number == 1 else 's'}"


def every(number: float) -> str:
    """After "every": `epoch`, `0.5 epochs`."""
    return "epoch" if number == 1 else epochs_in_words(number)


def _in_processes() -> str:
    return f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
