"""From the command to the saved model, jaxft against a PyTorch script of the same recipe (time_to_model_torch.py).

    python benchmarks/time_to_model.py --photos hymenoptera hotdog --weights resnet18.pth

Each command runs in a process of its own, as a user starts it, and its clock begins before Python does. The sides take
turns: jaxft with an empty cache folder, PyTorch, and jaxft once more with the decoded images and compiled steps that it
has kept by then. jaxft also keeps checkpoints, which its model waits for, and after the model writes curves and a
report; the whole command has all of it. Without torch there is no peer.
"""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tyro

from jaxft.errors import UserError, run_command
from results import conditions, spread, table, write_section

PEER = Path(__file__).with_name("time_to_model_torch.py")
FREEZE = {"full": "none", "layer2": "layer2", "head": "backbone"}
WORDS = {"full": "full", "layer2": "frozen to layer2", "head": "head only"}

Mode = Literal["full", "layer2", "head"]


@dataclass(frozen=True)
class Arguments:
    """From the command to the saved model, jaxft against PyTorch."""

    photos: tuple[Path, ...]
    """Folders with train/ and val/ or test/."""
    weights: Path
    """A .pth or .safetensors file."""
    arch: str = "resnet18"
    """The network."""
    modes: tuple[Mode, ...] = ("full", "layer2", "head")
    """Everything trains, what is above layer2, or the head alone."""
    head_flags: tuple[str, ...] = ()
    """Further flags of jaxft.train for the head alone, each for a row beside the run without: cached-views=5
    augment=none, say. PyTorch knows augment=none."""
    epochs: int = 5
    """Of each run."""
    batch_size: int = 32
    """Of each run."""
    turns: int = 3
    """Times that each side is measured."""
    torch_compile: bool = False
    """PyTorch's network is compiled."""


class Case(NamedTuple):
    """A set, what trains, and a further flag, NAME=VALUE, which may be empty."""

    photos: Path
    mode: Mode
    flag: str


class Timed(NamedTuple):
    """One command."""

    model: float
    """Seconds until the model was saved."""
    whole: float
    """Seconds until the command had ended."""
    accuracy: float
    """On the test set, after the last epoch; 0 to 1."""


class Turn(NamedTuple):
    """Each side once."""

    cold: Timed
    torch: Timed | None
    warm: Timed


def main() -> int:
    """The command; returns its exit status.

    Raises:
        UserError: a folder or a file that is not there.
    """
    arguments = tyro.cli(Arguments, description=__doc__)
    for folder in arguments.photos:
        if not (folder / "train").is_dir():
            raise UserError(f"--photos {folder}: has no train/. Pass folders with train/ and val/ or test/.")
    if not arguments.weights.is_file():
        raise UserError(f"--weights {arguments.weights}: no such file.")
    cases = [
        Case(photos, mode, flag)
        for photos in arguments.photos
        for mode in arguments.modes
        for flag in ("", *(arguments.head_flags if mode == "head" else ()))
    ]
    turns: dict[Case, list[Turn]] = {case: [] for case in cases}
    for i in range(arguments.turns):
        for case in cases:
            with tempfile.TemporaryDirectory(prefix="jaxft-time-") as scratch:
                turns[case].append(take_turn(arguments, case, Path(scratch)))
            seconds = ", ".join("none" if each is None else f"{each.model:.1f} s" for each in turns[case][-1])
            place = f"turn {i + 1} of {arguments.turns}, {case.photos.name}, {name_of(case)}"
            print(f"{place}: cold, PyTorch, warm: {seconds}", flush=True)
    text = report(arguments, turns)
    print(text)
    write_section(f"Time to model: {', '.join(folder.name for folder in arguments.photos)}", text)
    return 0


def take_turn(arguments: Arguments, case: Case, scratch: Path) -> Turn:
    """Both sides in a folder of their own."""
    peer = find_spec("torch") is not None and find_spec("torchvision") is not None
    cold = run_jaxft(arguments, case, scratch / "cold", scratch / "cache")
    torch = run_torch(arguments, case, scratch / "model.pth") if peer else None
    return Turn(cold, torch, run_jaxft(arguments, case, scratch / "warm", scratch / "cache"))


def run_jaxft(arguments: Arguments, case: Case, out: Path, cache: Path) -> Timed:
    """python -m jaxft.train."""
    words = ["-m", "jaxft.train", "folder", "--data", str(case.photos), *shared_words(arguments, case)]
    words += ["--arch", arguments.arch, *words_of(case), "--out", str(out), "--cache-dir", str(cache)]
    model, whole, _ = timed(words, out / "model.safetensors")
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return Timed(model, whole, summary["final_accuracy"])


