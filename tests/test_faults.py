"""Whole runs and what befalls them: disks, kills, signals, clocks, and users who change their mind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime, timedelta
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxft.build
import jaxft.run_folder
from disks import on_a_disk
from jaxft.arguments import parse
from jaxft.config_file import to_json
from jaxft.console import Display
from jaxft.data.augment import make_augment
from jaxft.errors import UserError
from jaxft.run_folder import held, make_new_folder
from jaxft.train import main
from runs import SMALL, environment, finished, has_records, losses, same_model, start, without_speed

pytestmark = pytest.mark.usefixtures("compiled_once")

STEPS = 6
RUN = ("--epochs", "3", "--batch-size", "100", "--image-size", "32", "--devices", "1")
"""The demo's two steps an epoch, on small images."""
SCRATCH = ("--weights", "none")
ALIKE = environment(8)
"""As many devices as this process has, though runs use one: the last bits depend on the threads, which follow them."""
OFTEN = ("--save-minutes", "1e-6")
FIRST = "going on from the start: it has no checkpoint yet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nothing befell."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finished(*RUN, "--out", out, env=ALIKE)
    return out


def run(*arguments: object) -> int:
    """The command in this process."""
    return main(list(map(str, arguments)))


def refused(message: str, *arguments: object) -> None:
    with pytest.raises(UserError, match=message):
        run(*arguments)


@pytest.fixture
def stop_after(monkeypatch):
    """Gives a function that has this process told to stop when so many records have been shown; 0: never."""
    show = Display.record

    def arm(num: int) -> None:
        shown = []

        def record(self, record):
            show(self, record)
            shown.append(record)
            if len(shown) == num:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Display, "record", record)

    return arm


def same_run(out: Path, other: Path) -> bool:
    """Whether two runs ended alike, bit for bit."""
    return same_model(out, other) and without_speed(out) == without_speed(other)


def saved_steps(out: Path) -> list[int]:
    return sorted(int(path.name) for path in (out / "checkpoints").iterdir() if path.name.isdecimal())


def spoil(checkpoint: Path) -> None:
    """Cut the largest file of a checkpoint in half."""
    largest = max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def wait_until(holds, process: subprocess.Popen) -> None:
    while not holds():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


# Disks that are full or cannot be written, for real.


def printed_on_a_disk(folder: Path, options: str, code: str, *arguments: object) -> str:
    """What `code` prints with a file system in memory mounted at `folder`."""
    head = "import subprocess, sys\nfrom pathlib import Path\nfrom test_faults import *\nfolder = Path(sys.argv[1])\n"
    tail = """
        def mount_again(options):
            subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
    """
    program = head + textwrap.dedent(tail) + textwrap.dedent(code)
    words = [sys.executable, "-c", program, str(folder), *map(str, arguments)]
    return on_a_disk(folder, options, words, environment()).stdout


@pytest.mark.slow
def test_a_disk_that_fills_up_under_the_checkpoints(whole, tmp_path):
    """One message and no more, the last good checkpoint named; with room again the run ends as if nothing had been."""
    code = """
        out, whole = folder / "run", Path(sys.argv[2])
        process = start(*RUN, *OFTEN, "--out", out, env=ALIKE)
        printed, errors = process.communicate()
        assert process.returncode == 2, errors
        good = saved_steps(out)[-1]
        message = f"could not be written (No space left on device); that of step {good} is good. Make room there and"
        assert errors.startswith(f"error: {out}/checkpoints: the checkpoint of step {good + 1} {message}"), errors
        assert errors.count("\\n") == 1
        mount_again("size=100m")
        assert f"going on from step {good}" in finished("--resume", "--out", out, env=ALIKE)
        assert same_run(out, whole)
    """
    printed_on_a_disk(tmp_path / "disk", "size=13m", code, whole)


