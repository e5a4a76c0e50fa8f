"""What a comparison is: preset, arms and seeds, in a file of its folder; and its trials, each arm with each seed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxft.comparison.arms import find_arms, parts_of
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


class Part(NamedTuple):
    """A run and its folder."""

    config: Config
    folder: Path
    follows: bool
    """Its weights are another part's model."""


class Trial(NamedTuple):
    """One arm with one seed: its runs, one after the other; the last one's folder has the model."""

    arm: str
    seed: int
    parts: Sequence[Part]

    @property
    def folder(self) -> Path:
        """Where the model is."""
        return self.parts[-1].folder

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
    """Every trial, the arms taking turns, so that a series that is cut short is a fair one.

    Raises:
        UserError: an arm that cannot be.
    """
    parts = parts_of(find_arms(plan.arms), plan.config)
    return [make_trial(arm, parts[arm], seed, out) for seed in plan.seeds for arm in plan.arms]


def make_trial(arm: str, configs: Sequence[Config], seed: int, out: Path) -> Trial:
    """In OUT/ARM/seed-S, parts before the last in OUT/ARM/seed-S-part-1 and so on; each starts from the one before."""
    last = out / arm / f"seed-{seed}"
    folders = [*(last.with_name(f"{last.name}-part-{i}") for i in range(1, len(configs))), last]
    parts: list[Part] = []
    for config, folder in zip(configs, folders, strict=True):
        model = config.model
        if parts:
            model = replace(model, weights=str(parts[-1].folder.absolute()), head="reuse", head_map=())
        parts.append(Part(replace(config, model=model, seed=seed), folder, follows=bool(parts)))
    return Trial(arm, seed, parts)
