"""benchmarks/throughput.py: it counts what it says, its sides take turns, and it runs where little is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torchvision.models import get_model_weights

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import throughput_jax
from flax_imagenet_style import ResNet
from flops import forward_flops, model_flops
from jaxft import loop
from jaxft.errors import UserError
from jaxft.optim import rate_labels
from jaxft.paths import count_by_label
from jaxft.resnet import frozen_stages, make_resnet
from sides import Job, Measured, SideError, take_turns
from throughput_report import Comparison, own_table, peers_table, ratio, utilisation
from throughput_torch import make_model

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
JOB = Job("jaxft", "train", "resnet18", 8, 224, "float32", seconds=0)
DEVICE = {
    "platform": "cpu",
    "kind": "a cpu",
    "precision": "float32",
    "matmul_flops": [1e12, 1e12, 1e12],
    "bytes_per_second": [1e10, 1e10, 1e10],
}


# What is counted.


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_a_forward_pass_has_the_multiply_adds_that_torchvision_says(arch):
    billions = get_model_weights(arch).IMAGENET1K_V1.meta["_ops"]
    assert round(model_flops(arch, 224, 1000).forward / 2e9, 3) == billions


@pytest.mark.parametrize("freeze", ["none", "stem", "layer2", "backbone"])
def test_a_training_step_has_the_flops_that_xla_counts(freeze, compile_plainly):
    # Of the convolutions as other devices have them; a CPU's take fewer products.
    compile_plainly()
    model = make_resnet("resnet18", num_classes=2, frozen=frozen_stages(freeze))
    images = jax.ShapeDtypeStruct((1, 1792, 1792, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    labels = rate_labels(variables["params"], model.frozen)
    trains = {name for name in labels if "frozen" not in jax.tree.leaves(labels[name])}

    def gradients(params, stats, images):
        def loss(training):
            merged = {"params": params | training, "batch_stats": stats}
            return model.apply(merged, images, train=True, mutable=["batch_stats"])[0].sum()

        return jax.value_and_grad(loss)({name: params[name] for name in trains})

    counted = jax.jit(gradients).lower(variables["params"], variables["batch_stats"], images).cost_analysis()["flops"]
    # XLA leaves out products with padding, of which large images have little, and counts normalisation.
    np.testing.assert_allclose(model_flops("resnet18", 1792, 2, freeze).training, counted, rtol=0.015)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_the_flax_peer_is_the_same_network_as_far_as_work_goes(arch):
    layers, params = forward_flops(ResNet(arch, 2, jnp.float32), 224)
    ours = make_resnet(arch, num_classes=2)
    expected = jax.eval_shape(lambda: ours.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))["params"]
    assert sum(layers.values()) == model_flops(arch, 224, 2).forward
    assert sorted(x.shape for x in jax.tree.leaves(params)) == sorted(x.shape for x in jax.tree.leaves(expected))


@pytest.mark.parametrize("freeze", ["none", "layer2", "backbone"])
def test_the_torch_peer_trains_what_jaxft_trains(freeze):
    model = make_resnet("resnet18", num_classes=2, frozen=frozen_stages(freeze))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    counts = count_by_label(variables["params"], rate_labels(variables["params"], model.frozen))
    network, groups = make_model(JOB._replace(side="torch-eager", freeze=freeze), torch.device("cpu"))
    ours = sum(number for label, number in counts.items() if label != "frozen")
    assert sum(p.numel() for group in groups for p in group["params"]) == ours
    moving = {name.split(".")[0] for name, module in network.named_modules() if "bn" in name and module.training}
    stages = ["bn1", "layer1", "layer2", "layer3", "layer4"]
    assert moving == set({"none": stages, "layer2": stages[3:], "backbone": []}[freeze])


# How it is measured.

WORKER = """
import os, sys
from pathlib import Path
sys.path[:0] = [{benchmarks!r}, {root!r}]
from jaxft.errors import UserError
from serving import Ready, serve

