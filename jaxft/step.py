"""One update and one evaluation, as one device sees them: pure functions that average over the mesh axis "data"."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from jaxft.data.augment import Batch, EvalBatch, normalise
from jaxft.resnet import ResNet

AXIS = "data"

Augment = Callable[[Key[Array, ""], Batch], Float[Array, "b s s 3"]]
"""From a key and a batch to the images that the network sees."""


class TrainState(NamedTuple):
    """What changes in a run, and nothing else."""

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any


class Metrics(NamedTuple):
    """Means over a training batch: loss in nats, accuracy in 0 to 1."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


class EvalSums(NamedTuple):
    """Sums over the images of an evaluation batch that count, and their number."""

    loss: Float[Array, ""]
    correct: Float[Array, ""]
    images: Float[Array, ""]


def cross_entropies(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
    """Softmax cross-entropy of each image, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def make_train_step(
    model: ResNet, tx: optax.GradientTransformation, augment: Augment
) -> Callable[[TrainState, Batch, Key[Array, ""]], tuple[TrainState, Metrics]]:
    """Bind what is static; the step is pure and runs inside a mesh axis "data" (see jaxft.parallel)."""

    def train_step(state: TrainState, batch: Batch, key: Key[Array, ""]) -> tuple[TrainState, Metrics]:
        images = augment(jax.random.fold_in(key, state.step), batch)

        def loss_fn(params: Any) -> tuple[Float[Array, ""], tuple[Float[Array, "b k"], Any]]:
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
            return cross_entropies(logits, batch.labels).mean(), (logits, updated["batch_stats"])

        (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        accuracy = (logits.argmax(-1) == batch.labels).mean()
        grads, batch_stats, metrics = jax.lax.pmean((grads, batch_stats, Metrics(loss, accuracy)), AXIS)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return train_step


def make_eval_step(model: ResNet) -> Callable[[TrainState, EvalBatch], EvalSums]:
    """Bind the model; sums over all devices, so that any number of images is counted exactly."""

    def eval_step(state: TrainState, batch: EvalBatch) -> EvalSums:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        logits: Any = model.apply(variables, normalise(batch.images), train=False)
        correct = (logits.argmax(-1) == batch.labels).astype(jnp.float32)
        losses = cross_entropies(logits, batch.labels)
        sums = EvalSums((losses * batch.weights).sum(), (correct * batch.weights).sum(), batch.weights.sum())
        return jax.lax.psum(sums, AXIS)

    return eval_step


def init_state(params: Any, batch_stats: Any, tx: optax.GradientTransformation) -> TrainState:
    """The state at step 0."""
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params))
