"""TensorBoard and Weights & Biases: what they were told, read back by TensorBoard's readers and from W&B's files."""

import json
import os
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import jaxft
from disks import on_a_disk
from jaxft import wandb_run
from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig, RegularConfig
from jaxft.config_file import to_json
from jaxft.console import Display
from jaxft.data import kitchen
from jaxft.data.sources import ArraySource, Splits
from jaxft.errors import UserError
from jaxft.event_files import event_files
from jaxft.options import Options
from jaxft.records import Record, read_records
from jaxft.train import main
from jaxft.watch import forgiven
from runs import ROOT

CONFIG = Config(optim=OptimConfig(lr=0.25), images=ImageConfig(augment=("crop", "flip")), epochs=3)
SCALARS = ("loss", "accuracy", "images_per_second", "epoch")


def record(step: int, split: str = "train") -> Record:
    """One of a run of three steps an epoch; every value another one."""
    epoch = step / 3 if split == "train" else step // 3
    return Record(step, epoch, split, 1 / step, 1 - 1 / (step + (split == "test")), 100.0 + step, 0)


RECORDS = [
    record(step, split) for step in range(1, 10) for split in ("train", "test") if split == "train" or step % 3 == 0
]


def tell(out: Path, told: Sequence[Record], past: Sequence[Record] = ()) -> None:
    with event_files(out, CONFIG, past) as watch:
        for each in told:
            watch(each)


def shown(out: Path, split: str) -> dict[str, list[tuple[int, float]]]:
    """By name, the points that TensorBoard shows."""
    events = EventAccumulator(str(out / "tensorboard" / split)).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def assert_shows(out: Path, records: list[Record]) -> None:
    for split in ("train", "test"):
        points = shown(out, split)
        assert set(points) == {*SCALARS, *(["skipped"] if split == "train" else [])}
        for name in SCALARS:
            expected = [(each.step, getattr(each, name)) for each in records if each.split == split]
            assert points[name] == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]


# TensorBoard.


def test_tensorboard_shows_what_it_was_told(tmp_path):
    tell(tmp_path / "run", RECORDS)
    assert_shows(tmp_path / "run", RECORDS)


def test_tensorboard_shows_each_run_of_a_folder_under_its_name(tmp_path):
    for name in ("ants", "bees"):
        tell(tmp_path / name, RECORDS)
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    names = {f"{name}/tensorboard{split}" for name in ("ants", "bees") for split in ("", "/train", "/test")}
    assert set(runs.Runs()) == names
    # One name in both, which is what lays them in one chart.
    assert "loss" in runs.GetAccumulator("ants/tensorboard/train").Tags()["tensors"]
    assert "loss" in runs.GetAccumulator("ants/tensorboard/test").Tags()["tensors"]


def test_tensorboard_has_the_config_as_text_and_as_hyperparameters(tmp_path):
    tell(tmp_path / "run", [])
    runs = EventMultiplexer().AddRun(str(tmp_path / "run/tensorboard"), "run").Reload()
    (text,) = runs.Tensors("run", "config")
    assert to_json(CONFIG) in text.tensor_proto.string_val[0].decode()
    content = runs.SummaryMetadata("run", "_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["lr"].number_value == 0.25
    assert hparams["augment"].string_value == "crop flip"
    assert hparams["sync-bn"].bool_value is True
    assert "canvas" not in hparams


@pytest.mark.parametrize("cut", [0, 5, 30])
@pytest.mark.parametrize("lost", [0, 1, 5])
def test_a_resumed_run_has_no_point_twice(tmp_path, monkeypatch, cut, lost):
    """Killed, in the middle of a line too, and taken up from before what it had recorded; the clock is set back."""
    tell(tmp_path, RECORDS[:7])
    for split in ("train", "test"):
        (file,) = (tmp_path / "tensorboard" / split).iterdir()
        file.write_bytes(file.read_bytes()[: file.stat().st_size - cut])
    monkeypatch.setattr(time, "time", lambda: 1e9)
    again = [each._replace(loss=7.0) for each in RECORDS[7 - lost :]]
    tell(tmp_path, again, RECORDS[: 7 - lost])
    assert_shows(tmp_path, [*RECORDS[: 7 - lost], *again])
    tell(tmp_path, [], [*RECORDS[: 7 - lost], *again])
    assert_shows(tmp_path, [*RECORDS[: 7 - lost], *again])


def test_a_run_that_is_watched_from_its_second_half_on_shows_its_first(tmp_path):
    tell(tmp_path, RECORDS[6:], RECORDS[:6])
    assert_shows(tmp_path, RECORDS)


def test_event_files_are_there_at_once_and_need_neither_tensorflow_nor_torch(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow/__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
    code = """
        import os, signal, sys
        sys.modules["torch"] = None
        from pathlib import Path
        from jaxft.config import Config
        from jaxft.event_files import event_files
        from jaxft.records import Record

        with event_files(Path(sys.argv[1]), Config(), []) as watch:
            watch(Record(1, 0.5, "train", 0.25, 0.75, 10.0))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    words = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(tmp_path / "run")]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert shown(tmp_path / "run", "train")["loss"] == [(1, 0.25)]


def test_the_run_goes_on_where_the_disk_is_full(tmp_path):
    code = """
        import sys
        from pathlib import Path
        from jaxft.config import Config
        from jaxft.options import Options
        from jaxft.records import Record
        from jaxft.watch import watching

        with watching(Path(sys.argv[1]) / "run", Config(), Options(tensorboard=True), [], print) as (watch,):
            for step in range(1, 500):
                watch(Record(step, step / 3, "train", 1.0, 1.0, 1.0))
        print("went on")
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "disk")]
    printed = on_a_disk(tmp_path / "disk", "size=64k", words, os.environ).stdout
    assert printed == ("TensorBoard: No space left on device. It hears no more of this run, which goes on\nwent on\n")


