"""Checkpoints: bit for bit, the right ones kept, and what remains of damage, kills and full disks."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from disks import on_a_disk
from jaxft.checkpoint import NonFiniteStateError, latest_good, open_checkpoints, restore, save, wait
from jaxft.errors import UserError
from jaxft.step import TrainState, init_state

TX = optax.multi_transform(
    {"head": optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9)), "frozen": optax.set_to_zero()},
    {"fc": {"bias": "head", "kernel": "head"}, "stem": {"kernel": "frozen"}},
)


def state_at(step: int, width: int = 500, tx: optax.GradientTransformation = TX) -> TrainState:
    """A state whose every number follows from its step."""
    rng = np.random.default_rng(step)
    params = {
        "fc": {"bias": rng.standard_normal(2), "kernel": rng.standard_normal((width, 2))},
        "stem": {"kernel": rng.standard_normal((3, 3, 3, width))},
    }
    params = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), params)
    state = init_state(params, {"bn": {"mean": jnp.full(width, step, jnp.float32)}}, tx)
    opt_state = jax.tree.map(lambda leaf: leaf + step, state.opt_state)
    return state._replace(step=jnp.asarray(step, jnp.int32), opt_state=opt_state)


def same(first, second) -> bool:
    """Equal to the bit, in the same tree."""
    leaves, others = jax.tree.leaves(first), jax.tree.leaves(second)
    return jax.tree.structure(first) == jax.tree.structure(second) and all(
        np.asarray(a).dtype == np.asarray(b).dtype
        and np.shape(a) == np.shape(b)
        and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(leaves, others, strict=True)
    )


def restored_step(folder: Path) -> int:
    with open_checkpoints(folder) as manager:
        restored = restore(manager, state_at(0))
    assert restored is not None
    assert same(restored.state, state_at(int(restored.state.step)))
    return int(restored.state.step)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save_steps(folder: Path, *steps: int, keep: int = 9) -> None:
    with open_checkpoints(folder, keep) as manager:
        for step in steps:
            save(manager, state_at(step), {"step": step})


# What comes back.


def test_every_bit_comes_back(tmp_path):
    state = state_at(7)
    odd = {
        "float32": np.array([0.0, -0.0, 1e-45, -1e-40, np.finfo(np.float32).max], np.float32),
        "bfloat16": np.array([-0.0, 1.5], ml_dtypes.bfloat16),
        "float64": np.array([5e-324, 0.1]),
        "scalar": np.array(-0.0, np.float32),
        "old_key": np.asarray(jax.random.PRNGKey(3)),
        "int64": np.array(2**40 + 1),
        "strided": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::2],
    }
    state = state._replace(batch_stats=odd)
    about = {"rates": [0.1 + 0.2, 5e-324, -0.0, 1e22, 1 / 3], "names": ["Käse", "犬"], "none": None}
    with open_checkpoints(tmp_path) as manager:
        save(manager, state, about)
        restored = restore(manager, state)
    assert restored is not None
    assert same(restored.state, state)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(restored.state))
    assert repr(restored.about) == repr(about)
    assert restored.damaged == ()


def test_what_is_saved_is_the_state_of_that_moment(tmp_path, monkeypatch):
    # Its buffers are given to the next step, and the caller's list grows, while they are being written.
    dumps, main = json.dumps, threading.current_thread()

    def slowly_in_the_background(item):
        if threading.current_thread() is not main:
            time.sleep(0.3)
        return dumps(item)

    monkeypatch.setattr(json, "dumps", slowly_in_the_background)

    def add_one(tree):
        return jax.tree.map(lambda leaf: leaf + 1, tree)

    mesh = jax.make_mesh((8,), ("data",))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    train_step = jax.jit(add_one, donate_argnums=0, out_shardings=replicated)
    state = train_step(jax.device_put(state_at(0, width=2000), replicated))
    expected, records = jax.tree.map(np.array, state), [1]
    with open_checkpoints(tmp_path) as manager:
        save(manager, state, {"records": records})
        records.append(2)
        for _ in range(3):
            state = train_step(state)
        jax.block_until_ready(state)
        restored = restore(manager, state)
    assert restored is not None
    assert same(restored.state, expected)
    assert restored.about == {"records": [1]}


def test_orbax_alone_can_read_it(tmp_path):
    save_steps(tmp_path, 3)
    with ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(tmp_path / "3" / "state")
    np.testing.assert_array_equal(arrays["params/fc/kernel"], state_at(3).params["fc"]["kernel"])
    assert arrays["step"] == 3
    with ocp.CheckpointManager(tmp_path) as manager:
        assert manager.latest_step() == 3


def test_an_empty_folder_holds_nothing(tmp_path):
    with open_checkpoints(tmp_path / "run" / "checkpoints") as manager:
        assert restore(manager, state_at(0)) is None
        assert latest_good(manager) is None


def test_a_step_that_is_there_is_left_alone(tmp_path):
    with open_checkpoints(tmp_path) as manager:
        for about in ({"time": "first"}, {"time": "second"}):
            save(manager, state_at(2), about)
    with open_checkpoints(tmp_path) as manager:
        save(manager, state_at(2), {"time": "third"})
        restored = restore(manager, state_at(0))
    assert restored is not None
    assert restored.about == {"time": "first"}


def test_an_error_of_the_run_waits_for_the_save(tmp_path):
    def interrupted():
        with open_checkpoints(tmp_path) as manager:
            save(manager, state_at(4, width=2000), {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == ["4"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["params", "batch_stats", "opt_state"])
def test_a_state_that_is_not_finite_is_never_saved(where, value, tmp_path):
    state = state_at(2)
    leaves, treedef = jax.tree.flatten(getattr(state, where))
    leaves[-1] = leaves[-1].at[(-1,) * leaves[-1].ndim].set(value)
    spoilt = state._replace(**{where: jax.tree.unflatten(treedef, leaves)})
    with open_checkpoints(tmp_path) as manager:
        save(manager, state_at(1), {})
        with pytest.raises(NonFiniteStateError, match=f"^{where}/.* became non-finite by step 2$") as caught:
            save(manager, spoilt, {})
        assert caught.value.step == 2
        save(manager, state_at(3), {})
    assert names(tmp_path) == ["1", "3"]


# Which are kept.


@pytest.mark.parametrize("reopen", [False, True])
@pytest.mark.parametrize(
    ("accuracies", "kept"),
    [
        ([0.5, 0.9, 0.7, 0.8, 0.6], [2, 4, 5]),
        ([0.9, 0.9, 0.9, 0.9, 0.8], [1, 4, 5]),
        ([0.1, 0.2, 0.3, 0.4, 0.5], [4, 5]),
        ([None, 0.2, None, None, None], [2, 4, 5]),
        ([None, None, None, None, None], [4, 5]),
        ([0.0, None, 0.0, None, None], [1, 4, 5]),
    ],
)
def test_the_newest_and_the_best_are_kept(accuracies, kept, reopen, tmp_path):
    steps = enumerate(accuracies, 1)
    if reopen:
        for step, accuracy in steps:
            with open_checkpoints(tmp_path, keep=2) as manager:
                save(manager, state_at(step), {}, accuracy)
    else:
        with open_checkpoints(tmp_path, keep=2) as manager:
            for step, accuracy in steps:
                save(manager, state_at(step), {}, accuracy)
    assert names(tmp_path) == [str(step) for step in kept]


def test_a_clock_that_runs_backwards_changes_nothing(tmp_path, monkeypatch):
    start, calls = time.time_ns(), iter(range(10**9))
    monkeypatch.setattr(time, "time_ns", lambda: start - next(calls) * 3600 * 10**9)
    monkeypatch.setattr(time, "time", lambda: time.time_ns() / 1e9)
    for step, accuracy in ((1, 0.9), (2, 0.5), (3, 0.6), (4, 0.7)):
        with open_checkpoints(tmp_path, keep=2) as manager:
            save(manager, state_at(step), {}, accuracy)
    assert names(tmp_path) == ["1", "3", "4"]
    assert restored_step(tmp_path) == 4
    stamps = [json.loads((tmp_path / name / "_CHECKPOINT_METADATA").read_text()) for name in ("1", "4")]
    assert stamps[1]["commit_timestamp_nsecs"] < stamps[0]["commit_timestamp_nsecs"] - 3600 * 10**9


def test_what_a_killed_save_left_is_no_checkpoint_and_is_cleared(tmp_path):
    save_steps(tmp_path, 1)
    for step in (2, 5):
        shutil.copytree(tmp_path / "1", tmp_path / f"{step}.orbax-checkpoint-tmp")
    with open_checkpoints(tmp_path) as manager:
        assert latest_good(manager) == 1
        restored = restore(manager, state_at(0))
        assert restored is not None
        assert restored.state.step == 1
        save(manager, state_at(2), {})
    assert names(tmp_path) == ["1", "2"]


# Damage.


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(file: Path, place: float = 0.5) -> None:
    whole = bytearray(file.read_bytes())
    whole[int(place * (len(whole) - 1))] ^= 1
    file.write_bytes(whole)


DAMAGE = {
    "a bit of the data": lambda folder: flip(largest(folder / "state")),
    "data cut short": lambda folder: os.truncate(largest(folder / "state"), 100),
    "no data": lambda folder: largest(folder / "state").unlink(),
    "no state": lambda folder: shutil.rmtree(folder / "state"),
    "no tree": lambda folder: (folder / "state" / "_METADATA").unlink(),
    "a letter of the tree": lambda folder: (folder / "state" / "_METADATA").write_text(
        "np.ndarrey".join((folder / "state" / "_METADATA").read_text().rsplit("np.ndarray", 1))
    ),
    "no about": lambda folder: shutil.rmtree(folder / "about"),
    "empty about": lambda folder: (folder / "about" / "metadata").write_bytes(b""),
    "list about": lambda folder: (folder / "about" / "metadata").write_bytes(b"[]"),
    "a digit of about": lambda folder: (folder / "about" / "metadata").write_text(
        (folder / "about" / "metadata").read_text().replace('{"step": 3}', '{"step": 8}')
    ),
    "nothing": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "Orbax's own words": lambda folder: (
        flip(largest(folder / "state")),
        (folder / "_CHECKPOINT_METADATA").write_text("[]"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_its_step_saved_again(damage, tmp_path):
    save_steps(tmp_path, 1, 2, 3)
    DAMAGE[damage](tmp_path / "3")
    with open_checkpoints(tmp_path, keep=1) as manager:
        restored = restore(manager, state_at(0))
        assert restored is not None
        assert same(restored.state, state_at(2))
        assert restored.about == {"step": 2}
        (line,) = restored.damaged
        assert line.startswith(f"{tmp_path / '3'}: ")
        assert line.endswith("; it lies in 3.damaged now")
        assert latest_good(manager) == 2
        save(manager, state_at(3), {"step": 3})
        wait(manager)
        assert names(tmp_path) == ["3", "3.damaged"]
    assert restored_step(tmp_path) == 3


def test_one_bit_anywhere_is_noticed_or_does_no_harm(tmp_path):
    save_steps(tmp_path / "good", 1, 2)
    files = [path for path in sorted((tmp_path / "good" / "2").rglob("*")) if path.is_file()]
    found = []
    for i, file in enumerate(files):
        run = tmp_path / str(i)
        shutil.copytree(tmp_path / "good", run)
        flip(run / file.relative_to(tmp_path / "good"), random.Random(i).random())
        found.append(restored_step(run))
    assert set(found) == {1, 2}


def test_twice_damaged_lies_beside_the_first(tmp_path):
    for expected in (["1", "2.damaged"], ["1", "2.damaged", "2.damaged-2"]):
        save_steps(tmp_path, 1, 2)
        flip(largest(tmp_path / "2" / "state"))
        assert restored_step(tmp_path) == 1
        assert names(tmp_path) == expected


def test_the_damaged_do_not_count_among_the_kept(tmp_path):
    save_steps(tmp_path, 1, 2, 3, 4)
    for step in (3, 4):
        flip(largest(tmp_path / str(step) / "state"))
    with open_checkpoints(tmp_path, keep=2) as manager:
        restored = restore(manager, state_at(0))
        assert restored is not None
        assert [line.split(":")[0] for line in restored.damaged] == [str(tmp_path / "4"), str(tmp_path / "3")]
        save(manager, state_at(5), {})
    assert names(tmp_path) == ["2", "3.damaged", "4.damaged", "5"]


def test_if_all_are_damaged_nothing_starts_from_scratch(tmp_path):
    save_steps(tmp_path, 1, 2)
    for step in (1, 2):
        flip(largest(tmp_path / str(step) / "state"))
    for _ in range(2):
        with open_checkpoints(tmp_path) as manager, pytest.raises(UserError) as caught:
            restore(manager, state_at(0))
        head, *lines, remedy = str(caught.value).split("\n")
        assert head == "No checkpoint is left:"
        assert [line.split(":")[0] for line in lines] == [f"  {tmp_path / '2'}", f"  {tmp_path / '1'}"]
        assert remedy == "Start a new run with another --out."
        assert names(tmp_path) == ["1", "2"]


MISFITS = {
    "width": r"2: params/fc/kernel is float32 \(500, 2\) there, and this run wants float32 \(5, 2\)\. ",
    "dtype": r"2: batch_stats/bn/mean is float32 \(500,\) there, and this run wants float16 \(500,\)\. ",
    "optimizer": r"2 has opt_state/\S*/trace/fc/bias, which this run does not have\. ",
    "statistics": r"2 has no batch_stats/a, which this run wants\. ",
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_another_network_is_no_damage(misfit, tmp_path):
    save_steps(tmp_path, 1, 2)
    like = state_at(0)
    if misfit == "width":
        like = state_at(0, width=5)
    elif misfit == "dtype":
        like = like._replace(batch_stats={"bn": {"mean": np.zeros(500, np.float16)}})
    elif misfit == "optimizer":
        like = state_at(0, tx=optax.sgd(0.1))
    elif misfit == "statistics":
        like = like._replace(batch_stats={"a": np.zeros(1)})
    message = MISFITS[misfit] + "Pass the .* or another --out.$"
    with open_checkpoints(tmp_path) as manager, pytest.raises(UserError, match=message):
        restore(manager, like)
    assert names(tmp_path) == ["1", "2"]


# In processes of their own.

ROOT = Path(__file__).parents[1]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"PYTHONPATH": PATHS}


def words(code: str, *arguments: object) -> list[str]:
    head = "import sys\nfrom pathlib import Path\nfrom test_checkpoint import *\n"
    return [sys.executable, "-W", "error", "-c", head + textwrap.dedent(code), *map(str, arguments)]


def on_a_small_disk(folder: Path, megabytes: int, code: str) -> list[str]:
    """The lines that `code` prints with a file system in memory mounted at `folder`, and nothing but those."""
    done = on_a_disk(folder, f"size={megabytes}m,nr_inodes=200", words(code, folder), ENVIRONMENT)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_disk_that_is_full_is_told_and_costs_nothing_that_was_there(tmp_path):
    code = """
        def go_on(how, manager):
            if how == "save":
                save(manager, state_at(3), {})
            elif how == "wait":
                wait(manager)
            elif how == "fail":
                raise ZeroDivisionError

        for how in ("save", "wait", "fail", "end"):
            folder = Path(sys.argv[1]) / how
            try:
                with open_checkpoints(folder, keep=1) as manager:
                    save(manager, state_at(1), {})
                    save(manager, state_at(2, width=50_000), {})
                    print("not yet full")
                    go_on(how, manager)
            except UserError as error:
                print(error)
            print(names(folder))
            assert restored_step(folder) == 1
            save_steps(folder, 2, keep=1)
            print(names(folder))
    """
    disk = tmp_path / "disk"
    printed = on_a_small_disk(disk, 4, code)
    for how in ("save", "wait", "fail", "end"):
        assert printed[:4] == [
            "not yet full",
            f"{disk}/{how}: the checkpoint of step 2 could not be written (No space left on device); that of step 1 is "
            "good. Make room there and run again with --resume.",
            "['1', '2.orbax-checkpoint-tmp']",
            "['2']",
        ]
        del printed[:4]


def test_whatever_file_is_the_first_without_room(tmp_path):
    code = """
        def fill(path, kilobytes):
            file = os.open(path, os.O_CREAT | os.O_WRONLY)
            with pytest.raises(OSError):
                while True:
                    os.write(file, bytes(4096))
            os.truncate(file, max(0, os.fstat(file).st_size - 1024 * kilobytes))
            os.close(file)

        def fill_with_files(folder):
            with pytest.raises(OSError):
                for i in range(10_000):
                    (folder / f"file-{i}").touch()

        disk = Path(sys.argv[1])
        save_steps(disk / "run", 1)
        for kilobytes in (0, 4, 8, 16, 24, 32, 48, 64, 96, "files"):
            try:
                with open_checkpoints(disk / "run", keep=1) as manager:
                    fill_with_files(disk) if kilobytes == "files" else fill(disk / "ballast", kilobytes)
                    save(manager, state_at(2, width=1500), {})  # 168 kB: more than any of the rooms
            except UserError as error:
                print(error)
            for path in disk.iterdir():
                if path.is_file():
                    path.unlink()
        assert restored_step(disk / "run") == 1
    """
    printed = on_a_small_disk(tmp_path / "disk", 1, code)
    assert len(printed) == 10
    assert {line.split("written ")[1] for line in printed} == {
        "(No space left on device); that of step 1 is good. Make room there and run again with --resume."
    }


def test_a_disk_that_is_full_from_the_start(tmp_path):
    code = """
        try:
            with open_checkpoints(Path(sys.argv[1])) as manager:
                save(manager, state_at(2, width=50_000), {})
        except UserError as error:
            print(error)
    """
    (line,) = on_a_small_disk(tmp_path / "disk", 3, code)
    assert line.endswith(
        "(No space left on device); there is no earlier one. Make room there and run again with --resume."
    )


def test_a_folder_that_can_only_be_read(tmp_path):
    code = """
        folder = Path(sys.argv[1])
        save_steps(folder, 1)
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        for place in (folder, folder / "new"):
            try:
                with open_checkpoints(place):
                    print("opened")
            except UserError as error:
                print(error)
    """
    disk = tmp_path / "disk"
    assert on_a_small_disk(disk, 3, code) == [
        f"{disk}: cannot be written (Read-only file system). Pass another --out.",
        f"{disk}/new: cannot be written (Read-only file system). Pass another --out.",
    ]


def test_a_file_in_the_folder_s_place(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(UserError, match=r"file: cannot be written \(File exists\)"),
        open_checkpoints(tmp_path / "file"),
    ):
        pass


def wide_state(step: int) -> TrainState:
    """4 MB, by NumPy alone."""
    rng = np.random.default_rng(step)
    return TrainState(np.array(step, np.int32), {str(i): rng.random(10**5, np.float32) for i in range(10)}, {}, ())


def test_killed_at_any_moment_the_newest_complete_one_is_restored(tmp_path):
    code = """
        with open_checkpoints(Path(sys.argv[1]), keep=1) as manager:
            restored = restore(manager, wide_state(0))
            step = 0 if restored is None else int(restored.state.step)
            while True:
                step += 1
                save(manager, wide_state(step), {"step": step})
                print(latest_good(manager), flush=True)
    """
    folder, moments, num_cut_short = tmp_path / "checkpoints", random.Random(0), 0
    for _ in range(5):
        child = subprocess.Popen(words(code, folder), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(2)]
        time.sleep(moments.uniform(0, 0.2))
        while not any("tmp" in name for name in names(folder)):
            assert child.poll() is None
        time.sleep(moments.choice([0, 0, 0.01]))
        child.send_signal(signal.SIGKILL)
        said += child.communicate()[0].splitlines()
        num_cut_short += any("tmp" in name for name in names(folder))
        with open_checkpoints(folder, keep=1) as manager:
            restored = restore(manager, wide_state(0))
        assert restored is not None
        step = int(restored.state.step)
        assert step >= int(said[-1])
        assert same(restored.state, wide_state(step))
        assert restored.about == {"step": step}
        assert restored.damaged == ()
    assert num_cut_short


def test_of_two_processes_only_the_first_saves_and_restores(tmp_path):
    code = """
        from jax.experimental import multihost_utils
        port, index, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
        jax.distributed.initialize(f"localhost:{port}", 2, index)
        assert (jax.process_count(), jax.device_count()) == (2, 2)
        mesh = jax.make_mesh((2,), ("data",))
        replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        place = jax.make_array_from_process_local_data
        state = jax.tree.map(lambda leaf: place(replicated, np.asarray(leaf)), state_at(3))
        assert not state.step.is_fully_addressable
        if index == 0:
            for step, saved in ((3, state), (4, state_at(4))):
                with open_checkpoints(folder, keep=1) as manager:
                    save(manager, saved, {"step": step})
                    restored = restore(manager, state)
                    assert same(restored.state, state_at(step)) and restored.about == {"step": step}
                assert names(folder) == [str(step)]
        multihost_utils.sync_global_devices("end")
        print("done", index)
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pipes = {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(words(code, port, i, tmp_path / "checkpoints"), **pipes) for i in range(2)]
    try:
        outcomes = [run.communicate(timeout=60) for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [(out.splitlines()[-1:], error) for out, error in outcomes] == [(["done 0"], ""), (["done 1"], "")]
    assert [run.returncode for run in runs] == [0, 0]
