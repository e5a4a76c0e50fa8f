"""What more devices cost a training step, and bring: what it communicates, and how many images a second it trains on.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --measure time --batch-per-device 256 --deterministic

Communication is read off the program that XLA compiled, on as many devices as there are, or on eight virtual ones of
the CPU. Time is measured where there are GPUs or TPUs; on the CPU only when it is asked for, to try the script, and not
written down: virtual devices share the cores.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from collectives import Traffic, collectives_in, traffic
from drawn import drawn_variables
from jaxft.build import Pretrained, Run, build
from jaxft.config import Config, ImageConfig, ModelConfig
from jaxft.data.augment import Batch
from jaxft.errors import run_command
from jaxft.parallel import DETERMINISTIC, Mode
from results import Spread, command, conditions, table, take_turns, write_section

NUM_VIRTUAL = 8
CLASSES = ("a", "b")


class Setting(NamedTuple):
    """A training step to look at."""

    arch: str
    devices: int
    freeze: str = "none"
    sync_bn: bool = True
    parallel: Mode = "jit"
    width: int = 64
    image_size: int = 224


class Communication(NamedTuple):
    """What a step communicates: its collectives ("35 all-reduce"), their bytes, and those of what trains."""

    collectives: str
    traffic: Traffic
    trainable: int


def main() -> int:
    """The command; returns its exit status."""
    arguments = parse_arguments()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={NUM_VIRTUAL}"
    if arguments.json:
        print(json.dumps(speeds(arguments)))
        return 0
    # Before this process takes the devices and their memory.
    deterministic = in_own_process(DETERMINISTIC) if arguments.deterministic else None
    on_cpu = jax.default_backend() == "cpu"
    measure = arguments.measure or (["communication"] if on_cpu else ["communication", "time"])
    devices = f"{jax.local_device_count()} devices, {jax.local_devices()[0].device_kind}"
    closing = f"{devices}; {conditions(arguments.commit)}.\n\n    {command()}"
    if "communication" in measure:
        text = f"{communication_tables(arguments)}\n\n{closing}"
        print(text)
        write_section("Scaling: what a training step communicates", text)
    if "time" in measure or deterministic:
        text = f"{speed_table(arguments, speeds(arguments), deterministic)}\n\n{closing}"
        print(text)
        if not on_cpu:
            write_section("Scaling: images a second", text)
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line; by argparse, for the machines with many devices tend to have few packages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--measure", nargs="+", choices=["communication", "time"], help="both on GPUs and TPUs, else communication")
    add("--arch", nargs="+", default=["resnet18", "resnet50"], help="networks")
    add("--width", type=int, default=64, help="channels of the stem; fewer for a quick try")
    add("--image-size", type=int, default=224, help="in pixels")
    add("--freeze", nargs="+", default=["none", "layer3", "backbone"], help="communication: up to where to freeze")
    add("--parallel", choices=["jit", "pmap"], default="jit", help="time: how the step is compiled")
    add("--batch-per-device", type=int, default=128, help="time: images a step on each device")
    add("--canvas", type=int, default=384, help="time: side of the training images, in pixels")
    add("--steps", type=int, default=20, help="time: steps a turn")
    add("--turns", type=int, default=5, help="time: turns, after one that is not counted")
    add("--deterministic", action="store_true", help=f"time: also with {DETERMINISTIC}, in a process of its own")
    add("--json", action="store_true", help="time: print the figures as JSON and write nothing, as that process does")
    add("--commit", help="what is checked out, where git cannot tell")
    return parser.parse_args()


def device_counts() -> list[int]:
    """1, 2, 4, … as far as the local devices go."""
    return [2**i for i in range(jax.local_device_count().bit_length())]


# A step to look at.


def make_run(setting: Setting, batch_size: int) -> Run:
    """The step of `python -m jaxft.train`, on a network with random weights."""
    config = Config(
        model=ModelConfig(arch=setting.arch, width=setting.width, freeze=setting.freeze),  # pyright: ignore[reportArgumentType]
        images=ImageConfig(image_size=setting.image_size),
        batch_size=batch_size,
        parallel=setting.parallel,
        devices=setting.devices,
        sync_bn=setting.sync_bn,
    )
    return build(config, CLASSES, Pretrained(drawn_variables(setting.arch, len(CLASSES), setting.width), None))


def synthetic_batch(batch_size: int, canvas: int) -> Batch:
    """Canvases of noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, canvas, canvas, 3), dtype=np.uint8)
    sizes = np.full((batch_size, 2), canvas, np.int32)
    labels = rng.integers(0, len(CLASSES), batch_size).astype(np.int32)
    return Batch._make([images, sizes, labels, np.arange(batch_size, dtype=np.int32)])


# What it communicates.


def communication_tables(arguments: argparse.Namespace) -> str:
    """A table a network; compilers and numbers of devices that come to the same share a row."""
    tables = []
    for arch in arguments.arch:
        rows = []
        for freeze in arguments.freeze:
            for sync_bn in (True, False):
                alike: dict[Communication, list[Setting]] = {}
                for parallel, devices in compilers_and_devices():
                    setting = Setting(arch, devices, freeze, sync_bn, parallel, arguments.width, arguments.image_size)
                    alike.setdefault(communication(setting), []).append(setting)
                rows += [row(settings, found) for found, settings in alike.items()]
        tables.append(f"{arch}, {arguments.image_size} pixels:\n\n{table(HEADER, rows)}")
    return "\n\n".join([EXPLANATION, *tables])


