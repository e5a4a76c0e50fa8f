"""From what is known of a run to report.html: the numbers of each section; the words are in report.html.jinja."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import jax
import numpy as np
from markupsafe import Markup

from jaxft.config import Config, by_flag
from jaxft.config_file import to_json
from jaxft.course import plan_course
from jaxft.data.sources import shown
from jaxft.optim import HEAD_PATTERN, STAGE_PATTERNS, learning_rates
from jaxft.optim_config import STAGES
from jaxft.paths import count_by_label, label_tree
from jaxft.records import Record
from jaxft.report.charts import Series, line_chart, reliability_chart
from jaxft.report.evaluation import (
    calibration,
    class_scores,
    confused_pairs,
    confusion_matrix,
    row_shares,
    wilson,
)
from jaxft.report.finished import Finished
from jaxft.report.gallery import Gallery
from jaxft.report.scoring import Scored
from jaxft.report.shell import render
from jaxft.report.words import counted
from jaxft.resnet import frozen_stages

MATRIX_CLASSES = 25
"""Of more classes the largest confusions are listed."""
MOST_PAIRS = 25
RATE_POINTS = 200
"""Of the learning rate's curve."""


class Stage(NamedTuple):
    """A part of the network and how it was trained."""

    name: str
    parameters: int
    trained: bool
    lr: float
    weight_decay: float


def make_page(run: Finished, names: Sequence[str], params: Any, scored: Scored, gallery: Gallery) -> str:
    """The report as one HTML file; `names` are the classes'."""
    return render(
        "report.html.jinja",
        title=f"{run.config.model.arch} on {data_name(run.config.data)}",
        run_name=shown(run.folder.absolute().name),
        names=names,
        config=run.config,
        summary=run.summary,
        devices=counted(run.summary["devices"]),
        **head(run, scored),
        **curves(run.records),
        **errors(scored),
        **trust(scored),
        gallery=gallery,
        stages=stages(params, run.config),
        rate_chart=rate_chart(run.config, run.records),
        changed=changed_flags(run.config),
        config_json=to_json(run.config),
        command=f"python -m jaxft.train --config {shlex.quote(str(run.folder / 'config.json'))}",
    )


def data_name(spec: str) -> str:
    """A data SPEC in a word: the folder's or file's name."""
    if spec.startswith("tfds:"):
        return shown(spec)
    path = urlsplit(spec).path if spec.startswith(("http://", "https://")) else spec
    return shown(Path(path).expanduser().absolute().name or spec)


def head(run: Finished, scored: Scored) -> dict[str, Any]:
    """How good the network is, how surely that is known, and how good it would be to guess."""
    right, total = int((scored.probabilities.argmax(1) == scored.labels).sum()), len(scored.labels)
    support = np.bincount(scored.labels)
    return {
        "right": right,
        "total": total,
        "accuracy": right / total,
        "interval": wilson(right, total),
        "largest": int(support.argmax()),
        "largest_share": int(support.max()) / total,
        "agrees": right / total == run.summary["final_accuracy"],
    }


def curves(records: Sequence[Record]) -> dict[str, Any]:
    """Both charts, and their numbers at the end of each epoch."""
    train, test, val = ([record for record in records if record.split == each] for each in ("train", "test", "val"))

    def series(field: str) -> Sequence[Series]:
        return [
            Series(name, [record.epoch for record in own], [getattr(record, field) for record in own], marked=marked)
            for name, own, marked in (("training", train, False), ("test", test, True), ("held out", val, True))
            if own  # A short run may have left out every update, and most hold nothing out.
        ]

    before = [[record for record in train if record.step <= tested.step] for tested in test]
    return {
        "accuracy_chart": line_chart(
            series("accuracy"), title="Accuracy", x_label="epoch", y_with=(0.9, 1), is_share=True
        ),
        "loss_chart": line_chart(series("loss"), title="Loss", x_label="epoch", y_with=(0, 0.1)),
        "epochs": [
            (tested, windows[-1] if windows else None, held_out)
            for tested, windows, held_out in zip(test, before, val or [None] * len(test), strict=True)
        ],
        "held_out": bool(val),
    }


def errors(scored: Scored) -> dict[str, Any]:
    """What is taken for what, and the scores of each class with their means over classes."""
    labels, predicted, num_classes = scored.labels, scored.probabilities.argmax(1), scored.probabilities.shape[1]
    matrix, pairs = None, None
    if num_classes <= MATRIX_CLASSES:
        confusion = confusion_matrix(labels, predicted, num_classes)
        matrix = np.stack([confusion, row_shares(confusion)], axis=-1).tolist()
    else:
        pairs = confused_pairs(labels, predicted, num_classes, MOST_PAIRS)
    scores = class_scores(labels, predicted, num_classes)
    return {
        "matrix": matrix,
        "pairs": pairs,
        "scores": list(zip(*(column.tolist() for column in scores), strict=True)),
        "means": [float(column[np.isfinite(column)].mean()) for column in scores[:3]],
    }


def trust(scored: Scored) -> dict[str, Any]:
    """How far the probabilities can be believed."""
    found = calibration(scored.probabilities, scored.labels)
    sure = float(scored.probabilities.max(1).mean(dtype=np.float64))
    return {
        "reliability_chart": reliability_chart(found),
        "bins": len(found.counts),
        "calibration_error": found.error,
        "confidence": sure,
        "surer": sure - float((scored.probabilities.argmax(1) == scored.labels).mean()),
    }


def stages(params: Any, config: Config) -> Sequence[Stage]:
    """The network from the image upward."""
    rules = [*((STAGE_PATTERNS[stage], stage) for stage in STAGES), (HEAD_PATTERN, "head")]
    counts, frozen = count_by_label(params, label_tree(params, rules)), frozen_stages(config.model.freeze)
    rates, decay = learning_rates(config.optim), config.optim.weight_decay
    return [
        Stage(stage, counts[stage], True, rates[stage], decay)
        if stage not in frozen
        else Stage(stage, counts[stage], False, rates["frozen"], 0.0)
        for stage in (*STAGES, "head")
    ]


def rate_chart(config: Config, records: Sequence[Record]) -> Markup | None:
    """The learning rates over the run, as the share that they are of the whole; None where they never change."""
    windows = [record.step / record.epoch for record in records if record.split == "train"]
    if not windows:
        return None
    factors = plan_course(config, round(windows[-1] * config.images_per_step)).schedule
    if factors is None:
        return None
    steps = np.unique(np.linspace(0, records[-1].step - 1, RATE_POINTS).round())
    y = np.asarray(jax.vmap(factors)(steps)).tolist()
    series = Series("learning rate", (steps / windows[-1]).tolist(), y)
    return line_chart([series], "Learning rate, of the whole", "epoch", y_with=(0, 1), is_share=True)


def changed_flags(config: Config) -> Sequence[tuple[str, str, str]]:
    """The flags whose values are not the defaults: flag, value, default."""
    values, defaults = by_flag(config), by_flag(Config())
    return [
        (flag, in_words(value), in_words(defaults[flag])) for flag, value in values.items() if value != defaults[flag]
    ]


def in_words(value: Any) -> str:
    """A config's value as the command line has it."""
    if isinstance(value, tuple):
        return shown(" ".join(value)) or "none"
    return "none" if value is None else shown(str(value))
