"""Disks that are full or cannot be written, for real: a file system in memory, in a namespace of its own."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from runs import ROOT

PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
SECONDS = 120


def on_a_disk(
    folder: Path, options: str, words: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess:
    """Run a command, which must succeed, with a file system in memory mounted at `folder`."""
    folder.mkdir(exist_ok=True)
    mounting = f'mount -t tmpfs -o {options} tmpfs {folder} && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounting, "sh", *words]
    done = subprocess.run(
        command, env={**environment, "PYTHONPATH": PATHS}, capture_output=True, text=True, timeout=SECONDS
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done
