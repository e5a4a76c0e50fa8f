"""What a comparison says while it works: a line for each trial that has ended, and on a terminal a bar for all."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console

from jaxft.comparison.plan import Trial
from jaxft.console import Display, Terminal, live_line
from jaxft.processes import is_first
from jaxft.records import Record

LOG_FILE = "log.txt"
LOG_WIDTH = 120


class Board:
    """Where a comparison stands, on a console; a context manager."""

    def __init__(self, console: Console, num_trials: int, num_epochs: int):
        self.console = console
        self.num_epochs = num_epochs
        self.left = num_trials
        self.done = 0
        self.seconds: list[float] = []
        """Of the trials that were run now."""
        self.name, self.started = "", 0.0
        self.progress = live_line(console)
        self.task = self.progress.add_task("", total=num_trials * num_epochs, status="")

    def __enter__(self) -> "Board":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def say(self, line: str) -> None:
        """Show a line that the user should read."""
        self.console.print(line, highlight=False, markup=False)

    def began(self, trial: Trial) -> None:
        """A trial is looked at."""
        self.name, self.started = trial.name, time.monotonic()
        self.show(0, "")

    def show(self, epoch: float, status: str) -> None:
        """Move the bar to an epoch of this trial."""
        self.progress.update(
            self.task, completed=self.done * self.num_epochs + epoch, description=self.name, status=status
        )

    def ended(self, words: str, *, ran: bool) -> None:
        """A trial has ended, or had before."""
        self.left, self.done = self.left - 1, self.done + 1
        if ran:
            self.seconds.append(time.monotonic() - self.started)
        left = ""
        if ran and self.left:
            seconds = sum(self.seconds) / len(self.seconds) * self.left
            left = f"; about {seconds // 60:.0f}:{seconds % 60:02.0f} left"
        self.show(0, "")
        self.say(f"{self.name}: {words}{left}")

    @contextmanager
    def displaying(self, trial: Trial) -> Iterator["RunDisplay"]:
        """The display of a run: what the run would print goes into a file of its folder."""
        if not is_first():
            yield RunDisplay(Terminal(quiet=True), self)
            return
        trial.folder.mkdir(parents=True, exist_ok=True)
        with (trial.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            console = Terminal(file=file, soft_wrap=True, width=LOG_WIDTH, force_terminal=False)
            display = RunDisplay(console, self)
            with display:
                yield display


class RunDisplay(Display):
    """One run of a comparison: silent, but for what cannot wait."""

    def __init__(self, console: Console, board: Board):
        super().__init__(console, board.num_epochs)
        self.board = board
        self.asked_to_stop = False

    def alert(self, line: str) -> None:
        """Show a line that tells of a signal."""
        self.asked_to_stop = True
        self.board.say(line)

    def decoding(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` images are decoded, or whatever else goes before the first step."""
        super().decoding(what, done, total)
        self.board.show(0, f"{what} {done}/{total}")

    def watch(self, record: Record) -> None:
        """Show a record of the run."""
        self.board.show(record.epoch, f"{record.split} accuracy {record.accuracy:.4f}")
