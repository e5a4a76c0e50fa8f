"""The tables of benchmarks/throughput.py."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from flops import Flops, model_flops
from results import Spread, spread, table
from sides import Measured

STEPS = {"train": "training", "eval": "inference", "resident": "training, resident"}


class Comparison(NamedTuple):
    """Sides that took turns, jaxft's first; against peers, or jaxft's own against each other."""

    own: bool
    sides: Sequence[Measured]


Device = dict[str, Any]
"""platform, kind, precision, matmul_flops and bytes_per_second (each median, least and most)."""


def images_per_second(side: Measured) -> Spread:
    """Of the turns."""
    return spread(side.job.batch_size / np.array(side.seconds))


def ratio(side: Measured, other: Measured) -> Spread | None:
    """How many times as fast `side` is as `other`, turn by turn; None where one of them has failed."""
    if side.failed or other.failed:
        return None
    speeds = [measured.job.batch_size / np.array(measured.seconds) for measured in (side, other)]
    return spread(speeds[0] / speeds[1])


def flops_of(side: Measured) -> float:
    """The model's FLOPs of a step, the same whoever computes it: those of its layers, the batch over."""
    job = side.job
    found: Flops = model_flops(job.arch, job.image_size, 2, job.freeze)
    return job.batch_size * (found.forward if job.measure == "eval" else found.training)


def peak(side: Measured, device: Device) -> float:
    """The FLOP a second of the side's devices by the measured matrix product; virtual ones of a CPU share it."""
    return device["matmul_flops"][0] * (1 if device["platform"] == "cpu" else side.job.devices)


def utilisation(side: Measured, device: Device) -> float:
    """The share of that which the model's FLOPs take, 0 to 1."""
    return flops_of(side) / float(np.median(side.seconds)) / peak(side, device)


def memory_bytes(side: Measured, device: Device) -> int | None:
    """The process's peak on a GPU; elsewhere the temporary memory of the compiled step."""
    return side.peak_bytes if device["platform"] == "gpu" else side.compiled.get("temp_bytes")


def text_of(comparisons: Sequence[Comparison], device: Device, turns: int) -> str:
    """The section of a network in a precision, without its conditions."""
    sides = [side for comparison in comparisons for side in comparison.sides]
    job = sides[0].job
    parts = [opening(job.arch, job.image_size, device, turns, job.parallel, job.devices)]
    against = [comparison for comparison in comparisons if not comparison.own]
    if against:
        parts += [peers_table(against, device), *best_lines(against)]
    own = [comparison for comparison in comparisons if comparison.own]
    if own:
        parts.append(own_table(own))
    accounted = [comparison.sides[0] for comparison in against if not comparison.sides[0].failed]
    if accounted:
        parts.append(floor_table(accounted, device))
    return "\n\n".join(parts)


def opening(arch: str, image_size: int, device: Device, turns: int, parallel: str, devices: int) -> str:
    """What is measured."""
    memory = "the process's peak on the device, which for JAX has what compiling took in it"
    if device["platform"] != "gpu":
        memory = "the temporary memory of the compiled step, which PyTorch does not know"
    return f"""{arch} at {image_size} pixels in {device["precision"]}, {devices} x {device["kind"]}; jaxft compiled by
{parallel}. Each side has one batch, which is on the device already; jaxft normalises it there, a peer's is normalised.
n = {turns} turns, median (least to most), after a turn that is not counted; the sides of a comparison take turns, each
in a process of its own, and a ratio is that of each turn. A turn's first step is not counted: it fetches anew what
memory the system took back while others had theirs, which a run keeps. A side's best batch is bold. To compile is
without a cache. Memory is {memory}.
Use is the model's FLOPs, those of convolutions and classifier as far as something trains, the same for all sides, over
those of a large matrix product of XLA's in this precision, {number(device["matmul_flops"], 1e12)} TFLOP a second
here."""


def peers_table(comparisons: Sequence[Comparison], device: Device) -> str:
    """Each side at each batch, and by how much jaxft is faster."""
    best = best_sides(comparisons)
    rows = []
    for comparison in comparisons:
        ours = comparison.sides[0]
        for side in comparison.sides:
            job = side.job
            row = [STEPS[job.measure], job.freeze, str(job.batch_size), job.side]
            if side.failed:
                rows.append([*row, side.failed, "", "", "", ""])
                continue
            speed = str(images_per_second(side))
            row.append(f"**{speed}**" if side is best[key(side)] else speed)
            row.append("" if side is ours else str(ratio(ours, side) or ""))
            row.append(number(side.compiled["compile_seconds"]))
            row.append(number(memory_bytes(side, device), 1e6))
            rows.append([*row, f"{100 * utilisation(side, device):.1f}"])
    header = ["step", "frozen to", "batch", "", "images a second", "jaxft over it"]
    return table([*header, "compile, s", "memory, MB", "use, %"], rows)


