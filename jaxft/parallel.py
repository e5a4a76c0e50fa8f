"""One step body over all devices, compiled by jit(shard_map) or by pmap; how state and batches are laid out for it."""

import inspect
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxft.errors import UserError, nearest_batch_sizes
from jaxft.host import free_host_memory
from jaxft.step import AXIS

T = TypeVar("T")

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"

Mode = Literal["jit", "pmap"]
"""How a step is compiled for all devices: jit with shard_map, or pmap. The numbers are the same."""
Devices = Sequence[Any]
"""Of jax.Device, which jax declares as a variable: no type to a checker."""


def make_deterministic() -> None:
    """Have a GPU give the same bits each time; call it before JAX touches a device."""
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}"


def local_devices(count: int | None = None) -> Devices:
    """The first `count` devices of this process; all when None.

    Raises:
        UserError: there are fewer.
    """
    devices = jax.local_devices()
    if count is not None and count > len(devices):
        raise UserError(f"--devices {count}: this machine has {len(devices)}. Pass --devices {len(devices)} or fewer.")
    return devices[:count]


def all_devices(count: int | None = None) -> Devices:
    """The first `count` devices of every process, in the order of the processes; all when None.

    Raises:
        UserError: a process has fewer than another.
    """
    num = len(local_devices(count))
    by_process = [[d for d in jax.devices() if d.process_index == index] for index in range(jax.process_count())]
    least = min(map(len, by_process))
    if num > least:
        raise UserError(f"some processes have {num} devices, others {least}. Pass --devices {least} to all.")
    return [device for devices in by_process for device in devices[:num]]


def own(devices: Devices) -> Devices:
    """Those of the devices that are this process's."""
    return [devices[place] for place in own_places(devices)]


def own_places(devices: Devices) -> list[int]:
    """Where in the row of all devices this process's are."""
    return [place for place, device in enumerate(devices) if device.process_index == jax.process_index()]


def free_memory(devices: Devices) -> int:
    """Bytes that each of this process's devices may still take, by what its runtime says; on the CPU, its share of the
    free memory.
    """
    stats = [device.memory_stats() for device in devices]
    if all(stat and "bytes_limit" in stat for stat in stats):
        return min(stat["bytes_limit"] - stat["bytes_in_use"] for stat in stats)
    return free_host_memory() // len(devices)


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Raise a UserError, naming the nearest sizes, where the batch does not split evenly over the devices."""
    if batch_size % num_devices:
        nearest = nearest_batch_sizes(batch_size, num_devices)
        raise UserError(f"--batch-size {batch_size} does not split over {num_devices} devices. Pass {nearest}.")


def over_devices(step: Callable, devices: Devices, mode: Mode = "jit", *, donate: bool = False) -> Callable:
    """Compile a step for these devices; all of them together do it as one would.

    Args:
        step: `(state, batch, …) -> …`, as one device sees it: its part of the batch, and the rest whole. It averages or
            sums over the axis "data", so that what it returns is the same everywhere.
        devices: such as `local_devices` gives.
        mode: the same for `put_batch`.
        donate: the first argument's buffers are reused for the result; it cannot be read afterwards.
    """
    donated = (0,) if donate else ()
    rest = len(inspect.signature(step).parameters) - 2
    if mode == "pmap":
        return jax.pmap(
            step, AXIS, in_axes=(None, 0, *[None] * rest), out_axes=None, devices=devices, donate_argnums=donated
        )
    # check_vma=True would hand over gradients already summed over devices: 8 would train differently from 1.
    mapped = jax.shard_map(
        step, mesh=mesh_of(devices), in_specs=(P(), P(AXIS), *[P()] * rest), out_specs=P(), check_vma=False
    )
    return jax.jit(mapped, donate_argnums=donated)


def mesh_of(devices: Devices) -> Mesh:
    """The devices in one row, along the axis "data"."""
    return Mesh(np.asarray(devices), (AXIS,))


def put_batch(batch: Any, devices: Devices, mode: Mode = "jit") -> Any:
    """Arrays [b, …] on the host to the devices, an even part each; returns before the copy is done.

    Of several processes each brings its own devices' part.
    """
    mine = own(devices)
    if mode == "pmap":
        batch = jax.tree.map(lambda x: x.reshape(len(mine), -1, *x.shape[1:]), batch)
        return jax.device_put(batch, NamedSharding(mesh_of(mine), P(AXIS)))
    return _placed(batch, devices, P(AXIS))


def put_ahead(batches: Iterator[Any], put: Callable[[Any], Any]) -> Iterator[Any]:
    """The batches on the devices: while a step runs on one, the next is already there and its successor on its way."""
    ready = deque(map(put, islice(batches, 1)))
    while ready:
        ready.extend(map(put, islice(batches, 1)))
        yield ready.popleft()


def put_shared(tree: Any, devices: Devices) -> Any:
    """A copy of the tree on every device, to be read only; every process brings the same one."""
    return _placed(tree, devices, P())


def put_replicated(tree: Any, devices: Devices) -> Any:
    """A copy of the tree on every device, such as a step's state: nobody else owns it, so that it may be donated."""
    return copied(put_shared(tree, devices))


@jax.jit
def copied(tree: Any) -> Any:
    """A copy of arrays where they are: a step may be given it to donate, and the arrays stay."""
    return jax.tree.map(jnp.copy, tree)


def replicated(make: Callable[[], T], devices: Devices) -> T:
    """The arrays that `make` gives, made on every device; they may be donated."""
    return jax.jit(make, out_shardings=NamedSharding(mesh_of(devices), P()))()


def _placed(tree: Any, devices: Devices, spec: P) -> Any:
    sharding = NamedSharding(mesh_of(devices), spec)
    if len(own(devices)) == len(devices):
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)
