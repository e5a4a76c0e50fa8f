"""From a config and pretrained variables to everything that the loop runs: model, optimizer, state, compiled steps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from jaxft.config import Config, ModelConfig
from jaxft.course import Course, Part
from jaxft.data.augment import Augment, Batch, check_pairs, make_augment
from jaxft.data.augment_spec import mixes
from jaxft.data.resident import Picks, Store, eval_from_store, train_from_store
from jaxft.errors import UserError
from jaxft.features import as_they_are, frozen_part, make_test_fill, make_training_fill, top_of
from jaxft.head import Head, Row, match_rows, reuse, xavier
from jaxft.optim import Number, make_optimizer, rate_labels
from jaxft.parallel import (
    Devices,
    all_devices,
    check_batch_size,
    over_devices,
    put_batch,
    put_replicated,
    put_shared,
)
from jaxft.processes import from_first
from jaxft.resnet import ResNet, frozen_stages, make_resnet
from jaxft.step import AXIS, Metrics, TrainState, init_state, make_eval_step, make_train_step


class Pretrained(NamedTuple):
    """Variables of a trained network of the config's architecture, and its class names where they are known."""

    variables: Any
    class_names: tuple[str, ...] | None


class Frozen(NamedTuple):
    """The frozen part of a run that keeps its features; then the run's steps are those of the rest, and take picks.

    See jaxft.features for the two steps that fill stores, and jaxft.frozen, which does it and binds the run's steps.
    """

    num_views: int
    """Of each training image."""
    features: jax.ShapeDtypeStruct
    """[1, …], of one image."""
    fill_training: Callable[..., Store]
    fill_test: Callable[..., Store]


class Run(NamedTuple):
    """What the loop needs. The steps are compiled for `devices`; `put` brings a host batch to them."""

    model: ResNet
    labels: Any
    head_rows: Sequence[Row] | None
    state: TrainState
    train_step: Callable[[TrainState, Batch | Picks, Key[Array, ""]], tuple[TrainState, Metrics]]
    eval_step: Any
    """`(TrainState, EvalBatch | EvalPicks) -> EvalSums`; `lower` takes their shapes, as that of a jitted function."""
    put: Callable[[Any], Any]
    key: Key[Array, ""]
    devices: Devices
    frozen: Frozen | None = None
    """Where features are kept; the steps then take a store of them last, which `jaxft.frozen.with_features` binds."""
    later_steps: Sequence[tuple[int, Callable]] = ()
    """Of a run in parts, the training steps that take the place of `train_step`, each from an update on."""

    def train_step_at(
        self, step: int
    ) -> Callable[[TrainState, Batch | Picks, Key[Array, ""]], tuple[TrainState, Metrics]]:
        """The training step that makes the update after so many."""
        return next((each for first, each in reversed(self.later_steps) if step >= first), self.train_step)


def build(
    config: Config,
    class_names: Sequence[str],
    pretrained: Pretrained | None,
    *,
    stores: tuple[Store, Store] | None = None,
    class_weights: Float[np.ndarray, " k"] | None = None,
    augment: Augment | None = None,
    features: int | None = None,
    course: Course | None = None,
) -> Run:
    """Assemble a run; `pretrained` is None for training from scratch. Of several processes, process 0's weights count.

    With `stores`, the training and the test set, these go into device memory, and the steps take picks for batches
    (see jaxft.data.resident). With `class_weights`, an image's loss counts by its class (see jaxft.step.training_loss).
    `augment` takes the place of the config's. With `features`, of so many views of each training image, the steps are
    those above the frozen part, and take picks too (see jaxft.frozen); then without stores. `course` is what
    `jaxft.course.plan_course` makes of the config for a number of images; without, all trains at the same rates.

    Raises:
        UserError: a batch that does not split over the devices (in pairs, for mixup and cutmix), too many devices, or a
            head or freeze that needs pretrained weights where there are none.
    """
    course = course or Course()
    devices = all_devices(config.devices)
    check_batch_size(config.batch_size, len(devices))
    if mixes(config.images.augment):
        check_pairs(config.batch_size, len(devices))
    model = network_of(config, len(class_names), devices[0].platform)
    init_key, train_key = run_keys(config.seed)
    variables, head_rows = initial_variables(config.model, model, class_names, pretrained, init_key)
    labels = rate_labels(variables["params"], model.frozen)
    if augment is None:
        augment = make_augment(config.images.augment, config.images.image_size, config.images.eval_resize)
    above = model if features is None else model.clone(after=top_of(config.model.freeze))
    weights = None if class_weights is None else jnp.asarray(class_weights)
    training, test = (None, None) if stores is None else (put_shared(store, devices) for store in stores)

    def compiled(step: Callable, from_store: Callable, store: Store | None, *, donate: bool) -> Callable:
        """A step over all devices; its batch is picked from the store or, with features, from theirs."""
        if store is not None or features is not None:
            step = from_store(step)
        found = over_devices(step, devices, config.parallel, donate=donate)
        return found if store is None else Stored(found, store)

    def train_step(part: Part) -> Callable:
        network = above.clone(frozen=(*model.frozen, *part.waiting))
        tx = make_optimizer(part.of(config.optim), labels, course.schedule, held=part.waiting)
        smoothing = config.regular.label_smoothing or None
        step = train_step_of(config, network, tx, augment if features is None else as_they_are, weights, smoothing)
        return compiled(step, train_from_store, training, donate=True)

    first, *later = course.parts
    tx = make_optimizer(first.of(config.optim), labels, course.schedule, held=first.waiting)
    state = init_state(variables["params"], variables["batch_stats"], tx, average=config.regular.ema is not None)
    return Run(
        model=model,
        labels=labels,
        head_rows=head_rows,
        state=put_replicated(from_first(state), devices),
        train_step=train_step(first),
        eval_step=compiled(make_eval_step(above), eval_from_store, test, donate=False),
        put=lambda batch: put_batch(batch, devices, config.parallel),
        key=train_key,
        devices=devices,
        frozen=None if features is None else _frozen(config, model, augment, features, variables, devices),
        later_steps=[(part.first_step, train_step(part)) for part in later],
    )


