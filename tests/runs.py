"""Runs as their users start them: real processes, and what they leave in their folders."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
SECONDS = 300
SMALL = ("--arch", "resnet18", "--width", "16", "--weights", "demo", "--image-size", "32", "--batch-size", "8")
"""For `photos`: the demo's network on small images, three steps an epoch."""


def environment(num_devices: int = 1, *, compiled: Path | None = None) -> dict[str, str]:
    """A user's: without the eight devices of the tests. In `compiled` the runs keep their compiled steps."""
    own = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    if num_devices > 1:
        own["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={num_devices}"
    if compiled is not None:
        own |= {"JAX_COMPILATION_CACHE_DIR": str(compiled), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return own


def start(
    *arguments: object, command: str = "train", env: dict[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.Popen:
    """A command as a process, of one device unless `env` says otherwise."""
    words = [sys.executable, "-m", f"jaxft.{command}", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, cwd=cwd, env=env or environment(), **pipes)


def ended(process: subprocess.Popen, status: int = 0) -> str:
    """What a process printed, once it has ended with this status."""
    printed, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == status, f"exit status {process.returncode}\n{printed}{errors}"
    assert "Traceback" not in errors, errors
    return printed + errors


def finished(*arguments: object, command: str = "train", status: int = 0, env: dict[str, str] | None = None) -> str:
    """What a command printed, its exit status checked."""
    return ended(start(*arguments, command=command, env=env), status)


def start_processes(
    num: int,
    num_devices: int,
    *arguments: object,
    command: str = "train",
    own: Sequence[dict[str, str]] | None = None,
) -> list[subprocess.Popen]:
    """The processes of one run on this machine; `own` is what each has in its environment besides."""
    flags = ["--coordinator", f"localhost:{free_port()}", "--num-processes", num, "--process-id"]
    env = environment(num_devices)
    return [start(*arguments, *flags, i, command=command, env=env | (own[i] if own else {})) for i in range(num)]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("localhost", 0))
        return bound.getsockname()[1]


def records(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_speed(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, less what depends on the clock."""
    return [{k: v for k, v in record.items() if k != "images_per_second"} for record in records(out)]


def losses(out: Path, split: str = "train") -> Sequence[float]:
    """The losses of the records of a split."""
    return [record["loss"] for record in records(out) if record["split"] == split]


def has_records(out: Path) -> bool:
    """Whether a run has begun to train."""
    path = out / "metrics.jsonl"
    return path.exists() and bool(path.read_text())


def same_model(out: Path, other: Path) -> bool:
    """Whether two runs' models are one, bit for bit; in their files the metadata lie in any order."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, other))
    return ours.keys() == theirs.keys() and all(same_bits(ours[name], theirs[name]) for name in theirs)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are one, NaNs and signs of zeros included."""
    return a.dtype == b.dtype and a.shape == b.shape and np.asarray(a).tobytes() == np.asarray(b).tobytes()
