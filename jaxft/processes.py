"""Several processes as one run, by JAX's distributed runtime: how they join, agree, hear of each other and end."""

import json
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxft.data.sharing import Sharing
from jaxft.errors import BEFORE_TRAINING, EXIT_INTERRUPTED, EXIT_MISTAKE, EXIT_STOPPED, UserError
from jaxft.launch import Processes, local_device_ids

CONNECT_SECONDS = 300
LAST_WORDS_SECONDS = 2
SHOWN = 200
LOST = re.compile(r"Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|[Cc]oordination|[Hh]eartbeat|[Cc]onnection")
"""What JAX's errors say where a process does not hear from another one any more."""

T = TypeVar("T")


@contextmanager
def joined(found: Processes | None, heartbeat_seconds: int) -> Iterator[None]:
    """Join the run's other processes, and part from them at the end; call it before JAX touches a device.

    A process that ends by an error does so at once, for an orderly end would wait for the others; they stop after
    `heartbeat_seconds`.

    Raises:
        UserError: the others cannot be reached.
    """
    if found is None:
        yield
        return
    connect(found, heartbeat_seconds)
    try:
        yield
    except BaseException as error:
        _end(error)
    jax.distributed.shutdown()


def connect(found: Processes, heartbeat_seconds: int) -> None:
    """Start JAX's distributed runtime."""
    by_flags = None not in found[:3]
    if by_flags and found.id != 0:
        reach(str(found.coordinator), CONNECT_SECONDS)
    try:
        jax.distributed.initialize(
            found.coordinator,
            found.num,
            found.id,
            local_device_ids=local_device_ids(found, os.environ),
            cluster_detection_method="deactivate" if by_flags else None,
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the processes of this run did not find each other ({reason}). Start all of them within "
            f"{CONNECT_SECONDS} seconds, with the same --coordinator HOST:PORT, reachable from each, and "
            "--num-processes, each with its own --process-id; or pass --num-processes 1 for this one alone."
        ) from None


def reach(coordinator: str, seconds: float) -> None:
    """Wait until process 0 listens.

    Raises:
        UserError: it does not, for so many seconds: JAX would end this process with a stack of C++.
    """
    host, _, port = coordinator.rpartition(":")
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                reason = error.strerror or str(error)
                raise UserError(
                    f"--coordinator {coordinator}: nobody there after {seconds:g} seconds ({reason}). Start process 0 "
                    "on that host, and see that the port is free there and open to the others."
                ) from None
            time.sleep(0.2)


def _end(error: BaseException) -> None:
    """Say why this process ends, and end it."""
    status = 1
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
        status = EXIT_MISTAKE
    elif isinstance(error, KeyboardInterrupt):
        print(BEFORE_TRAINING, file=sys.stderr)
        status = EXIT_INTERRUPTED
    elif isinstance(error, jax.errors.JaxRuntimeError | ValueError) and LOST.search(str(error)):
        print(
            f"error: process {jax.process_index()} lost another process of this run: {str(error).splitlines()[0]}\n"
            "Start all of them again with --resume.",
            file=sys.stderr,
        )
        status = EXIT_STOPPED
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():
        # JAX ends the others when process 0 has gone; first they may say what they have to.
        time.sleep(LAST_WORDS_SECONDS)
    os._exit(status)


def is_first() -> bool:
    """Whether this is process 0, which writes the run's folder and speaks to the user."""
    return jax.process_index() == 0


def agreed(work: Callable[[], T]) -> T:
    """What `work` gives, once it is done in every process; where it fails in one, it fails in all.

    Raises:
        UserError: the first one's of any process, which it names.
    """
    if jax.process_count() == 1:
        return work()
    result, error = None, ""
    try:
        result = work()
    except UserError as failed:
        error = str(failed)
    for index, message in enumerate(exchange(error.encode())):
        if message:
            raise UserError(f"process {index}: {message.decode()}")
    return result  # pyright: ignore[reportReturnType]


def check_same(mine: Mapping[str, Any]) -> None:
    """Raise a UserError, in every process, where one of these facts, as JSON has them, is not the same in all."""
    told = [json.loads(text) for text in exchange(json.dumps(mine).encode())]
    for index, theirs in enumerate(told):
        for name, value in told[0].items():
            if theirs[name] != value:
                raise UserError(
                    f"{name}: {shortened(value)} in process 0, {shortened(theirs[name])} in process {index}. Start all "
                    "processes with the same flags on the same files."
                )


def shortened(value: Any) -> str:
    """A value as JSON has it, of which a long one's start will do."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def gather(array: np.ndarray) -> np.ndarray:
    """Every process's array, of one shape: [...] to [processes, ...]; to every process."""
    return _across(_as_it_is, np.asarray(array)[None])


def exchange(content: bytes) -> list[bytes]:
    """Every process's content, in the order of the processes, to every process."""
    if jax.process_count() == 1:
        return [content]
    lengths = gather(np.array(len(content), np.int32))
    # Of few sizes, for each is compiled anew.
    padded = np.zeros(1 << int(lengths.max()).bit_length(), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = gather(padded)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def told_by_first(value: T) -> T:
    """Process 0's value, as JSON has it, in every process."""
    return json.loads(exchange(json.dumps(value).encode())[0])


def sharing() -> Sharing | None:
    """How the processes share out decoding; None for one alone."""
    if jax.process_count() == 1:
        return None
    return Sharing(jax.process_index(), jax.process_count(), gather, exchange)


def from_first(tree: Any) -> Any:
    """Process 0's arrays, as NumPy arrays, in every process; bit for bit."""
    if jax.process_count() == 1:
        return tree
    arrays = jax.tree.map(np.asarray, jax.device_get(tree))
    # As bits: they are summed with the others' zeros, and -0.0 + 0.0 is 0.0.
    bits = jax.tree.map(_bits, arrays)
    sent = bits if is_first() else jax.tree.map(np.zeros_like, bits)
    summed = _across(_summed, jax.tree.map(lambda x: x[None], sent))
    return jax.tree.map(lambda bits, array: bits.view(array.dtype).reshape(array.shape), summed, arrays)


def _across(function: Callable, tree: Any) -> Any:
    """A function of the [processes, ...] that each process's [1, ...] make, over one device of each process.

    JAX compiles it once for each shape, if it is the same function each time.
    """
    firsts = [next(d for d in jax.devices() if d.process_index == i) for i in range(jax.process_count())]
    mesh = Mesh(np.asarray(firsts), ("processes",))
    split, whole = NamedSharding(mesh, P("processes")), NamedSharding(mesh, P())
    placed = jax.tree.map(partial(jax.make_array_from_process_local_data, split), tree)
    return jax.tree.map(np.asarray, jax.jit(function, out_shardings=whole)(placed))


def _as_it_is(x: Any) -> Any:
    return x


def _summed(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.sum(0, dtype=x.dtype), tree)


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")
