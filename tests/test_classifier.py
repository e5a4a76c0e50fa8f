import json

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torchvision.transforms import v2

import jaxft
from convert.torchvision import to_variables
from jaxft.classifier import make_classifier
from jaxft.config import Config, ImageConfig, ModelConfig
from jaxft.config_file import to_json
from jaxft.data.images import EvalCrop
from jaxft.errors import UserError
from jaxft.model_file import describe_model, read_description, save_model
from jaxft.parallel import local_devices
from jaxft.resnet import make_resnet
from parity.network import random_state

CLASSES = ("ants", "bees", "küche")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run's folder with a ResNet18 of three classes, and its state_dict."""
    out = tmp_path_factory.mktemp("run")
    state = random_state("resnet18", num_classes=len(CLASSES))
    config = Config(model=ModelConfig(), images=ImageConfig(image_size=64))
    variables = to_variables(state, make_resnet("resnet18", num_classes=len(CLASSES)))
    save_model(out / "model.safetensors", variables, describe_model(config, CLASSES))
    return out, state


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Files of several sizes, and one that is none."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(90, 120), (64, 64), (200, 70), (77, 131), (65, 300)]):
        coarse = PIL.Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize((width, height), PIL.Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def torch_probabilities(file, paths):
    model = torchvision.models.resnet18(num_classes=len(CLASSES)).eval()
    model.load_state_dict(load_file(file), strict=True)
    transform = v2.Compose(
        [
            v2.Resize(73),
            v2.CenterCrop(64),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    batch = torch.stack([transform(PIL.Image.open(path).convert("RGB")) for path in paths])
    with torch.no_grad():
        return model(batch).softmax(-1).numpy()


def test_a_loaded_run_says_what_torchvision_says(saved, photos):
    out, _ = saved
    classifier = jaxft.load(out)
    assert classifier.class_names == CLASSES
    expected = torch_probabilities(out / "model.safetensors", photos)
    np.testing.assert_allclose(classifier.predict(photos), expected, atol=2e-5)


def test_every_kind_of_image_is_the_same_image(saved, photos):
    classifier = jaxft.load(saved[0])
    rows = classifier.predict(photos)
    image = PIL.Image.open(photos[0])
    for one in (photos[0], str(photos[0]), photos[0].read_bytes(), image, np.asarray(image)):
        row = classifier.predict(one)
        assert row.shape == (3,)
        np.testing.assert_allclose(row, rows[0], atol=1e-6)
    stack = np.stack([np.asarray(image)] * 2)
    np.testing.assert_allclose(classifier.predict(stack), rows[[0, 0]], atol=1e-6)
    assert classifier.predict([]).shape == (0, 3)


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (2, 1), (3, 8), (64, 8)])
def test_batches_and_devices_change_nothing(saved, photos, batch_size, devices):
    rows = jaxft.load(saved[0], devices=1).predict(photos)
    np.testing.assert_allclose(
        jaxft.load(saved[0], devices=devices).predict(photos, batch_size=batch_size), rows, atol=1e-6
    )


def test_a_bad_image_is_named_or_is_a_row(saved, photos, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    classifier = jaxft.load(saved[0])
    items = [photos[0], bad, *photos[1:3], bad]
    with pytest.raises(UserError, match=r"bad\.jpg: not an image that PIL knows"):
        classifier.predict(items)
    with pytest.raises(UserError, match=r"image 0: float64 \[5, 5, 3\] in place of uint8"):
        classifier.predict(np.zeros((1, 5, 5, 3)))
    rows = list(classifier.stream(items, batch_size=2))
    assert [row.bad is None for row in rows] == [True, False, True, True, False]
    good = np.stack([row.probabilities for row in rows if row.probabilities is not None])
    np.testing.assert_allclose(good, classifier.predict(photos[:3]), atol=1e-6)


def test_a_map_averages_to_its_logit(saved, photos):
    out, state = saved
    classifier = jaxft.load(out)
    for row in classifier.stream(photos, with_maps=True):
        assert row.maps is not None
        assert row.maps.shape == (2, 2, 3)
        assert row.crop is not None
        assert row.crop.shape == (64, 64, 3)
        logits = row.maps.mean((0, 1)) + state["fc.bias"]
        softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        np.testing.assert_allclose(row.probabilities, softmax, atol=1e-5)


def test_training_leftovers_do_not_matter(saved, photos):
    _, state = saved
    model = make_resnet("resnet18", num_classes=3, frozen=("stem", "layer1"), axis_name="data")
    classifier = make_classifier(model, to_variables(state, model), CLASSES, EvalCrop(64, "short"), local_devices())
    np.testing.assert_allclose(classifier.predict(photos), jaxft.load(saved[0]).predict(photos), atol=1e-6)


def test_a_model_describes_itself(saved, tmp_path):
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes((saved[0] / "model.safetensors").read_bytes())
    description = read_description(moved)
    assert description == ("resnet18", 64, EvalCrop(64, "short"), CLASSES)
    assert jaxft.load(moved).class_names == CLASSES


def test_a_model_of_an_older_run_is_described_by_its_config(saved, tmp_path):
    from convert.weights import save_weights

    config = Config(images=ImageConfig(image_size=96, eval_resize="squash"))
    save_weights(tmp_path / "model.safetensors", saved[1], classes=CLASSES, metadata={"arch": "resnet18"})
    with pytest.raises(UserError, match="does not say what network it is of"):
        jaxft.load(tmp_path)
    (tmp_path / "config.json").write_text(to_json(config))
    assert jaxft.load(tmp_path).recipe == EvalCrop(96, "squash")


def test_where_there_is_no_model(tmp_path):
    with pytest.raises(UserError, match="not there. Pass a run's folder"):
        jaxft.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="no run, for it has no model.safetensors"):
        jaxft.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="has no model.safetensors yet. Let it end first"):
        jaxft.load(tmp_path)