def network_of(config: Config, num_classes: int, platform: str) -> ResNet:
    """The network of a run on devices of a platform."""
    return make_resnet(
        config.model.arch,
        num_classes=num_classes,
        width=config.model.width,
        frozen=frozen_stages(config.model.freeze),
        axis_name=AXIS if config.sync_bn else None,
        stored_statistics=config.model.batch_norm == "frozen-stats",
        dropout=config.regular.dropout,
        dtype=compute_dtype(config.precision, platform),
    )


def train_step_of(
    config: Config,
    model: ResNet,
    tx: optax.GradientTransformation,
    augment: Augment,
    class_weights: Any,
    label_smoothing: Number | None,
) -> Callable:
    """The training step of a run, as one device sees it."""
    return make_train_step(
        model,
        tx,
        augment,
        class_weights,
        accumulate=config.accumulate,
        redraw=config.num_views is None,
        skip_nonfinite=config.on_nonfinite == "skip",
        label_smoothing=label_smoothing,
        ema=config.regular.ema,
    )


def _frozen(
    config: Config, model: ResNet, augment: Augment, num_views: int, variables: Any, devices: Devices
) -> Frozen:
    """The frozen part and the steps that compute its features."""
    top, size = top_of(config.model.freeze), config.images.image_size
    return Frozen(
        num_views,
        jax.eval_shape(frozen_part(model, top), variables, jnp.zeros((1, size, size, 3))),
        over_devices(make_training_fill(model, top, augment), devices, config.parallel, donate=True),
        over_devices(make_test_fill(model, top), devices, config.parallel, donate=True),
    )


def run_keys(seed: int) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """What a run draws its new parameters from, and what its steps draw from."""
    return _two_keys(jax.random.key(seed))


@jax.jit
def _two_keys(key: Key[Array, ""]) -> tuple[Key[Array, ""], Key[Array, ""]]:
    init_key, train_key = jax.random.split(key)
    return init_key, train_key


class Stored(NamedTuple):
    """A compiled step, called and lowered without the store that it takes last."""

    step: Any
    store: Store | None

    def __call__(self, *arguments: Any) -> Any:
        """With the store, as the step has it."""
        return self.step(*arguments, self.store)

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """For arguments of these shapes."""
        return self.step.lower(*arguments, self.store)


def compute_dtype(precision: str, platform: str) -> Any:
    """float32 or bfloat16; `auto` is bfloat16 on GPU and TPU."""
    if precision == "auto":
        return jnp.float32 if platform == "cpu" else jnp.bfloat16
    return jnp.dtype(precision)


def initial_variables(
    config: ModelConfig, model: ResNet, class_names: Sequence[str], pretrained: Pretrained | None, key: Key[Array, ""]
) -> tuple[Any, Sequence[Row] | None]:
    """The variables at step 0, and with `--head reuse` where each row of the head came from."""
    rows = reused_rows(config, class_names, pretrained)
    if pretrained is None:
        images = jnp.zeros((1, 64, 64, 3))
        return jax.jit(lambda key: model.init(key, images, train=False))(key), None
    params, batch_stats = pretrained.variables["params"], pretrained.variables["batch_stats"]
    source = Head(**params["fc"])
    head = xavier(key, source.kernel.shape[0], len(class_names))
    if rows is not None:
        head = reuse(head, source, rows)
    return {"params": params | {"fc": head._asdict()}, "batch_stats": batch_stats}, rows


def reused_rows(config: ModelConfig, class_names: Sequence[str], pretrained: Pretrained | None) -> Sequence[Row] | None:
    """Where each row of the head comes from with `--head reuse`; None without.

    Raises:
        UserError: a freeze or a head that these weights do not allow.
    """
    if pretrained is None:
        if config.freeze != "none":
            raise UserError(
                f"--freeze {config.freeze} with --weights none would freeze random layers. "
                "Pass --freeze none, or pretrained weights."
            )
        if config.head == "reuse":
            raise UserError("--head reuse needs a pretrained classifier. Pass --head xavier, or pretrained weights.")
        return None
    if config.head != "reuse":
        return None
    if pretrained.class_names is None:
        num_known = pretrained.variables["params"]["fc"]["bias"].shape[0]
        raise UserError(
            f"--head reuse: the class names of {config.weights} are not known (it has {num_known} "
            "classes, ImageNet 1000). Pass --head xavier, or a run folder or ImageNet weights."
        )
    head_map = {name: int(index) for name, _, index in (entry.rpartition("=") for entry in config.head_map)}
    return match_rows(class_names, pretrained.class_names, head_map)
