"""python -m jaxft.runs: what it finds in folders that runs have written, and in those that something has befallen."""

import csv
import fcntl
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import jax
import pytest
from rich.cells import cell_len

from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig, by_flag
from jaxft.data.batches import epoch_ends
from jaxft.errors import UserError
from jaxft.records import Record, read_records
from jaxft.report.summary import summarise
from jaxft.run_folder import describe, held, is_held, replace_text, write_records
from jaxft.run_list import find_runs, read_run
from jaxft.run_table import table
from jaxft.runs import main
from runs import ROOT

NUM_IMAGES = 100
CONFIG = Config(epochs=3, batch_size=32)
SECONDS = 3725.4


def records(config: Config = CONFIG, last: int | None = None, num_images: int = NUM_IMAGES) -> list[Record]:
    """Those of a run's steps up to `last`, one for each; every value another one."""
    ends = epoch_ends(num_images, config.images_per_step, config.epochs)
    found = []
    for step in range(1, 1 + (ends[-1] if last is None else last)):
        epoch = step * config.images_per_step / num_images
        found.append(Record(step, epoch, "train", 1 / step, 0.5 + step / 1000, 100.0 + step**2))
        if step in ends:
            found.append(Record(step, ends.index(step) + 1.0, "test", 2 / step, 0.9 - (step - 4) ** 2 / 100, 10.0))
    return found


def make_run(
    path: Path, config: Config = CONFIG, last: int | None = None, saved: Sequence[int] = (), *, finished: bool = False
) -> Path:
    """A run's folder, written by what writes it in a run."""
    path.mkdir(parents=True)
    told = records(config, last)
    describe(path, config, ["ants", "bees"])
    write_records(path, told)
    for step in saved:
        (path / "checkpoints" / str(step)).mkdir(parents=True)
    if finished:
        replace_text(path / "summary.json", json.dumps(summarise(told, SECONDS, tuple(jax.devices()[:1]), config)))
    return path


def listed(capsys, *arguments: object) -> list[str]:
    assert main(list(map(str, arguments))) == 0
    return capsys.readouterr().out.splitlines()


def as_json(capsys, *arguments: object) -> list[dict]:
    return [json.loads(line) for line in listed(capsys, *arguments, "--json")]


# What became of it.


def test_a_finished_run_has_the_figures_of_its_summary(tmp_path):
    run = read_run(make_run(tmp_path / "run", finished=True, saved=[7, 10]))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (run.state, run.problem) == ("finished", "")
    assert run.results == (
        summary["steps"], summary["epochs"], summary["best_accuracy"], summary["final_accuracy"],
        summary["train_images_per_second"], SECONDS,
    )  # fmt: skip
    assert (run.steps, run.saved_step) == (10, 10)
    assert dict(run.flags) == json.loads(json.dumps(by_flag(CONFIG)))


def test_an_unfinished_run_has_the_figures_that_a_summary_would_have(tmp_path):
    run = read_run(make_run(tmp_path / "run", last=9, saved=[4, 7]))
    told = summarise(records(last=9), SECONDS, tuple(jax.devices()[:1]), CONFIG)
    assert run.state == "stopped"
    assert run.results[2:5] == (told["best_accuracy"], told["final_accuracy"], told["train_images_per_second"])
    assert (run.results.step, run.results.epochs, run.results.seconds) == (9, 2.88, None)
    assert (run.saved_step, run.steps) == (7, 10)


@pytest.mark.parametrize(
    ("num_images", "batch_size", "accumulate", "epochs"),
    [(100, 32, 1, 3), (244, 7, 3, 10), (64, 64, 1, 1), (97, 5, 2, 4)],
)
def test_all_steps_are_known_from_any_record(tmp_path, num_images, batch_size, accumulate, epochs):
    config = replace(CONFIG, batch_size=batch_size, accumulate=accumulate, epochs=epochs)
    end = epoch_ends(num_images, config.images_per_step, epochs)[-1]
    path = make_run(tmp_path / "run", config, saved=[1])
    for last in range(1, end + 1):
        write_records(path, records(config, last, num_images))
        assert read_run(path).steps == end


def test_a_run_that_ended_before_anything_was_saved_has_failed(tmp_path):
    run = read_run(make_run(tmp_path / "run", last=0))
    assert run.state == "failed"
    assert run.results == (None,) * 6
    (tmp_path / "run/checkpoints/2.orbax-checkpoint-tmp").mkdir(parents=True)
    assert read_run(tmp_path / "run").state == "failed"


