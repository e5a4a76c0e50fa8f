"""Fine-tune a ResNet on a folder of photographs: python -m jaxft.train [PRESET] [--flags]."""

import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from orbax.checkpoint import CheckpointManager
from rich.console import Console

from configs import PRESETS, preset
from convert.pretrained import load_pretrained
from convert.torchvision import to_state_dict
from convert.weights import save_weights
from jaxft.build import Run, build
from jaxft.checkpoint import open_checkpoints, restore_state, save_state
from jaxft.config import Config, read_config
from jaxft.console import Display, announce
from jaxft.data.batches import check_batch_fits
from jaxft.data.cache import GIGABYTE, LIMIT_BYTES
from jaxft.data.counts import count_notes
from jaxft.data.feed import Feed
from jaxft.data.leakage import leakage_notes
from jaxft.data.load import open_splits
from jaxft.data.plan import Keep
from jaxft.data.prepare import load_data, loss_weights, make_feed, stores
from jaxft.download import cache_folder
from jaxft.errors import EXIT_NONFINITE, EXIT_STOPPED, run_command
from jaxft.loop import Hooks, NonFiniteLossError, Record, fit
from jaxft.parallel import free_memory, local_devices
from jaxft.report import draw_curves, summarise
from jaxft.run_folder import append_record, describe, open_run_folder, read_records, write_records
from jaxft.step import TrainState


@dataclass(frozen=True)
class Arguments:
    """The command line: what the run is, and where it goes."""

    config: Config = field(default_factory=Config)
    out: Path | None = None
    """Run folder; runs/PRESET-DATE-TIME when not given."""
    resume: bool = False
    """Carry on from the newest checkpoint in --out."""
    cache_dir: Path | None = None
    """Where decoded images and downloads are kept; ~/.cache/jaxft when not given."""
    cache: bool = True
    """Keep decoded images for the next run."""
    cache_limit: float = LIMIT_BYTES / GIGABYTE
    """GB of decoded images that are kept; those that no run has used for longest go first."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
        UserError: what the user can mend.
    """
    started = time.monotonic()
    name, arguments = parse(sys.argv[1:] if argv is None else argv)
    config, cache_dir = arguments.config, arguments.cache_dir or cache_folder()
    with Display(Console(soft_wrap=True), config.epochs) as display:
        # What costs little goes first, so that a mistake is told before anything is fetched or decoded.
        splits = open_splits(config, cache_dir)
        pretrained = load_pretrained(config.model, cache_dir)
        check_batch_fits(len(splits.train), config.batch_size)
        counts = count_notes(splits.train, balanced=config.balance != "none")
        for note in (*splits.notes, *counts, *leakage_notes(splits, shlex.quote(config.data))):
            display.say(note)
        keep = Keep(cache_dir / "decoded" if arguments.cache else None, round(arguments.cache_limit * GIGABYTE))
        free = free_memory(local_devices(config.devices))
        data = load_data(splits, config, keep, free, display.decoding)
        feed = make_feed(data, config, display.say)
        weights = loss_weights(data, config)
        run = build(config, data.class_names, pretrained, stores=stores(data), class_weights=weights)
        out = open_run_folder(arguments.out, name, resume=arguments.resume)
        describe(out, config, data.class_names)
        announce(config, data, feed, run, display.console)
        return train(config, run, feed, data.class_names, out, display, started)


def parse(argv: Sequence[str]) -> tuple[str, Arguments]:
    """The run's name and arguments: a preset, or `--config FILE`, changed by the flags after it.

    Raises:
        UserError: no such preset, no such file, or a value that cannot be.
    """
    rest = list(argv)
    if "--config" in rest[:-1]:
        place = rest.index("--config")
        path = Path(rest[place + 1])
        del rest[place : place + 2]
        name, base = path.absolute().parent.name, read_config(path)
    else:
        name = rest.pop(0) if rest and not rest[0].startswith("-") else "demo"
        base = preset(name)
    arguments = tyro.cli(
        Arguments,
        prog="python -m jaxft.train [PRESET | --config RUN/config.json]",
        description=f"Fine-tune a ResNet on photographs. PRESET is one of {', '.join(PRESETS)}; demo when left out. "
        f"--config runs a finished run again. Flags change either; the defaults below are those of {name}.",
        args=rest,
        default=Arguments(base),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return name, arguments


def train(
    config: Config, run: Run, feed: Feed, class_names: Sequence[str], out: Path, display: Display, started: float
) -> int:
    """Run the loop into the run's folder; returns the exit status."""
    with open_checkpoints(out / "checkpoints") as checkpoints, stop_on_signals() as should_stop:
        run, records = carry_on(run, checkpoints, out)

        def on_record(record: Record) -> None:
            records.append(record)
            append_record(out, record)
            display.record(record)

        def keep(state: TrainState) -> None:
            save_state(checkpoints, state)

        try:
            outcome = fit(
                run,
                feed,
                batch_size=config.batch_size,
                num_epochs=config.epochs,
                hooks=Hooks(on_record, keep, should_stop),
            )
        except NonFiniteLossError as error:
            return explain(error, config, checkpoints.latest_step(), out)
    if outcome.stopped:
        display.console.print(
            f"stopped after step {int(outcome.state.step)}; the same command with --resume --out {out} carries on"
        )
        return EXIT_STOPPED
    save_model(outcome.state, class_names, config, out)
    summary = summarise(records, time.monotonic() - started, run.devices)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    draw_curves(records, out / "curves.png", f"{config.model.arch} on {config.data}, weights {config.model.weights}")
    display.finished(summary, out)
    return 0


def carry_on(run: Run, checkpoints: CheckpointManager, out: Path) -> tuple[Run, list[Record]]:
    """The run from its newest checkpoint on, with the records up to there; from the start where there is none."""
    state = restore_state(checkpoints, run.state)
    if state is None:
        write_records(out, [])
        return run, []
    records = [record for record in read_records(out) if record.step <= int(state.step)]
    write_records(out, records)
    return run._replace(state=state), records


def save_model(state: TrainState, class_names: Sequence[str], config: Config, out: Path) -> None:
    """Write model.safetensors: torchvision's layout, with the class names in its metadata."""
    state_dict = to_state_dict({"params": state.params, "batch_stats": state.batch_stats})
    metadata = {
        "arch": config.model.arch,
        "width": str(config.model.width),
        "image_size": str(config.images.image_size),
    }
    save_weights(out / "model.safetensors", state_dict, classes=tuple(class_names), metadata=metadata)


def explain(error: NonFiniteLossError, config: Config, kept: int | None, out: Path) -> int:
    """Say why the run ended and what is left of it; returns the exit status."""
    left = "no epoch had ended" if kept is None else f"the checkpoint of step {kept} in {out / 'checkpoints'} is good"
    print(f"error: {error} (learning rate {config.optim.lr:g}); {left}. Pass a smaller --lr.", file=sys.stderr)
    return EXIT_NONFINITE


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT has come; a second one ends the process at once."""
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    run_command(main)
