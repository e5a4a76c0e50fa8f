"""What benchmarks/throughput.py measures in JAX: jaxft's steps, a Flax user's, and what the device does at most."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from drawn import drawn_variables
from flax_imagenet_style import make_state, make_steps
from jaxft.build import Pretrained, Run, build, compute_dtype
from jaxft.config import Config, ImageConfig, ModelConfig
from jaxft.data.augment import Augmented, Batch, EvalBatch, normalise
from jaxft.data.batches import shuffled_order
from jaxft.data.resident import Picks, Store
from jaxft.parallel import put_ahead
from results import spread
from serving import Ready, serve
from sides import Job

CLASSES = ("a", "b")
IN_FLIGHT = 2  # jaxft.loop's, whose imports are not there on every machine.
STORE = 4  # Batches in the resident set.
FLOOR_SECONDS = 0.2
FLOOR_TURNS = 5


def prepare(job: Job) -> Ready:
    """A side, compiled."""
    if job.side == "flax-imagenet-style":
        return flax_side(job)
    return {"train": training_side, "eval": evaluation_side, "resident": resident_side}[job.measure](job)


# jaxft's own steps.


def make_run(job: Job, **options: Any) -> Run:
    """What `python -m jaxft.train` would run."""
    config = Config(
        model=ModelConfig(arch=job.arch, freeze=job.freeze),  # pyright: ignore[reportArgumentType]
        images=ImageConfig(image_size=job.image_size, canvas=job.canvas),
        batch_size=job.batch_size,
        parallel=job.parallel,  # pyright: ignore[reportArgumentType]
        devices=job.devices,
        precision=job.precision,  # pyright: ignore[reportArgumentType]
    )
    return build(config, CLASSES, Pretrained(drawn_variables(job.arch, len(CLASSES)), None), **options)


def noise(num: int, side: int) -> np.ndarray:
    """Images, uint8 [num, side, side, 3]."""
    return np.random.default_rng(0).integers(0, 256, (num, side, side, 3), dtype=np.uint8)


def some_labels(num: int) -> np.ndarray:
    """Labels, int32 [num]."""
    return (np.arange(num) % len(CLASSES)).astype(np.int32)


def only_normalised(_: Key[Array, ""], batch: Batch) -> Augmented:
    """Images of the network's size, normalised."""
    return Augmented(normalise(batch.images))


def training_side(job: Job) -> Ready:
    """The training step on one batch, which is on the device already and is normalised there."""
    run, size = make_run(job, augment=only_normalised), job.batch_size
    sizes = np.full((size, 2), job.image_size, np.int32)
    positions = np.arange(size, dtype=np.int32)
    batch = run.put(Batch._make((noise(size, job.image_size), sizes, some_labels(size), positions)))
    return stateful(run.train_step, run.state, batch, run.key)


def evaluation_side(job: Job) -> Ready:
    """The evaluation step on one batch, which is on the device already and is normalised there."""
    run, size = make_run(job), job.batch_size
    images = noise(size, job.image_size)
    batch = run.put(EvalBatch._make((images, some_labels(size), np.ones(size, np.float32))))
    return stateless(run.eval_step, run.state, batch)


def resident_side(job: Job) -> Ready:
    """The training step as a run takes it from a resident set: picks, canvases, crop and flip, metrics."""
    num = STORE * job.batch_size
    sizes = np.full((num, 2), job.canvas, np.int32)
    store = Store._make((noise(num, job.canvas), sizes, some_labels(num)))
    run = make_run(job, stores=(store, store))
    order, positions = shuffled_order(num, job.batch_size, 0), np.arange(job.batch_size, dtype=np.int32)

    def picks() -> Iterator[Picks]:
        step = 0
        while True:
            yield Picks._make((order(step), positions))
            step += 1

    batches, state = put_ahead(picks(), run.put), run.state

    def go(steps: int) -> None:
        nonlocal state
        window: list[Any] = []
        for _ in range(steps):
            state, metrics = run.train_step(state, next(batches), run.key)
            window.append(metrics)
            jax.block_until_ready(window[-1 - IN_FLIGHT : -IN_FLIGHT])
        assert np.isfinite(jax.device_get(window)).all()

    started = time.perf_counter()
    go(1)
    return Ready(go, time.perf_counter() - started, peak_bytes=peak_bytes)


