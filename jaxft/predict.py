"""What a trained network sees in photographs: python -m jaxft.predict RUN PATH… [--csv FILE | --json]."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxft.checks import check
from jaxft.classifier import BATCH_SIZE, Classifier
from jaxft.compiled import keep_compiled
from jaxft.data.folders import EXTENSIONS
from jaxft.data.named import LIST, find_images
from jaxft.data.sources import shown
from jaxft.download import cache_folder
from jaxft.errors import EXIT_FOUND, UserError, run_command
from jaxft.heat_maps import HeatMaps
from jaxft.model_file import load
from jaxft.rows import Row, Write, csv_rows, guesses, json_rows, tab_rows, terminal_rows

STDOUT = "-"
MOST_CLASSES = 10
"""Classes in the last line; the rarer ones are counted together."""


@dataclass(frozen=True)
class Arguments:
    """Classify photographs with a trained network, each prepared as evaluation prepares it in training.

    Prints a table on a terminal, and elsewhere a line for each photograph, without a header, its columns parted by
    tabs: file, class, probability (with --top-k 2 also class2, probability2, and so on), error. The order is that of
    the command line, and by name in folders; a photograph that is named twice is classified once.

    A photograph that cannot be decoded, or is not there any more, is a row with its error, and the rest go on. Rows are
    written as they come, so that any number of photographs will do.

    Exit status: 0 all classified; 1 some could not be read; 2 a mistake, which the message explains; 130 interrupted,
    the rows so far written.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a finished run, or a copy of its model.safetensors."""
    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH...", help_behavior_hint="")]
    """Files, whatever their names; folders, searched for images in the folders inside too, hidden names passed over;
    patterns in quotes, such as 'photos/**/*.jpg'; and - for a list of files or folders on standard input, a line each
    or parted by NUL (find -print0)."""
    csv: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the columns above as CSV, with a header, in UTF-8 and quoted as Excel quotes; - for standard output."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Print a JSON object a line: file, class, probability and top, a list of class and probability for each of the
    --top-k; or file and error."""
    top_k: Annotated[int, tyro.conf.arg(metavar="K")] = 1
    """How many classes to name, the most probable ones first."""
    cam: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Write a heat map of each photograph into this folder: in grey what the network saw of it, and from violet to
    yellow where it saw the class that it names (the class's activation map). The folders inside are those of the
    photographs, from the folder on that all of them share: ants/1.jpg becomes DIR/ants/1.jpg.cam.jpg."""
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = BATCH_SIZE
    """Photographs that go through the network at once, over all devices."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many of this machine's devices to use; all when not given."""

    @property
    def to_file(self) -> bool:
        """Whether the rows go into a file, and not to standard output."""
        return self.csv not in (None, STDOUT)

    @property
    def to_terminal(self) -> bool:
        """Whether the rows are for a person to read."""
        return self.csv is None and not self.json and sys.stdout.isatty()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    arguments = tyro.cli(Arguments, prog="python -m jaxft.predict", args=argv)
    check_arguments(arguments)
    listed = sys.stdin.buffer.read() if LIST in arguments.paths else b""
    files = find_images(arguments.paths, listed, leave_out=arguments.cam)
    keep_compiled(cache_folder())
    classifier = load(arguments.run, devices=arguments.devices)
    num_classes = len(classifier.class_names)
    check(
        arguments.top_k <= num_classes,
        f"--top-k {arguments.top_k}: the network knows {num_classes} classes. Pass --top-k {num_classes} or fewer.",
    )
    heat_maps = None if arguments.cam is None else HeatMaps.of(files, arguments.cam)
    counts: Counter[str | None] = Counter()
    with (
        opened_rows(arguments, files, classifier.class_names) as write,
        progress_bar(len(files), hidden=arguments.to_terminal) as advance,
        closing(classify(files, classifier, arguments, heat_maps)) as rows,
    ):
        for row in rows:
            write(row)
            counts[row.top[0].class_name if row.top else None] += 1
            advance()
    return finish(arguments, counts)


def check_arguments(arguments: Arguments) -> None:
    """Raise a UserError where they cannot be."""
    paths, csv, cam = arguments.paths, arguments.csv, arguments.cam
    check(bool(paths), "no photographs: pass files, folders, patterns, or - for a list on standard input.")
    check(csv is None or not arguments.json, f"--csv {csv} and --json: pass one of them.")
    check(
        csv is None or not csv.lower().endswith(EXTENSIONS),
        f"--csv {csv}: the name of a picture, which would be overwritten. Pass another, such as rows.csv.",
    )
    for name in ("top_k", "batch_size", "devices"):
        value = getattr(arguments, name)
        check(value is None or value >= 1, f"--{name.replace('_', '-')} {value}: must be at least 1.")
    searched = {os.path.realpath(path) for path in paths if os.path.isdir(path)}
    check(
        cam is None or os.path.realpath(cam) not in searched,
        f"--cam {cam}: the folder of the photographs. Pass another, such as {cam}-cam.",
    )


def classify(
    files: Sequence[str], classifier: Classifier, arguments: Arguments, heat_maps: HeatMaps | None
) -> Generator[Row, None, None]:
    """A row for each file, in order; its heat map is written before."""
    stream = classifier.stream(files, batch_size=arguments.batch_size, with_maps=heat_maps is not None)
    with closing(stream) as predictions:
        for file, prediction in zip(files, predictions, strict=True):
            if prediction.probabilities is None:
                yield Row(file, error=prediction.bad or "")
                continue
            if heat_maps is not None:
                heat_maps.save(file, prediction)
            yield Row(file, guesses(prediction.probabilities, classifier.class_names, arguments.top_k))


@contextmanager
def opened_rows(arguments: Arguments, files: Sequence[str], class_names: Sequence[str]) -> Iterator[Write]:
    """Where the rows go, and in which form.

    Raises:
        UserError: it cannot be written.
    """
    num = arguments.top_k
    if arguments.to_terminal:
        yield terminal_rows(Console(), num, files, class_names)
        return
    # Excel takes CSV for UTF-8 where it begins with a mark; where all is ASCII, nobody needs one.
    marked = arguments.to_file and not all(name.isascii() for names in (files, class_names) for name in names)
    encoding = "utf-8-sig" if marked else "utf-8"
    # Of a name that is no text, CSV keeps the bytes, and JSON escapes them as Python does.
    errors = "backslashreplace" if arguments.csv is None else "surrogateescape"
    where = arguments.csv if arguments.csv is not None and arguments.to_file else sys.stdout.fileno()
    try:
        with open(where, "w", encoding=encoding, errors=errors, newline="", closefd=arguments.to_file) as file:
            if arguments.json:
                yield json_rows(file)
            else:
                yield tab_rows(file, num) if arguments.csv is None else csv_rows(file, num)
    except BrokenPipeError:
        raise
    except OSError as error:
        what = f"--csv {arguments.csv}" if arguments.to_file else "standard output"
        raise UserError(f"{what}: cannot be written ({error.strerror}). Pass --csv FILE in another place.") from None


@contextmanager
def progress_bar(total: int, *, hidden: bool) -> Iterator[Callable[[], None]]:
    """A bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    disable = hidden or not console.is_terminal
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=disable) as progress:
        task = progress.add_task("classifying", total=total)
        yield lambda: progress.advance(task)


def finish(arguments: Arguments, counts: Counter[str | None]) -> int:
    """Say how it went; returns the exit status."""
    bad = counts.pop(None, 0)
    if arguments.to_file:
        print(f"written to {shown(arguments.csv or '')}: {summary(counts)}", flush=True)
    elif arguments.to_terminal and counts.total() > 1:
        print(summary(counts), flush=True)
    if bad:
        print(f"{bad:,} of {counts.total() + bad:,} images could not be read; the rows say why", file=sys.stderr)
    return EXIT_FOUND if bad else 0


def summary(counts: Counter[str | None]) -> str:
    """How many images, and of which classes: "12 images: 7 ants, 5 bees"."""
    most = [f"{count:,} {shown(name or '')}" for name, count in counts.most_common(MOST_CLASSES)]
    rest = counts.total() - sum(count for _, count in counts.most_common(MOST_CLASSES))
    others = [f"{rest:,} of {len(counts) - MOST_CLASSES} other classes"] if rest else []
    images = "1 image" if counts.total() == 1 else f"{counts.total():,} images"
    return f"{images}: {', '.join([*most, *others])}"


if __name__ == "__main__":
    run_command(main, interrupted="interrupted: the rows so far are written")
