"""A run's state on disk, by Orbax: the newest few and the best are kept, each written whole or not at all."""

import json
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from textwrap import shorten
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from jaxft.errors import UserError
from jaxft.options import KEPT
from jaxft.orbax_words import quiet_orbax, why
from jaxft.paths import by_name
from jaxft.step import TrainState

SCORE = "accuracy"  # Where nothing is held out it is the test accuracy; the name on the disk is of that time.
TIMEOUT = 24 * 60 * 60  # Seconds by the wall clock, which jumps ahead where a laptop sleeps while it writes.


class NonFiniteStateError(RuntimeError):
    """An array of the state holds an infinity or a NaN at `step`, so that it was not saved."""

    def __init__(self, step: int, name: str):
        super().__init__(f"{name} became non-finite by step {step}")
        self.step = step


class Restored(NamedTuple):
    """What a checkpoint held, and the newer ones that were passed over."""

    state: TrainState
    """Of NumPy arrays."""
    about: dict[str, Any]
    damaged: tuple[str, ...]
    """A line for each newer checkpoint: where it lay, what is wrong with it, where it lies now."""


class NewestAndBest(PreservationPolicy):
    """Keeps the newest `keep` checkpoints and the one of the highest score, the earliest of equals."""

    def __init__(self, keep: int):
        self.keep = keep
        self.found: dict[int, float | None] = {}
        """Scores of the checkpoints that were there at opening, by step."""

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Whether to keep each; Orbax hands them oldest first, the one being written last."""
        del context
        scores = [self.found.get(each.step) if each.metrics is None else each.metrics[SCORE] for each in checkpoints]
        best = max((value for value in scores if value is not None), default=None)
        place = None if best is None else scores.index(best)
        return [i == place or i >= len(checkpoints) - self.keep for i in range(len(checkpoints))]


@contextmanager
def open_checkpoints(folder: Path, keep: int = KEPT) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints in `folder`, made where it is not there; waits at the end for what is being written.

    One process opens it, process 0 of a run of many: it waits for no other.

    Raises:
        UserError: the folder cannot be written, or at the end what `wait` raises.
    """
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}). Pass another --out.") from None
    policy = NewestAndBest(keep)
    options = ocp.CheckpointManagerOptions(
        create=False,
        cleanup_tmp_directories=True,
        # Otherwise one damaged _CHECKPOINT_METADATA, which nothing here needs, keeps the whole folder from opening.
        lightweight_initialize=True,
        preservation_policy=policy,
        # Not asynchronously: the writers of files wait minutes for a folder that could not be made.
        async_options=ocp.options.AsyncOptions(timeout_secs=TIMEOUT, create_directories_asynchronously=False),
        multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}),
    )
    quiet_orbax()
    manager = ocp.CheckpointManager(folder, options=options)
    for step in manager.all_steps():
        with suppress(Exception):  # A damaged one is `restore`'s to tell of; it is not the best.
            policy.found[step] = _read_about(manager, step)[SCORE]
    try:
        try:
            yield manager
        finally:
            wait(manager)
    except BaseException:
        with suppress(Exception):  # Of a save that failed, which Orbax tells once more.
            manager.close()
        raise
    manager.close()


def save(
    manager: ocp.CheckpointManager, state: TrainState, about: Mapping[str, Any], score: float | None = None
) -> None:
    """Save the state under its step, with what JSON can hold about it; returns while it is still being written.

    `score` is by what the best is kept, where the state was evaluated. A step that is there already is left alone.

    Raises:
        NonFiniteStateError: the state is not worth keeping.
        UserError: what `wait` raises, or this one cannot be written either.
    """
    wait(manager)
    step = int(state.step)
    if step in manager.all_steps():
        return
    arrays = {name: np.asarray(leaf) for name, leaf in by_name(jax.device_get(state)).items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise NonFiniteStateError(step, name)
    described = {name: _describe(array) for name, array in arrays.items()}
    # Through JSON now: the caller's lists may grow while they are being written.
    record = json.loads(json.dumps({"about": about, SCORE: score, "arrays": described}))
    record["digest"] = zlib.crc32(json.dumps(record).encode())
    items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(record))
    with _disk_errors(manager, f"the checkpoint of step {step} could not be written"):
        # Orbax copies the arrays before it returns: on a CPU they are the buffers that the next step is given.
        saved = manager.save(step, args=items, metrics={SCORE: score})
    assert saved, f"step {step} is not after step {manager.latest_step()}"


def wait(manager: ocp.CheckpointManager) -> None:
    """Wait until what is being saved is on the disk.

    Raises:
        UserError: it could not be written; the checkpoints before it are untouched.
    """
    with _disk_errors(manager, f"the checkpoint of step {manager.latest_step()} could not be written"):
        manager.wait_until_finished()