def test_a_watcher_that_fails_is_told_of_once_and_hears_no_more(tmp_path):
    heard, said = [], []

    @contextmanager
    def opening():
        def watch(each):
            heard.append(each)
            raise RuntimeError("no more\npaper.")

        yield watch
        raise OSError(28, "full")

    with forgiven("Printer", opening(), said.append) as watch:
        for each in RECORDS[:3]:
            watch(each)
    assert heard == RECORDS[:1]
    assert said == ["Printer: no more paper. It hears no more of this run, which goes on"]


@pytest.mark.parametrize("how", ["opening", "closing", "interrupted"])
def test_a_watcher_that_cannot_begin_or_end(how):
    said = []

    @contextmanager
    def opening():
        if how == "opening":
            raise OSError(28, "full")
        yield lambda _: None
        raise KeyboardInterrupt if how == "interrupted" else OSError(28, "full")

    def end():
        with forgiven("Printer", opening(), said.append) as watch:
            watch(RECORDS[0])
            raise UserError("the run's own")

    with pytest.raises(UserError, match="the run's own"):
        end()
    (line,) = said
    assert line.startswith(f"Printer: {'KeyboardInterrupt' if how == 'interrupted' else 'full'}. It hears no more")


def with_held_out(records: Sequence[Record]) -> list[Record]:
    """Before each test a record of what is held out."""
    found: list[Record] = []
    for each in records:
        found += [each._replace(split="val", loss=each.loss + 1)] * (each.split == "test") + [each]
    return found


HELD_OUT = replace(CONFIG, images=replace(CONFIG.images, holdout=0.1), regular=RegularConfig(patience=1))


def test_tensorboard_has_what_is_held_out_beside_the_test(tmp_path):
    told = with_held_out(RECORDS)
    with event_files(tmp_path, HELD_OUT, told[:7]) as watch:
        for each in told[7:]:
            watch(each)
    assert_shows(tmp_path, told)
    expected = [(each.step, pytest.approx(each.loss, rel=1e-6)) for each in told if each.split == "val"]
    assert shown(tmp_path, "val")["loss"] == expected


# Weights & Biases. In processes of their own: it reads its settings once.

KEY = "0" * 40
SECONDS = 100


