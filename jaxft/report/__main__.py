"""The report of a finished run, made anew: python -m jaxft.report RUN."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from jaxft.compiled import keep_compiled
from jaxft.config import Config
from jaxft.data.cache import LIMIT_BYTES
from jaxft.data.canvas import Canvas, EvalCrop, canvas_size, decode_set
from jaxft.data.check import bars
from jaxft.data.feed import Streamed
from jaxft.data.load import open_splits
from jaxft.data.plan import Keep, plan_input
from jaxft.data.sources import Splits, in_memory, labels_of, with_held_out
from jaxft.download import cache_folder
from jaxft.errors import UserError, run_command
from jaxft.model_file import model_path, read_description
from jaxft.report.finished import read_run
from jaxft.report.scoring import Split
from jaxft.report.write import write_report


@dataclass(frozen=True)
class Arguments:
    """Make the report of a finished run anew, from its model and its data: one HTML file that needs nothing else."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    out: Path | None = None
    """The file; RUN/report.html when not given."""
    data: str | None = None
    """Where the run's data are now; where its config says when not given."""
    cache_dir: Path | None = None
    """Where decoded images, compiled steps and downloads are kept; ~/.cache/jaxft when not given."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    arguments = tyro.cli(Arguments, prog="python -m jaxft.report", args=argv)
    check_out(arguments.out)
    model = model_path(arguments.run)
    folder, class_names = model.parent, read_description(model).class_names
    config = read_run(folder).config
    config = replace(config, data=arguments.data or config.data)
    cache_dir = arguments.cache_dir or cache_folder()
    keep_compiled(cache_dir)
    splits = with_held_out(open_splits(config, cache_dir), config.images.holdout)
    check_classes(config.data, splits.test.class_names, class_names)
    train, test = read(splits, config, Keep(cache_dir / "decoded", LIMIT_BYTES))
    print(f"written to {write_report(folder, train, test, arguments.out)}")
    return 0


def check_out(out: Path | None) -> None:
    """Raise a UserError, before anything is decoded, where no file can be written to."""
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        what = "is a folder" if out.is_dir() else "its folder is not there"
        raise UserError(f"--out {out}: {what}. Pass a file in a folder that there is, such as report.html.")


def check_classes(spec: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise a UserError where the data's classes are not the model's."""
    if tuple(found) != tuple(wanted):
        raise UserError(
            f"--data {spec} has the classes {', '.join(found)}; the model has {', '.join(wanted)}. Pass the run's data."
        )


def read(splits: Splits, config: Config, keep: Keep) -> tuple[Split, Split]:
    """The training set, of which a few images will be decoded, and the test set, decoded as the run has it."""
    images = config.images
    canvas = Canvas(images.canvas or canvas_size(splits.train, images.image_size))
    crop = EvalCrop(images.image_size, images.eval_resize)
    train, test = (
        Streamed(source, recipe, labels_of(source)) for source, recipe in ((splits.train, canvas), (splits.test, crop))
    )
    if plan_input("auto", len(splits.test) * 3 * crop.size**2, 0, keep).way == "stream":
        return train, test
    with bars(Console()) as progress:
        show = partial(progress, "decoding test images")
        decoded = decode_set(
            splits.test,
            crop,
            cache_dir=None if in_memory(splits.test) else keep.folder,
            cache_limit=keep.limit,
            skip_bad=images.skip_bad_images,
            progress=show,
        )
    return train, decoded


if __name__ == "__main__":
    run_command(main)
