"""What `--augment` may say: ops with their values, and presets. No JAX in it, for the config reads this."""

import difflib
import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxft.errors import UserError

Ops = dict[str, tuple[float, ...]]
"""Names of ops with their values, all of them, in the order of `OPS`."""


class Value(NamedTuple):
    """One number behind an op's name: what it is without one given, and the least and the most that it may be."""

    name: str
    default: float
    least: float
    most: float
    whole: bool = False


OPS: dict[str, tuple[Value, ...]] = {
    "crop": (Value("MIN_AREA", 0.08, 0.01, 1),),
    "flip": (Value("P", 0.5, 0, 1),),
    "vflip": (Value("P", 0.5, 0, 1),),
    "jitter": (
        Value("BRIGHTNESS", 0.4, 0, 10),
        Value("CONTRAST", 0.4, 0, 10),
        Value("SATURATION", 0.4, 0, 10),
        Value("HUE", 0.1, 0, 0.5),
    ),
    "randaugment": (Value("N", 2, 1, 10, whole=True), Value("MAGNITUDE", 9, 0, 30, whole=True)),
    "erase": (Value("P", 0.25, 0, 1),),
    "mixup": (Value("ALPHA", 0.2, 0.01, 100),),
    "cutmix": (Value("ALPHA", 1.0, 0.01, 100),),
}
"""In the order in which they are done, whatever the order in which they are named."""

MIXING = ("mixup", "cutmix")

PRESETS: dict[str, tuple[str, ...]] = {
    "none": (),
    "chapter": ("crop", "flip"),
    "light": ("crop=0.35", "flip", "jitter=0.2,0.2,0.2,0.02"),
    "strong": ("crop", "flip", "randaugment", "erase", "mixup", "cutmix"),
}
"""none: evaluation's centre crop. chapter: the d2l.ai chapter's and the default. light: few photographs, few epochs, or
fine detail that a small crop would lose. strong: many epochs, where the training set would be learnt by heart."""


def parse_augment(words: Sequence[str]) -> Ops:
    """The ops that `--augment WORD…` asks for: NAME[=VALUE[,VALUE…]] each, or the name of one preset.

    Raises:
        UserError: nothing named, an unknown or doubled name, a preset among ops, or values too many, too few or out of
            range.
    """
    if not words:
        raise UserError(f"--augment: names nothing. Pass none for the plain centre crop, or {_known()}.")
    if len(words) == 1 and words[0] in PRESETS:
        words = PRESETS[words[0]]
    ops: Ops = {}
    for word in words:
        name, equals, text = word.partition("=")
        if name in PRESETS:
            remedy = f"{name} takes no values." if equals else f"Pass {name} alone, or ops only."
            raise UserError(f"--augment {' '.join(words)}: {name} is a preset. {remedy}")
        if name not in OPS:
            close = difflib.get_close_matches(name, [*OPS, *PRESETS], n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise UserError(f"--augment {word}: no such op. {hint}Pass {_known()}.")
        if name in ops:
            raise UserError(f"--augment {' '.join(words)}: {name} comes twice. Pass it once.")
        ops[name] = _values(word, OPS[name], text) if equals else tuple(value.default for value in OPS[name])
    return {name: ops[name] for name in OPS if name in ops}


def mixes(words: Sequence[str]) -> bool:
    """Whether images are mixed, and with them their labels."""
    return any(name in MIXING for name in parse_augment(words))


def _known() -> str:
    return f"ops out of {', '.join(OPS)}, or one preset of {', '.join(PRESETS)}"


def _values(word: str, expected: tuple[Value, ...], text: str) -> tuple[float, ...]:
    name, given = word.partition("=")[0], text.split(",")
    usage = f"{name}={','.join(value.name for value in expected)}"
    example = f"{name}={','.join(f'{value.default:g}' for value in expected)}"
    if len(given) != len(expected):
        raise UserError(
            f"--augment {word}: {len(given)} values where {name} takes {len(expected)} ({usage}). "
            f"Write it like {example}, or {name} alone for these."
        )
    return tuple(_value(word, value, part, example) for value, part in zip(expected, given, strict=True))


def _value(word: str, expected: Value, text: str, example: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not expected.least <= number <= expected.most or (expected.whole and number != int(number)):
        kind = "a whole number in" if expected.whole else "in"
        raise UserError(
            f"--augment {word}: {expected.name} {text or 'nothing'} must be {kind} {expected.least:g} to "
            f"{expected.most:g}. Write it like {example}."
        )
    return number
