"""Parameter trees by name ("layer1_0/conv1/kernel"), and rules over names that label every parameter."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxft.errors import UserError

Rules = Sequence[tuple[str, str]]
"""Pairs of (regular expression that matches a whole name, label); the first that matches counts."""


def path_name(path: tuple[Any, ...]) -> str:
    """`layer1_0/conv1/kernel` for the key path that jax.tree_util gives."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by name, in the tree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def label_tree(tree: Any, rules: Rules) -> Any:
    """A tree of the same shape with a label for each leaf.

    Raises:
        UserError: a leaf that no rule matches, or rules that match nothing.
    """
    used: set[str] = set()

    def label(path: tuple[Any, ...], _: Any) -> str:
        name = path_name(path)
        for pattern, value in rules:
            if re.fullmatch(pattern, name):
                used.add(pattern)
                return value
        raise UserError(f"No rule matches {name!r}; the rules are {[pattern for pattern, _ in rules]}.")

    labels = jax.tree_util.tree_map_with_path(label, tree)
    unused = [pattern for pattern, _ in rules if pattern not in used]
    if unused:
        raise UserError(f"Rules matched nothing: {', '.join(unused)}")
    return labels


def count_by_label(params: Any, labels: Any) -> Mapping[str, int]:
    """How many numbers each label covers, in the tree's order of labels."""
    counts: dict[str, int] = {}
    for leaf, label in zip(jax.tree.leaves(params), jax.tree.leaves(labels), strict=True):
        counts[label] = counts.get(label, 0) + leaf.size
    return counts
