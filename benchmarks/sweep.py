"""Many runs in one program against runs in a row: seconds of the whole commands, caches warm.

    python benchmarks/sweep.py --photos PHOTOS --weights FILE

64 heads (8 learning rates, 8 seeds) on kept features against one head, both by `python -m jaxft.sweep`; and 8 whole
fine-tunes of the demo (ResNet18 of width 16, 64 pixels, 8 learning rates) by one `jaxft.sweep` against 8 of
`jaxft.train`. The sides take turns; the first turn, which fills the caches, is not counted.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro

from jaxft.errors import run_command
from jaxft.sweeping.grid import parse_values
from results import conditions, table, take_turns, write_section

EPOCHS = 5
RATES = "1e-4:1e-1:8"
HEAD = ("--freeze", "backbone", "--augment", "none", "--precision", "float32")


@dataclass(frozen=True)
class Arguments:
    """Many runs in one program."""

    photos: Path
    """A folder with train/ and val/ or test/."""
    weights: Path
    """A .pth or .safetensors file of a ResNet18."""
    turns: int = 5


def main() -> int:
    """The command; returns its exit status."""
    arguments = tyro.cli(Arguments, description=__doc__)
    photos = ("folder", "--data", str(arguments.photos), "--weights", str(arguments.weights), *HEAD)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)

        def sweep(*words: str) -> float:
            return seconds(["jaxft.sweep", *words], scratch)

        def in_a_row() -> float:
            rates = parse_values("--lr", RATES)
            return sum(seconds(["jaxft.train", "demo", "--lr", str(rate)], scratch) for rate in rates)

        one, many = take_turns(
            arguments.turns,
            lambda: sweep(*photos, "--lr", "1e-3,", "--seeds", "1"),
            lambda: sweep(*photos, "--lr", RATES, "--seeds", "8"),
        )
        row, program = take_turns(arguments.turns, in_a_row, lambda: sweep("demo", "--lr", RATES, "--seeds", "1"))
    rows = [
        ["64 heads on kept features against one", str(one), str(many), f"{many.median / one.median:.2f}"],
        ["8 whole fine-tunes against 8 commands", str(row), str(program), f"{program.median / row.median:.2f}"],
    ]
    text = table(["one program", "one head, or 8 commands (s)", "it (s)", "it over that"], rows)
    device = jax.devices()[0].device_kind
    words = f"--photos {arguments.photos.name} --weights {arguments.weights.name} --turns {arguments.turns}"
    told = f"{conditions()}; on {device}. {arguments.turns} turns: median (least to most)."
    text = f"{text}\n\n{told}\n\n    python benchmarks/sweep.py {words}"
    print(text)
    write_section(f"Many runs in one program: {jax.devices()[0].platform}", text)
    return 0


def seconds(words: Sequence[str], scratch: Path) -> float:
    """Of a whole command."""
    out = ["--epochs", str(EPOCHS), "--out", f"{tempfile.mkdtemp(dir=scratch)}/run", "--cache-dir", f"{scratch}/cache"]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", *words, *out], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    run_command(main)
