"""A run, whole: from a config to a trained model in a folder, stopped and carried on without loss."""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from orbax.checkpoint import CheckpointManager

from convert.pretrained import load_pretrained
from jaxft.build import Pretrained, Run, build
from jaxft.checkpoint import open_checkpoints
from jaxft.compiled import keep_compiled
from jaxft.config import Config, by_flag
from jaxft.config_file import from_json, read_config, to_json
from jaxft.console import Display, Terminal, announce
from jaxft.course import Course, plan_course
from jaxft.data.batches import check_batch_fits, share_of
from jaxft.data.counts import count_notes
from jaxft.data.feed import Feed
from jaxft.data.leakage import leakage_notes
from jaxft.data.load import open_splits
from jaxft.data.prepare import Data, load_data, loss_weights, make_feed, stores
from jaxft.data.sources import Splits, with_held_out
from jaxft.frozen import FeaturePlan, plan_features
from jaxft.loop import Record
from jaxft.options import Options
from jaxft.parallel import Devices, all_devices, check_batch_size, free_memory, make_deterministic, own, own_places
from jaxft.processes import agreed, check_same, exchange, is_first
from jaxft.records import Watcher
from jaxft.resume import check_config, data_facts
from jaxft.run_folder import (
    find_run_folder,
    held,
    holds_run,
    make_new_folder,
)
from jaxft.session import Job, Result, run_loop
from jaxft.watch import check_watchers


class Inputs(NamedTuple):
    """What a run reads before it decodes anything; `out` is process 0's alone."""

    out: Path
    splits: Splits
    pretrained: Pretrained | None


class Opened(NamedTuple):
    """A run that could begin: its data are decoded and its state is on the devices."""

    data: Data
    facts: dict[str, Any]
    """What tells these data from others."""
    features: FeaturePlan
    feed: Feed
    run: Run


def fit(
    config: Config,
    *,
    out: str | Path | None = None,
    data: Splits | None = None,
    callback: Callable[[Record], None] | None = None,
    verbose: bool = True,
    resume: bool = False,
    options: Options | None = None,
) -> Result:
    """Fine-tune as `python -m jaxft.train` does, into a run's folder.

    SIGINT and SIGTERM finish the step, save and return a result without a summary; in another than the main thread
    signals are left alone.

    Args:
        config: what the run is; `jaxft.preset("folder")` gives one to `dataclasses.replace`.
        out: the run's folder; runs/run-DATE-TIME when None.
        data: training and test images of your own, in place of those that `config.data` names.
        callback: is given each record of metrics.jsonl as it is made; what it raises ends the run.
        verbose: print what the command prints.
        resume: carry on the run in `out`, or start it where there is none.
        options: the command's other options; `out` and `resume` are taken from the arguments above.

    Raises:
        UserError: what can be mended, as the command says it.
        DivergedError: the loss became infinite or NaN.
    """
    if config.deterministic:
        make_deterministic()
    options = replace(options or Options(), out=None if out is None else Path(out), resume=resume)
    console = Terminal(soft_wrap=True, quiet=not (verbose and is_first()))
    watchers = () if callback is None else (callback,)
    with Display(console, config.epochs) as display:
        return train("run", config, options, display, watchers, data)


def train(
    name: str,
    config: Config,
    options: Options,
    display: Display,
    watchers: Sequence[Watcher] = (),
    splits: Splits | None = None,
    started: float | None = None,
) -> Result:
    """A run from its config to its end; `name` begins its folder's where none is given. In every process.

    Raises:
        UserError: what the user can mend.
        DivergedError: the loss became infinite or NaN.
    """
    started = time.monotonic() if started is None else started
    config = same_everywhere(config, options)
    if options.cache:
        keep_compiled(options.cache_folder)
    devices = agreed(lambda: all_devices(config.devices))
    inputs = agreed(lambda: open_inputs(name, config, options, splits, len(devices), display))
    data, facts, features, feed, run = open_run(
        config, options, inputs.splits, inputs.pretrained, devices, display, plan_course
    )
    if is_first():
        announce(config, data, feed, run, features, display)
    job = Job(config, options, data, facts, inputs.out, display, watchers, started)
    with ExitStack() as stack:
        out, checkpoints = agreed(lambda: open_outputs(job, stack) if is_first() else (job.out, None))
        return run_loop(job._replace(out=out), run, feed, checkpoints)


