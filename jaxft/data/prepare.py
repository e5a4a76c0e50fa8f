"""From sources to what a run reads: images decoded or to be streamed, by the plan, and the feed of batches."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxft.config import Config
from jaxft.data.batches import (
    Order,
    Share,
    balanced_order,
    check_batch_fits,
    class_weights,
    order_of_the_set,
    share_of,
    shuffled_order,
    view_order,
)
from jaxft.data.canvas import Canvas, Decoded, EvalCrop, Recipe, canvas_size, decode_set
from jaxft.data.feed import Feed, Streamed, mapped_feed, read_once, resident_feed, streamed_feed
from jaxft.data.plan import WAYS, Keep, Plan, plan_input
from jaxft.data.resident import Store
from jaxft.data.sources import Source, Splits, in_memory, labels_of
from jaxft.processes import agreed, check_same, exchange, sharing


class Data(NamedTuple):
    """A data set: canvases to train on, crops to test and to choose on, and lines that the user should read."""

    train: Decoded | Streamed
    test: Decoded | Streamed
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    plan: Plan
    val: Decoded | Streamed | None = None

    @property
    def num_val(self) -> int:
        """Held-out images."""
        return 0 if self.val is None else len(self.val.labels)


def load_data(
    splits: Splits, config: Config, keep: Keep, device_bytes: int, progress: Callable[[str, int, int], None]
) -> Data:
    """Plan how the run is fed and decode all splits, unless they are streamed.

    `device_bytes` are free on each device; `progress(what, done, total)` is called as images are decoded.

    Raises:
        UserError: as `decode_set` and `plan_input`.
    """
    images = config.images
    canvas = Canvas(images.canvas or canvas_size(splits.train, images.image_size))
    crop = EvalCrop(images.image_size, images.eval_resize)
    sets: dict[str, tuple[Source, Recipe]] = {"training": (splits.train, canvas), "test": (splits.test, crop)}
    if splits.val is not None:
        sets["held-out"] = (splits.val, crop)
    share = sharing()
    # To decode arrays costs less than a cache or the other processes would.
    if in_memory(splits.train):
        keep, share = keep._replace(folder=None), None
    num_bytes = sum(len(source) * 3 * recipe.size**2 for source, recipe in sets.values())
    plan = most_careful(agreed(lambda: plan_input(config.input, num_bytes, device_bytes, keep)))
    check_same(
        {
            **{f"{what} images": len(source) for what, (source, _) in sets.items()},
            "classes": splits.train.class_names,
            "pixels kept of each image": [canvas.size, crop.size],
        }
    )
    if plan.way == "stream":
        train, test, *val = (Streamed(source, recipe, labels_of(source)) for source, recipe in sets.values())
        return Data(train, test, splits.train.class_names, (), plan, *val)
    train, test, *val = decoded = [
        decode_set(
            source,
            recipe,
            cache_dir=keep.folder,
            cache_limit=keep.limit,
            skip_bad=images.skip_bad_images,
            progress=partial(progress, f"decoding {what} images"),
            sharing=share,
        )
        for what, (source, recipe) in sets.items()
    ]
    notes = [line for each in decoded for line in each.notes]
    skipped = [f"skipped {line}" for each in decoded for line in each.skipped]
    return Data(train, test, splits.train.class_names, (*notes, *skipped), plan, *val)


def most_careful(plan: Plan) -> Plan:
    """Of the plans of all processes the one that asks for the least memory: they must read the same way."""
    plans = [text.decode().split("\n", 1) for text in exchange("\n".join(plan).encode())]
    return Plan._make(max(plans, key=lambda plan: WAYS.index(plan[0])))


def make_feed(
    data: Data,
    config: Config,
    report: Callable[[str], None],
    share: Share | None = None,
    *,
    features: bool = False,
) -> Feed:
    """The run's batches, by the plan; `report` is told of streamed images that are skipped.

    `share` is what this process makes of them (see `share_of`); when None all, laid out for one device. With `features`
    the batches are picks of these, and the images come `once`.

    Raises:
        UserError: more images an update than the training set has.
    """
    num_train, size = len(data.train.labels), config.images_per_step
    check_batch_fits(num_train, config.batch_size, config.accumulate)
    share = share or share_of(config.batch_size, accumulate=config.accumulate)
    if config.balance == "sampler":
        order = balanced_order(data.train.labels, size, config.seed)
    else:
        order = shuffled_order(num_train, size, config.seed)
    views = config.num_views
    draws = None if views is None else view_order(order, num_train, size, views)
    if features:
        in_turn = order_of_the_set(num_train, config.batch_size)
        feed = host_feed(data, config, report, in_turn, share._replace(train=share.test))
        picks = resident_feed(num_train, len(data.test.labels), draws or order, share, num_val=data.num_val)
        return picks._replace(once=read_once(feed, share), host_bytes=feed.host_bytes)
    if data.plan.way == "resident":
        return resident_feed(num_train, len(data.test.labels), order, share, draws, data.num_val)
    return host_feed(data, config, report, order, share, draws)


def host_feed(
    data: Data,
    config: Config,
    report: Callable[[str], None],
    order: Order,
    share: Share,
    draws: Order | None = None,
) -> Feed:
    """Batches of images themselves."""
    match data.train, data.test, data.val:
        case Decoded() as train, Decoded() as test, (Decoded() | None) as val:
            return mapped_feed(train, test, order, share, draws, val)
        case Streamed() as train, Streamed() as test, (Streamed() | None) as val:
            skip_bad = config.images.skip_bad_images
            return streamed_feed(train, test, order, share, draws, val, skip_bad=skip_bad, report=report)
    raise AssertionError("all sets are streamed, or none is")


def loss_weights(data: Data, config: Config) -> Float[np.ndarray, " k"] | None:
    """What each class's images count in the loss, with `--balance weights`."""
    return class_weights(data.train.labels, len(data.class_names)) if config.balance == "weights" else None


def stores(data: Data) -> tuple[Store, Store] | None:
    """What goes into device memory before a resident run: the training set, and the test set with what is held out."""
    match data.train, data.test, data.val:
        case Decoded() as train, Decoded() as test, None if data.plan.way == "resident":
            return Store._make(train[:3]), Store._make(test[:3])
        case Decoded() as train, Decoded() as test, Decoded() as val if data.plan.way == "resident":
            return Store._make(train[:3]), Store._make(map(np.concatenate, zip(test[:3], val[:3], strict=True)))
    return None
