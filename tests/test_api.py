"""The library, as its users have it."""

import ast
import json
import subprocess
import sys
import threading
from dataclasses import replace
from importlib import resources
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxft
from convert.torchvision import variable_shapes
from convert.weights import save_weights
from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig
from jaxft.data import kitchen
from jaxft.data.sources import ArraySource, Splits
from jaxft.errors import UserError
from parity.network import random_state

ROOT = Path(__file__).parents[1]
SMALL = Config(
    data="posters",
    model=ModelConfig(width=16, weights="demo"),
    images=ImageConfig(image_size=32),
    optim=OptimConfig(lr=2e-3),
    epochs=2,
    batch_size=16,
    devices=1,
)


@pytest.fixture(scope="module")
def posters():
    """A part of the demo's posters, as arrays of one's own."""

    def part(split, num):
        images, labels, names = kitchen.target_set(split)
        return ArraySource(images[:num], labels[:num], names)

    return Splits(part("train", 48), part("test", 40), ())


@pytest.fixture(scope="module")
def trained(posters, tmp_path_factory):
    """A run on them, and what its callback was told."""
    told = []
    out = tmp_path_factory.mktemp("library") / "run"
    return jaxft.fit(SMALL, out=out, data=posters, callback=told.append, verbose=False), told


def test_the_public_names_are_listed_once_and_are_there():
    (block,) = [node for node in ast.parse(Path(jaxft.__file__).read_text()).body if isinstance(node, ast.If)]
    typed = {
        alias.asname: f"{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {name: module for module, names in jaxft._PLACES.items() for name in names}
    assert typed == lazy
    assert sorted(jaxft.__all__) == sorted({"__version__", *lazy})
    for name in jaxft.__all__:
        assert getattr(jaxft, name) is not None
        assert name in dir(jaxft)
    assert resources.files("jaxft").joinpath("py.typed").is_file()


HEAVY = {"jax", "flax", "optax", "orbax", "grain", "matplotlib", "scipy", "jinja2", "tensorflow_datasets", "torch"}
"""What takes a tenth of a second or more to import, or is not everywhere."""
STARTS = {
    "import jaxft": set(),
    "import jaxft.train": set(),
    "import jaxft.compare": set(),
    "import jaxft.lrfind": set(),
    "import jaxft.runs": set(),
    "import jaxft.sweep": set(),
    "jaxft.train --help": set(),
    "jaxft.compare --help": set(),
    "jaxft.sweep --help": set(),
    "jaxft.lrfind --help": set(),
    "jaxft.predict --help": {"jax", "flax", "optax", "orbax", "grain"},
    "jaxft.report --help": {"jax", "flax", "optax", "orbax", "grain", "jinja2"},
    "import jaxft.training": {"jax", "flax", "optax", "orbax", "grain", "jinja2"},
}
"""Which of them are imported by what is done before any work; matplotlib waits until the model is saved."""


@pytest.mark.parametrize("start", STARTS)
def test_a_start_imports_no_more_than_it_needs(start):
    name, *flags = start.split()
    begin = start if name == "import" else f"runpy.run_module({name!r}, run_name='__main__')"
    code = (
        f"import runpy, sys; sys.argv = [{name!r}, *{flags!r}]\n"
        f"try: {begin}\n"
        "except SystemExit: pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert set(ast.literal_eval(done.stderr.splitlines()[-1])) == STARTS[start]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        jaxft.fitt  # noqa: B018


def test_fit_trains_on_arrays_and_tells_the_callback(trained, posters):
    result, told = trained
    assert list(result.records) == told
    assert [record.epoch for record in told if record.split == "test"] == [1.0, 2.0]
    lines = (result.out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [record.loss for record in told]
    assert result.summary["final_accuracy"] == told[-1].accuracy


def test_the_loaded_model_says_what_the_run_measured(trained, posters):
    result, _ = trained
    classifier = jaxft.load(result.out)
    probabilities = classifier.predict(posters.test.images)
    assert classifier.class_names == posters.test.class_names
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    accuracy = (probabilities.argmax(1) == posters.test.labels).mean()
    assert accuracy == pytest.approx(result.summary["final_accuracy"])


def test_fit_prints_only_when_asked(posters, tmp_path, capsys):
    jaxft.fit(replace(SMALL, epochs=1), out=tmp_path / "quiet", data=posters, verbose=False)
    assert capsys.readouterr() == ("", "")
    jaxft.fit(replace(SMALL, epochs=1), out=tmp_path / "told", data=posters)
    assert "epoch 1/1" in capsys.readouterr().out


def test_fit_works_in_a_thread(posters, tmp_path):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(
            jaxft.fit(replace(SMALL, epochs=1), out=tmp_path / "run", data=posters, verbose=False)
        )
    )
    thread.start()
    thread.join()
    assert found[0].summary["epochs"] == 1


def test_fit_carries_on_and_refuses_a_folder_that_is_taken(trained, posters, tmp_path):
    result, _ = trained
    with pytest.raises(UserError, match="holds a run already"):
        jaxft.fit(SMALL, out=result.out, data=posters, verbose=False)

    class EnoughError(Exception):
        pass

    def stop(record):
        if record.split == "test":
            raise EnoughError

    with pytest.raises(EnoughError):
        jaxft.fit(SMALL, out=tmp_path / "run", data=posters, callback=stop, verbose=False)
    again = jaxft.fit(SMALL, out=tmp_path / "run", data=posters, verbose=False, resume=True)
    assert [record.loss for record in again.records] == [record.loss for record in result.records]


def test_fit_says_why_a_loss_became_infinite(posters, tmp_path):
    config = replace(SMALL, optim=OptimConfig(lr=1e12))
    with pytest.raises(jaxft.DivergedError, match=r"non-finite at step \d+ .learning rate 1e\+12"):
        jaxft.fit(config, out=tmp_path / "run", data=posters, verbose=False)


def test_load_torchvision_keeps_the_classifier_or_draws_one(tmp_path):
    state = random_state("resnet18", num_classes=5)
    weights = str(tmp_path / "five.safetensors")
    save_weights(Path(weights), state)
    whole = jaxft.load_torchvision("resnet18", weights=weights)
    np.testing.assert_array_equal(whole["params"]["fc"]["kernel"], state["fc.weight"].T)
    new = jaxft.load_torchvision("resnet18", 3, jax.random.key(0), weights=weights)
    assert jax.tree.map(np.shape, new) == jax.tree.map(
        lambda leaf: leaf.shape, variable_shapes(jaxft.resnet18(num_classes=3))
    )
    np.testing.assert_array_equal(new["params"]["conv1"]["kernel"], whole["params"]["conv1"]["kernel"])
    with pytest.raises(UserError, match="num_classes and key go together"):
        jaxft.load_torchvision("resnet18", 5, weights=weights)
    with pytest.raises(UserError, match="these weights are not the model's"):
        jaxft.load_torchvision("resnet50", weights=weights)