EXPLANATION = """Collectives in the compiled program, and the MB that each device hands to them in a step; neither
depends on the number of images. The ideal is one all-reduce of the gradients of what trains, and for synchronised
BatchNorm one forward and one backward for each layer that waits for another one's: a shortcut's goes along with its
neighbour's. The ratio is of all MB to those of the parameters that train. Gradients that are equal, such as those of a
shortcut's bias and its neighbour's, XLA sends once. Other are running statistics."""

HEADER = (
    *("frozen to", "BatchNorm", "compiled by", "devices", "collectives", "MB", "that train", "ratio"),
    *("gradients", "BatchNorm forward", "backward", "other", "metrics, bytes"),
)


def compilers_and_devices() -> Iterator[tuple[Mode, int]]:
    """Jit on 1, 2, 4, … devices, and pmap on the most of them."""
    counts = device_counts()
    for devices in counts:
        yield "jit", devices
    yield "pmap", counts[-1]


def row(settings: list[Setting], found: Communication) -> list[str]:
    """A line of the table: all of the settings came to this."""
    total = sum(found.traffic)
    parts = (found.traffic.gradients, found.traffic.forward, found.traffic.backward, found.traffic.other)
    return [
        settings[0].freeze,
        "synchronised" if settings[0].sync_bn else "by device",
        ", ".join(dict.fromkeys(setting.parallel for setting in settings)),
        ", ".join(dict.fromkeys(str(setting.devices) for setting in settings)),
        found.collectives,
        f"{total / 1e6:.3f}",
        f"{found.trainable / 1e6:.3f}",
        f"{total / found.trainable:.4f}",
        *(f"{part / 1e6:.3f}" for part in parts),
        str(found.traffic.metrics),
    ]


def communication(setting: Setting) -> Communication:
    """What a training step communicates, by its compiled program."""
    batch_size = 2 * setting.devices
    run = make_run(setting, batch_size)
    batch = run.put(synthetic_batch(batch_size, setting.image_size))
    step: Any = run.train_step  # Its type does not say that it is jitted.
    found = collectives_in(step.lower(run.state, batch, run.key).compile().as_text())
    counts = Counter(collective.opcode for collective in found)
    sizes = jax.tree.map(lambda x, label: x.nbytes * (label != "frozen"), run.state.params, run.labels)
    return Communication(
        ", ".join(f"{count} {opcode}" for opcode, count in counts.items()) or "none",
        traffic(found),
        sum(jax.tree.leaves(sizes)),
    )


# How fast it is.


def speeds(arguments: argparse.Namespace) -> dict[str, list[Spread]]:
    """Images a second of each network on 1, 2, 4, … devices."""
    return {
        arch: take_turns(arguments.turns, *(images_per_second(arguments, arch, devices) for devices in device_counts()))
        for arch in arguments.arch
    }


def images_per_second(arguments: argparse.Namespace, arch: str, devices: int) -> Callable[[], float]:
    """A turn: some steps on one batch, which is on the devices already."""
    batch_size = devices * arguments.batch_per_device
    setting = Setting(
        arch, devices, parallel=arguments.parallel, width=arguments.width, image_size=arguments.image_size
    )
    run = make_run(setting, batch_size)
    batch, state = run.put(synthetic_batch(batch_size, arguments.canvas)), run.state

    def turn() -> float:
        nonlocal state
        started = time.perf_counter()
        for _ in range(arguments.steps):
            state, _ = run.train_step(state, batch, run.key)
        jax.block_until_ready(state)
        return arguments.steps * batch_size / (time.perf_counter() - started)

    return turn


def in_own_process(flag: str) -> dict[str, list[Spread]]:
    """The figures of this command line under another flag of XLA, which reads its flags once a process."""
    environment = os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {flag}"}
    words = [sys.executable, __file__, *sys.argv[1:], "--json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    return {arch: [Spread(*spread) for spread in spreads] for arch, spreads in found.items()}


def speed_table(
    arguments: argparse.Namespace, speeds: dict[str, list[Spread]], deterministic: dict[str, list[Spread]] | None
) -> str:
    """Images a second and efficiency; with `deterministic`, its beside them, and by how much it is slower."""
    header = ["network", "devices", "images a second", "efficiency"]
    header += ["deterministic", "efficiency", "% slower"] if deterministic else []
    rows = []
    for arch, spreads in speeds.items():
        for i, devices in enumerate(device_counts()):
            line = [arch, str(devices), str(spreads[i]), f"{spreads[i].median / devices / spreads[0].median:.3f}"]
            if deterministic:
                fixed = deterministic[arch]
                slower = 100 * (1 - fixed[i].median / spreads[i].median)
                line += [str(fixed[i]), f"{fixed[i].median / devices / fixed[0].median:.3f}", f"{slower:.1f}"]
            rows.append(line)
    note = f" Deterministic is {DETERMINISTIC}." if deterministic else ""
    return f"""Images a second that a step trains on: all layers, synchronised BatchNorm, {arguments.image_size} pixels
from canvases of {arguments.canvas}, {arguments.batch_per_device} images on each device, there before the clock starts;
compiled by {arguments.parallel}. n = {arguments.turns} turns of {arguments.steps} steps, median (least to most), after
a turn that is not counted. Efficiency is the speed for each device over that of one alone.{note}

{table(header, rows)}"""


if __name__ == "__main__":
    run_command(main)