def test_a_run_is_running_while_its_folder_is_held(tmp_path):
    path = tmp_path / "run"
    with held(path, new=True):
        assert read_run(path)[1:] == ("running", path.stat().st_mtime, (None,) * 6, None, None, {}, "")
        make_run(tmp_path / "other", last=5, saved=[4])
        for file in (tmp_path / "other").iterdir():
            file.rename(path / file.name)
        run = read_run(path)
        assert (run.state, run.results.step, run.steps) == ("running", 5, 10)
        lock = (path / ".lock").read_bytes()
    (path / ".lock").write_bytes(lock)  # As a run that was killed leaves it.
    assert read_run(path).state == "stopped"


def test_a_finished_run_that_is_resumed_with_more_epochs_is_not_finished(tmp_path):
    path = make_run(tmp_path / "run", finished=True, saved=[10])
    describe(path, replace(CONFIG, epochs=5), ["ants", "bees"])
    run = read_run(path)
    assert (run.state, run.saved_step, run.steps, run.results.epochs) == ("stopped", 10, 16, 3)
    with held(path, new=False):
        assert read_run(path).state == "running"


def test_looking_does_not_keep_a_run_from_starting(tmp_path):
    (tmp_path / ".lock").touch()
    assert not is_held(tmp_path)
    assert not is_held(tmp_path / "nothing there")
    with (tmp_path / ".lock").open() as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        timer = threading.Timer(0.03, fcntl.flock, (looked_at, fcntl.LOCK_UN))
        timer.start()
        with held(tmp_path, new=True):
            assert is_held(tmp_path)
        timer.join()


# What has befallen it.


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("config.json", None, "config.json: No such file or directory"),
        ("config.json", b"", "config.json: not JSON (Expecting value: line 1 column 1 (char 0))"),
        ("config.json", b'{"data": "de', "config.json: not JSON ("),
        ("config.json", b"[1]", "config.json: no JSON object"),
        ("config.json", b"\xff\xfe\x00", "config.json: not JSON ('utf-8' codec can't decode"),
        ("metrics.jsonl", None, "metrics.jsonl: No such file or directory"),
        ("metrics.jsonl", b'{"step": 1}\n', "metrics.jsonl: line 1 is no record (Record.__new__() missing"),
        ("metrics.jsonl", b"[]\n3\n", "metrics.jsonl: line 1 is no record ("),
        ("metrics.jsonl", b"\x00\xff\x00\n", "metrics.jsonl: line 1 is no record ("),
        ("summary.json", b'{"final_accuracy": 0.', "summary.json: not JSON ("),
    ],
)
def test_a_damaged_folder_is_a_row_that_says_so(tmp_path, capsys, file, content, problem):
    path = make_run(tmp_path / "run", last=5, saved=[4])
    (path / file).unlink(missing_ok=True)
    if content is not None:
        (path / file).write_bytes(content)
    _, row, told = listed(capsys, tmp_path)
    assert row.split()[:1] == ["run"]
    assert "damaged" in row
    assert told.startswith(f"damaged: {path}: {problem}")


def test_values_that_cannot_be_are_no_records(tmp_path):
    path = make_run(tmp_path / "run", last=2) / "metrics.jsonl"
    for name, value in (("step", 1.5), ("step", None), ("epoch", "1"), ("split", 3), ("accuracy", [1])):
        line = json.dumps(records(last=1)[0]._asdict() | {name: value})
        path.write_text(f"{json.dumps(records(last=1)[0]._asdict())}\n{line}\n")
        with pytest.raises(ValueError, match=rf"metrics.jsonl: line 2 is no record \({name} is "):
            read_records(path)
    for epoch in ("0", "-1", "NaN", "Infinity"):
        path.write_text(json.dumps(records(last=1)[0]._asdict()).replace("0.32", epoch) + "\n")
        assert read_run(path.parent).steps in (None, 0)


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    path = make_run(tmp_path / "run", last=5, saved=[4])
    whole = (path / "metrics.jsonl").read_bytes()
    for cut in range(1, 30):
        (path / "metrics.jsonl").write_bytes(whole[:-cut])
        assert read_run(path).problem == ""
        assert read_records(path / "metrics.jsonl") == records(last=4)[: len(records(last=4))]


@pytest.mark.parametrize("value", ["0.9", None, [1], True, float("nan")])
def test_a_summary_of_rubbish_gives_nothing(tmp_path, value):
    path = make_run(tmp_path / "run", finished=True)
    told = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps(dict.fromkeys(told, value) | {"epochs": 3}))
    assert read_run(path).results == (None, 3, None, None, None, None)


