"""Every code block of README.md runs, and every command line in it parses."""

import re
import shlex
from contextlib import chdir
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
import tyro
import yaml
from safetensors.torch import load_file

import jaxft
from jaxft import export
from jaxft.config_file import to_json

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROSE = FENCED.sub("", README)
PYTHON = [code for language, code in FENCED.findall(README) if language == "python"]
SHELL = [code for language, code in FENCED.findall(README) if not language]

NOT_RUN: dict[str, str] = {}
"""A text that a block holds, and the reason why it cannot run here."""

SMALLER = {
    'jaxft.ModelConfig("resnet18", ': 'jaxft.ModelConfig("resnet18", weights="RUN", ',
    "epochs=10": "epochs=1, images=jaxft.ImageConfig(32), batch_size=8, devices=1",
    "-100": "-4",
    "BATCH_SIZE = 32": "BATCH_SIZE = 8",
    "jaxft.Canvas(256)": "jaxft.Canvas(48)",
    ", head_key)": ', head_key, weights="RUN")',
    "image_size=224": "image_size=32",
    "jaxft.local_devices()": "jaxft.local_devices(1)",
    "range(5)": "range(2)",
    "jaxft.EvalCrop(224)": "jaxft.EvalCrop(32)",
}
"""What blocks are changed in, to be quick and to need no network: the numbers, and where the weights come from."""

PLACEHOLDERS = {"S": "0", "$(JOB_COMPLETION_INDEX)": "0"}
"""Words that stand for numbers."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder that the reader is in: photographs in class folders, more, arrays, RUN, a finished run, exports."""
    home = tmp_path_factory.mktemp("home")
    images = np.random.default_rng(0).integers(0, 256, (16, 48, 40, 3), np.uint8)
    files = [f"photos/{'train' if i < 12 else 'val'}/{('ants', 'bees')[i % 2]}/{i}.jpg" for i in range(16)]
    for name, image in zip([*files, "one.jpg", "another.jpg", "photo.jpg"], [*images, *images], strict=False):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(home / name)
    np.save(home / "images.npy", images)
    np.save(home / "labels.npy", np.arange(16) % 2)
    scratch = jaxft.ModelConfig("resnet18", weights="none")
    config = jaxft.Config(str(home / "photos"), scratch, jaxft.ImageConfig(32), epochs=1, batch_size=8, devices=1)
    jaxft.fit(config, out=home / "RUN", verbose=False)
    wide = jaxft.Description("resnet18", 64, jaxft.EvalCrop(224, "short"), ("ants", "bees"))
    jaxft.save_model(home / "model.safetensors", jaxft.load(home / "RUN").variables, wide)
    for to in ("torchvision", "stablehlo", "onnx"):
        export.main([str(home / "model.safetensors"), "--to", to])
    return home


@pytest.fixture(scope="module")
def ran(home):
    """Runs a block in that folder, once; gives the names that it leaves."""

    @cache
    def run(code):
        for text, smaller in SMALLER.items():
            code = code.replace(text, smaller)
        names = {"__name__": "__main__"}
        with chdir(home):
            exec(compile(code, "README.md", "exec"), names)
        return names

    return run


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_a_python_block_runs(code, ran):
    for text, reason in NOT_RUN.items():
        if text in code:
            pytest.skip(reason)
    ran(code)


@pytest.mark.parametrize("text", [*SMALLER, *NOT_RUN])
def test_what_is_changed_for_it_is_there(text):
    assert any(text in code for code in PYTHON)


@pytest.mark.slow
def test_the_loop_leaves_a_model_that_torchvision_runs_alike(home, ran):
    (code,) = [code for code in PYTHON if "make_train_step" in code]
    names = ran(code)
    model = torchvision.models.resnet18(num_classes=2).eval()
    model.load_state_dict(load_file(home / "mine.safetensors"), strict=True)
    assert names["state"].step == 2
    np.testing.assert_array_equal(model.fc.weight.detach(), names["state"].params["fc"]["kernel"].T)
    prepare = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(37),
            torchvision.transforms.CenterCrop(32),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = [PIL.Image.open(home / path) for path in names["splits"].test.paths]
    with torch.no_grad():
        expected = model(torch.stack([prepare(image) for image in images])).softmax(1)
    np.testing.assert_allclose(names["probabilities"], expected, atol=1e-5)


def command_lines():
    """The words of every command of jaxft's: in shell blocks, in a Kubernetes manifest and in the prose."""
    for block in SHELL:
        if block.startswith("command:"):
            yield yaml.safe_load(block)["command"]
        for line in block.splitlines():
            yield from (shlex.split(part, comments=True) for part in line.split("&&"))
    for code in re.findall(r"`(python [^`]+)`", PROSE):
        yield shlex.split(code)


COMMANDS = dict.fromkeys(tuple(words[words.index("-m") + 1 :]) for words in command_lines() if "-m" in words)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_line_parses(words, tmp_path, monkeypatch):
    class ParsedError(Exception):
        """Ends a command once its command line is read."""

    def parse_only(*args, parse=tyro.cli, **kwargs):
        parse(*args, **kwargs)
        raise ParsedError

    monkeypatch.setattr(tyro, "cli", parse_only)
    monkeypatch.chdir(tmp_path)
    for file in ("RUN/config.json", "SWEEP/best.json"):
        Path(file).parent.mkdir()
        Path(file).write_text(to_json(jaxft.Config()))
    name, *flags = [PLACEHOLDERS.get(word, word) for word in words]
    package = find_spec(name).submodule_search_locations is not None
    with pytest.raises(ParsedError):
        import_module(f"{name}.__main__" if package else name).main(flags)
