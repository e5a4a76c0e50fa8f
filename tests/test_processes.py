"""Several real processes on this machine as one run: what they reach, and what becomes of them when one is lost."""

import re
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxft.errors import UserError
from jaxft.launch import Processes, find, launched, on_tpu
from jaxft.processes import gather, reach
from marks import FULL
from runs import (
    ROOT,
    SMALL,
    ended,
    environment,
    finished,
    free_port,
    has_records,
    losses,
    records,
    same_model,
    start,
    start_processes,
    without_speed,
)

STEPS = 13
TWO_EPOCHS = ("--epochs", 2, "--precision", "float32")
"""Of seven steps at most, so that there is a record of each."""
HEARTBEAT = 10


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run that all others must be: one process, one device."""
    out = tmp_path_factory.mktemp("alone") / "run"
    finished(*TWO_EPOCHS, "--out", out)
    return out


def wait_for_records(out: Path, processes: list) -> None:
    while not has_records(out):
        assert all(process.poll() is None for process in processes), [ended(process) for process in processes]
        time.sleep(0.02)


def same_run(out: Path, other: Path) -> None:
    assert len(losses(out)) == STEPS
    np.testing.assert_allclose(losses(out), losses(other), rtol=0, atol=1e-5)
    np.testing.assert_allclose(losses(out, "test"), losses(other, "test"), rtol=0, atol=1e-4)
    assert [r["accuracy"] for r in records(out) if r["split"] == "test"] == [
        r["accuracy"] for r in records(other) if r["split"] == "test"
    ]
    ours, theirs = load_file(out / "model.safetensors"), load_file(other / "model.safetensors")
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_two_processes_of_two_devices_are_one_run(alone, tmp_path, parallel):
    finished(*TWO_EPOCHS, "--parallel", parallel, "--out", tmp_path / "four", env=environment(4))
    same_run(tmp_path / "four", alone)
    printed = [
        ended(process)
        for process in start_processes(2, 2, *TWO_EPOCHS, "--parallel", parallel, "--out", tmp_path / "two")
    ]
    same_run(tmp_path / "two", alone)
    assert f"4 x cpu in 2 processes, {parallel}" in printed[0]
    assert "epoch" not in printed[1]  # Process 0 speaks.


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", FULL("pmap")])
def test_features_that_are_kept_make_the_run_that_computes_them_anew(tmp_path, parallel):
    flags = (
        *TWO_EPOCHS,
        "--freeze",
        "layer3",
        "--augment",
        "crop",
        "flip",
        "--cached-views",
        2,
        "--parallel",
        parallel,
    )
    finished(*flags, "--no-cache-features", "--out", tmp_path / "anew")
    printed = [ended(process) for process in start_processes(2, 2, *flags, "--out", tmp_path / "kept")]
    assert "features of 2 views of each training image: computed once and kept" in printed[0]
    same_run(tmp_path / "kept", tmp_path / "anew")


@pytest.mark.slow
def test_patience_ends_all_processes_and_a_resumed_run_at_the_same_step(tmp_path):
    flags = (
        *("--epochs", 9, "--precision", "float32", "--image-size", 32, "--augment", "none", "--lr", 0.01),
        *("--holdout", 0.3, "--patience", 2),
    )
    for process in start_processes(2, 2, *flags, "--out", tmp_path / "two"):
        ended(process)
    held_out = losses(tmp_path / "two", "val")
    best = held_out.index(min(held_out))
    assert len(held_out) == best + 3 < 9
    finished(*flags[2:], "--epochs", 9, "--out", tmp_path / "four", env=environment(4))
    np.testing.assert_allclose(losses(tmp_path / "four", "val")[:2], held_out[:2], rtol=1e-3)
    for process in start_processes(2, 2, "--resume", "--out", tmp_path / "two"):
        ended(process)
    assert losses(tmp_path / "two", "val") == held_out


@pytest.mark.slow
def test_a_stop_is_agreed_on_and_a_loss_is_noticed_and_both_are_carried_on(photos, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    flags = (
        "folder",
        "--data",
        photos,
        *SMALL,
        "--epochs",
        12,
        "--save-minutes",
        1e-6,
        "--heartbeat-timeout",
        HEARTBEAT,
    )
    for process in start_processes(2, 2, *flags, "--out", whole):
        ended(process)

    # A signal to one of them stops both at the same step.
    processes = start_processes(2, 2, *flags, "--out", out)
    wait_for_records(out, processes)
    processes[1].send_signal(signal.SIGTERM)
    printed = [ended(process, 75) for process in processes]
    assert f"--resume --out {out}" in printed[0]
    assert re.search(r"stopped after step (\d+): the checkpoint of step \1 is good", printed[0])

    # One that is killed ends the other, with a message, in the time that was said.
    processes = start_processes(2, 2, *flags, "--resume", "--out", out)
    time.sleep(0.1)
    before = len(records(out))
    while len(records(out)) <= before:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    processes[1].kill()
    began = time.monotonic()
    _, errors = processes[0].communicate(timeout=60)
    processes[1].communicate()
    assert time.monotonic() - began < HEARTBEAT + 10
    assert processes[0].returncode in (75, -signal.SIGABRT)
    assert "--resume" in errors or "another task died" in errors

    for process in start_processes(2, 2, *flags, "--resume", "--out", out):
        ended(process)
    assert without_speed(out) == without_speed(whole)
    assert same_model(out, whole)


@pytest.mark.slow
def test_all_ways_of_input_are_one_run(photos, tmp_path):
    flags = ("folder", "--data", photos, *SMALL, "--epochs", 3, "--augment", "cutmix", "--accumulate", 2)
    finished(*flags, "--out", tmp_path / "one")
    for way in ("mmap", "stream"):
        caches = [{"JAXFT_CACHE": str(tmp_path / f"{way} {i}")} for i in range(2)]
        for process in start_processes(2, 2, *flags, "--input", way, "--out", tmp_path / way, own=caches):
            ended(process)
        for split in ("train", "test"):
            np.testing.assert_allclose(
                losses(tmp_path / way, split), losses(tmp_path / "one", split), rtol=0, atol=1e-5
            )
    kept = [sorted((tmp_path / f"mmap {i}/decoded").iterdir()) for i in range(2)]
    assert len(kept[0]) == 2  # Training and test, whole in both.
    assert all(a.name == b.name and a.read_bytes() == b.read_bytes() for a, b in zip(*kept, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            ["--data", "nothing"],
            "error: --data: .*photos.* in process 0, .*nothing.* in process 1. Start all processes",
        ),
        (["--lr", 9], "error: --lr: 0.001 in process 0, 9.0 in process 1. Start all processes with the same flags"),
        (["--weights", "gone.pth"], "error: --weights: .*demo.* in process 0, .*gone.pth.* in process 1"),
    ],
)
def test_processes_with_other_flags_are_refused(photos, tmp_path, second, message):
    flags = ("folder", "--data", photos, *SMALL, "--epochs", 1, "--out", tmp_path / "run")
    shared = ("--coordinator", f"localhost:{free_port()}", "--num-processes", 2, "--process-id")
    processes = [start(*flags, *shared, 0), start(*flags, *second, *shared, 1)]
    for process in processes:
        assert re.search(message, ended(process, 2))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_one_process_does_not_find_ends_all(photos, tmp_path):
    """Of the same flags; the second process's photographs lie elsewhere."""
    flags = ("folder", "--data", photos.name, *SMALL, "--epochs", 1, "--out", tmp_path / "run")
    shared = ("--coordinator", f"localhost:{free_port()}", "--num-processes", 2, "--process-id")
    env = environment() | {"PYTHONPATH": str(ROOT)}
    (tmp_path / "elsewhere").mkdir()
    folders = (photos.parent, tmp_path / "elsewhere")
    processes = [start(*flags, *shared, i, env=env, cwd=folder) for i, folder in enumerate(folders)]
    for process in processes:
        assert "error: process 1: --data photos: no such folder" in ended(process, 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["slurm", "open mpi"])