def prepare(job):
    print("a library says hello")
    if job.side == "mistaken":
        raise UserError("--batch 3: odd. Pass 4.")

    def run(steps):
        if job.side == "large":
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory while trying to allocate")
        if job.side == "killed":
            os._exit(9)
        if job.side in ("broken", "jaxft") and job.batch_size == 13:
            raise RuntimeError("an unlucky number")
        with Path({log!r}).open("a") as log:
            log.write((job.side + " ") * steps)

    return Ready(run, 1.5, temp_bytes=10, peak_bytes=lambda: 77)

serve(prepare)
"""


@pytest.fixture
def worker_script(tmp_path, monkeypatch):
    script, log = tmp_path / "worker.py", tmp_path / "log"
    script.write_text(WORKER.format(benchmarks=str(BENCHMARKS), root=str(BENCHMARKS.parent), log=str(log)))
    monkeypatch.setattr("sides.script_of", lambda _: str(script))
    return log


def test_sides_take_turns(worker_script):
    ours, theirs = take_turns([JOB, JOB._replace(side="peer")], 3)
    # Of each two steps to warm up and one to see how long it takes; then a turn that is not counted, and three, each of
    # a step that is not counted and one that is.
    assert worker_script.read_text().split() == ["jaxft"] * 3 + ["peer"] * 3 + ["jaxft", "jaxft", "peer", "peer"] * 4
    assert len(ours.seconds) == len(theirs.seconds) == 3
    assert (ours.peak_bytes, ours.failed) == (77, None)
    assert (ours.compiled["compile_seconds"], ours.compiled["temp_bytes"], ours.compiled["steps"]) == (1.5, 10, 1)


@pytest.mark.parametrize(
    ("side", "message"),
    [("large", "out of memory"), ("killed", r"its process ended (status 9)"), ("broken", "an unlucky number")],
)
def test_a_peer_that_fails_leaves_the_others_alone(worker_script, side, message):
    ours, theirs = take_turns([JOB, JOB._replace(side=side, batch_size=13 if side == "broken" else 8)], 2)
    assert theirs.failed == message
    assert (ours.failed, len(ours.seconds)) == (None, 2)


def test_jaxfts_own_failure_and_a_mistake_end_it(worker_script):
    with pytest.raises(SideError, match="an unlucky number"):
        take_turns([JOB._replace(batch_size=13)], 1)
    with pytest.raises(UserError, match="--batch 3: odd. Pass 4."):
        take_turns([JOB, JOB._replace(side="mistaken")], 1)


def test_as_many_steps_are_queued_as_in_a_run():
    assert throughput_jax.IN_FLIGHT == loop.IN_FLIGHT


# What is told.


def measured(seconds: list[float], temp: int | None = None, failed: str | None = None, **job) -> Measured:
    compiled = {"compile_seconds": 2.0, "flops": 1e9, "bytes_accessed": 1e9, "temp_bytes": temp}
    return Measured(JOB._replace(**job), compiled, seconds, None, failed)


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"][2:]


def first_table(text: str) -> str:
    return next(part for part in text.split("\n\n") if part.startswith("|"))


def test_the_tables_say_what_was_measured():
    ours, peer = measured([0.5, 0.25, 0.25], temp=10**9), measured([1.0, 1.0, 0.25], side="torch-eager")
    more, large = measured([0.5] * 3, batch_size=32), measured([], failed="out of memory", side="flax", batch_size=32)
    assert ratio(ours, peer) == (2.0, 1.0, 4.0)
    assert utilisation(ours, DEVICE) == pytest.approx(8 * model_flops("resnet18", 224, 2).training / 0.25 / 1e12)
    rows = cells(peers_table([Comparison(False, [ours, peer]), Comparison(False, [more, large])], DEVICE))
    assert rows[0][:8] == ["training", "none", "8", "jaxft", "32 (16 to 32)", "", "2", "1,000"]
    assert rows[1][3:6] == ["torch-eager", "**8 (8 to 32)**", "2 (1 to 4)"]
    assert rows[2][4] == "**64 (64 to 64)**"
    assert rows[3][3:] == ["flax", "out of memory", "", "", "", ""]
    head = measured([0.125] * 3, temp=150 * 10**6, freeze="backbone")
    rows = cells(own_table([Comparison(True, [ours, head])]))
    assert rows[0][3:] == ["32 (16 to 32)", "1", "1,000", "1.000"]
    assert rows[1] == ["training", "backbone", "8", "64 (64 to 64)", "2 (2 to 4)", "150", "0.150"]


# The script.

SMALLEST = ["--batch", "2", "--image-size", "32", "--canvas", "32", "--turns", "1", "--seconds", "0"]


def run_script(tmp_path: Path, *words: str, missing: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """A run in which modules that are missing cannot be imported, by any of its processes."""
    for name in missing:
        (tmp_path / "missing").mkdir(exist_ok=True)
        (tmp_path / "missing" / f"{name}.py").write_text("raise ImportError(__name__)")
    command = [sys.executable, str(BENCHMARKS / "throughput.py"), *SMALLEST, *words]
    command += ["--json", str(tmp_path / "found.json"), "--results", str(tmp_path / "RESULTS.md")]
    path = os.pathsep.join([str(tmp_path / "missing"), str(BENCHMARKS.parent)])
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})


@pytest.mark.slow
def test_it_runs_beside_peers(tmp_path):
    done = run_script(
        tmp_path, "--measure", "train", "--freeze", "none", "--peer", "torch-eager", "flax-imagenet-style"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["sides"]
    assert [side["side"] for side in found] == ["jaxft", "torch-eager", "flax-imagenet-style"]
    assert all(len(side["seconds"]) == 1 and 0 < side["utilisation"] < 1 for side in found)
    rows = cells(first_table((tmp_path / "RESULTS.md").read_text()))
    assert [row[3] for row in rows] == [side["side"] for side in found]
    assert [bool(row[5]) for row in rows] == [False, True, True]


@pytest.mark.slow
def test_it_runs_without_peers_where_little_is_installed(tmp_path):
    missing = ("grain", "tyro", "tensorflow_datasets", "cykooz_resizer", "matplotlib", "jinja2", "safetensors")
    words = ["--measure", "resident", "--freeze", "none", "--devices", "2", "--parallel", "pmap"]
    done = run_script(tmp_path, *words, missing=missing)
    assert done.returncode == 0, done.stderr
    whole, resident = json.loads((tmp_path / "found.json").read_text())["sides"]
    assert (whole["measure"], resident["measure"], resident["devices"]) == ("train", "resident", 2)
    assert "| training, resident | none | 2 |" in done.stdout
    assert done.stdout.strip() in (tmp_path / "RESULTS.md").read_text()


@pytest.mark.slow
def test_it_says_what_it_does_without(tmp_path):
    hidden = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['torchvision'] = None; sys.path.insert(0, {0!r});"
        "sys.argv[0] = {1!r}; runpy.run_path({1!r}, run_name='__main__')"
    ).format(str(BENCHMARKS), str(BENCHMARKS / "throughput.py"))
    words = [*SMALLEST, "--measure", "eval", "--peer", "torch-eager", "--results", str(tmp_path / "RESULTS.md")]
    done = subprocess.run([sys.executable, "-c", hidden, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "without torch-eager: torch and torchvision are not installed" in done.stderr
    assert [row[3] for row in cells(first_table(done.stdout))] == ["jaxft"]
    assert "torch " not in done.stdout.split("Python 3")[1].split(";")[0]


def test_several_devices_have_no_peer(tmp_path):
    done = run_script(tmp_path, "--devices", "2", "--peer", "torch-eager")
    assert (done.returncode, done.stderr.strip()) == (
        2,
        "error: --devices 2: peers run on one. Pass --peer none, or --devices 1.",
    )
