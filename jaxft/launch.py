"""Which processes make up a run: what the flags say, and what SLURM, Open MPI and Cloud TPU do. No JAX in here."""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from jaxft.errors import UserError

ORTE = "OMPI_MCA_orte_hnp_uri"
"""Where JAX finds process 0's host; Open MPI 5 no longer has it."""


class Processes(NamedTuple):
    """The processes of a run as flags or a launcher name them; None: JAX finds out."""

    coordinator: str | None = None
    """HOST:PORT of process 0."""
    num: int | None = None
    id: int | None = None
    local_index: int | None = None
    """Which of the processes on this host this is: it has the device of that number. None: it has all that it sees."""


def launched(environment: Mapping[str, str]) -> Processes | None:
    """What SLURM's srun, Open MPI's mpirun or a Cloud TPU says of the processes that it started; None for one alone."""
    env = environment.get
    # Open MPI first: within SLURM it starts its own daemons by srun, whose variables its processes inherit.
    if num := env("OMPI_COMM_WORLD_SIZE"):
        index, local = env("OMPI_COMM_WORLD_RANK", "0"), env("OMPI_COMM_WORLD_LOCAL_RANK", "0")
        alone = env("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    # Of a batch script SLURM says how many tasks it might start; of a step, how many it did.
    elif num := env("SLURM_STEP_NUM_TASKS"):
        per_host = re.sub(r"\(x\d+\)", "", env("SLURM_STEP_TASKS_PER_NODE", ""))
        index, local, alone = env("SLURM_PROCID", "0"), env("SLURM_LOCALID", "0"), set(per_host.split(",")) == {"1"}
    else:
        return Processes() if on_tpu(environment) else None
    visible = env("CUDA_VISIBLE_DEVICES") or env("ROCR_VISIBLE_DEVICES")
    bound = "SLURM_GPUS_PER_TASK" in environment or (visible is not None and "," not in visible)
    return None if num == "1" else Processes(None, int(num), int(index), None if alone or bound else int(local))


def on_tpu(environment: Mapping[str, str], dev: Path = Path("/dev")) -> bool:
    """Whether this is a Cloud TPU's machine, of a slice that may have several."""
    chips = [*dev.glob("accel*"), *dev.glob("vfio/*")]
    platforms = (environment.get("JAX_PLATFORMS") or "tpu").split(",")
    return bool(chips) and find_spec("libtpu") is not None and "tpu" in platforms


def find(flags: Processes, environment: Mapping[str, str]) -> Processes | None:
    """The flags, completed by the launcher; None for a process alone.

    Raises:
        UserError: flags that say too little, or that cannot be.
    """
    if flags.num == 1:
        return None
    found = launched(environment)
    if found is None and flags == Processes():
        return None
    if found is None and None in flags[:3]:
        raise UserError(
            "--coordinator, --num-processes and --process-id go together: HOST:PORT of process 0, how many processes "
            "there are, and which of them this is, counted from 0. Pass all three, or none."
        )
    pairs = zip(flags, found or flags, strict=True)
    given = Processes._make(told if flag is None else flag for flag, told in pairs)
    if given.num is not None and given.id is not None and not 0 <= given.id < given.num:
        raise UserError(
            f"--process-id {given.id}: must lie in 0 to {given.num - 1}, for --num-processes is {given.num}."
        )
    if given.coordinator is not None and not re.fullmatch(r".+:\d+", given.coordinator):
        raise UserError(f"--coordinator {given.coordinator}: not HOST:PORT. Write it like host0:12345.")
    if given.coordinator is None and "OMPI_COMM_WORLD_SIZE" in environment and ORTE not in environment:
        raise UserError("this Open MPI does not say where process 0 is. Pass --coordinator HOST:PORT.")
    return given


def local_device_ids(found: Processes, environment: Mapping[str, str]) -> Sequence[int] | None:
    """What JAX is told of the devices that are this process's."""
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return None  # JAX reads it.
    # None would have JAX leave each process of a launcher one device, also where it is alone on its host.
    return [] if found.local_index is None else [found.local_index]
