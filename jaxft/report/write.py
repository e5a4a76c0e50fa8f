"""report.html of a finished run, from its folder, its model and its data."""

import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxft.data.sources import shown
from jaxft.errors import UserError, reason
from jaxft.model_file import load
from jaxft.report.finished import read_run
from jaxft.report.gallery import make_gallery, make_rows, pick_training
from jaxft.report.page import make_page
from jaxft.report.scoring import Split, score_split
from jaxft.run_folder import write_whole

REPORT_FILE = "report.html"


def write_report(folder: Path, train: Split, test: Split, file: Path | None = None) -> Path:
    """Make the report of the run in a folder, whole or not at all; it lies there too, unless `file` says where.

    Raises:
        UserError: the run has not ended, an image cannot be decoded any more, or the file cannot be written.
    """
    run = read_run(folder)
    config, classifier = run.config, load(folder, precision=run.config.precision)
    names, photos = [shown(name) for name in classifier.class_names], pick_training(train, config.seed)
    with ThreadPoolExecutor(1) as beside:
        # Of a small set both are mostly compilation, which takes one core.
        rows = beside.submit(make_rows, photos, names, config)
        scored = score_split(classifier, test, skip_bad=config.images.skip_bad_images)
    gallery = make_gallery(scored, names, test, rows.result(), config.data)
    text = make_page(run, names, classifier.variables["params"], scored, gallery)
    file = file or folder / REPORT_FILE
    try:
        write_whole(file, text)
    except OSError as error:
        raise UserError(
            f"{file}: cannot be written ({reason(error)}). Put that right, or pass another --out."
        ) from None
    return file


def try_report(folder: Path, train: Split, test: Split, say: Callable[[str], None]) -> Path | None:
    """Make the report; where that cannot be, say why and how to make it later, for the run is whole without it."""
    try:
        return write_report(folder, train, test)
    except (UserError, OSError) as error:
        say(f"no {REPORT_FILE} yet: {error} Make it with python -m jaxft.report {shlex.quote(str(folder))}")
        return None