def test_a_launcher_is_enough(photos, tmp_path, launcher):
    """Under the variables that srun and mpirun set, no flag says that there are two."""
    out, job = tmp_path / "run", free_port()
    flags = ("folder", "--data", photos, *SMALL, "--epochs", 2, "--out", out)
    processes = []
    for index in map(str, range(2)):
        slurm = {
            "SLURM_JOB_ID": str(job),  # JAX makes the port of it.
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_TASKS_PER_NODE": "2",
            "SLURM_PROCID": index,
            "SLURM_LOCALID": index,
        }
        mpi = {
            "OMPI_MCA_orte_hnp_uri": f"{job * 2**12}.0;tcp://127.0.0.1:1",
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_RANK": index,
            "OMPI_COMM_WORLD_LOCAL_RANK": index,
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        }
        processes.append(start(*flags, env=environment() | (slurm if launcher == "slurm" else mpi)))
    printed = [ended(process) for process in processes]
    assert "2 x cpu in 2 processes" in printed[0]


SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # A batch script, before srun.
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, Processes(None, 4, 3, 1)),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2,1(x2)"}, Processes(None, 4, 3, 1)),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, Processes(None, 4, 3, None)),
        (SLURM | {"SLURM_GPUS_PER_TASK": "1"}, Processes(None, 4, 3, None)),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0"}, Processes(None, 4, 3, None)),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1"}, Processes(None, 4, 3, 1)),
        (SLURM | MPI | {"SLURM_STEP_NUM_TASKS": "1"}, Processes(None, 4, 2, 0)),  # mpirun within SLURM.
        (MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, Processes(None, 4, 2, 0)),
        (MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, Processes(None, 4, 2, None)),
    ],
)
def test_what_launchers_say(environment, expected):
    assert launched(environment) == expected