def test_runs_of_another_jaxft_are_listed(tmp_path, capsys):
    path = make_run(tmp_path / "newer", finished=True)
    config = json.loads((path / "config.json").read_text())
    config["optim"]["lion_beta"] = 0.5
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.jsonl").write_text(json.dumps(records()[0]._asdict() | {"top5": 1}) + "\n")
    path = make_run(tmp_path / "older", last=5, saved=[4])
    config = json.loads((path / "config.json").read_text())
    del config["accumulate"], config["images"]
    (path / "config.json").write_text(json.dumps(config))
    lines = [json.loads(json.dumps(record._asdict())) for record in records(last=5)]
    for line in lines:
        del line["skipped"]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    header, *rows = listed(capsys, tmp_path, "--sort", "name")
    assert header.split()[8:] == ["--lion-beta"]
    assert [row.split()[0] for row in rows] == ["newer", "older"]
    assert rows[0].split()[-1] == "0.5"
    newer, older = as_json(capsys, tmp_path, "--sort", "name")
    assert newer["config"]["lion_beta"] == 0.5
    assert older["config"]["accumulate"] == 1
    assert (older["steps"], older["problem"]) == (10, None)


# Where they are.


def test_runs_are_found_however_deep_and_nothing_else(tmp_path, monkeypatch, capsys):
    for name in ("a", "b/pretrained", "b/scratch", "c/d/e/f"):
        make_run(tmp_path / "runs" / name, finished=True, saved=[10])
    (tmp_path / "runs/b/compare.json").write_text("{}")
    (tmp_path / "runs/hub/model").mkdir(parents=True)
    (tmp_path / "runs/hub/model/config.json").write_text("{}")
    (tmp_path / "runs/a/tensorboard/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/a/tensorboard/config.json").write_text("{}")
    (tmp_path / "runs/c/loop").symlink_to(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    names = [row.split()[0] for row in listed(capsys, "--sort", "name")[1:]]
    assert names == ["a", "b/pretrained", "b/scratch", "c/d/e/f"]
    assert [row.split()[0] for row in listed(capsys, "runs/b/scratch")[1:]] == ["runs/b/scratch"]


@pytest.mark.parametrize("name", ["nothing there", "file", "empty"])
def test_a_folder_without_runs_is_a_mistake(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"{name}: no .*Pass the one that your runs are in."):
        main([str(tmp_path / name)])


def test_names_in_any_script_and_on_two_lines(tmp_path, capsys):
    for name in ("写真 и фото", "line\nbreak"):
        make_run(tmp_path / name, finished=True)
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    for file in (tmp_path / "line\nbreak").iterdir():
        (tmp_path / os.fsdecode(b"\xff") / file.name).write_bytes(file.read_bytes())
    header, *rows = listed(capsys, tmp_path, "--sort", "name")
    assert [row.partition("  ")[0].strip() for row in rows] == [r"line\nbreak", "写真 и фото", r"\udcff"]
    when = header.index("when")
    assert [cell_len(row.partition("20")[0]) for row in rows] == [when] * 3
    first, *_ = as_json(capsys, tmp_path, "--sort", "name")
    assert first["run"] == f"{tmp_path}/line\nbreak"
    assert main([str(tmp_path), "--csv", str(tmp_path / "runs.csv")]) == 0


# The table.


def sweep(top: Path) -> None:
    """Three runs that differ in four flags, of as many states."""
    make_run(top / "base", finished=True, saved=[10])
    lr = replace(CONFIG, optim=OptimConfig(lr=1e-5), images=ImageConfig(augment=("flip",)))
    make_run(top / "small rate", lr, last=9, saved=[4, 7])
    frozen = replace(CONFIG, model=ModelConfig(freeze="layer2"), sync_bn=False)
    make_run(top / "frozen", frozen, last=1)
    for i, name in enumerate(("base", "small rate", "frozen")):
        os.utime(top / name / "metrics.jsonl", (1.7e9 + 60 * i,) * 2)


def test_the_table_has_a_column_for_each_flag_that_differs(tmp_path, capsys):
    sweep(tmp_path)
    when = [f"{datetime.fromtimestamp(1.7e9 + 60 * i):%Y-%m-%d %H:%M}" for i in range(3)]
    summary = json.loads((tmp_path / "base/summary.json").read_text())
    rate = f"{summary['train_images_per_second']:.1f}"
    assert listed(capsys, tmp_path) == [
        "run         when              state           best   final  epochs  images/s     time"
        "  --freeze  --augment  --lr   --sync-bn",
        f"frozen      {when[2]}  failed                        0.32/3                   "
        "  layer2    crop flip  0.001  no",
        f"small rate  {when[1]}  stopped 7/10  0.9000  0.8100  2.88/3     130.5         "
        "  none      flip       1e-05  yes",
        f"base        {when[0]}  finished      0.9000  0.5400       3     {rate}  1:02:05"
        "  none      crop flip  0.001  yes",
    ]


@pytest.mark.parametrize("room", [*range(60, 140, 3), 200])
def test_the_table_fits_a_terminal_and_still_has_what_differs(tmp_path, room):
    sweep(tmp_path)
    runs = [read_run(path) for path in sorted(find_runs(tmp_path))]
    lines = table(runs, tmp_path, room)
    assert all(cell_len(line) <= room for line in lines)
    for name in ("base", "frozen", "small rate", "stopped 7/10", "layer2", "1e-05", "--sync-bn"):
        assert any(name in line for line in lines)
    if room == 200:
        assert lines == table(runs, tmp_path)
    left_out = lines[-1].removeprefix("no room for ").split(", ") if lines[-1].startswith("no room") else []
    assert set(left_out) | set(lines[0].split()) >= {"run", "when", "state", "best", "final", "images/s", "time"}


def test_a_long_name_shows_its_end(tmp_path):
    make_run(tmp_path / ("x" * 100 + " the end"), finished=True)
    runs = [read_run(path) for path in find_runs(tmp_path)]
    _, row, _ = table(runs, tmp_path, 60)
    assert row.startswith("…xx")
    assert " the end  finished" in row
    assert len(row) <= 60


def test_one_run_alone_has_nothing_that_differs(tmp_path, capsys):
    make_run(tmp_path / "run", finished=True)
    assert listed(capsys, tmp_path)[0].endswith("images/s     time")
    runs = [read_run(path) for path in find_runs(tmp_path)]
    header, row, left_out = table(runs, tmp_path, 50)
    assert header.split() == ["run", "when", "state", "best", "final"] or "when" in left_out
    assert len(row) <= 50


@pytest.mark.parametrize(
    ("by", "order"),
    [
        ("date", ["frozen", "small rate", "base"]),
        ("name", ["base", "frozen", "small rate"]),
        ("accuracy", ["base", "small rate", "frozen"]),
        ("final", ["small rate", "base", "frozen"]),
        ("seconds", ["base", "frozen", "small rate"]),
        ("speed", ["base", "small rate", "frozen"]),
    ],
)
def test_sorted(tmp_path, capsys, by, order):
    sweep(tmp_path)
    assert [Path(run["run"]).name for run in as_json(capsys, tmp_path, "--sort", by)] == order


# For scripts.


def test_csv_and_json_hold_the_same(tmp_path, capsys):
    sweep(tmp_path)
    told = as_json(capsys, tmp_path)
    assert main([str(tmp_path), "--csv", str(tmp_path / "runs.csv")]) == 0
    assert capsys.readouterr().out == ""
    with (tmp_path / "runs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert main([str(tmp_path), "--csv", "-"]) == 0
    assert list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline=""))) == rows
    assert len(rows) == len(told) == 3
    for row, run in zip(rows, told, strict=True):
        config = run.pop("config")
        assert set(run) | {f"--{name.replace('_', '-')}" for name in config} == set(row)
        assert all(row[name] == ("" if value is None else str(value)) for name, value in run.items())
        assert row["--lr"] == str(config["lr"])
        assert row["--augment"].split() == config["augment"]
    assert told[0] | {"when": 0} == {
        "run": str(tmp_path / "frozen"), "state": "failed", "problem": None, "when": 0, "step": 1, "epochs": 0.32,
        "best_accuracy": None, "final_accuracy": None, "images_per_second": None, "seconds": None, "steps": 10,
        "saved_step": None,
    }  # fmt: skip
    assert datetime.fromisoformat(told[0]["when"]).timestamp() == 1.7e9 + 120


def test_csv_or_json_that_cannot_be(tmp_path, capsys):
    make_run(tmp_path / "run")
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--csv", "a.csv", "--json"])
    assert "--csv a.csv and --json: pass one of them" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--csv .*/run: cannot be written \(Is a directory\)"):
        main([str(tmp_path), "--csv", str(tmp_path / "run")])


def test_it_needs_no_jax_and_ends_where_its_reader_does(tmp_path):
    for i in range(300):
        make_run(tmp_path / "runs" / f"{'long name ' * 20}{i}", last=0)
    code = """import sys
for name in ("jax", "jaxlib", "flax", "optax", "orbax", "matplotlib", "grain"): sys.modules[name] = None
from jaxft.errors import run_command
from jaxft.runs import main
run_command(main)
"""
    words = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "runs")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("failed") == 300
    reading, writing = os.pipe()
    os.close(reading)  # before it starts: a pipe takes the whole table in one piece
    done = subprocess.run(words, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
    done = subprocess.run([*words[:-1], str(tmp_path / "none")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/none: no such folder. Pass the one that your runs are in.\n"