def run_torch(arguments: Arguments, case: Case, out: Path) -> Timed:
    """The PyTorch script."""
    words = [str(PEER), str(case.photos), *shared_words(arguments, case), "--arch", arguments.arch, "--out", str(out)]
    words += words_of(case) if case.flag == "augment=none" else []
    model, whole, printed = timed([*words, *(["--compile"] if arguments.torch_compile else [])], out)
    return Timed(model, whole, float(printed.split()[-1]))


def shared_words(arguments: Arguments, case: Case) -> Sequence[str]:
    """What both sides are told."""
    words = ["--weights", str(arguments.weights), "--freeze", FREEZE[case.mode], "--epochs", str(arguments.epochs)]
    return [*words, "--batch-size", str(arguments.batch_size)]


def words_of(case: Case) -> list[str]:
    """The further flag, as a command line has it."""
    name, _, value = case.flag.partition("=")
    return [f"--{name}", value] if case.flag else []


def timed(words: Sequence[str], model: Path) -> tuple[float, float, str]:
    """Seconds until the model is saved, seconds in all, and what a Python process of these words printed.

    Raises:
        UserError: it failed.
    """
    started = time.time()  # And no other clock: the model's time is its file's.
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    whole = time.time() - started
    if done.returncode:
        raise UserError(f"python {shlex.join(words)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return model.stat().st_mtime - started, whole, done.stdout


def report(arguments: Arguments, turns: dict[Case, list[Turn]]) -> str:
    """The section."""
    rows = []
    for case, taken in turns.items():
        sides = {
            "PyTorch": [turn.torch for turn in taken if turn.torch is not None],
            "jaxft, empty cache folder": [turn.cold for turn in taken],
            "jaxft, warm caches": [turn.warm for turn in taken],
        }
        peer = sides["PyTorch"]
        for side, runs in sides.items():
            if runs:
                models, wholes = [run.model for run in runs], [run.whole for run in runs]
                ratio = f"{np.median(np.divide([run.model for run in peer], models)):.2f}" if peer else ""
                accuracy = f"{np.median([run.accuracy for run in runs]):.3f}"
                rows.append(
                    [case.photos.name, name_of(case), side, str(spread(models)), ratio, str(spread(wholes)), accuracy]
                )
    header = ["photographs", "trains", "", "seconds to the model", "× PyTorch", "whole command", "test accuracy"]
    epochs = "1 epoch" if arguments.epochs == 1 else f"{arguments.epochs} epochs"
    compiled = ", compiled" if arguments.torch_compile else ""
    return f"""{arguments.arch}, {epochs} of batches of {arguments.batch_size} at 224 pixels, tested after each, by
`python -m jaxft.train folder` and by the same recipe in PyTorch (`{PEER.name}`: ImageFolder, a DataLoader
with a worker a core, channels-last{compiled}; float32, on a GPU bfloat16 on both sides). Seconds from the start of the
process; the ratio is how many times sooner than PyTorch's the model is there.

{table(header, rows)}

{devices()}{conditions()}; n = {arguments.turns}, median (least to most); photographs read from the page cache.

    python benchmarks/time_to_model.py {command_words(arguments)}"""


def name_of(case: Case) -> str:
    """What trains, and how."""
    return f"{WORDS[case.mode]}, `{' '.join(words_of(case))}`" if case.flag else WORDS[case.mode]


def devices() -> str:
    """The accelerators that jaxft used; nothing where it used the processor."""
    command = [sys.executable, "-c", "import jax; print(*[device.device_kind for device in jax.devices()], sep=', ')"]
    kinds = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "" if kinds == "cpu" else f"{kinds}; "


def command_words(arguments: Arguments) -> str:
    """The command line that made the section; of files and folders their names."""
    words = ["--photos", *(folder.name for folder in arguments.photos), "--weights", arguments.weights.name]
    words += ["--arch", arguments.arch, "--modes", *arguments.modes, "--epochs", str(arguments.epochs)]
    words += ["--batch-size", str(arguments.batch_size), "--turns", str(arguments.turns)]
    words += ["--head-flags", *arguments.head_flags] if arguments.head_flags else []
    return shlex.join([*words, *(["--torch-compile"] if arguments.torch_compile else [])])


if __name__ == "__main__":
    run_command(main)
