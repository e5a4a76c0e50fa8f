"""A side's own process: it prepares what it is told to, and takes a turn whenever it is asked (see sides.py)."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxft.errors import UserError, reason
from sides import OUT_OF_MEMORY, Job

MEMORY_ERRORS = ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "MemoryError")


class Ready(NamedTuple):
    """A side that may take turns; what is not known is None."""

    run: Callable[[int], None]
    """So many steps, and waits for them."""
    compile_seconds: float | None = None
    flops: float | None = None
    """Of a step, on each device, by XLA's count."""
    bytes_accessed: float | None = None
    temp_bytes: int | None = None
    """That the compiled step takes for what lies between its input and its output, on each device."""
    peak_bytes: Callable[[], int | None] = lambda: None
    """The most that the process has had on its device."""


def serve(prepare: Callable[[Job], Ready], describe: Callable[[str], dict[str, Any]] | None = None) -> None:
    """Answer what the parent asks, until it ends."""
    # Libraries print what they like; it must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sides: list[tuple[Ready, int]] = []
    for line in sys.stdin:
        words = json.loads(line)
        try:
            answer = answer_to(words, sides, prepare, describe)
        except UserError as error:
            answer = {"mistake": str(error)}
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            lacks_memory = any(word in told for word in MEMORY_ERRORS)
            if not lacks_memory:
                traceback.print_exc()
            answer = {"error": OUT_OF_MEMORY if lacks_memory else reason(error)}
        answers.write(json.dumps(answer) + "\n")


def answer_to(
    words: dict[str, Any],
    sides: list[tuple[Ready, int]],
    prepare: Callable[[Job], Ready],
    describe: Callable[[str], dict[str, Any]] | None,
) -> dict[str, Any]:
    """The answer to one of the parent's questions; a new side joins `sides`, with its steps a turn."""
    if words["verb"] == "describe":
        assert describe is not None
        return describe(words["precision"])
    if words["verb"] == "prepare":
        job = Job(**words["job"])
        ready = prepare(job)
        ready.run(2)
        sides.append((ready, max(1, round(job.seconds / timed(ready.run, 1)))))
        told = {name: value for name, value in ready._asdict().items() if not callable(value)}
        return told | {"place": len(sides) - 1, "steps": sides[-1][1]}
    ready, steps = sides[words["place"]]
    if words["verb"] == "turn":
        ready.run(1)  # Not counted: memory that the system took back while others had their turn is fetched anew.
        return {"seconds": timed(ready.run, steps) / steps}
    return {"peak_bytes": ready.peak_bytes()}


def timed(run: Callable[[int], None], steps: int) -> float:
    """Seconds."""
    started = time.perf_counter()
    run(steps)
    return time.perf_counter() - started
