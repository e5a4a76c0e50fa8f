"""The state of a run on disk, by Orbax: the newest two are kept, each written whole or not at all."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from jaxft.step import TrainState

KEPT = 2


def open_checkpoints(folder: Path) -> ocp.CheckpointManager:
    """The manager of a run's `checkpoints/`; close it when the run ends."""
    options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=True)
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save_state(manager: ocp.CheckpointManager, state: TrainState) -> None:
    """Save the state under its step; returns while it is still being written."""
    manager.save(int(state.step), args=ocp.args.StandardSave(state))


def restore_state(manager: ocp.CheckpointManager, like: TrainState) -> TrainState | None:
    """The newest state, laid out over devices as `like` is; None where there is none."""
    step = manager.latest_step()
    if step is None:
        return None
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    return TrainState._make(manager.restore(step, args=ocp.args.StandardRestore(template)))