def key(side: Measured) -> tuple[str, str, str]:
    """What is the same at each batch."""
    return side.job.measure, side.job.freeze, side.job.side


def best_sides(comparisons: Iterable[Comparison]) -> dict[tuple[str, str, str], Measured]:
    """Of each key, the side at the batch that is fastest."""
    found: dict[tuple[str, str, str], Measured] = {}
    for comparison in comparisons:
        for side in comparison.sides:
            if not side.failed:
                before = found.setdefault(key(side), side)
                if images_per_second(side).median > images_per_second(before).median:
                    found[key(side)] = side
    return found


def best_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """A table of the best batch of each against the best of jaxft, where there are several batches."""
    if len({comparison.sides[0].job.batch_size for comparison in comparisons}) < 2:
        return []
    best, rows = best_sides(comparisons), []
    for (measure, freeze, name), theirs in best.items():
        ours = best.get((measure, freeze, "jaxft"))
        if ours is None or name == "jaxft":
            continue
        speeds = [images_per_second(side).median for side in (ours, theirs)]
        batches = f"{ours.job.batch_size} against {theirs.job.batch_size}"
        rows.append([STEPS[measure], freeze, name, batches, f"{speeds[0] / speeds[1]:.2f}"])
    return [table(["step", "frozen to", "peer", "best batches", "jaxft over it"], rows)] if rows else []


def own_table(comparisons: Sequence[Comparison]) -> str:
    """jaxft's training step against its own of all layers: fed from a resident set, and frozen."""
    rows = []
    for comparison in comparisons:
        whole = comparison.sides[0]
        for side in comparison.sides:
            row = [STEPS[side.job.measure], side.job.freeze, str(side.job.batch_size)]
            if side.failed:
                rows.append([*row, side.failed, "", "", ""])
                continue
            row += [str(images_per_second(side)), "1" if side is whole else str(ratio(side, whole) or "")]
            temporary, reference = (each.compiled.get("temp_bytes") for each in (side, whole))
            row.append(number(temporary, 1e6))
            rows.append([*row, f"{temporary / reference:.3f}" if temporary and reference else ""])
    return f"""jaxft against its own training step of all layers: taking its batches from a set of canvases in device
memory, as a run does (crop, flip and metrics included), and with layers frozen. Temporary memory is the compiled
step's.

{table(["step", "frozen to", "batch", "images a second", "ratio", "temporary, MB", "ratio"], rows)}"""


def floor_table(sides: Sequence[Measured], device: Device) -> str:
    """What a step takes and what it must: its FLOPs and bytes over what the device does at most."""
    rows = []
    for side in sides:
        job, told, step = side.job, side.compiled, float(np.median(side.seconds))
        devices = 1 if device["platform"] == "cpu" else job.devices
        compute = flops_of(side) / peak(side, device)
        row = [STEPS[job.measure], job.freeze, str(job.batch_size), number(1e3 * step), number(flops_of(side), 1e9)]
        row += [number(told["flops"], 1e9 / job.devices), number(1e3 * compute)]
        bytes_accessed = told["bytes_accessed"]
        if bytes_accessed is None:
            rows.append([*row, "", "", f"{100 * compute / step:.0f}"])
            continue
        memory = bytes_accessed * job.devices / devices / device["bytes_per_second"][0]
        row += [number(bytes_accessed * job.devices, 1e9), number(1e3 * memory)]
        rows.append([*row, f"{100 * max(compute, memory) / step:.0f}"])
    fewer = ""
    if device["platform"] == "cpu":
        fewer = "\nOn a CPU jaxft's 3x3 convolutions take 16 products for 36: a step may pass this floor, and all use."
    header = ["step", "frozen to", "batch", "ms", "GFLOP, model", "GFLOP, XLA", "ms at most FLOPs", "GB, XLA"]
    return f"""Where jaxft's step stands: the model's FLOPs at the speed of that matrix product, and the bytes that XLA
counts, each operation's operands and results, at the speed of a large copy,
{number(device["bytes_per_second"], 1e9)} GB a second here. The larger of the two is the floor. XLA counts a loop's body
once, bytes that stay in a cache too, and no products with padding.{fewer}

{table([*header, "ms at most bytes", "floor, %"], rows)}"""


def number(value: float | Sequence[float] | None, unit: float = 1.0) -> str:
    """A figure of three digits in a unit, of several the first; nothing for what is not known."""
    if value is None:
        return ""
    first = (value[0] if isinstance(value, Sequence) else value) / unit
    return f"{first:,.0f}" if first >= 100 else f"{first:.3g}"
