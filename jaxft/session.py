"""A run's loop in its folder: taken up where it was, recorded, saved, and its results written."""

import json
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from orbax.checkpoint import CheckpointManager

from jaxft import loop
from jaxft.beside import compiling_evaluation
from jaxft.build import Run
from jaxft.checkpoint import NonFiniteStateError, latest_good, restore, restore_best, save, wait
from jaxft.config import Config
from jaxft.console import Display
from jaxft.data.feed import Feed
from jaxft.data.prepare import Data
from jaxft.holdout import chosen, out_of_patience, score
from jaxft.loop import Hooks, NonFiniteLossError, Progress
from jaxft.model_file import describe_model, save_model
from jaxft.options import Options
from jaxft.processes import agreed
from jaxft.records import Record, Watcher
from jaxft.report.summary import summarise
from jaxft.report.write import try_report
from jaxft.resume import Past, about, check_not_over, take_up
from jaxft.run_folder import append_record, describe, replace_text, write_records, writing
from jaxft.step import TrainState, variables_of
from jaxft.stop import stop_on_signals
from jaxft.watch import watching


class DivergedError(RuntimeError):
    """The loss became infinite or NaN; the message says where, and what is saved."""


class Result(NamedTuple):
    """A run that has ended or, with no summary, was stopped by a signal and can be resumed."""

    out: Path
    """The run's folder."""
    records: Sequence[Record]
    """As metrics.jsonl has them; of a resumed run, from its beginning."""
    summary: dict[str, Any] | None
    """As summary.json has it: final_accuracy, best_accuracy, train_images_per_second and others."""


class Job(NamedTuple):
    """A run that is about to train: what it is, where it goes and who hears of it."""

    config: Config
    options: Options
    data: Data
    facts: dict[str, Any]
    out: Path
    display: Display
    watchers: Sequence[Watcher]
    started: float


def run_loop(job: Job, run: Run, feed: Feed, checkpoints: CheckpointManager | None) -> Result:
    """Run the loop into the run's folder. Process 0 alone has checkpoints, and writes."""
    config, options, display, out = job.config, job.options, job.display, job.out
    run, past = carry_on(job, run, checkpoints)
    records, last_saved = list(past.records), time.monotonic()

    def on_record(record: Record) -> None:
        records.append(record)
        if checkpoints is not None:
            append_record(out, record)
            for watcher in (*watchers, *job.watchers):
                watcher(record)
        display.record(record)

    def seconds() -> float:
        return past.seconds + time.monotonic() - job.started

    def keep(progress: Progress, evaluated: bool) -> None:
        nonlocal last_saved
        if checkpoints is None:
            return
        told = about(config, job.facts, Past(records, progress.window, seconds()))
        # A state that is not finite is not kept: the next loss ends the run, in every process at the same step.
        with suppress(NonFiniteStateError):
            save(checkpoints, progress.state, told, score(records) if evaluated else None)
        last_saved = time.monotonic()

    def should_save() -> bool:
        return checkpoints is not None and time.monotonic() - last_saved >= 60 * options.save_minutes

    watched = watching(out, config, options, past.records, display.say)
    with (
        watched as watchers,
        stop_on_signals(display.alert) as should_stop,
        compiling_evaluation(run, feed) as compiling,
    ):
        try:
            outcome = loop.fit(
                compiling,
                feed,
                images_per_step=config.images_per_step,
                num_epochs=config.epochs,
                hooks=Hooks(
                    on_record,
                    display.decoding,
                    keep,
                    should_save,
                    should_stop,
                    lambda: out_of_patience(records, config),
                ),
                window=past.window,
                skip_nonfinite=config.on_nonfinite == "skip",
            )
        except NonFiniteLossError as error:
            raise DivergedError(explain(error, config, checkpoints)) from None
        if outcome.stopped:
            display.say(
                f"stopped after step {int(outcome.state.step)}: {last_saved_at(checkpoints)}; "
                f"python -m jaxft.train --resume --out {shlex.quote(str(out))} goes on"
            )
            return Result(out, records, None)
        summary = summarise(records, seconds(), run.devices, config)
        if checkpoints is not None:
            wait(checkpoints)  # The results can be made from it anew: where there is no room for both, it comes first.
            write_results(job, best_state(outcome.state, records, config, checkpoints), records, summary)
    return Result(out, records, summary)


def carry_on(job: Job, run: Run, checkpoints: CheckpointManager | None) -> tuple[Run, Past]:
    """The run from its newest good checkpoint on; from its start where it has none, or is a new one."""
    found = None
    if job.options.resume:
        found = agreed(lambda: None if checkpoints is None else restore(checkpoints, run.state))
    for line in found.damaged if found else ():
        job.display.say(line)
    state, told = (found.state, found.about) if found else (None, None)
    run, past = take_up(run, state, told, job.facts, force=job.options.force)
    check_not_over(int(run.state.step), past.records, job.facts, job.config)
    if checkpoints is not None:
        # Not before: a config or data that do not fit must not become those of the run that is there.
        describe(job.out, job.config, job.data.class_names)
        write_records(job.out, past.records)
    if job.options.resume:
        job.display.resumed(int(run.state.step), past.records)
    return run, past


def best_state(
    state: TrainState, records: Sequence[Record], config: Config, checkpoints: CheckpointManager
) -> TrainState:
    """The state at the end of the epoch whose model is written.

    Raises:
        UserError: it is not the last epoch's, and its checkpoint is damaged.
    """
    held_out = chosen(records, config)
    if held_out is None or held_out.step == int(state.step):
        return state
    return restore_best(checkpoints, held_out.step, state)


def write_results(job: Job, state: TrainState, records: Sequence[Record], summary: dict[str, Any]) -> None:
    """Write the model, the summary, the figure and the report, and say how it went."""
    config, out = job.config, job.out
    with writing(out):
        save_model(out / "model.safetensors", variables_of(state), describe_model(config, job.data.class_names))
        replace_text(out / "summary.json", json.dumps(summary, indent=2) + "\n")
        from jaxft.report.curves import draw_curves  # Not before the model is there: matplotlib is slow to import.

        draw_curves(
            records, out / "curves.png", f"{config.model.arch} on {config.data}, weights {config.model.weights}"
        )
    report = try_report(out, job.data.train, job.data.test, job.display.say)
    job.display.finished(summary, out, report)


def explain(error: NonFiniteLossError, config: Config, checkpoints: CheckpointManager | None) -> str:
    """Why the run ended and what is left of it."""
    skip = ", or --on-nonfinite skip to leave such updates out" if config.on_nonfinite == "stop" else ""
    return f"{error} (learning rate {config.optim.lr:g}); {last_saved_at(checkpoints)}. Pass a smaller --lr{skip}."


def last_saved_at(checkpoints: CheckpointManager | None) -> str:
    """What is saved, once it is: in words."""
    if checkpoints is None:
        return "process 0 has the checkpoints"
    wait(checkpoints)
    step = latest_good(checkpoints)
    return "there is no checkpoint yet" if step is None else f"the checkpoint of step {step} is good"
