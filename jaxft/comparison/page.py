"""From what is told of a comparison to compare.html; the words are in compare.html.jinja."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from jaxft.comparison.arms import ARMS
from jaxft.comparison.plan import Plan
from jaxft.comparison.results import ArmResult, figures_of
from jaxft.comparison.trials import Outcome
from jaxft.comparison.verdict import Verdict
from jaxft.data.sources import shown
from jaxft.report.charts import Series, line_chart
from jaxft.report.page import data_name
from jaxft.report.shell import render
from jaxft.report.words import counted
from jaxft.report.write import REPORT_FILE

ORDER = ("test accuracy", "train accuracy", "test loss", "train loss")


def make_page(plan: Plan, arms: Sequence[ArmResult], verdict: Verdict, out: Path) -> str:
    """The comparison as one HTML file, for its folder: it links to the runs' reports there."""
    ended = [arm for arm in arms if arm.figures]
    summaries = [outcome.summary for arm in arms for outcome in arm.outcomes]
    return render(
        "compare.html.jinja",
        title=f"{plan.config.model.arch} on {data_name(plan.config.data)}",
        name=shown(out.absolute().name),
        verdict=verdict,
        arms=arms,
        descriptions={arm.name: ARMS[arm.name].description for arm in arms},
        best=max(ended, key=lambda arm: arm.figures["final_accuracy"].mean, default=None),
        charts=charts(ended),
        seeds=plan.seeds,
        epochs=plan.config.epochs,
        runs={arm.name: {outcome.trial.seed: run_cell(outcome, out) for outcome in arm.outcomes} for arm in arms},
        devices=counted(summaries[-1]["devices"]) if summaries else None,
        versions=summaries[-1]["versions"] if summaries else {},
        more=f"python -m jaxft.compare --resume --out {shlex.quote(str(out))} --seeds {2 * plan.num_seeds}",
    )


def run_cell(outcome: Outcome, out: Path) -> tuple[float, str | None]:
    """A trial's test accuracy and, where it has one, its report's place in the comparison's folder."""
    report = outcome.trial.folder / REPORT_FILE
    place = report.relative_to(out).as_posix() if report.exists() else None
    return figures_of(outcome)["final_accuracy"], place


def charts(arms: Sequence[ArmResult]) -> Sequence[Markup]:
    """A chart a curve, with a line an arm and a band of one standard error to each side."""
    found = []
    for name in ORDER if arms else ():
        lines = []
        for arm in arms:
            epochs, mean, error = arm.curves[name]
            low, high = None, None
            if error is not None:
                low, high = ([y + sign * e for y, e in zip(mean, error, strict=True)] for sign in (-1, 1))
            lines.append(Series(arm.name, epochs, mean, low, high, marked=True))
        is_share = name.endswith("accuracy")
        y_with = (0.9, 1.0) if is_share else (0.0, 0.1)
        found.append(line_chart(lines, name.capitalize(), "epoch", y_with=y_with, is_share=is_share))
    return found