def test_a_tpu_is_known_by_its_chips_and_its_library(tmp_path, monkeypatch):
    assert not on_tpu({}, tmp_path)
    (tmp_path / "accel0").touch()
    assert not on_tpu({}, tmp_path)  # No libtpu.
    monkeypatch.setattr("jaxft.launch.find_spec", lambda name: name == "libtpu" or None)
    assert on_tpu({}, tmp_path)
    assert on_tpu({"JAX_PLATFORMS": "tpu,cpu"}, tmp_path)
    assert not on_tpu({"JAX_PLATFORMS": "cpu"}, tmp_path)


def test_flags_say_all_or_complete_the_launcher():
    assert find(Processes(), {}) is None
    assert find(Processes("host0:1", 2, 1), {}) == Processes("host0:1", 2, 1)
    assert find(Processes(num=1), SLURM) is None
    assert find(Processes("host0:1"), MPI) == Processes("host0:1", 4, 2, 0)


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        (Processes("host0:1", 2), {}, "go together: HOST:PORT of process 0.*Pass all three, or none"),
        (Processes("host0:1", 2, 2), {}, "--process-id 2: must lie in 0 to 1, for --num-processes is 2"),
        (Processes("host0", 2, 1), {}, "--coordinator host0: not HOST:PORT. Write it like host0:12345"),
        (Processes(), MPI, "this Open MPI does not say where process 0 is. Pass --coordinator HOST:PORT"),
    ],
)
def test_flags_that_cannot_be(flags, environment, message):
    with pytest.raises(UserError, match=message):
        find(flags, environment)


def test_a_process_0_that_is_not_there():
    port = free_port()
    with pytest.raises(UserError, match=f"localhost:{port}: nobody there after 0.1 seconds .*Start process 0"):
        reach(f"localhost:{port}", 0.1)


def test_what_is_gathered_again_is_not_compiled_again():
    compiled = []
    array = np.arange(6, dtype=np.uint8)
    np.testing.assert_array_equal(gather(array), [array])
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    try:
        gather(array + 1)
        again = list(compiled)
        gather(np.arange(7, dtype=np.uint8))
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [name for name in again if "compile" in name]
    assert [name for name in compiled if "compile" in name]  # Of another shape it is.