def open_run(
    config: Config,
    options: Options,
    splits: Splits,
    pretrained: Pretrained | None,
    devices: Devices,
    display: Display,
    plan: Callable[[Config, int], Course],
) -> Opened:
    """From what was read to what trains, by the course that `plan` makes of a number of images. In every process.

    Raises:
        UserError: what the images, the weights and the devices show.
    """
    data = load_data(splits, config, options.decoded, free_memory(own(devices)), display.decoding)
    facts = data_facts(data)
    check_same(facts)
    if not config.sync_bn:
        facts["devices"] = len(devices)  # BatchNorm's statistics are then of a device's part of the batch.
    share = share_of(config.batch_size, accumulate=config.accumulate, num_devices=len(devices), own=own_places(devices))
    features = plan_features(
        config,
        len(data.train.labels),
        len(data.test.labels) + data.num_val,
        devices[0].platform,
        free_memory(own(devices)),
    )
    keep = features.num_views is not None
    report = display.say if is_first() else partial(print, file=sys.stderr)
    feed = make_feed(data, config, report, share, features=keep)
    run = build(
        config,
        data.class_names,
        pretrained,
        stores=None if keep else stores(data),
        class_weights=loss_weights(data, config),
        features=features.num_views,
        course=plan(config, feed.num_train),
    )
    return Opened(data, facts, features, feed, run)


def same_everywhere(config: Config, options: Options) -> Config:
    """The config of all processes; with `resume` process 0's, whose folder the run has.

    Raises:
        UserError: the processes were given different ones.
    """
    check_same({"--resume": options.resume, "--force": options.force})
    if not options.resume:
        check_same(by_flag(config))
        return config
    return from_json(exchange(to_json(config).encode())[0].decode(), "process 0")


def open_inputs(
    name: str, config: Config, options: Options, splits: Splits | None, num_devices: int, display: Display
) -> Inputs:
    """Look at everything that costs little, so that a mistake is told before anything is fetched or decoded."""
    out = Path()
    if is_first():
        check_watchers(options)
        out = find_run_folder(options.out, name, resume=options.resume)
        if options.resume and holds_run(out):
            for line in check_config(read_config(out / "config.json"), config, force=options.force):
                display.say(line)
    splits, pretrained = open_sources(config, options, splits, num_devices)
    if is_first():
        counts = count_notes(splits.train, balanced=config.balance != "none")
        leaks = leakage_notes(splits, shlex.quote(config.data))
        if splits.val is not None:
            leaks += leakage_notes(splits._replace(test=splits.val), shlex.quote(config.data), tested="held-out")
        for note in (*splits.notes, *counts, *leaks):
            display.say(note)
    return Inputs(out, splits, pretrained)


def open_sources(
    config: Config, options: Options, splits: Splits | None, num_devices: int
) -> tuple[Splits, Pretrained | None]:
    """The images and the weights that a run begins with."""
    check_batch_size(config.batch_size, num_devices)
    whole = open_splits(config, options.cache_folder) if splits is None else splits
    splits = with_held_out(whole, config.images.holdout)
    pretrained = load_pretrained(config.model, options.cache_folder)
    check_batch_fits(len(splits.train), config.batch_size, config.accumulate)
    return splits, pretrained


def open_outputs(job: Job, stack: ExitStack) -> tuple[Path, CheckpointManager]:
    """Hold the run's folder and open its checkpoints; where the folder's name was not given, it may get a number."""
    out, options = job.out, job.options
    if options.out is None:
        out = make_new_folder(out)
    stack.enter_context(held(out, new=not options.resume))
    return out, stack.enter_context(open_checkpoints(out / "checkpoints", keep=options.keep))
