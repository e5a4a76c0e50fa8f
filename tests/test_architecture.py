"""Who may import whom: data flows one way, and the core runs where only jax, flax and optax are installed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = (
    *("errors", "checks", "host", "huge_pages", "fonts", "download", "data.augment_spec"),
    *("optim_config", "config", "config_file", "records", "paths"),
    *("cpu.shared", "cpu.patches", "cpu.winograd", "cpu.convolution", "cpu.max_pool"),
    *("batch_norm", "resnet", "head"),
    *("launch", "data.sharing", "processes"),
    *("data.images", "data.sources", "data.folders", "data.named", "data.table", "data.prepared", "data.tfds"),
    *("data.cache", "data.workers", "data.canvas", "data.kitchen_shapes", "data.kitchen", "data.load"),
    *("data.counts", "data.leakage", "data.duplicates", "data.traits", "data.health", "data.findings", "data.check"),
    *("data.crops", "data.colour", "data.mixing", "data.augment"),
    *("data.resident", "data.batches", "data.feed", "data.plan", "data.prepare", "options"),
    *("schedule", "course", "holdout", "optim", "step", "features", "parallel", "build", "frozen", "beside"),
    *("classifier", "model_file", "compiled"),
    *("orbax_words", "checkpoint"),
    *("loop", "resume", "run_folder", "plan_file", "overlay", "data.views"),
    *("report.summary", "report.curves", "report.words", "report.svg"),
    *("report.evaluation", "report.charts", "report.pictures", "report.shell", "report.finished", "report.scoring"),
    *("report.gallery", "report.page", "report.write", "report.__main__", "console", "stop"),
    *("event_files", "wandb_run", "watch", "session", "training"),
    *("range_test.ramp", "range_test.curve", "range_test.figure", "range_test.finder"),
    *("comparison.arms", "comparison.plan", "comparison.board", "comparison.trials", "comparison.chance"),
    *("comparison.verdict", "comparison.results", "comparison.figure", "comparison.page", "comparison.series"),
    "arguments",
    *("sweeping.grid", "sweeping.folder", "sweeping.members", "sweeping.groups", "sweeping.series"),
    *("sweeping.choice", "sweeping.fit_many", "sweeping.auto"),
    *("command", "comparison.arguments", "comparison.command"),
    *("sweeping.figure", "sweeping.arguments", "sweeping.command"),
    *("train", "compare", "sweep", "run_list", "run_table", "runs"),
    *("range_test.arguments", "range_test.command", "lrfind"),
    *("data.grid", "data.preview"),
    *("heat_maps", "rows", "predict"),
    *("formats.contract", "formats.safetensors", "formats.torchvision", "formats.stablehlo"),
    *("formats.onnx_graph", "formats.onnx", "export"),
)
COMMANDS = {
    "arguments",
    "comparison.arguments",
    "sweeping.arguments",
    "sweeping.fit_many",
    "range_test.arguments",
    "model_file",
    "training",
    "runs",
    "data.check",
    "data.preview",
    "export",
}
HEAVY = {
    *("grain", "tyro", "rich", "matplotlib", "jinja2", "markupsafe", "tensorflow_datasets", "orbax", "cykooz_resizer"),
    *("torch", "torchvision", "tensorflow", "tensorboard", "wandb", "onnx", "onnxruntime"),
}
FLAX_NEEDS = {"orbax", "rich"}
ALLOWED = {
    "data.images": {"cykooz_resizer"},
    "data.workers": {"grain"},
    "data.tfds": {"tensorflow_datasets"},
    "data.check": {"rich", "tyro"},
    "fonts": {"matplotlib"},
    "report.curves": {"matplotlib"},
    "report.svg": {"markupsafe"},
    "report.charts": {"markupsafe"},
    "report.page": {"markupsafe"},
    "report.shell": {"jinja2", "markupsafe"},
    "report.__main__": {"rich", "tyro"},
    "console": {"rich"},
    "checkpoint": {"orbax"},
    "comparison.board": {"rich"},
    "comparison.series": {"rich"},
    "comparison.figure": {"matplotlib"},
    "comparison.page": {"markupsafe"},
    "arguments": {"tyro"},
    "event_files": {"tensorboard"},
    "wandb_run": {"wandb"},
    "comparison.arguments": {"tyro"},
    "comparison.command": {"rich"},
    "range_test.arguments": {"tyro"},
    "range_test.figure": {"matplotlib"},
    "session": {"orbax"},
    "training": {"orbax"},
    "run_table": {"rich"},
    "sweeping.figure": {"matplotlib"},
    "sweeping.arguments": {"tyro"},
    "sweeping.command": {"rich"},
    "runs": {"tyro"},
    "data.grid": {"matplotlib"},
    "data.preview": {"tyro"},
    "rows": {"rich"},
    "predict": {"rich", "tyro"},
    "formats.torchvision": {"torch", "torchvision"},
    "formats.onnx_graph": {"onnx"},
    "formats.onnx": {"onnxruntime"},
    "export": {"tyro"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def modules() -> dict[str, Path]:
    files = sorted((ROOT / "jaxft").rglob("*.py"))
    named = {".".join(path.relative_to(ROOT / "jaxft").with_suffix("").parts): path for path in files}
    return {name: path for name, path in named.items() if not name.endswith("__init__")}


def test_every_module_has_its_place():
    assert sorted(modules()) == sorted(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_from_those_before_it(name):
    ours = {found.removeprefix("jaxft.") for found in imports(modules()[name]) if found.startswith("jaxft.")}
    later = {found for found in ours & set(ORDER) if ORDER.index(found) >= ORDER.index(name)}
    assert not later


@pytest.mark.parametrize("name", ORDER)
def test_the_core_imports_nothing_heavy(name):
    roots = {found.split(".")[0] for found in imports(modules()[name])}
    assert roots & HEAVY <= ALLOWED.get(name, set())
    assert name in COMMANDS or not roots & {"convert", "configs"}


def test_model_and_step_run_without_the_front_of_the_house():
    code = (
        "import sys\n"
        f"for name in {sorted(HEAVY - FLAX_NEEDS)!r}: sys.modules[name] = None\n"
        "import jaxft, jaxft.build, jaxft.step, jaxft.data.augment\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