@pytest.mark.slow
def test_a_disk_that_is_full_when_the_results_are_written(whole, tmp_path):
    code = """
        out = folder / "run"
        errors = finished("--epochs", 1, *RUN[2:], "--out", out, status=2).splitlines()[-1]
        assert f"error: --out {out}: cannot be written (No space left on device)" in errors
        assert f"go on with --resume --out {out}: what is in its checkpoints is good" in errors
        names = {path.name for path in out.iterdir()}
        assert names == {"config.json", "classes.json", "metrics.jsonl", "checkpoints"}
        mount_again("size=100m")
        before = (out / "metrics.jsonl").read_bytes()
        printed = finished("--resume", "--out", out, env=ALIKE)
        assert "going on from step 2" in printed and "epoch 1/1" not in printed
        assert (out / "metrics.jsonl").read_bytes() == before
        results = {"model.safetensors", "summary.json", "curves.png", "report.html"}
        assert {path.name for path in out.iterdir()} == names | results
    """
    printed_on_a_disk(tmp_path / "disk", "size=7m", code)


@pytest.mark.slow
def test_a_disk_that_is_full_when_a_record_is_written(whole, tmp_path, monkeypatch):
    out, show = tmp_path / "a run", Display.record

    def record(self, record):
        show(self, record)
        if record.step == 3:
            (out / "metrics.jsonl").unlink()
            (out / "metrics.jsonl").symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        patch.setattr(Display, "record", record)
        refused(f"(?s)--out {out}: .*No space left.*--resume --out '{out}': what is in its", *RUN, "--out", out)
    assert saved_steps(out) == [2]
    assert run("--resume", "--out", out) == 0
    assert same_run(out, whole)


def test_a_disk_that_can_only_be_read(tmp_path):
    """Told before anything is decoded, and nothing is written."""
    code = """
        def refuse(*arguments):
            try:
                run(*RUN, *arguments)
            except UserError as error:
                print(error)

        Display.decoding = lambda *_: print("decoding")
        checkpoints = folder / "old/checkpoints"
        checkpoints.mkdir(parents=True)
        shutil.copy(sys.argv[2], folder / "old")
        subprocess.run(["mount", "--bind", checkpoints, checkpoints], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", checkpoints], check=True)
        refuse("--resume", "--out", folder / "old")
        mount_again("ro")
        refuse("--out", folder / "new/run")
        refuse("--resume", "--out", folder / "old")
        print(sorted(str(path.relative_to(folder)) for path in folder.rglob("*")))
    """
    config = tmp_path / "config.json"
    _, arguments = parse(RUN)
    config.write_text(to_json(arguments.config))
    lines = printed_on_a_disk(tmp_path / "disk", "size=1m", code, config).splitlines()
    old, new = tmp_path / "disk/old", tmp_path / "disk/new/run"
    again = f"Put that right and go on with --resume --out {old}: what is in its checkpoints is good."
    assert lines == [
        f"--out {old}: cannot be written (Read-only file system). {again}",
        f"--out {new}: cannot be written (Read-only file system). Pass another --out.",
        f"--out {old}: cannot be written (Read-only file system). {again}",
        "['old', 'old/checkpoints', 'old/config.json']",
    ]


# Two runs, one folder.


@pytest.mark.slow
def test_a_folder_has_one_run_at_a_time_and_is_free_when_that_is_killed(whole, tmp_path):
    out = tmp_path / "run"
    process = start(*RUN, "--out", out, env=ALIKE)
    wait_until(lambda: has_records(out), process)
    process.send_signal(signal.SIGSTOP)
    try:
        going_on = (
            rf"--out {out}: a run is going on there \(process {process.pid} on .+\). Wait, stop it, or pass another"
        )
        refused(going_on, *RUN, "--out", out, "--resume")
        refused(going_on, *RUN, "--out", out)
    finally:
        process.kill()
        process.communicate()
    refused("holds a run already. Pass --resume to carry it on, or another --out", *RUN, "--out", out)
    assert run(*RUN, "--out", out, "--resume") == 0
    assert same_run(out, whole)


