"""A sweep's folder: what it is (sweep-plan.json), its members as they end (members.jsonl), and its results."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxft.config import Config, differences
from jaxft.errors import UserError
from jaxft.plan_file import read_plan_file, write_plan_file
from jaxft.run_folder import find_run_folder, holds_run, replace_text, writing
from jaxft.sweeping.grid import Grid

PLAN_FILE, MEMBERS_FILE = "sweep-plan.json", "members.jsonl"


class Epoch(NamedTuple):
    """A member after an epoch."""

    train_loss: float
    """Nats; the mean over its updates."""
    loss: float
    """Nats, on the held-out images."""
    accuracy: float
    """0 to 1, on the held-out images."""


class Member(NamedTuple):
    """A recipe with a seed, and how it went, epoch by epoch: fewer of them where it was given up."""

    recipe: int
    """Its place among the configs."""
    seed: int
    epochs: Sequence[Epoch]

    @property
    def score(self) -> tuple[float, float]:
        """Held-out accuracy, then minus the loss; of one that diverged the lowest there is."""
        last = self.epochs[-1]
        return (last.accuracy, -last.loss) if math.isfinite(last.loss) else (-1.0, -math.inf)


class Plan(NamedTuple):
    """What a sweep is."""

    preset: str
    config: Config
    grid: Grid
    num_seeds: int
    """From the config's on."""
    halving: int | None

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds, in order."""
        return range(self.config.seed, self.config.seed + self.num_seeds)


def write_plan(out: Path, plan: Plan) -> None:
    """Keep the plan in the sweep's folder."""
    values = plan._asdict()
    write_plan_file(out / PLAN_FILE, values.pop("config"), values)


def read_plan(out: Path) -> Plan | None:
    """The plan in a folder; None where there is none.

    Raises:
        UserError: a file that is not one.
    """
    return read_plan_file(out / PLAN_FILE, "sweep", lambda config, values: Plan(config=config, **values))


def find_folder(plan: Plan, out: Path | None, *, resume: bool) -> Path:
    """Where the sweep goes; nothing is written yet.

    Raises:
        UserError: it holds another one, or a run; or it cannot be carried on.
    """
    if out is not None and holds_run(out):
        raise UserError(f"--out {out}: holds a run, and no sweep. Pass another --out.")
    before = None if out is None else read_plan(out)
    if before is not None and not resume:
        raise UserError(f"--out {out} holds a sweep already. Pass --resume to carry it on, or another --out.")
    if before is not None and before != plan:
        changed = list(differences(before.config, plan.config).values())
        changed += [
            f"{name}: {getattr(before, name)} -> {getattr(plan, name)}"
            for name in ("grid", "num_seeds", "halving")
            if getattr(before, name) != getattr(plan, name)
        ]
        raise UserError(
            f"--resume: the sweep was started otherwise: {'; '.join(changed)}. Leave the flags out to carry it on, or "
            "pass another --out."
        )
    return find_run_folder(out, plan.preset and f"sweep-{plan.preset}", resume=resume)


def write_members(out: Path, members: Sequence[Member]) -> None:
    """Have the file hold these and nothing else, such as half a line of a process that was killed."""
    replace_text(out / MEMBERS_FILE, lines_of(members))


def append_members(out: Path, members: Sequence[Member]) -> None:
    """Add a line a member."""
    with writing(out), (out / MEMBERS_FILE).open("a", encoding="utf-8") as file:
        file.write(lines_of(members))


def lines_of(members: Sequence[Member]) -> str:
    """A line a member."""
    return "".join(json.dumps(member._asdict()) + "\n" for member in members)


def read_members(out: Path) -> list[Member]:
    """Those that have ended, less a last line that is only half written.

    Raises:
        UserError: a line that is no member.
    """
    path = out / MEMBERS_FILE
    if not path.exists():
        return []
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        found: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [Member(each["recipe"], each["seed"], [Epoch(*epoch) for epoch in each["epochs"]]) for each in found]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not what a sweep writes ({error}). Pass another --out.") from None
