"""How fast a step is: jaxft's training and inference against PyTorch's and a Flax user's, on whatever device there is.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --arch resnet50 --batch 64 128 256 --precision bfloat16 --peer torch-compile

Each side runs in a process of its own and they take turns, A B A B. On a TPU, which one process takes for itself,
JAX's sides share one, and PyTorch has none.

On Linux, jaxft has its memory in huge pages, as its command starts itself (jaxft/huge_pages.py); so have all sides
with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxft import huge_pages
from jaxft.errors import EXIT_FOUND, UserError, run_command
from jaxft.resnet import ARCHS, STAGES
from results import RESULTS, command, conditions, write_section
from sides import JAX_SCRIPT, OUT_OF_MEMORY, Job, Worker, take_turns, worker
from throughput_report import Comparison, Device, images_per_second, text_of, utilisation

FLAX = "flax-imagenet-style"
PEERS = ("torch-eager", "torch-compile", FLAX)
DEFAULT_PEER = {"cpu": "torch-eager", "gpu": "torch-compile"}
DEFAULT_BATCHES = {"cpu": [32]}
LARGE_BATCHES = [128, 256, 512]


def main() -> int:
    """The command; returns its exit status, 1 where a peer failed.

    Raises:
        UserError: peers beside several devices, or what a side finds.
    """
    arguments = parse_arguments()
    if arguments.devices > 1 and {"none", *(arguments.peer or ())} != {"none"}:
        raise UserError(f"--devices {arguments.devices}: peers run on one. Pass --peer none, or --devices 1.")
    flags = [
        f"{name}={os.environ[name].strip()}" for name in ("XLA_FLAGS", huge_pages.VARIABLE) if os.environ.get(name)
    ]
    if huge_pages.of_use():
        flags.append("jaxft in huge pages, as its command starts itself")
    made = ", ".join([conditions(arguments.commit), *flags])
    pages = ", huge pages for all" if huge_pages.TUNABLE in os.environ.get(huge_pages.VARIABLE, "") else ""
    found: list[dict[str, Any]] = []
    for precision in arguments.precision:
        with worker(JAX_SCRIPT, arguments.devices, shared=True) as probe:
            device = probe.ask("describe", precision=precision)
            shared = probe if device["platform"] == "tpu" else None
            if shared is None:
                probe.close()
            peers = chosen_peers(arguments, device)
            for arch in arguments.arch:
                comparisons = measure(arguments, arch, device, peers, shared)
                text = f"{text_of(comparisons, device, arguments.turns)}\n\n{made}.\n\n    {command()}"
                print(text, flush=True)
                write_section(
                    f"Throughput: {arch}, {device['precision']}, {device['kind']}{pages}", text, arguments.results
                )
                found += as_json(comparisons, device)
                if arguments.json:
                    kept = {"command": command(), "conditions": made, "sides": found}
                    arguments.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return EXIT_FOUND if any(side["failed"] not in (None, OUT_OF_MEMORY) for side in found) else 0


def parse_arguments() -> argparse.Namespace:
    """The command line; by argparse, for the machines with GPUs tend to have few packages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--measure", nargs="+", choices=["train", "eval", "resident"], default=["train", "eval", "resident"],
        help="training step, inference step, and training from a set in device memory (default: all)")  # fmt: skip
    add("--arch", nargs="+", choices=list(ARCHS), default=["resnet18"], metavar="NAME", help="networks")
    add("--batch", nargs="+", type=positive, help="images a step, over all devices (32 on a CPU, else several)")
    add("--image-size", type=positive, default=224, help="in pixels")
    add("--canvas", type=positive, default=384, help="resident: side of the training images, in pixels")
    add("--precision", nargs="+", choices=["auto", "float32", "bfloat16"], default=["auto"],
        help="of the computation; auto is float32 on a CPU, else bfloat16")  # fmt: skip
    add("--devices", type=positive, default=1, help="jaxft: so many; peers run on one")
    add("--parallel", choices=["jit", "pmap"], default="jit", help="jaxft: how the step is compiled")
    add("--freeze", nargs="+", choices=["none", *STAGES[:-1], "backbone"], default=["none", "layer2", "backbone"],
        metavar="STAGE", help="training: up to where to freeze (default: none layer2 backbone)")  # fmt: skip
    add("--peer", nargs="+", choices=[*PEERS, "none"],
        help=f"default: torch-eager on a CPU, torch-compile on a GPU; {FLAX} trains all layers")  # fmt: skip
    add("--turns", type=positive, default=5, help="turns, after one that is not counted")
    add("--seconds", type=float, default=2.0, help="of a turn, at least; a turn has one step or more")
    add("--json", type=Path, metavar="FILE", help="keep every turn's figures there")
    add("--results", type=Path, metavar="FILE", default=RESULTS, help="whose section to replace (default: RESULTS.md)")
    add("--commit", help="what is checked out, where git cannot tell")
    return parser.parse_args()


