"""RESULTS.md: what the scripts printed. Each script owns a section, which it replaces when it runs again."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "# Results\n\nEach section is what its script printed, with the conditions and the command.\n"
PACKAGES = ("jax", "flax", "optax", "torch", "torchvision", "pillow")
MODULES = {"pillow": "PIL"}


def write_section(name: str, text: str, path: Path = RESULTS) -> None:
    """Put `text` under the heading `## name`, in place of what was there."""
    sections = (path.read_text(encoding="utf-8") if path.exists() else TITLE).rstrip("\n").split("\n\n## ")
    kept = [section for section in sections[1:] if section.split("\n", 1)[0] != name]
    ordered = sorted([*kept, f"{name}\n\n{text.strip()}"])
    path.write_text("\n\n## ".join([sections[0], *ordered]) + "\n", encoding="utf-8")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def conditions(commit: str | None = None) -> str:
    """The machine and the versions, in a line; `commit` where the measurement was made at another one than HEAD."""
    installed = [package for package in PACKAGES if find_spec(MODULES.get(package, package))]
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in installed)
    return f"{cpu()}; Python {platform.python_version()}, {versions}; jaxft at {commit or head()}"


def command() -> str:
    """The command line of the script that runs."""
    return " ".join([f"python benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def cpu() -> str:
    """The processor's name and the cores this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def head() -> str:
    """The commit that is checked out."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=RESULTS.parent).stdout.strip()


class Spread(NamedTuple):
    """Of several turns."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{_digits(self.median)} ({_digits(self.least)} to {_digits(self.most)})"


def take_turns(turns: int, *sides: Callable[[], float]) -> list[Spread]:
    """Each side's figure, the sides taking turns; the first turn of each is not counted."""
    figures = np.array([[side() for side in sides] for _ in range(turns + 1)])[1:]
    return [spread(column) for column in figures.T]


def spread(figures: Sequence[float] | np.ndarray) -> Spread:
    """Their median, least and most."""
    return Spread(float(np.median(figures)), float(np.min(figures)), float(np.max(figures)))


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
