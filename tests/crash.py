"""Kill a run at random moments, resume it each time, and compare it with one that was not killed, bit by bit.

    python tests/crash.py --kills 20 [--seed N] [-- FLAGS OF jaxft.train]

Each kill (SIGKILL) is of a new run of the demo, that saves as often as it can, at a moment drawn from the time in which
it trains; a second one follows where it is drawn. What is compared at the end: the model, every array of the last
checkpoint (parameters, statistics, optimizer), and every metric. Exit status 1 where anything differs.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

sys.path.insert(0, str(Path(__file__).parent))
from runs import environment, finished, has_records, same_bits, same_model, start, without_speed

RUN = ("--epochs", 3, "--save-minutes", 1e-6)
AGAIN = 0.3
"""The chance that a resumed run is killed again."""


def main() -> int:
    """Kill so often, say what happened each time, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of the moments; drawn when not given")
    parser.add_argument("flags", nargs="*", help="more flags of jaxft.train, behind --")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        failures = crash(Path(folder), arguments.kills, seed, (*RUN, *arguments.flags))
    print(f"{arguments.kills - failures} of {arguments.kills} as if they had never been killed")
    return 1 if failures else 0


def crash(folder: Path, kills: int, seed: int, flags: tuple[object, ...] = RUN) -> int:
    """How many of so many killed runs end otherwise than one that was not."""
    draw = random.Random(seed)
    env = environment(compiled=folder / "compiled")
    whole, failures, killed = folder / "whole", 0, 0
    seconds = training_seconds(whole, flags, env)
    while killed < kills:
        out, told = folder / f"run-{killed}", []
        while killed < kills and (not told or draw.random() < AGAIN):
            # At a moment that comes before the run has ended; a resumed one may be short.
            moment = draw.uniform(0, seconds)
            where = kill(out, (*flags, "--resume") if told else flags, env, moment)
            if where is None and told:
                break
            if where is None:
                shutil.rmtree(out)
            else:
                told.append(where)
                killed += 1
        finished(*flags, "--out", out, "--resume", env=env)
        found = differences(out, whole)
        failures += len(told) if found else 0
        print(f"killed {', then '.join(told)}: {'; '.join(found) or 'the same'}", flush=True)
    return failures


def training_seconds(out: Path, flags: tuple[object, ...], env: dict[str, str]) -> float:
    """Run to the end, twice, for the first one compiles; seconds from the second's first record to its end."""
    finished(*flags, "--out", out, env=env)
    process = start(*flags, "--out", out.with_name("timed"), env=env)
    while not has_records(out.with_name("timed")):
        time.sleep(0.01)
    began = time.monotonic()
    process.communicate()
    assert not differences(out.with_name("timed"), out), "two runs that nobody killed differ"
    return time.monotonic() - began


def kill(out: Path, flags: tuple[object, ...], env: dict[str, str], after: float) -> str | None:
    """Start a run, kill it so many seconds after it has begun to train, and say where that was; None: it had ended."""
    before = (out / "metrics.jsonl").stat().st_mtime_ns if has_records(out) else None
    process = start(*flags, "--out", out, env=env)
    while process.poll() is None and not (has_records(out) and (out / "metrics.jsonl").stat().st_mtime_ns != before):
        time.sleep(0.01)
    time.sleep(after)
    process.kill()
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        return None
    names = [path.name for path in (out / "checkpoints").iterdir()]
    steps = [int(name) for name in names if name.isdecimal()]
    saving = any("tmp" in name for name in names)
    return f"at {after:.2f} s, {'saving, ' if saving else ''}newest checkpoint {max(steps, default='none')}"


def differences(out: Path, whole: Path) -> list[str]:
    """What of a run is not as in another."""
    found = []
    if not same_model(out, whole):
        found.append("another model")
    if without_speed(out) != without_speed(whole):
        found.append("other metrics")
    ours, theirs = last_state(out), last_state(whole)
    if ours.keys() != theirs.keys():
        return [*found, "other arrays"]
    return found + [f"another {name}" for name in theirs if not same_bits(ours[name], theirs[name])]


def last_state(out: Path) -> dict[str, np.ndarray]:
    """The arrays of the newest checkpoint, by name."""
    with ocp.CheckpointManager((out / "checkpoints").absolute()) as manager:
        return manager.restore(manager.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore())).state


if __name__ == "__main__":
    sys.exit(main())
