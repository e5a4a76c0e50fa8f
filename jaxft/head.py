"""A new classifier for pretrained features: Xavier uniform, or rows reused from classes that the source knew."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key

from jaxft.errors import UserError
from jaxft.resnet import symmetric_uniform


class Head(NamedTuple):
    """The parameters of `fc`."""

    kernel: Float[Array, "features classes"]
    bias: Float[Array, " classes"]


class Row(NamedTuple):
    """Where a class's row of the new classifier came from: the source's index and name, or None for a drawn one."""

    class_name: str
    source_index: int | None
    source_name: str | None


@partial(jax.jit, static_argnames=("num_features", "num_classes"))
def xavier(key: Key[Array, ""], num_features: int, num_classes: int) -> Head:
    """The chapter's new head: Xavier uniform weights; the bias as torch.nn.Linear draws it."""
    kernel_key, bias_key = jax.random.split(key)
    kernel = nn.initializers.xavier_uniform()(kernel_key, (num_features, num_classes))
    return Head(kernel, symmetric_uniform(num_features**-0.5)(bias_key, (num_classes,)))


def reuse(drawn: Head, source: Head, rows: Sequence[Row]) -> Head:
    """`drawn` with the source's columns where a row names one. Both heads have kernels [features, classes]."""
    known = [(target, row.source_index) for target, row in enumerate(rows) if row.source_index is not None]
    if not known:
        return drawn
    targets, indices = (np.array(column) for column in zip(*known, strict=True))
    return Head(
        drawn.kernel.at[:, targets].set(jnp.asarray(source.kernel)[:, indices]),
        drawn.bias.at[targets].set(jnp.asarray(source.bias)[indices]),
    )


def match_rows(
    class_names: Sequence[str], source_names: Sequence[str], head_map: Mapping[str, int] | None = None
) -> list[Row]:
    """For each class its row of the source's classifier: as `head_map` says, else by normalised name, else none.

    Raises:
        UserError: `head_map` names a class that is not there or an index that the source has not.
    """
    head_map = head_map or {}
    unknown = [name for name in head_map if name not in class_names]
    if unknown:
        raise UserError(
            f"--head-map {unknown[0]}={head_map[unknown[0]]}: no class of that name. "
            f"Classes are {', '.join(class_names)}."
        )
    too_large = [name for name, index in head_map.items() if index >= len(source_names)]
    if too_large:
        raise UserError(
            f"--head-map {too_large[0]}={head_map[too_large[0]]}: the pretrained classifier has {len(source_names)} "
            f"classes. Pass an index from 0 to {len(source_names) - 1}."
        )
    known: dict[str, int] = {}
    for index, name in enumerate(source_names):
        known.setdefault(normalise_name(name), index)
    # A name as it stands goes first: ImageNet's "Cardigan" is a dog, its "cardigan" is knitted.
    known |= {name: index for index, name in enumerate(source_names)}
    rows = []
    for name in class_names:
        spellings = [name, *singulars(normalise_name(name))]
        index = head_map.get(name, next((known[s] for s in spellings if s in known), None))
        rows.append(Row(name, index, None if index is None else source_names[index]))
    return rows


def normalise_name(name: str) -> str:
    """Letters and digits only, in lower case: "Hot Dog", "hot_dog" and "hotdog" are one."""
    return "".join(re.findall(r"[^\W_]+", name.casefold()))


def singulars(word: str) -> list[str]:
    """The word and what it may be the plural of: "churches" gives "churches", "churche", "church"."""
    guesses = [word]
    if word.endswith("s"):
        guesses.append(word[:-1])
    if word.endswith("es"):
        guesses.append(word[:-2])
    if word.endswith("ies"):
        guesses.append(word[:-3] + "y")
    return guesses


def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's thousand classes, in the order of torchvision's classifiers."""
    text = resources.files("jaxft").joinpath("assets/imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
