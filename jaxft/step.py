"""One update and one evaluation, as one device sees them: pure functions that average over the mesh axis "data"."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from jaxft.data.augment import Augment, Augmented, Batch, EvalBatch, normalise
from jaxft.optim import Number
from jaxft.resnet import ResNet

AXIS = "data"


DROPOUT = 1
"""Tells dropout's key of a step from the augmentation's."""


class StepKeys(NamedTuple):
    """What a step draws from; each image folds its position in."""

    augment: Key[Array, ""]
    dropout: Key[Array, ""]


class TrainState(NamedTuple):
    """What changes in a run, and nothing else."""

    step: Int[Array, ""]
    """Updates so far."""
    params: Any
    batch_stats: Any
    """BatchNorm's running means and variances."""
    opt_state: Any
    average: Any = ()
    """Moving averages of (params, batch_stats), where they are kept: these are evaluated, and become the model."""


class Metrics(NamedTuple):
    """Means over the images of an update, on all devices."""

    loss: Float[Array, ""]
    """Nats; NaN where the update was left out."""
    accuracy: Float[Array, ""]
    """0 to 1."""


class EvalSums(NamedTuple):
    """Sums over the images of an evaluation batch, each times its weight, on all devices."""

    loss: Float[Array, ""]
    """Nats."""
    correct: Float[Array, ""]
    images: Float[Array, ""]
    """The weights' own sum."""


def cross_entropies(
    logits: Float[Array, "b k"], labels: Int[Array, " b"], smoothing: Number | None = None
) -> Float[Array, " b"]:
    """Softmax cross-entropy of each image, in nats; `smoothing` of the label is spread evenly over all classes."""
    own = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if smoothing is None:
        return own
    return (1 - smoothing) * own - smoothing * jax.nn.log_softmax(logits).mean(-1)


def training_loss(
    logits: Float[Array, "b k"],
    labels: Int[Array, " b"],
    augmented: Augmented,
    class_weights: Float[Array, " k"] | None = None,
    smoothing: Number | None = None,
) -> Float[Array, ""]:
    """Mean cross-entropy, in nats, each image's times its class's weight, of labels smoothed so much.

    Of a mixed image, both labels' terms by their shares, each with its own weight. The mean is over the images and not,
    as torch's weighted one, over the sum of their weights, so that it does not depend on how a batch is split over
    devices; weights whose mean over the training set is 1 keep the loss's scale.
    """

    def terms(labels: Int[Array, " b"]) -> Float[Array, " b"]:
        losses = cross_entropies(logits, labels, smoothing)
        return losses if class_weights is None else losses * class_weights[labels]

    if augmented.share is None or augmented.other_labels is None:
        return terms(labels).mean()
    return (augmented.share * terms(labels) + (1 - augmented.share) * terms(augmented.other_labels)).mean()


def larger_labels(labels: Int[Array, " b"], augmented: Augmented) -> Int[Array, " b"]:
    """Each image's label; of a mixed one, the label with the larger share."""
    if augmented.share is None or augmented.other_labels is None:
        return labels
    return jnp.where(augmented.share >= 0.5, labels, augmented.other_labels)


