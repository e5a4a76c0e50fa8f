"""Recipes of fine-tuning on the same photographs, each a preset and a few flags of `python -m jaxft.train`.

    python benchmarks/recipes.py folder --data PHOTOS --weights FILE --subset 200+200 --image-size 128

Recipes take turns, seed by seed: with the same seed they have the same new head, order of photographs and draws of
augmentation, so that what a recipe changes is seen within each seed. Every finished run is kept in --runs, and a second
call goes on from there.
"""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro

from jaxft.errors import UserError, run_command
from results import conditions, table, write_section
from series import append_log, check_arguments, mean_of, read_log, subset

PRESET = "preset"
"""The recipe that the others are compared with."""

RECIPES = {
    PRESET: "",
    "head-first": "--head-epochs 1",
    "layer-decay": "--layer-decay 0.7",
    "freeze-layer2": "--freeze layer2",
    "head-only": "--freeze backbone",
    "head-slower": "--freeze backbone --head-lr-mult 1",
    "frozen-stats": "--batch-norm frozen-stats",
    "average": "--ema 0.9",  # 40 updates are few: with 0.99 the average hardly leaves the start.
    "smoothing": "--label-smoothing 0.1",
    "auto": "--recipe auto --budget 8",
}
"""Flags by name."""


@dataclass(frozen=True)
class Arguments:
    """Recipes of fine-tuning, compared."""

    preset: Annotated[str, tyro.conf.Positional]
    """What the recipes change, e.g. folder."""
    data: Path
    """A folder with train/ and val/ or test/."""
    weights: Path
    """A .pth or .safetensors file."""
    arch: str | None = None
    """As of jaxft.train; the preset's when not given."""
    runs: Path = Path("runs/recipes")
    """Where finished runs are kept, and what they decode and compile."""
    subset: str | None = None
    """Training photographs of each class, in the order of the class names, such as 200+200; all when not given."""
    image_size: int = 224
    """Side of what the network sees, in pixels."""
    epochs: int = 5
    """Of each run."""
    seeds: int = 5
    """Runs of each recipe, at least 2."""
    only: tuple[str, ...] = ()
    """These recipes, beside the preset; all when not given."""


class Finished(NamedTuple):
    """What a run reached on the test set after the last epoch, and where."""

    accuracy: float
    """0 to 1."""
    loss: float
    """In nats."""
    conditions: str


def main() -> int:
    """The command; returns its exit status.

    Raises:
        UserError: a preset, folder, subset or recipe that is not there, or a run that failed.
    """
    arguments = tyro.cli(Arguments, description=__doc__)
    check_arguments(arguments.data, arguments.seeds)
    if unknown := sorted(set(arguments.only) - set(RECIPES)):
        raise UserError(f"--only {' '.join(unknown)}: no such recipe. Pass some of {', '.join(RECIPES)}.")
    arguments.runs.mkdir(parents=True, exist_ok=True)
    data = arguments.data.resolve()
    if arguments.subset:
        data = subset(data, arguments.subset, arguments.runs / f"photos-{arguments.subset}")
    names = [name for name in RECIPES if not arguments.only or name in (PRESET, *arguments.only)]
    log = arguments.runs / "runs.jsonl"
    earlier = {line: Finished(*values) for (line,), values in read_log(log, num_keys=1).items()}
    done: dict[str, list[Finished]] = {name: [] for name in names}
    for seed in range(arguments.seeds):
        for name in names:
            words = train_words(arguments, data, name, seed)
            line = shlex.join(words)
            if line not in earlier:
                earlier[line] = train(words, arguments.runs)
                append_log(log, [line, *earlier[line]])
            done[name].append(earlier[line])
            print(f"seed {seed}, {name}: {earlier[line].accuracy:.4f}, {earlier[line].loss:.4f} nats", flush=True)
    text = report(arguments, done)
    print(text)
    where = [arguments.data.name, *([arguments.arch] if arguments.arch else []), f"{arguments.image_size} pixels"]
    write_section(f"Recipes: {', '.join(where)}", text)
    return 0


def train_words(arguments: Arguments, data: Path, name: str, seed: int) -> Sequence[str]:
    """The command line of a run, after `python -m jaxft.train`."""
    words = [arguments.preset, "--data", str(data), "--weights", str(arguments.weights.resolve())]
    words += ["--image-size", str(arguments.image_size), "--epochs", str(arguments.epochs), "--precision", "float32"]
    words += ["--arch", arguments.arch] if arguments.arch else []
    return [*words, "--seed", str(seed), *shlex.split(RECIPES[name])]


def train(words: Sequence[str], runs: Path) -> Finished:
    """A run in a process of its own.

    Raises:
        UserError: it failed.
    """
    out = runs / "run"
    shutil.rmtree(out, ignore_errors=True)
    command = ["-m", "jaxft.train", *words, "--out", str(out), "--cache-dir", str(runs / "cache")]
    ended = subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if ended.returncode:
        raise UserError(f"python {shlex.join(command)} ended with status {ended.returncode}:\n{ended.stderr[-2000:]}")
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return Finished(summary["final_accuracy"], summary["final_loss"], conditions())


def report(arguments: Arguments, done: Mapping[str, Sequence[Finished]]) -> str:
    """The section."""
    words = [arguments.preset, "--data", arguments.data.name, "--weights", arguments.weights.name]
    words += ["--arch", arguments.arch] if arguments.arch else []
    words += ["--subset", arguments.subset] if arguments.subset else []
    words += ["--image-size", str(arguments.image_size), "--epochs", str(arguments.epochs)]
    words += ["--seeds", str(arguments.seeds), *(["--only", *arguments.only] if arguments.only else [])]
    photos = f"{arguments.subset} photographs of {arguments.data.name}" if arguments.subset else arguments.data.name
    made = "; ".join(sorted({run.conditions for runs in done.values() for run in runs}))
    return f"""The preset `{arguments.preset}` and flags of `python -m jaxft.train`: test accuracy and loss (in nats)
after the last of {arguments.epochs} epochs, mean ± standard error over {arguments.seeds} seeds; less the preset's: of
the differences within each seed. All are tested on the same photographs, so that ± is of training anew, not of other
photographs. {photos}, at {arguments.image_size} pixels, in float32, pretrained on {arguments.weights.name}.

{table(["recipe", "flags", "accuracy", "less the preset's", "loss", "less the preset's", "seed 0, 1, …"], rows(done))}

{made}.

    python benchmarks/recipes.py {shlex.join(words)}"""


def rows(done: Mapping[str, Sequence[Finished]]) -> list[list[str]]:
    """Of each recipe its means over seeds, and those of its differences from the preset within each seed."""
    made = []
    for name, runs in done.items():
        row = [name, f"`{RECIPES[name]}`" if RECIPES[name] else ""]
        for column in ("accuracy", "loss"):
            values = [getattr(run, column) for run in runs]
            apart = np.subtract(values, [getattr(run, column) for run in done[PRESET]])
            difference = mean_of(apart)
            row += [str(mean_of(values)), "" if name == PRESET else f"{difference.mean:+.4f} ± {difference.error:.4f}"]
        made.append([*row, " ".join(f"{run.accuracy:.3f}" for run in runs)])
    return made


if __name__ == "__main__":
    run_command(main)
