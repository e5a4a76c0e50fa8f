"""A set held whole in device memory, or its features: a step is told which rows it gets, and gathers them itself."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxft.data.augment import Batch, EvalBatch


class Store(NamedTuple):
    """A decoded set: pixels, the sizes of the photographs, labels. Or a set's features, which have no sizes."""

    images: UInt8[Array, "n s s 3"] | Float[Array, "n ..."]
    sizes: Int[Array, "n 2"] | None
    labels: Int[Array, " n"]


class Picks(NamedTuple):
    """A training batch as rows of a store, and their places in the global batch."""

    rows: Int[Array, " b"]
    positions: Int[Array, " b"]


class EvalPicks(NamedTuple):
    """An evaluation batch as rows of a store; weight 0 marks those that only fill the batch."""

    rows: Int[Array, " b"]
    weights: Float[Array, " b"]


def take(store: Store, picks: Picks) -> Batch:
    """The training batch that `picks` names."""
    images, sizes, labels = jax.tree.map(lambda x: x[picks.rows], store)
    return Batch(images, sizes, labels, picks.positions)


def take_eval(store: Store, picks: EvalPicks) -> EvalBatch:
    """The evaluation batch that `picks` names."""
    return EvalBatch(store.images[picks.rows], store.labels[picks.rows], picks.weights)


def train_from_store(step: Callable) -> Callable:
    """A training step that takes picks for its batch, and the store last."""

    def stored_step(state: Any, picks: Picks, key: Key[Array, ""], store: Store) -> Any:
        return step(state, take(store, picks), key)

    return stored_step


def eval_from_store(step: Callable) -> Callable:
    """An evaluation step that takes picks for its batch, and the store last."""

    def stored_step(state: Any, picks: EvalPicks, store: Store) -> Any:
        return step(state, take_eval(store, picks))

    return stored_step