def positive(word: str) -> int:
    """A whole number of at least 1."""
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word}: not a whole number of at least 1")
    return int(word)


def chosen_peers(arguments: argparse.Namespace, device: Device) -> list[str]:
    """The peers that can run here; says which cannot."""
    platform = device["platform"]
    asked = arguments.peer or [DEFAULT_PEER.get(platform, FLAX)]
    if "none" in asked or arguments.devices > 1:
        return []
    reason = "PyTorch has no TPU" if platform == "tpu" else None
    missing = [name for name in ("torch", "torchvision") if find_spec(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
    without = [peer for peer in asked if reason and peer != FLAX]
    for peer in without:
        print(f"without {peer}: {reason}", file=sys.stderr)
    return [peer for peer in asked if peer not in without]


def measure(
    arguments: argparse.Namespace, arch: str, device: Device, peers: Sequence[str], shared: Worker | None
) -> list[Comparison]:
    """Every comparison of a network, at each batch."""
    found = []
    for own, jobs in plan(arguments, arch, device, peers):
        print(*(f"{job.side} {job.measure} {job.freeze} {job.batch_size}" for job in jobs), sep=", ", file=sys.stderr)
        found.append(Comparison(own, take_turns(jobs, arguments.turns, shared=shared)))
    return found


def plan(
    arguments: argparse.Namespace, arch: str, device: Device, peers: Sequence[str]
) -> Iterator[tuple[bool, list[Job]]]:
    """Jobs that take turns, jaxft's first: against peers, and jaxft's own against its training step of all layers."""
    batches = arguments.batch or DEFAULT_BATCHES.get(device["platform"], LARGE_BATCHES)
    for batch_size in batches:
        job = Job(
            side="jaxft",
            measure="train",
            arch=arch,
            batch_size=batch_size,
            image_size=arguments.image_size,
            precision=device["precision"],
            devices=arguments.devices,
            parallel=arguments.parallel,
            canvas=max(arguments.canvas, arguments.image_size),
            seconds=arguments.seconds,
            platform=device["platform"],
        )
        steps = [("train", freeze) for freeze in arguments.freeze] + [("eval", "none")]
        for step, freeze in [step for step in steps if step[0] in arguments.measure]:
            able = [peer for peer in peers if freeze == "none" or peer != FLAX]
            yield False, [job._replace(side=side, measure=step, freeze=freeze) for side in ("jaxft", *able)]
        resident = [job._replace(measure="resident")] if "resident" in arguments.measure else []
        frozen = [job._replace(freeze=freeze) for freeze in arguments.freeze if freeze != "none"]
        variants = resident + (frozen if "train" in arguments.measure else [])
        if variants:
            yield True, [job, *variants]


def as_json(comparisons: Sequence[Comparison], device: Device) -> list[dict[str, Any]]:
    """Every side's figures; the sides of a comparison have its number."""
    rows = []
    for place, comparison in enumerate(comparisons):
        for side in comparison.sides:
            row = {"comparison": place, "device": device, **side.job._asdict(), **side.compiled}
            row |= {"seconds": side.seconds, "peak_bytes": side.peak_bytes, "failed": side.failed}
            if not side.failed:
                row |= {"images_per_second": images_per_second(side), "utilisation": utilisation(side, device)}
            rows.append(row)
    return rows


if __name__ == "__main__":
    run_command(main)