def watched(out: Path, past: int, told: int, *, kill: bool = False, **env: str) -> list[str]:
    """The lines that a process prints which tells W&B of the first so many records, and of more."""
    code = """
        import json, os, signal, sys, time
        from functools import partial
        from pathlib import Path
        from jaxft import wandb_run
        from jaxft.config_file import from_json
        from jaxft.records import Record

        out, config, records, past, kill = sys.argv[1:]
        records = [Record(*values) for values in json.loads(records)]
        wandb_run.WAIT_SECONDS = 2
        wandb_run.quiet()
        with wandb_run.wandb_run(
            Path(out), from_json(config, ""), "team/insects", records[: int(past)], partial(print, flush=True)
        ) as watch:
            for record in records[int(past) :]:
                watch(record)
            if kill == "True":
                time.sleep(2 * wandb_run.FLUSH_SECONDS)
                os.kill(os.getpid(), signal.SIGKILL)
    """
    out.mkdir(exist_ok=True)
    words = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    arguments = [out, to_json(CONFIG), json.dumps(RECORDS[:told]), past, kill]
    own = {"WANDB_ERROR_REPORTING": "false", "WANDB_X_DISABLE_STATS": "true", "HOME": str(out), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*words, *map(str, arguments)], env=os.environ | own | env, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == (-9 if kill else 0), done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def kept(folder: Path) -> list:
    """The records in W&B's file of an offline run, which is a log as LevelDB has it."""
    from wandb.proto.wandb_internal_pb2 import Record as Kept

    (path,) = folder.glob("*.wandb")
    data, place, whole, found = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        _, length, kind = struct.unpack_from("<IHB", data, place)
        left = 32768 - place % 32768
        if left < 7 or kind == 0:
            place += left
            continue
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # Whole, or the last part.
            found.append(Kept.FromString(whole))
            whole = b""
    return found


def rows(records: list) -> dict[int, dict[str, float]]:
    """By step, what was logged."""
    items = [{item.nested_key[0]: json.loads(item.value_json) for item in each.history.item} for each in records]
    return {
        row["_step"]: {name: value for name, value in row.items() if name[0] != "_"} for row in items if "_step" in row
    }


def expected(records: list[Record]) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for each in records:
        names = (*SCALARS, "skipped") if each.split == "train" else SCALARS
        found.setdefault(each.step, {}).update({f"{name}/{each.split}": getattr(each, name) for name in names})
    return found


def test_wandb_offline_killed_and_resumed_is_one_run_without_a_step_twice(tmp_path):
    out = tmp_path / "ants 1"
    sync = f"Weights & Biases: offline; wandb sync '{out}/wandb'/offline-run-* sends the run there"
    assert watched(out, 0, 8, kill=True, WANDB_MODE="offline") == [sync]
    time.sleep(1)  # The folders' names are of the second.
    assert watched(out, 4, len(RECORDS), WANDB_MODE="offline") == [sync]
    folders = sorted((out / "wandb").glob("offline-run-*"))
    first, second = (kept(folder) for folder in folders)
    (run,), (again,) = ([each.run for each in part if each.HasField("run")] for part in (first, second))
    assert run.run_id == again.run_id
    assert (run.entity, run.project, run.display_name) == ("team", "insects", "ants 1")
    assert {each.key: json.loads(each.value_json) for each in run.config.update}["optim"]["lr"] == 0.25
    assert rows(first) == expected(RECORDS[:8])
    assert rows(second) == expected(RECORDS[8:])
    assert [each.exit.exit_code for each in second if each.HasField("exit")] == [0]


def test_wandb_waits_for_the_test_of_an_epochs_last_step_and_tells_of_an_end_before_the_last_epoch(tmp_path):
    watched(tmp_path / "run", 0, 3, WANDB_MODE="offline")
    (folder,) = (tmp_path / "run/wandb").glob("offline-run-*")
    assert rows(kept(folder)) == expected(RECORDS[:2])
    assert [each.exit.exit_code for each in kept(folder) if each.HasField("exit")] == [1]


def test_wandb_away_is_told_in_a_line_and_the_run_is_kept(tmp_path):
    out = tmp_path / "run"
    began = time.monotonic()
    (line,) = watched(out, 0, len(RECORDS), WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY=KEY)
    assert time.monotonic() - began < 60
    assert line.startswith("Weights & Biases: offline (")
    assert line.endswith(f"); wandb sync {out}/wandb/offline-run-* sends the run there")
    (folder,) = (out / "wandb").glob("offline-run-*")
    assert rows(kept(folder)) == expected(RECORDS)


def test_wandb_disabled_says_nothing(tmp_path):
    assert watched(tmp_path / "run", 0, len(RECORDS), WANDB_MODE="disabled") == []


