"""What a comparison is: preset, arms and seeds, in a file of its folder; and its trials, each arm with each seed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxft.comparison.arms import configs_of, find_arms
from jaxft.config import Config
from jaxft.plan_file import read_plan_file, write_plan_file

PLAN_FILE = "plan.json"


class Plan(NamedTuple):
    """What is to be compared."""

    preset: str
    config: Config
    arms: tuple[str, ...]
    num_seeds: int
    """From the config's on."""

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds, in order."""
        return range(self.config.seed, self.config.seed + self.num_seeds)


class Trial(NamedTuple):
    """One arm with one seed."""

    arm: str
    seed: int
    config: Config
    folder: Path
    """Of its run."""

    @property
    def name(self) -> str:
        """How it is spoken of."""
        return f"{self.arm}, seed {self.seed}"


def write_plan(out: Path, plan: Plan) -> None:
    """Keep the plan in the comparison's folder."""
    values = {"preset": plan.preset, "arms": plan.arms, "seeds": plan.num_seeds}
    write_plan_file(out / PLAN_FILE, plan.config, values)


def read_plan(out: Path) -> Plan | None:
    """The plan in a folder; None where there is none.

    Raises:
        UserError: a file that is not one.
    """

    def build(config: Config, values: dict[str, Any]) -> Plan:
        return Plan(str(values["preset"]), config, tuple(map(str, values["arms"])), int(values["seeds"]))

    return read_plan_file(out / PLAN_FILE, "comparison", build)


def make_trials(plan: Plan, out: Path) -> list[Trial]:
    """Every trial, in OUT/ARM/seed-S; the arms take turns, so that a series that is cut short is a fair one.

    Raises:
        UserError: an arm that cannot be.
    """
    configs = configs_of(find_arms(plan.arms), plan.config)
    return [
        Trial(arm, seed, replace(configs[arm], seed=seed), out / arm / f"seed-{seed}")
        for seed in plan.seeds
        for arm in plan.arms
    ]
