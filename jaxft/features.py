"""What the frozen stages make of an image, its features: computed once, and kept in device memory. Pure functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxft.data.augment import Augment, Augmented, Batch, EvalBatch, normalise
from jaxft.data.resident import Store
from jaxft.resnet import POOLED, ResNet
from jaxft.step import AXIS

Rows = Int[Array, " b"]
Count = Int[Array, ""]


def top_of(freeze: str) -> str:
    """Where `--freeze` ends: all that trains is a function of what the network has there."""
    return POOLED if freeze == "backbone" else freeze


def frozen_part(model: ResNet, top: str) -> Callable[[Any, Float[Array, "b s s 3"]], Float[Array, "b ..."]]:
    """The function `(variables, images) -> features`; these are in the type in which the network has them there."""

    def features(variables: Any, images: Float[Array, "b s s 3"]) -> Float[Array, "b ..."]:
        # Frozen BatchNorm uses its stored statistics, train or not. XLA leaves out what is above, for it is not used.
        seen: Any = model.apply(variables, images, train=False, mutable=["intermediates"])[1]
        return seen["intermediates"][top][0]

    return features


def as_they_are(_: Key[Array, ""], batch: Batch) -> Augmented:
    """The augmentation of features: none."""
    return Augmented(batch.images)


def make_training_fill(model: ResNet, top: str, augment: Augment) -> Callable[..., Store]:
    """The step `(store, (rows, batch), variables, key, first, stop) -> store`, made for `over_devices`.

    It puts features of a batch of training images at `first` + rows, where a view of the set begins, and leaves out
    those from `stop` on, where it ends. From that number follow an image's draws (see jaxft.data.batches.view_order).
    """
    features = frozen_part(model, top)

    def fill(
        store: Store, read: tuple[Rows, Batch], variables: Any, key: Key[Array, ""], first: Count, stop: Count
    ) -> Store:
        rows, batch = read
        numbers = first + rows
        images = augment(key, batch._replace(positions=numbers)).images
        return filled(store, numbers, stop, features(variables, images), batch.labels)

    return fill


def make_test_fill(model: ResNet, top: str) -> Callable[..., Store]:
    """The step `(store, (rows, batch), variables) -> store` for test images, made for `over_devices`."""
    features = frozen_part(model, top)

    def fill(store: Store, read: tuple[Rows, EvalBatch], variables: Any) -> Store:
        rows, batch = read
        stop = jnp.asarray(len(store.labels))
        return filled(store, rows, stop, features(variables, normalise(batch.images)), batch.labels)

    return fill


def filled(store: Store, rows: Rows, stop: Count, features: Float[Array, "b ..."], labels: Rows) -> Store:
    """The store, the same on all devices, with the rows below `stop` that all of them bring."""
    rows, features, labels = jax.lax.all_gather((rows, features, labels), AXIS, tiled=True)
    rows = jnp.where(rows < stop, rows, len(store.labels))
    return Store(store.images.at[rows].set(features, mode="drop"), None, store.labels.at[rows].set(labels, mode="drop"))