@pytest.mark.slow
def test_of_two_that_start_at_once_in_one_folder_one_goes_on(whole, tmp_path):
    out = tmp_path / "run"
    processes = [start(*RUN, "--out", out, env=ALIKE) for _ in range(2)]
    ends = [process.communicate() + (process.returncode,) for process in processes]
    assert sorted(status for *_, status in ends) == [0, 2], ends
    (errors,) = (errors for _, errors, status in ends if status == 2)
    assert errors.count("\n") == 1
    assert f"error: --out {out}: a run is going on there (process " in errors
    assert same_run(out, whole)


def test_a_run_that_came_and_went_while_another_one_decoded(tmp_path, monkeypatch):
    """The second has looked at the folder when there was nothing in it."""
    out, decoding = tmp_path / "run", Display.decoding

    def meanwhile(self, *arguments):
        decoding(self, *arguments)
        out.mkdir(exist_ok=True)
        (out / "config.json").write_text("the first's")

    monkeypatch.setattr(Display, "decoding", meanwhile)
    refused("holds a run already", *RUN, "--out", out)
    assert [path.name for path in out.iterdir()] == ["config.json"]


def test_a_lock_that_its_holder_removes_while_another_one_opens_it(tmp_path, monkeypatch):
    flock = jaxft.run_folder.fcntl.flock
    opened = []

    def slow(lock, how):
        if not opened:
            opened.append(lock)
            (tmp_path / ".lock").unlink()
            with held(tmp_path, new=True):
                pass
        flock(lock, how)

    monkeypatch.setattr(jaxft.run_folder.fcntl, "flock", slow)
    with held(tmp_path, new=True):
        assert (tmp_path / ".lock").read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"
        with pytest.raises(UserError, match="a run is going on there"), held(tmp_path, new=True):
            pass
    assert list(tmp_path.iterdir()) == []


# Clocks.


