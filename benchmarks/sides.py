"""Sides that take turns, each in a process of its own, told over a pipe to take one more: A B A B.

So the thread pools and the device memory of JAX and PyTorch are apart, and yet all are measured in the same minutes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from jaxft import huge_pages
from jaxft.errors import UserError

JAX_SCRIPT = "throughput_jax.py"
TORCH_SCRIPT = "throughput_torch.py"
OUT_OF_MEMORY = "out of memory"
FRESH = {
    # Compile times are those of a first run, and one side's memory leaves room for the other's.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


class Job(NamedTuple):
    """A step to measure."""

    side: str
    """jaxft, or a peer."""
    measure: str
    """train, eval, or resident: train with what feeds it."""
    arch: str
    batch_size: int
    image_size: int
    precision: str
    freeze: str = "none"
    devices: int = 1
    parallel: str = "jit"
    canvas: int = 384
    seconds: float = 2.0
    """That a turn is to take, or one step where that is longer."""
    platform: str = "cpu"


class Measured(NamedTuple):
    """A job, done."""

    job: Job
    compiled: dict[str, Any]
    """What `Ready` tells, by name, and the steps of a turn."""
    seconds: list[float]
    """A step, of each turn."""
    peak_bytes: int | None
    """The most that its process has had on its device, if it knows."""
    failed: str | None
    """Why there are no figures."""


class Worker:
    """A process that has a side, or several; ends with `close`."""

    def __init__(
        self, script: str, num_devices: int = 1, *, shared: bool = False, environment: Mapping[str, str] | None = None
    ):
        self.shared = shared
        flags = os.environ.get("XLA_FLAGS", "")
        if num_devices > 1:  # Of the CPU; GPUs and TPUs do not mind.
            flags = f"{flags} --xla_force_host_platform_device_count={num_devices}"
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | FRESH | {"XLA_FLAGS": flags} | dict(environment or {}),
        )

    def ask(self, verb: str, **words: Any) -> dict[str, Any]:
        """What the process answers.

        Raises:
            UserError: a mistake that it found.
            SideError: it failed.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"verb": verb} | words) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SideError(f"its process ended (status {self.process.wait()})")
        answer = json.loads(line)
        if "mistake" in answer:
            raise UserError(answer["mistake"])
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process, which gives back its memory."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        with suppress(BrokenPipeError):  # Where it ended before it had read everything.
            self.process.stdin.close()


class SideError(RuntimeError):
    """A side cannot go on; the message says why."""


class Side:
    """A job in a worker, being measured."""

    def __init__(self, job: Job, worker: Worker):
        self.job, self.worker = job, worker
        self.compiled: dict[str, Any] = {}
        self.seconds: list[float] = []
        self.peak_bytes: int | None = None
        self.failed: str | None = None

    def attempt(self, do: Callable[[], None]) -> None:
        """Do it, unless this side has failed before; note it where it fails.

        Raises:
            SideError: it is jaxft's own, and not for want of memory.
        """
        if self.failed:
            return
        try:
            do()
        except SideError as error:
            self.failed = str(error)
            if self.job.side == "jaxft" and self.failed != OUT_OF_MEMORY:
                raise
            print(f"{self.job.side}: {error}", file=sys.stderr)
            if not self.worker.shared:
                self.worker.close()

    def prepare(self) -> None:
        """Compile, warm up, and find how many steps make a turn."""
        self.compiled = self.worker.ask("prepare", job=self.job._asdict())

    def turn(self) -> None:
        """Take one."""
        self.seconds.append(self.worker.ask("turn", place=self.compiled["place"])["seconds"])

    def finish(self) -> None:
        """Learn what it took."""
        self.peak_bytes = self.worker.ask("finish", place=self.compiled["place"])["peak_bytes"]


def script_of(side: str) -> str:
    """The script that has this side."""
    return TORCH_SCRIPT if side.startswith("torch") else JAX_SCRIPT


@contextmanager
def worker(
    script: str, num_devices: int = 1, *, shared: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[Worker]:
    """A worker, closed at the end."""
    found = Worker(script, num_devices, shared=shared, environment=environment)
    try:
        yield found
    finally:
        found.close()


def take_turns(jobs: Sequence[Job], turns: int, *, shared: Worker | None = None) -> list[Measured]:
    """Measure the jobs in turns, after a turn of each that is not counted; `shared` has them all, if it is there.

    Raises:
        UserError: a mistake in a job.
        SideError: jaxft's own side failed.
    """
    with ExitStack() as stack:
        sides = []
        for job in jobs:
            own = huge_pages.setting() if job.side == "jaxft" else {}  # As its command has them.
            sides.append(
                Side(job, shared or stack.enter_context(worker(script_of(job.side), job.devices, environment=own)))
            )
        for side in sides:
            side.attempt(side.prepare)
        for _ in range(turns + 1):
            for side in sides:
                side.attempt(side.turn)
        for side in sides:
            side.attempt(side.finish)
    return [Measured(side.job, side.compiled, side.seconds[1:], side.peak_bytes, side.failed) for side in sides]