def make_train_step(
    model: ResNet,
    tx: optax.GradientTransformation,
    augment: Augment,
    class_weights: Float[Array, " k"] | None = None,
    *,
    accumulate: int = 1,
    redraw: bool = True,
    skip_nonfinite: bool = False,
    label_smoothing: Number | None = None,
    ema: float | None = None,
) -> Callable[[TrainState, Batch, Key[Array, ""]], tuple[TrainState, Metrics]]:
    """Bind what is static; the step `(state, batch, key) -> (state, metrics)` is pure, and made for `over_devices`.

    Pass the same key each time: the step's number is folded into it, unless `redraw` is off. The loss is the mean
    cross-entropy over the images, of a mixed image by its shares, and the accuracy counts the label with the larger
    one.

    Args:
        model: with `axis_name="data"`, BatchNorm's statistics are those of the whole batch; with None, of each device's
            part.
        tx: any optax transformation, such as `make_optimizer`'s.
        augment: what `make_augment` gives, or any other function of (key, batch).
        class_weights: an image's loss counts so many times, by its class; 1 on average over the set keeps its scale.
        accumulate: microbatches in which a device's part goes through the network, one after the other; their rows are
            laid out by `jaxft.data.batches.device_positions`.
        redraw: draw the augmentation anew in each step; off, an image's draws follow from the key and its position
            alone.
        skip_nonfinite: leave out an update after which something would not be finite: only `step` moves on.
        label_smoothing: the share of each label that is spread evenly over all classes.
        ema: the decay of the moving averages, which `init_state` begins; see `averaged`.
    """

    def gradients(params: Any, batch_stats: Any, batch: Batch, keys: StepKeys) -> tuple[Any, Any, Metrics]:
        """Of a microbatch: gradients, the new batch_stats, metrics."""
        augmented = augment(keys.augment, batch)
        own = jax.vmap(jax.random.fold_in, (None, 0))(keys.dropout, batch.positions) if model.dropout else None

        def loss_fn(params: Any) -> tuple[Float[Array, ""], tuple[Float[Array, "b k"], Any]]:
            variables = {"params": params, "batch_stats": batch_stats}
            logits, updated = model.apply(variables, augmented.images, train=True, keys=own, mutable=["batch_stats"])
            loss = training_loss(logits, batch.labels, augmented, class_weights, label_smoothing)
            return loss, (logits, updated["batch_stats"])

        (loss, (logits, updated_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        accuracy = (logits.argmax(-1) == larger_labels(batch.labels, augmented)).mean()
        return grads, updated_stats, Metrics(loss, accuracy)

    def train_step(state: TrainState, batch: Batch, key: Key[Array, ""]) -> tuple[TrainState, Metrics]:
        compute = gradients if accumulate == 1 else over_microbatches(gradients, accumulate)
        step_key = jax.random.fold_in(key, state.step)
        keys = StepKeys(step_key if redraw else key, jax.random.fold_in(step_key, DROPOUT))
        grads, batch_stats, metrics = compute(state.params, state.batch_stats, batch, keys)
        grads, metrics = jax.lax.pmean((grads, metrics), AXIS)
        if model.axis_name is None:
            batch_stats = jax.lax.pmean(batch_stats, AXIS)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = () if ema is None else averaged(state.average, (params, batch_stats), state.step, ema)
        updated = TrainState(state.step + 1, params, batch_stats, opt_state, average)
        return unless_nonfinite(state, updated, metrics) if skip_nonfinite else (updated, metrics)

    return train_step


def averaged(average: Any, new: Any, step: Int[Array, ""], decay: float) -> Any:
    """The moving average after an update, the first being of step 0; its decay rises to `decay` as (1 + t) / (10 + t).

    So a short run's average does not stay at its start. Source: tf.train.ExponentialMovingAverage's num_updates.
    """
    keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    # In this form what is frozen stays as it is to the bit.
    return jax.tree.map(lambda old, new: old + (1 - keep) * (new - old), average, new)


def variables_of(state: TrainState) -> Any:
    """{"params", "batch_stats"} of the model that a state is: its moving averages where it has them."""
    params, batch_stats = state.average or (state.params, state.batch_stats)
    return {"params": params, "batch_stats": batch_stats}


def over_microbatches(gradients: Callable, accumulate: int) -> Callable:
    """Gradients and metrics averaged over the microbatches of a batch, batch_stats going from each to the next."""

    def accumulated(params: Any, batch_stats: Any, batch: Batch, keys: StepKeys) -> tuple[Any, Any, Metrics]:
        def add(carry: tuple[Any, Any], microbatch: Batch) -> tuple[tuple[Any, Any], Metrics]:
            total, batch_stats = carry
            grads, batch_stats, metrics = gradients(params, batch_stats, microbatch, keys)
            return (jax.tree.map(jnp.add, total, grads), batch_stats), metrics

        microbatches = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)
        zeros = jax.tree.map(jnp.zeros_like, params)
        (total, batch_stats), metrics = jax.lax.scan(add, (zeros, batch_stats), microbatches)
        grads = jax.tree.map(lambda x: x / accumulate, total)
        return grads, batch_stats, jax.tree.map(jnp.mean, metrics)

    return accumulated


def unless_nonfinite(state: TrainState, updated: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
    """The updated state where it and the loss are finite; otherwise the state before, a step on, and a NaN loss."""
    # Not the gradients: those of frozen layers would then be computed.
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((updated, metrics.loss))]).all()
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state._replace(step=updated.step))
    return kept, metrics._replace(loss=jnp.where(finite, metrics.loss, jnp.nan))


def make_eval_step(model: ResNet) -> Callable[[TrainState, EvalBatch], EvalSums]:
    """Bind the model; the step `(state, batch) -> sums` is pure, and made for `over_devices`.

    Sums, and weights of 0 for images that only fill a batch, count any number of images exactly.
    """

    def eval_step(state: TrainState, batch: EvalBatch) -> EvalSums:
        variables = variables_of(state)
        images = normalise(batch.images) if model.after is None else batch.images
        logits: Any = model.apply(variables, images, train=False)
        correct = (logits.argmax(-1) == batch.labels).astype(jnp.float32)
        losses = cross_entropies(logits, batch.labels)
        sums = EvalSums((losses * batch.weights).sum(), (correct * batch.weights).sum(), batch.weights.sum())
        return jax.lax.psum(sums, AXIS)

    return eval_step


def init_state(params: Any, batch_stats: Any, tx: optax.GradientTransformation, *, average: bool = False) -> TrainState:
    """The state at step 0, from a network's variables; `average` begins moving averages with them."""
    # One program: JAX would compile one for each shape of momentum.
    opt_state = jax.jit(tx.init)(params)
    copies = jax.tree.map(jnp.copy, (params, batch_stats)) if average else ()  # A donated step takes each array once.
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, opt_state, copies)