# A Flax user's.


def flax_side(job: Job) -> Ready:
    """A network and steps as in Flax's ImageNet example, on one normalised batch."""
    dtype = compute_dtype(job.precision, job.platform)
    state = make_state(jax.random.key(0), job.arch, len(CLASSES), job.image_size, dtype)
    train_step, eval_step = make_steps()
    images = np.random.default_rng(0).normal(size=(job.batch_size, job.image_size, job.image_size, 3))
    batch = jax.device_put({"image": images.astype(dtype), "label": some_labels(job.batch_size)})
    return stateful(train_step, state, batch) if job.measure == "train" else stateless(eval_step, state, batch)


# Compiled steps as sides.


def stateful(step: Any, state: Any, *rest: Any) -> Ready:
    """Of a step `(state, …) -> (state, metrics)` that takes the state's buffers."""
    compiled, told = compiled_step(step, state, *rest)

    def go(steps: int) -> None:
        nonlocal state
        metrics = None
        for _ in range(steps):
            state, metrics = compiled(state, *rest)
        assert np.isfinite(jax.tree.leaves(jax.device_get(metrics))).all()

    return told._replace(run=go)


def stateless(step: Any, *arguments: Any) -> Ready:
    """Of a step `(state, …) -> sums`."""
    compiled, told = compiled_step(step, *arguments)

    def go(steps: int) -> None:
        sums = None
        for _ in range(steps):
            sums = compiled(*arguments)
        assert np.isfinite(jax.tree.leaves(jax.device_get(sums))).all()

    return told._replace(run=go)


def compiled_step(step: Any, *arguments: Any) -> tuple[Callable, Ready]:
    """The compiled step, and what the compiler says of it."""
    started = time.perf_counter()
    compiled = step.lower(*arguments).compile()
    seconds = time.perf_counter() - started
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    told = Ready(
        lambda _: None,
        seconds,
        cost.get("flops"),
        cost.get("bytes accessed"),
        memory and memory.temp_size_in_bytes,
        peak_bytes,
    )
    return compiled, told


def peak_bytes() -> int | None:
    """The most that this process has had on its first device, where the device says so."""
    stats = jax.local_devices()[0].memory_stats()
    return stats and stats.get("peak_bytes_in_use")


# The device.


def describe(precision: str) -> dict[str, Any]:
    """The device, and what it can do at most: a large matrix product in FLOP a second, a copy in bytes a second."""
    device = jax.local_devices()[0]
    on_cpu = device.platform == "cpu"
    dtype, side = compute_dtype(precision, device.platform), 2048 if on_cpu else 8192
    root = side**-0.5
    factors = [jax.random.normal(jax.random.key(i), (side, side), dtype) for i in range(2)]
    product = jax.jit(lambda x, y: (x @ y) * jnp.asarray(root, dtype), donate_argnums=0)
    values = jnp.ones((1 if on_cpu else 16) * 2**26, jnp.float32)
    turned = jax.jit(jnp.negative, donate_argnums=0)
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "precision": str(jnp.dtype(dtype)),
        "matmul_flops": rate(lambda x: product(x, factors[1]), factors[0], 2 * side**3),
        "bytes_per_second": rate(turned, values, 2 * values.nbytes),
    }


def rate(step: Callable[[Array], Array], x: Array, work: float) -> tuple[float, float, float]:
    """Work a second of a step that is done again and again: median, least and most of some turns, after one more."""
    rates = []
    x, num = jax.block_until_ready(step(x)), 1
    for _ in range(FLOOR_TURNS + 1):
        started = time.perf_counter()
        for _ in range(num):
            x = step(x)
        jax.block_until_ready(x)
        seconds = time.perf_counter() - started
        rates.append(num * work / seconds)
        num = max(1, round(FLOOR_SECONDS * num / seconds))
    return spread(rates[1:])


if __name__ == "__main__":
    serve(prepare, describe)
