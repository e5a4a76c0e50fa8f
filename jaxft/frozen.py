"""A run above its frozen stages: whether their features are kept, by size, and the one pass that computes them."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.build import Frozen, Run, compute_dtype
from jaxft.config import Config
from jaxft.data.augment_spec import parse_augment
from jaxft.data.feed import Batches, Feed, Once
from jaxft.data.plan import RESIDENT_SHARE, gigabytes
from jaxft.data.resident import EvalPicks, Store
from jaxft.features import frozen_part, top_of
from jaxft.parallel import put_ahead, replicated
from jaxft.processes import exchange
from jaxft.resnet import make_resnet
from jaxft.step import variables_of

NOWHERE = np.iinfo(np.int32).max
"""A row beyond every store."""

Progress = Callable[[str, int, int], None]


class FeaturePlan(NamedTuple):
    """Whether features are kept, and what the user should know of it."""

    num_views: int | None
    """Of each training image; None: nothing is kept."""
    note: str | None


def plan_features(config: Config, num_train: int, num_eval: int, platform: str, device_bytes: int) -> FeaturePlan:
    """Features are kept where a part is frozen, each training image has few views, and all of them fit.

    `num_eval` are the images of the test set and those held out; `device_bytes` are free on each device, and of several
    processes the one that has least decides for all.
    """
    if config.model.freeze == "none":
        given = config.images.cached_views
        note = f"features: --cached-views {given} changes nothing, for nothing is frozen"
        return FeaturePlan(None, note if given else None)
    num_views = config.num_views if parse_augment(config.images.augment) else 1
    if num_views is None:
        return FeaturePlan(None, None)
    if not config.cache_features:
        return FeaturePlan(None, "features: computed anew in each epoch, for --no-cache-features was given")
    free = min(map(int, exchange(str(device_bytes).encode())))
    num_bytes = (num_views * num_train + num_eval) * bytes_of_features(config, platform)
    if num_bytes > free // RESIDENT_SHARE:
        return FeaturePlan(
            None,
            f"features: computed anew in each epoch, for {gigabytes(num_bytes)} of them are more than a quarter of the "
            f"{gigabytes(free)} free on a device",
        )
    views = "" if num_views == 1 else f" of {num_views} views of each training image"
    return FeaturePlan(
        num_views,
        f"features{views}: computed once and kept, for {gigabytes(num_bytes)} of them fit into a quarter of the "
        f"{gigabytes(free)} free on a device",
    )


def bytes_of_features(config: Config, platform: str) -> int:
    """Of one image's."""
    model = make_resnet(config.model.arch, width=config.model.width, dtype=compute_dtype(config.precision, platform))

    def features(images: Any) -> Any:
        variables = model.init(jax.random.key(0), images, train=False)
        return frozen_part(model, top_of(config.model.freeze))(variables, images)

    size = config.images.image_size
    shown = jax.eval_shape(features, jnp.zeros((1, size, size, 3)))
    return math.prod(shown.shape) * shown.dtype.itemsize


def with_features(run: Run, feed: Feed, progress: Progress) -> tuple[Run, Feed]:
    """The run above its frozen part and the feed that picks features, once these are computed, from the run's state.

    Both as they are where no features are kept. `progress(what, done, total)` is called as images have gone through.

    Raises:
        UserError: an image that cannot be read any more.
    """
    if run.frozen is None or feed.once is None:
        return run, feed
    above = with_training_features(run, feed, progress)
    evaluated, test, val = eval_features(run, run.frozen, feed, feed.once, progress)
    above = above._replace(eval_step=bound(run.eval_step, evaluated))
    return above, feed._replace(test=lambda: (each for each in test), val=lambda: (each for each in val))


def with_training_features(run: Run, feed: Feed, progress: Progress) -> Run:
    """Of `with_features` what training needs: the evaluation is still to be bound to features of the test images.

    Raises:
        UserError: an image that cannot be read any more.
    """
    if run.frozen is None or feed.once is None:
        return run
    store = train_features(run, run.frozen, feed.once, feed.num_train, progress)
    later = [(first, bound(step, store)) for first, step in run.later_steps]
    return run._replace(train_step=bound(run.train_step, store), later_steps=later)


def bound(step: Callable[..., Any], store: Store) -> Callable[..., Any]:
    """A step that is called without the store that it takes last."""
    return lambda *arguments: step(*arguments, store)


def train_features(run: Run, frozen: Frozen, once: Once, num_images: int, progress: Progress) -> Store:
    """Of every view of the training images, in the order of `view_order`."""
    store = empty_store(run, frozen, frozen.num_views * num_images)
    with closing(once.train()) as batches:
        for step, read in enumerate(put_ahead(batches, run.put)):
            for view in range(frozen.num_views):
                first, stop = np.int32(view * num_images), np.int32((view + 1) * num_images)
                store = frozen.fill_training(store, read, variables_of(run.state), run.key, first, stop)
            jax.block_until_ready(store)  # Each that waited would hold its batch on the devices.
            progress("computing training features", min((step + 1) * once.batch_size, num_images), num_images)
    return store


def eval_features(
    run: Run, frozen: Frozen, feed: Feed, once: Once, progress: Progress
) -> tuple[Store, Sequence[EvalPicks], Sequence[EvalPicks]]:
    """Of the test images, then of those held out, and the batches as which each are picked.

    Images that could not be decoded weigh nothing.
    """
    store = empty_store(run, frozen, feed.num_test + feed.num_val)
    test: list[EvalPicks] = []
    val: list[EvalPicks] = []
    for what, read, first, num, picks in (
        ("test", once.test, 0, feed.num_test, test),
        ("held-out", once.val, feed.num_test, feed.num_val, val),
    ):
        with closing(read()) as batches:
            for step, placed in enumerate(put_ahead(placed_from(first, num, batches, picks), run.put)):
                store = jax.block_until_ready(frozen.fill_test(store, placed, variables_of(run.state)))
                progress(f"computing {what} features", min((step + 1) * once.batch_size, num), num)
    return store, test, val


def placed_from(first: int, num: int, batches: Batches, picks: list[EvalPicks]) -> Iterator[Any]:
    """A set's batches with their rows in a store where the set begins at `first`; what fills the last has no place.

    `picks` is given each batch as it is to be picked.
    """
    for rows, batch in batches:
        picks.append(EvalPicks(first + np.minimum(rows, num - 1), batch.weights))
        yield np.where(rows < num, first + rows, NOWHERE), batch


def empty_store(run: Run, frozen: Frozen, num_rows: int) -> Store:
    """Room for so many rows on every device."""
    _, *shape = frozen.features.shape
    return replicated(
        lambda: Store(jnp.zeros((num_rows, *shape), frozen.features.dtype), None, jnp.zeros(num_rows, jnp.int32)),
        run.devices,
    )