def restore(manager: ocp.CheckpointManager, like: TrainState) -> Restored | None:
    """The newest good checkpoint, of the structure of `like`; None where there is none at all.

    Newer ones that are damaged are moved aside, to STEP.damaged, so that the run can save these steps again.

    Raises:
        UserError: all are damaged, or the newest good one is of another network or optimizer.
    """
    wait(manager)
    folder, damaged = Path(manager.directory), {}
    for step in reversed(_steps(folder)):
        with warnings.catch_warnings():  # Orbax leaves coroutines behind where it stumbles over a damaged tree.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            try:
                state, about = _read(manager, step, like)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # Whatever Orbax says of a folder that is not as it was written.
                reason = why(error) or shorten(str(error), 160)
                damaged[step] = f"{folder / str(step)}: cannot be read ({reason})"
                continue
        return Restored(state, about, tuple(f"{line}; {_set_aside(manager, each)}" for each, line in damaged.items()))
    if damaged:
        lines = "\n  ".join(damaged.values())
        raise UserError(f"No checkpoint is left:\n  {lines}\nStart a new run with another --out.")
    return None


def restore_best(manager: ocp.CheckpointManager, step: int, like: TrainState) -> TrainState:
    """The checkpoint of this step, the best one; of NumPy arrays, in the structure of `like`.

    Raises:
        UserError: it is not there, or damaged.
    """
    try:
        return _read(manager, step, like)[0]
    except (UserError, MemoryError):
        raise
    except Exception as error:  # As in `restore`.
        reason = why(error) or shorten(str(error), 160)
        raise UserError(
            f"{manager.directory / str(step)}: the best checkpoint cannot be read ({reason}). Start a new run with "
            "another --out: the same config gives the same model."
        ) from None


def latest_good(manager: ocp.CheckpointManager) -> int | None:
    """The step of the newest complete checkpoint; not of one that is still being written."""
    return max(_steps(Path(manager.directory)), default=None)


def _steps(folder: Path) -> list[int]:
    """The steps of the complete checkpoints; what is being written, or was cut short, has a longer name."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def _read(manager: ocp.CheckpointManager, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The state and what was saved about it; any exception means damage, but for a UserError: it does not fit."""
    record = _read_about(manager, step)
    wanted = by_name(like)
    _check_fits(f"{manager.directory / str(step)}", record["arrays"], wanted)
    arrays = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
    for name, description in record["arrays"].items():
        if name not in arrays or _describe(arrays[name]) != description:
            raise ValueError(f"{name} is not as it was saved")
    restored = jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in wanted])
    return restored, record["about"]


def _read_about(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    record = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
    digest = record.pop("digest", None)
    if digest != zlib.crc32(json.dumps(record).encode()):
        raise ValueError("about/metadata is not as it was saved")
    return record


def _check_fits(path: str, saved: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Any]) -> None:
    remedy = "Pass the data and the --arch, --freeze and optimizer flags that it was made with, or another --out."
    for name, leaf in wanted.items():
        if name not in saved:
            raise UserError(f"{path} has no {name}, which this run wants. {remedy}")
        dtype, shape = saved[name]["dtype"], tuple(saved[name]["shape"])
        if (dtype, shape) != (leaf.dtype.name, leaf.shape):
            raise UserError(
                f"{path}: {name} is {dtype} {shape} there, and this run wants {leaf.dtype.name} {leaf.shape}. {remedy}"
            )
    surplus = [name for name in saved if name not in wanted]
    if surplus:
        raise UserError(f"{path} has {surplus[0]}, which this run does not have. {remedy}")


def _describe(array: np.ndarray) -> dict[str, Any]:
    numbers = np.ravel(array).view(np.uint8)
    return {"dtype": array.dtype.name, "shape": list(array.shape), "crc32": zlib.crc32(numbers.data)}


def _set_aside(manager: ocp.CheckpointManager, step: int) -> str:
    """Move a damaged checkpoint, so that its step can be saved again; returns the words for it."""
    folder = Path(manager.directory)
    names = (f"{step}.damaged{'' if i == 1 else f'-{i}'}" for i in count(1))
    name = next(name for name in names if not (folder / name).exists())
    with _disk_errors(manager, f"the damaged checkpoint of step {step} could not be moved"):
        (folder / str(step)).rename(folder / name)
    if step in manager.all_steps():
        manager.delete(step)  # From Orbax's list: there is nothing left to delete.
    return f"it lies in {name} now"


@contextmanager
def _disk_errors(manager: ocp.CheckpointManager, what: str) -> Iterator[None]:
    """What the disk refuses is the user's to mend; whatever else goes wrong is not."""
    try:
        yield
    except Exception as error:
        reason = why(error)
        if reason is None:
            raise
        good = latest_good(manager)
        left = "there is no earlier one" if good is None else f"that of step {good} is good"
        raise UserError(
            f"{manager.directory}: {what} ({reason}); {left}. Make room there and run again with --resume."
        ) from error
