"""How a run goes on: what its checkpoints hold beside the state, and how it is taken up again."""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxft.build import Run
from jaxft.checks import check
from jaxft.config import Config, differences
from jaxft.config_file import to_json
from jaxft.data.batches import epoch_ends
from jaxft.data.prepare import Data
from jaxft.errors import UserError
from jaxft.parallel import put_replicated
from jaxft.processes import exchange, from_first
from jaxft.records import Record
from jaxft.step import Metrics, TrainState

FREE = {"--devices", "--parallel", "--input", "--cache-features"}
"""What may change in the middle of a run with synchronised BatchNorm: the numbers stay the same, up to rounding."""


class Past(NamedTuple):
    """What a run has behind it, beside its state."""

    records: Sequence[Record] = ()
    window: Sequence[Metrics] = ()
    """Of the steps since the last record."""
    seconds: float = 0.0


def check_config(before: Config, after: Config, *, force: bool) -> list[str]:
    """Lines that say what has changed since the run began.

    Raises:
        UserError: something that changes the numbers, without `force`; or what --patience goes by.
    """
    changed = differences(before, after)
    check(
        "--holdout" not in changed or after.regular.patience is None,
        f"--resume: {changed.get('--holdout')}, and --patience chooses among all epochs by the same held-out images. "
        "Leave the flag out, or start a new run with another --out.",
    )
    free = FREE if after.sync_bn else FREE - {"--devices"}
    if set(changed) - free and not force:
        lines = "".join(f"\n  {line}" for line in changed.values())
        raise UserError(
            f"--resume: the run was started with another config:{lines}\n"
            "Leave the flags out to go on as before, pass --force to go on with the change, or start a new run with "
            "another --out."
        )
    return [f"changed since the run began: {line}" for line in changed.values()]


def data_facts(data: Data) -> dict[str, Any]:
    """What tells one data set from another, as JSON has it: each image's class, and the classes' names."""
    labels = [each.labels for each in (data.train, data.test, data.val) if each is not None]
    return {
        "classes": list(data.class_names),
        "training images": len(data.train.labels),
        "test images": len(data.test.labels),
        **({} if data.val is None else {"held-out images": data.num_val}),
        "labels": zlib.crc32(np.concatenate(labels).astype(np.int32).tobytes()),
    }


def check_data(before: Mapping[str, Any], after: Mapping[str, Any], *, force: bool) -> None:
    """Raise a UserError where the data are not those that the run began with, unless `force`."""
    changed = [name for name in after if before.get(name) != after[name]]
    if changed and not force:
        lines = "".join(f"\n  {_change(name, before.get(name), after[name])}" for name in changed)
        raise UserError(
            f"--resume: the run was started otherwise:{lines}\n"
            "Pass the data as they were, --force to go on with these, or start a new run with another --out."
        )


def _change(name: str, before: Any, after: Any) -> str:
    if name == "classes" and isinstance(before, list):
        gone = [each for each in before if each not in after]
        new = [each for each in after if each not in before]
        words = [f"{word} {', '.join(names)}" for word, names in (("without", gone), ("with", new)) if names]
        return f"classes: {' and '.join(words) or 'in another order'}"
    if name == "labels":
        return "images: which class each one has"
    return f"{name}: {before} -> {after}"


def check_not_over(step: int, records: Sequence[Record], facts: Mapping[str, Any], config: Config) -> None:
    """Raise a UserError where the config, changed by `--force`, has the run end before the step that it has reached."""
    end = epoch_ends(facts["training images"], config.images_per_step, config.epochs)[-1]
    tested = bool(records) and (records[-1].split, records[-1].step) == ("test", step)
    if step > end or (step == end and not tested):
        raise UserError(
            f"--resume: the run has reached step {step}, and {config.epochs} epochs end with step {end}. "
            "Pass more --epochs."
        )


def about(config: Config, facts: Mapping[str, Any], past: Past) -> dict[str, Any]:
    """What a checkpoint holds beside the state, as JSON."""
    return {
        "config": json.loads(to_json(config)),
        "data": dict(facts),
        "records": [record._asdict() for record in past.records],
        "window": [[float(value) for value in metrics] for metrics in jax.device_get(past.window)],
        "seconds": past.seconds,
    }


def take_up(
    run: Run, state: TrainState | None, told: Mapping[str, Any] | None, facts: Mapping[str, Any], *, force: bool
) -> tuple[Run, Past]:
    """The run as its checkpoint has it, in every process: process 0 gives the state and what was told beside it.

    Raises:
        UserError: other data than the run began with, unless `force`.
    """
    text = exchange(json.dumps(told).encode())[0]
    told = json.loads(text)
    if told is None:
        return run, Past()
    check_data(told["data"], facts, force=force)
    placed = put_replicated(from_first(run.state if state is None else state), run.devices)
    records = [Record(**record) for record in told["records"]]
    window = [Metrics._make(map(np.float32, metrics)) for metrics in told["window"]]
    return run._replace(state=placed), Past(records, window, told["seconds"])
