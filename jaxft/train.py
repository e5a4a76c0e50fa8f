"""Fine-tune a ResNet on a folder of photographs: python -m jaxft.train [PRESET] [--flags]."""

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from orbax.checkpoint import CheckpointManager

from convert.pretrained import load_pretrained
from jaxft.arguments import Arguments, parse, same_everywhere
from jaxft.build import Pretrained, Run, build
from jaxft.checkpoint import NonFiniteStateError, latest_good, open_checkpoints, restore, save, wait
from jaxft.config import Config, read_config
from jaxft.console import Display, Terminal, announce
from jaxft.data.batches import check_batch_fits, share_of
from jaxft.data.cache import GIGABYTE
from jaxft.data.counts import count_notes
from jaxft.data.feed import Feed
from jaxft.data.leakage import leakage_notes
from jaxft.data.load import open_splits
from jaxft.data.plan import Keep
from jaxft.data.prepare import load_data, loss_weights, make_feed, stores
from jaxft.data.sources import Splits
from jaxft.download import cache_folder
from jaxft.errors import EXIT_NONFINITE, EXIT_STOPPED, run_command
from jaxft.launch import Processes, find
from jaxft.loop import Hooks, NonFiniteLossError, Progress, Record, fit
from jaxft.model_file import describe_model, save_model
from jaxft.parallel import DETERMINISTIC, all_devices, check_batch_size, free_memory, own, own_places
from jaxft.processes import agreed, check_same, is_first, joined
from jaxft.report import draw_curves, summarise
from jaxft.resume import Past, about, check_config, check_not_over, data_facts, take_up
from jaxft.run_folder import (
    append_record,
    describe,
    find_run_folder,
    held,
    holds_run,
    make_new_folder,
    replace_text,
    write_records,
    writing,
)
from jaxft.step import TrainState
from jaxft.stop import stop_on_signals


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    started = time.monotonic()
    name, arguments = parse(sys.argv[1:] if argv is None else argv)
    if arguments.config.deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}"
    flags = Processes(arguments.coordinator, arguments.num_processes, arguments.process_id)
    with joined(find(flags, os.environ), arguments.heartbeat_timeout):
        console = Terminal(soft_wrap=True, quiet=not is_first())
        with Display(console, arguments.config.epochs) as display, ExitStack() as stack:
            return command(name, arguments, display, stack, started)


class Inputs(NamedTuple):
    """What a run reads before it decodes anything; `out` is process 0's alone."""

    out: Path
    splits: Splits
    pretrained: Pretrained | None


class Job(NamedTuple):
    """A run that is about to train: what it is, where it goes and who hears of it."""

    config: Config
    class_names: Sequence[str]
    facts: dict[str, Any]
    out: Path
    display: Display
    started: float


def command(name: str, arguments: Arguments, display: Display, stack: ExitStack, started: float) -> int:
    """From the arguments to the exit status; `stack` holds the run's folder."""
    arguments = same_everywhere(arguments)
    config, cache_dir = arguments.config, arguments.cache_dir or cache_folder()
    devices = agreed(lambda: all_devices(config.devices))
    inputs = agreed(lambda: open_inputs(name, arguments, cache_dir, len(devices), display))
    keep = Keep(cache_dir / "decoded" if arguments.cache else None, round(arguments.cache_limit * GIGABYTE))
    data = load_data(inputs.splits, config, keep, free_memory(own(devices)), display.decoding)
    facts = data_facts(data)
    check_same(facts)
    if not config.sync_bn:
        facts["devices"] = len(devices)  # BatchNorm's statistics are then of a device's part of the batch.
    share = share_of(config.batch_size, accumulate=config.accumulate, num_devices=len(devices), own=own_places(devices))
    feed = make_feed(data, config, display.say if is_first() else partial(print, file=sys.stderr), share)
    weights = loss_weights(data, config)
    run = build(config, data.class_names, inputs.pretrained, stores=stores(data), class_weights=weights)
    if is_first():
        announce(config, data, feed, run, display)
    job = Job(config, data.class_names, facts, inputs.out, display, started)
    out, checkpoints = agreed(lambda: open_outputs(job.out, arguments, stack) if is_first() else (job.out, None))
    return train(job._replace(out=out), arguments, run, feed, checkpoints)


def open_inputs(name: str, arguments: Arguments, cache_dir: Path, num_devices: int, display: Display) -> Inputs:
    """Look at everything that costs little, so that a mistake is told before anything is fetched or decoded."""
    config, out = arguments.config, Path()
    if is_first():
        out = find_run_folder(arguments.out, name, resume=arguments.resume)
        if arguments.resume and holds_run(out):
            for line in check_config(read_config(out / "config.json"), config, force=arguments.force):
                display.say(line)
    check_batch_size(config.batch_size, num_devices)
    splits = open_splits(config, cache_dir)
    pretrained = load_pretrained(config.model, cache_dir)
    check_batch_fits(len(splits.train), config.batch_size, config.accumulate)
    if is_first():
        counts = count_notes(splits.train, balanced=config.balance != "none")
        for note in (*splits.notes, *counts, *leakage_notes(splits, shlex.quote(config.data))):
            display.say(note)
    return Inputs(out, splits, pretrained)