def test_wandb_is_told_of_what_it_lacks(tmp_path, monkeypatch):
    """Of a run that it has up to step 4."""
    logged, ended = {}, []
    server = SimpleNamespace(
        offline=False,
        disabled=False,
        url="https://wandb.example/run",
        step=5,
        log=lambda row, step, commit: logged.update({step: row}),
        finish=lambda exit_code: ended.append(exit_code),
    )
    monkeypatch.setattr(wandb_run, "begin", lambda *_: server)
    with wandb_run.wandb_run(tmp_path, CONFIG, "insects", RECORDS[:3], print) as watch:
        for each in RECORDS[3:]:
            watch(each)
    assert logged == {step: row for step, row in expected(RECORDS).items() if step >= 5}
    assert ended == [0]


@pytest.mark.parametrize(("losses", "status"), [((3.0, 1.0), 1), ((1.0, 3.0), 0)])
def test_wandb_has_what_is_held_out_and_an_early_end_is_no_failure(tmp_path, monkeypatch, losses, status):
    logged, ended = {}, []
    server = SimpleNamespace(
        offline=True,
        log=lambda row, step, commit: logged.update({step: row}),
        finish=lambda exit_code: ended.append(exit_code),
    )
    monkeypatch.setattr(wandb_run, "begin", lambda *_: server)
    told = with_held_out([each for each in RECORDS if each.step <= 6])
    told = [each._replace(loss=losses[each.step // 3 - 1]) if each.split == "val" else each for each in told]
    with wandb_run.wandb_run(tmp_path, HELD_OUT, "insects", (), print) as watch:
        for each in told:
            watch(each)
    assert logged == expected(told)
    assert [logged[step]["loss/val"] for step in (3, 6)] == list(losses)
    assert ended == [status]


def test_wandb_that_takes_too_long_at_the_end(tmp_path, monkeypatch):
    def finish(exit_code):
        raise TimeoutError

    server = SimpleNamespace(offline=False, step=0, log=lambda *_, **__: None, finish=finish)
    monkeypatch.setattr(wandb_run, "begin", lambda *_: server)
    said = []
    with wandb_run.wandb_run(tmp_path, CONFIG, "team/insects", RECORDS, said.append):
        pass
    again = f"--resume --out {tmp_path} --wandb team/insects"
    assert said == [f"Weights & Biases has not taken everything within 20 seconds; {again} sends the rest"]


# The command and the library.


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_extra_is_told_before_anything_is_decoded(tmp_path, monkeypatch, name):
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(Display, "decoding", lambda *_: pytest.fail("decoding"))
    flags = ["--tensorboard"] if name == "tensorboard" else ["--wandb", "insects"]
    message = rf'--{name} needs {name} \(.*\). Run pip install "jaxft\[{name}\]", or leave --{name} out.'
    with pytest.raises(UserError, match=message):
        main([*flags, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_wandb_without_a_key_is_told_at_once(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    env |= {"HOME": str(tmp_path), "WANDB_ERROR_REPORTING": "false"}
    words = [sys.executable, "-m", "jaxft.train", "--wandb", "insects", "--out", str(tmp_path / "run")]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --wandb: no API key. Run wandb login or set WANDB_API_KEY; or set WANDB_MODE")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["", "a/b/c", "a:b", "x" * 129, "/insects"])
def test_names_that_no_project_has(name):
    with pytest.raises(UserError, match=f"--wandb {name}: no name of a project"):
        Options(wandb=name)


@pytest.mark.slow
def test_a_run_that_breaks_off_and_is_resumed_shows_what_metrics_jsonl_holds(tmp_path):
    config = Config(
        data="posters",
        model=ModelConfig(width=16, weights="demo"),
        images=ImageConfig(image_size=32),
        epochs=3,
        batch_size=16,
        devices=1,
    )
    images, labels, names = kitchen.target_set("train")
    source = ArraySource(images[:48], labels[:48], names)
    data = Splits(source, source, ())

    class CrashError(Exception):
        pass

    def crash(each):
        if each.step == 5:
            raise CrashError

    out, options = tmp_path / "run", Options(tensorboard=True)
    with pytest.raises(CrashError):
        jaxft.fit(config, out=out, data=data, callback=crash, verbose=False, options=options)
    assert [step for step, _ in shown(out, "train")["loss"]] == [1, 2, 3, 4, 5]
    result = jaxft.fit(config, out=out, data=data, verbose=False, resume=True, options=options)
    assert [each.step for each in result.records if each.split == "train"] == list(range(1, 10))
    assert read_records(out / "metrics.jsonl") == list(result.records)
    assert_shows(out, list(result.records))
