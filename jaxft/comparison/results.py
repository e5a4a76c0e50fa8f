"""From trials to what is told of a comparison: figures, curves and the verdict, and compare.json with all of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxft.comparison.arms import ARMS
from jaxft.comparison.plan import Plan, Trial
from jaxft.comparison.trials import Outcome
from jaxft.comparison.verdict import Verdict
from jaxft.config_file import to_json
from jaxft.records import Record

CURVES = {
    "train loss": ("train", "loss"),
    "train accuracy": ("train", "accuracy"),
    "test accuracy": ("test", "accuracy"),
    "test loss": ("test", "loss"),
}
"""By the split and the field of their records; the first three are the chapter's."""
FEW_EPOCHS = 2
"""Of more, several arms' training points in between would be a thicket."""


class Spread(NamedTuple):
    """Over seeds."""

    mean: float
    error: float | None
    """The standard error of the mean; None of one seed."""


class Curve(NamedTuple):
    """Over epochs: the mean of the seeds and its standard error, None of one seed."""

    epochs: Sequence[float]
    mean: Sequence[float]
    error: Sequence[float] | None


class ArmResult(NamedTuple):
    """What an arm reached."""

    name: str
    first: Trial
    """Of the first seed."""
    outcomes: Sequence[Outcome]
    diverged: Mapping[int, str]
    """By seed, why there is no outcome."""
    figures: Mapping[str, Spread]
    """Empty where every seed diverged, as are the curves."""
    curves: Mapping[str, Curve]


def arm_result(first: Trial, outcomes: Sequence[Outcome], diverged: Mapping[int, str]) -> ArmResult:
    """An arm's figures and curves over the seeds that ended well."""
    if not outcomes:
        return ArmResult(first.arm, first, outcomes, diverged, {}, {})
    each = [figures_of(outcome) for outcome in outcomes]
    figures = {figure: spread([own[figure] for own in each]) for figure in each[0]}
    curves = {which: curve(outcomes, split, field) for which, (split, field) in CURVES.items()}
    return ArmResult(first.arm, first, outcomes, diverged, figures, curves)


def figures_of(outcome: Outcome) -> dict[str, float]:
    """The figures of one trial, on the test set."""
    tests = [i for i, record in enumerate(outcome.records) if record.split == "test"]
    best = max(tests, key=lambda i: outcome.records[i].accuracy)
    return {
        "final_accuracy": outcome.records[tests[-1]].accuracy,
        "final_loss": outcome.records[tests[-1]].loss,
        "best_accuracy": outcome.records[best].accuracy,
        "best_epoch": outcome.records[best].epoch,
        "seconds_to_best": outcome.seconds[best],
        "wall_seconds": outcome.wall_seconds,
    }


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard error."""
    found = np.array(values, np.float64)
    return Spread(float(found.mean()), None if len(found) == 1 else float(standard_error(found)))


def standard_error(values: Float[np.ndarray, "seeds ..."]) -> Any:
    """Of the mean over the first axis."""
    return values.std(0, ddof=1) / len(values) ** 0.5


def curve(outcomes: Sequence[Outcome], split: str, field: str) -> Curve:
    """A curve over the epochs at which every trial has a point."""
    found = [points(outcome.records, split, field) for outcome in outcomes]
    epochs = sorted(set(found[0]).intersection(*found[1:]))
    values = np.array([[own[epoch] for epoch in epochs] for own in found])
    error = None if len(outcomes) == 1 else standard_error(values).tolist()
    return Curve(epochs, values.mean(0).tolist(), error)


def points(records: Sequence[Record], split: str, field: str) -> dict[float, float]:
    """A trial's points by epoch: its records or, in training for more than a few epochs, their mean in each epoch."""
    if split == "test" or sum(record.split == "test" for record in records) <= FEW_EPOCHS:
        return {record.epoch: getattr(record, field) for record in records if record.split == split}
    found: dict[float, float] = {}
    values: list[float] = []
    num_steps: list[int] = []
    step = 0
    for record in records:
        if record.split == "train":
            values.append(getattr(record, field))
            num_steps.append(record.step - step)
            step = record.step
        elif values:
            found[record.epoch] = float(np.average(values, weights=num_steps))
            values, num_steps = [], []
    return found


def content(plan: Plan, arms: Sequence[ArmResult], verdict: Verdict) -> dict[str, Any]:
    """The content of compare.json."""
    summaries = [outcome.summary for arm in arms for outcome in arm.outcomes]
    facts = summaries[-1] if summaries else {}
    return {
        "preset": plan.preset,
        "seeds": list(plan.seeds),
        "verdict": verdict._asdict()
        | {"pairs": [pair._asdict() | {"difference": pair.difference._asdict()} for pair in verdict.pairs]},
        "arms": {arm.name: arm_content(arm) for arm in arms},
        **{name: facts.get(name) for name in ("devices", "versions")},
    }


def arm_content(arm: ArmResult) -> dict[str, Any]:
    """An arm's part of compare.json; the config is that of the first seed."""
    return {
        "description": ARMS[arm.name].description,
        "config": json.loads(to_json(arm.first.config)),
        "figures": {name: found._asdict() for name, found in arm.figures.items()},
        "curves": {name: found._asdict() for name, found in arm.curves.items()},
        "diverged": {str(seed): why for seed, why in arm.diverged.items()},
        "runs": [
            {
                "seed": outcome.trial.seed,
                "folder": f"{arm.name}/{outcome.trial.folder.name}",
                **figures_of(outcome),
                "hits": int(outcome.hits.sum()),
                "test_images": len(outcome.hits),
                "records": [record._asdict() for record in outcome.records],
            }
            for outcome in arm.outcomes
        ],
    }
