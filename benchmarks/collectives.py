"""The collectives of a compiled training step: how many, of how many bytes, and what for. Read off XLA's HLO text."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

OPCODES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%(?P<name>\S+) = (?P<shape>.+?) (?P<opcode>[a-z][\w-]*)\((?P<operands>[^)]*)\)")
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")


class Operand(NamedTuple):
    """An array that each device hands to a collective; where the traced program communicates it, and makes it."""

    num_bytes: int
    scalar: bool
    op_name: str
    source: str


class Collective(NamedTuple):
    """One collective operation of a compiled program, however many arrays it takes."""

    opcode: str
    operands: tuple[Operand, ...]


class Traffic(NamedTuple):
    """The bytes that each device hands to a step's collectives, by purpose; forward and backward are BatchNorm's."""

    gradients: int = 0
    forward: int = 0
    backward: int = 0
    metrics: int = 0
    other: int = 0


def purpose(operand: Operand) -> str:
    """The field of Traffic to which an operand counts, by the names that JAX gives to what it traces.

    "transpose(…)" is the backward pass, "jvp(…)" alone the forward pass of what is differentiated. What communicates in
    neither is the step's own mean: of scalars, of what the backward pass made, or of other things, such as running
    statistics. Where XLA laid arrays end to end before it communicates them, as it may on GPUs, they are such others.
    """
    if "transpose(" in operand.op_name:
        return "backward"
    if "jvp(" in operand.op_name:
        return "forward"
    if operand.scalar:
        return "metrics"
    return "gradients" if "transpose(" in operand.source else "other"


def traffic(collectives: Iterable[Collective]) -> Traffic:
    """What the collectives are for."""
    total: Counter[str] = Counter()
    for collective in collectives:
        for operand in collective.operands:
            total[purpose(operand)] += operand.num_bytes
    return Traffic(**total)


def collectives_in(program: str) -> list[Collective]:
    """The collectives in an HLO module's text, wherever they stand; one in a loop's body counts once.

    Asynchronous ones count where they start. Arrays that XLA combined into one operation are told apart by the names of
    the instructions that take its result apart.
    """
    found = {match["name"]: match for match in map(INSTRUCTION.match, program.splitlines()) if match}
    parts: dict[tuple[str, int], str] = {}
    for match in found.values():
        if match["opcode"] == "get-tuple-element":
            whole = found[operands_of(match)[0]]
            start = operands_of(whole)[0] if whole["opcode"].endswith("-done") else whole["name"]
            parts[start, int(match.string.split("index=")[1].split(",")[0])] = op_name(match)
    collectives = []
    for name, match in found.items():
        opcode = match["opcode"].removesuffix("-start")
        if opcode in OPCODES:
            sources = [found[source] for source in operands_of(match)]
            operands = [
                Operand(
                    num_bytes(source["shape"]),
                    source["shape"].endswith("[]"),
                    parts.get((name, i)) or op_name(match),
                    op_name(source),
                )
                for i, source in enumerate(sources)
            ]
            collectives.append(Collective(opcode, tuple(operands)))
    return collectives


def operands_of(match: re.Match[str]) -> list[str]:
    """The names of an instruction's operands."""
    return re.findall(r"%([\w.-]+)", match["operands"])


def op_name(match: re.Match[str]) -> str:
    """Where in the traced program an instruction comes from, as its metadata says."""
    found = re.search(r'op_name="([^"]*)"', match.string)
    return found[1] if found else ""


def num_bytes(shape: str) -> int:
    """The size of an array or a tuple of them, as HLO writes its shape: `f32[3,3]{1,0}`, `(f32[2], bf16[4])`."""
    total = 0
    for dtype, dims in ARRAY.findall(shape):
        bits = re.search(r"\d+", dtype)
        width = int(bits[0]) if bits else 8 * (dtype == "pred")  # The rest, such as tokens, are no arrays.
        total += -(-math.prod(int(dim.strip("<=")) for dim in dims.split(",") if dim) * width // 8)
    return total