def open_outputs(out: Path, arguments: Arguments, stack: ExitStack) -> tuple[Path, CheckpointManager]:
    """Hold the run's folder and open its checkpoints; where the folder's name was not given, it may get a number."""
    if arguments.out is None:
        out = make_new_folder(out)
    stack.enter_context(held(out, new=not arguments.resume))
    return out, stack.enter_context(open_checkpoints(out / "checkpoints", keep=arguments.keep))


def train(job: Job, arguments: Arguments, run: Run, feed: Feed, checkpoints: CheckpointManager | None) -> int:
    """Run the loop into the run's folder; returns the exit status. Process 0 alone has checkpoints, and writes."""
    config, display, out = job.config, job.display, job.out
    run, past = carry_on(job, arguments, run, checkpoints)
    records, last_saved = list(past.records), time.monotonic()

    def on_record(record: Record) -> None:
        records.append(record)
        if checkpoints is not None:
            append_record(out, record)
        display.record(record)

    def seconds() -> float:
        return past.seconds + time.monotonic() - job.started

    def keep(progress: Progress, accuracy: float | None) -> None:
        nonlocal last_saved
        if checkpoints is None:
            return
        told = about(config, job.facts, Past(records, progress.window, seconds()))
        # A state that is not finite is not kept: the next loss ends the run, in every process at the same step.
        with suppress(NonFiniteStateError):
            save(checkpoints, progress.state, told, accuracy)
        last_saved = time.monotonic()

    def should_save() -> bool:
        return checkpoints is not None and time.monotonic() - last_saved >= 60 * arguments.save_minutes

    with stop_on_signals(display.say) as should_stop:
        try:
            outcome = fit(
                run,
                feed,
                images_per_step=config.images_per_step,
                num_epochs=config.epochs,
                hooks=Hooks(on_record, keep, should_save, should_stop),
                window=past.window,
                skip_nonfinite=config.on_nonfinite == "skip",
            )
        except NonFiniteLossError as error:
            return explain(error, config, checkpoints)
        if outcome.stopped:
            display.say(
                f"stopped after step {int(outcome.state.step)}: {last_saved_at(checkpoints)}; "
                f"python -m jaxft.train --resume --out {shlex.quote(str(out))} goes on"
            )
            return EXIT_STOPPED
        if checkpoints is not None:
            wait(checkpoints)  # The results can be made from it anew: where there is no room for both, it comes first.
            write_results(job, outcome.state, records, seconds(), run)
    return 0


def carry_on(job: Job, arguments: Arguments, run: Run, checkpoints: CheckpointManager | None) -> tuple[Run, Past]:
    """The run from its newest good checkpoint on; from its start where it has none, or is a new one."""
    found = None
    if arguments.resume:
        found = agreed(lambda: None if checkpoints is None else restore(checkpoints, run.state))
    for line in found.damaged if found else ():
        job.display.say(line)
    state, told = (found.state, found.about) if found else (None, None)
    run, past = take_up(run, state, told, job.facts, force=arguments.force)
    check_not_over(int(run.state.step), past.records, job.facts, job.config)
    if checkpoints is not None:
        # Not before: a config or data that do not fit must not become those of the run that is there.
        describe(job.out, job.config, job.class_names)
        write_records(job.out, past.records)
    if arguments.resume:
        job.display.resumed(int(run.state.step), past.records)
    return run, past


def write_results(job: Job, state: TrainState, records: Sequence[Record], seconds: float, run: Run) -> None:
    """Write the model, the summary and the figure, and say how it went."""
    config, out = job.config, job.out
    with writing(out):
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        save_model(out / "model.safetensors", variables, describe_model(config, job.class_names))
        summary = summarise(records, seconds, run.devices)
        replace_text(out / "summary.json", json.dumps(summary, indent=2) + "\n")
        draw_curves(
            records, out / "curves.png", f"{config.model.arch} on {config.data}, weights {config.model.weights}"
        )
    job.display.finished(summary, out)


def explain(error: NonFiniteLossError, config: Config, checkpoints: CheckpointManager | None) -> int:
    """Say why the run ended and what is left of it; returns the exit status."""
    if checkpoints is not None:
        skip = ", or --on-nonfinite skip to leave such updates out" if config.on_nonfinite == "stop" else ""
        print(
            f"error: {error} (learning rate {config.optim.lr:g}); {last_saved_at(checkpoints)}. "
            f"Pass a smaller --lr{skip}.",
            file=sys.stderr,
        )
    return EXIT_NONFINITE


def last_saved_at(checkpoints: CheckpointManager | None) -> str:
    """What is saved, once it is: in words."""
    if checkpoints is None:
        return "process 0 has the checkpoints"
    wait(checkpoints)
    step = latest_good(checkpoints)
    return "there is no checkpoint yet" if step is None else f"the checkpoint of step {step} is good"


if __name__ == "__main__":
    run_command(main)