@pytest.mark.slow
def test_a_clock_that_runs_backwards(whole, tmp_path, monkeypatch, stop_after):
    began = time.time()
    calls = iter(range(10**9))
    monkeypatch.setattr("time.time", lambda: began - 3600 * next(calls))

    class Backwards(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 1, 1, tzinfo=tz) - timedelta(hours=next(calls) // 10**9)

    monkeypatch.setattr(jaxft.run_folder, "datetime", Backwards)
    monkeypatch.chdir(tmp_path)
    stop_after(3)
    assert run(*RUN, *OFTEN) == 75
    out = Path("runs/demo-20260101-000000")
    assert saved_steps(out)[-1] in (2, 3)
    stop_after(0)
    assert run("--resume", "--out", out) == 0
    assert same_run(out, whole)
    assert make_new_folder(out) == Path("runs/demo-20260101-000000-2")
    assert make_new_folder(out) == Path("runs/demo-20260101-000000-3")


# Going on.


@pytest.mark.slow
def test_what_may_change_and_what_not(whole, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    config = (out / "config.json").read_bytes()
    changed = (
        r"the run was started with another config:\n  --lr: 0.002 -> 0.5\n  --seed: 0 -> 7\n"
        "Leave the flags out to go on as before, pass --force to go on with the change, or start a new run with another"
    )
    refused(changed, "--resume", "--out", out, "--lr", 0.5, "--seed", 7)
    refused(r"config:\n  --epochs: 3 -> 15\n  --batch-size: 100 -> 32", "demo", "--out", out, "--resume", *RUN[4:])
    again = ("--resume", "--out", out, "--force")
    refused("reached step 6, and 2 epochs end with step 4. Pass more --epochs", *again, "--epochs", 2)
    lacks = "checkpoints/6 has no .*, which this run wants. Pass the data and the --arch"
    refused(lacks, *again, "--arch", "resnet34", *SCRATCH)
    refused(r"checkpoints/6: .* \(.*\) there, and this run wants .* Pass the data", *again, "--width", 8, *SCRATCH)
    assert (out / "config.json").read_bytes() == config
    capsys.readouterr()
    assert run(*again, "--epochs", 4) == 0
    printed = capsys.readouterr().out
    for line in ("changed since the run began: --epochs: 3 -> 4", "going on from step 6", "epoch 4/4"):
        assert line in printed
    assert without_speed(out)[: 3 * STEPS // 2] == without_speed(whole)
    assert '"epochs": 4' in (out / "config.json").read_text()


def test_a_finished_run_only_writes_its_results_again(whole, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for name in ("model.safetensors", "summary.json", "curves.png", "report.html", "metrics.jsonl"):
        (out / name).unlink()
    assert run(*RUN, "--out", out, "--resume") == 0
    assert "epoch" not in capsys.readouterr().out.partition("going on from step 6")[2]
    assert same_run(out, whole)
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


def test_damaged_checkpoints(whole, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    first, last = saved_steps(out)[-2:]
    spoil(out / f"checkpoints/{last}")
    assert run("--resume", "--out", out) == 0
    printed = capsys.readouterr().out
    assert f"{out}/checkpoints/{last}: cannot be read (" in printed
    assert f"it lies in {last}.damaged now\ngoing on from step {first}\n" in printed
    assert same_run(out, whole)
    for step in saved_steps(out):
        spoil(out / f"checkpoints/{step}")
    before = (out / "metrics.jsonl").read_bytes()
    refused("(?s)No checkpoint is left:.*Start a new run with another --out", "--resume", "--out", out)
    assert (out / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_other_data_are_refused(photos, tmp_path):
    out = tmp_path / "run"
    assert run("folder", "--data", photos, *SMALL, "--epochs", 1, "--devices", 1, "--out", out) == 0
    told = [(out / name).read_bytes() for name in ("config.json", "classes.json", "metrics.jsonl")]
    again = "Pass the data as they were, --force to go on with these, or start a new run with another --out."
    another = photos / "train/salad/another.jpg"
    shutil.copy(photos / "train/salad/0.jpg", another)
    began = r"the run was started otherwise:\n  "
    refused(rf"{began}training images: 24 -> 25\n  images: which class each one has\n{again}", "--resume", "--out", out)
    another.rename(photos / "train/hot dogs/another.jpg")
    (photos / "train/salad/0.jpg").unlink()
    refused(rf"{began}images: which class each one has\n{again}", "--resume", "--out", out)
    for split in ("train", "val"):
        (photos / split / "salad").rename(photos / split / "sushi")
    refused(rf"{began}classes: without salad and with sushi\n", "--resume", "--out", out)
    assert [(out / name).read_bytes() for name in ("config.json", "classes.json", "metrics.jsonl")] == told


@pytest.mark.slow
def test_from_one_way_to_another_and_back(whole, tmp_path, stop_after):
    out = tmp_path / "run"
    there = ("--parallel", "pmap", "--devices", "2", "--input", "mmap")
    back = ("--parallel", "jit", "--devices", "1", "--input", "resident")
    for num, arguments in ((1, RUN), (2, ("--resume", *there))):
        stop_after(num)
        assert run(*arguments, "--out", out) == 75
    stop_after(0)
    assert run("--resume", *back, "--out", out) == 0
    assert len(losses(out)) == STEPS
    np.testing.assert_allclose(losses(out), losses(whole), rtol=0, atol=1e-5)
    np.testing.assert_allclose(losses(out, "test"), losses(whole, "test"), rtol=0, atol=1e-5)


# Stopping.


@pytest.mark.slow
def test_the_second_signal_ends_a_run_that_compiles_and_it_can_be_carried_on(whole, tmp_path):
    out = tmp_path / "run"
    process = start(*RUN, "--out", out, env=environment(8, compiled=tmp_path / "nothing compiled"))
    wait_until((out / "metrics.jsonl").exists, process)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    lines = iter(process.stdout.readline, "")
    assert next(line for line in lines if "stopping" in line) == (
        "stopping after this step, and saving; once more to stop at once\n"
    )
    assert not has_records(out)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 1
    assert process.communicate()[1] == ""
    assert not has_records(out)
    assert FIRST in finished("--resume", "--out", out, env=ALIKE)
    assert same_run(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_signal_before_training_leaves_nothing(tmp_path, number, status):
    process = start(*RUN, "--out", tmp_path / "run")
    assert process.stdout.readline() == "classes: hot_dog 100, not_hot_dog 100\n"
    process.send_signal(number)
    printed, errors = process.communicate()
    assert process.returncode == status, printed + errors
    assert errors == ("interrupted before training: nothing was saved\n" if status == 130 else "")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_whose_reader_goes_away_saves_all_the_same(whole, tmp_path):
    """As tee does when Ctrl-C reaches it too."""
    out = tmp_path / "run"
    process = start(*RUN, "--out", out, env=ALIKE)
    process.stdout.readline()
    process.stdout.close()
    wait_until(lambda: has_records(out), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert process.stderr.read() == ""
    process.stderr.close()
    assert saved_steps(out)
    assert run("--resume", "--out", out) == 0
    assert same_run(out, whole)


# What is not finite.


def assert_finite(out: Path) -> None:
    for step in saved_steps(out):
        with ocp.CheckpointManager((out / "checkpoints").absolute()) as manager:
            state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore())).state
        assert all(np.isfinite(array).all() for array in state.values())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop", "skip"])
def test_a_rate_that_is_far_too_high(whole, tmp_path, capsys, how):
    """A good run is carried on with it."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    flags = ("--epochs", 9, "--lr", 1e30, "--on-nonfinite", how, "--force", "--resume")
    assert run(*flags, *OFTEN, "--out", out) == 3
    errors = capsys.readouterr().err
    assert re.match(r"error: the loss became non-finite at step (7|8|9) \(", errors)
    good = saved_steps(out)[-1]
    skip = ", or --on-nonfinite skip to leave such updates out" if how == "stop" else ""
    left = f"the checkpoint of step {good} is good"
    assert errors.endswith(f"(learning rate 1e+30); {left}. Pass a smaller --lr{skip}.\n")
    assert errors.count("\n") == 1
    assert_finite(out)


@pytest.mark.slow
def test_updates_that_are_left_out_are_counted_where_one_looks(tmp_path, capsys, monkeypatch):
    """Every third update or so has an image that is not a number."""

    def sometimes(*arguments):
        augment = make_augment(*arguments)

        def spoiled(key, batch):
            augmented = augment(key, batch)
            return augmented._replace(images=jnp.where(jax.random.uniform(key) < 0.3, jnp.nan, augmented.images))

        return spoiled

    monkeypatch.setattr(jaxft.build, "make_augment", sometimes)
    out = tmp_path / "run"
    flags = ("--epochs", 2, "--batch-size", 20, *RUN[4:], "--on-nonfinite", "skip")
    assert run(*flags, "--out", out) == 0
    by_epoch = [
        sum(line["skipped"] for line in without_speed(out) if epoch - 1 < line["epoch"] <= epoch) for epoch in (1, 2)
    ]
    assert 0 < sum(by_epoch) < 20
    assert np.isfinite(losses(out)).all()
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if "left out" in line]
    assert lines == [f"  {num} updates were left out: something in them was not finite" for num in by_epoch if num]
    assert_finite(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", 0], "--keep 0: must be at least 1."),
        (["--save-minutes", 0], "--save-minutes 0.0: must be more than 0, e.g. 10."),
        (["--save-minutes", "nan"], "--save-minutes nan: must be more than 0"),
        (["--force"], "--force goes with --resume."),
        (["--heartbeat-timeout", 0], "--heartbeat-timeout 0: must be at least 1."),
        (["--num-processes", 0], "--num-processes 0: must be at least 1."),
        (["--process-id", 0], "--coordinator, --num-processes and --process-id go together"),
        (["--resume"], "--resume needs the run's folder. Pass --out RUN."),
        (
            ["--resume", "--out", "nothing there"],
            "--resume: nothing there holds no run. Pass a preset",
        ),
    ],
)
def test_flags_that_cannot_be(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UserError, SystemExit)) as raised:
        run(*arguments)
    told = capsys.readouterr().err if raised.type is SystemExit else str(raised.value)
    assert message in told
    assert "Traceback" not in told
    assert raised.type is UserError or raised.value.code == 2
    assert list(tmp_path.iterdir()) == []
