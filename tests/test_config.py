import dataclasses
import json

import pytest

from configs import PRESETS, preset
from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig, RegularConfig, ScheduleConfig
from jaxft.config_file import from_json, to_json
from jaxft.errors import UserError


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    assert from_json(to_json(PRESETS[name]), "config.json") == PRESETS[name]


def test_json_keeps_every_field():
    config = Config(
        data="photos",
        model=ModelConfig(freeze="layer2", head="reuse", head_map=("a=1", "b=2")),
        images=ImageConfig(canvas=300, skip_bad_images=True),
        optim=OptimConfig(optimizer="adamw", lr=3e-4),
        devices=2,
        sync_bn=False,
        accumulate=4,
        on_nonfinite="skip",
    )
    assert from_json(to_json(config), "config.json") == config


def test_the_config_of_a_run_that_knew_no_holdout_is_read():
    values = json.loads(to_json(Config()))
    del values["images"]["holdout"], values["regular"]["patience"]
    assert from_json(json.dumps(values), "config.json") == Config()


def test_whole_numbers_do_for_floats():
    assert from_json('{"optim": {"lr": 1}}', "config.json").optim.lr == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json: not JSON"),
        ("[]", r"config.json: the config must be an object, not \[\]"),
        ('{"modle": {}}', "config.json: unknown modle. Known are data, model"),
        ('{"optim": {"learning_rate": 1}}', r"unknown optim.learning_rate. Known are optim.optimizer, optim.lr"),
        ('{"epochs": "five"}', "config.json: epochs must be int, not 'five'"),
        ('{"epochs": 2.5}', "config.json: epochs must be int, not 2.5"),
        ('{"epochs": true}', "config.json: epochs must be int, not True"),
        ('{"model": {"head_map": "a=1"}}', "model.head_map must be a list of strings"),
        ('{"devices": "all"}', "devices must be int or NoneType"),
        ('{"parallel": "xmap"}', "--parallel xmap: no such choice. Choose one of jit, pmap."),
        ('{"on_nonfinite": "warn"}', "--on-nonfinite warn: no such choice. Choose one of stop, skip."),
        ('{"images_per_step": 64}', "unknown images_per_step"),
    ],
)
def test_json_errors_say_where_and_what(text, message):
    with pytest.raises(UserError, match=message):
        from_json(text, "config.json")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimConfig(lr=-1), "--lr -1: must be a positive number"),
        (lambda: OptimConfig(lr=float("nan")), "--lr nan"),
        (lambda: OptimConfig(weight_decay=-1e-4), "--weight-decay -0.0001"),
        (lambda: OptimConfig(momentum=1.0), "--momentum 1.0: must be at least 0 and below 1"),
        (lambda: OptimConfig(head_lr_mult=0), "--head-lr-mult 0"),
        (lambda: OptimConfig(stage_lr_mult=("stem=0.1,layer9=1",)), "--stage-lr-mult layer9=1: no such stage. Write"),
        (lambda: OptimConfig(stage_lr_mult=("stem=0.1", "stem=1")), "--stage-lr-mult stem=1: twice"),
        (lambda: OptimConfig(stage_lr_mult=("layer1=0",)), "--stage-lr-mult layer1=0: the factor must be a positive"),
        (lambda: OptimConfig(stage_lr_mult=("layer1",)), "--stage-lr-mult layer1: the factor must be a positive"),
        (lambda: OptimConfig(layer_decay=1.5), "--layer-decay 1.5: must be above 0 and at most 1"),
        (lambda: OptimConfig(l2_sp=-1), "--l2-sp -1: must be 0 or more"),
        (lambda: OptimConfig(clip_norm=0), "--clip-norm 0: must be a positive number"),
        (lambda: Config(optim=OptimConfig(l2_sp=1), model=ModelConfig(weights="none")), "--weights none has none"),
        (lambda: ScheduleConfig(warmup_epochs=-1), "--warmup-epochs -1"),
        (lambda: ScheduleConfig(schedule="one-cycle", warmup_epochs=1), "one-cycle warms up itself"),
        (lambda: ScheduleConfig(schedule="step", decay_epochs=0), "--decay-epochs 0: must be a positive"),
        (lambda: ScheduleConfig(schedule="step", decay_factor=2), "--decay-factor 2: must be above 0 and at most 1"),
        (lambda: ScheduleConfig(decay_factor=0.5), "--decay-factor 0.5: only --schedule step falls so"),
        (lambda: OptimConfig(momentum=0, nesterov=True), "--nesterov needs momentum"),
        (lambda: ModelConfig(freeze="layer9"), "--freeze layer9: no such choice. Choose one of none, stem, layer1"),
        (lambda: ModelConfig(width=0), "--width 0"),
        (lambda: ModelConfig(head="reuse", head_map=("hotdog",)), "--head-map hotdog: not CLASS=INDEX"),
        (lambda: ModelConfig(head_map=("hotdog=934",)), "pass --head reuse with it"),
        (lambda: ImageConfig(image_size=8), "--image-size 8: a ResNet needs at least 32"),
        (lambda: ImageConfig(canvas=100), "--canvas 100 is smaller than --image-size 224"),
        (lambda: ImageConfig(val_fraction=1.0), "--val-fraction 1.0: must lie between 0 and 1"),
        (lambda: ImageConfig(holdout=1.0), "--holdout 1.0: must be at least 0 and below 1, e.g. 0.1."),
        (lambda: ImageConfig(holdout=-0.1), "--holdout -0.1: must be at least 0 and below 1"),
        (lambda: RegularConfig(patience=0), "--patience 0: must be at least 1, e.g. 3."),
        (
            lambda: Config(regular=RegularConfig(patience=3)),
            "--patience 3 goes by the loss on held-out images, .* Pass --holdout 0.1 with it, or leave --patience out.",
        ),
        (lambda: Config(epochs=0), "--epochs 0"),
        (lambda: Config(batch_size=0), "--batch-size 0"),
        (lambda: Config(accumulate=0), "--accumulate 0: must be at least 1, which updates after every batch."),
        (lambda: Config(seed=-1), "--seed -1"),
        (lambda: Config(devices=0), "--devices 0"),
    ],
)
def test_values_that_cannot_be(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_unknown_preset():
    with pytest.raises(UserError, match=r"hot-dog: no such preset. Did you mean hotdog\?"):
        preset("hot-dog")
    with pytest.raises(UserError, match=r"Presets are demo, .*A folder goes behind --data."):
        preset("/my/photos")


def test_an_update_has_the_images_of_its_batches():
    assert Config(batch_size=8, accumulate=4).images_per_step == 32
    assert "images_per_step" not in json.loads(to_json(Config()))


def test_config_is_frozen_and_plain():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().epochs = 3
    assert json.loads(to_json(Config()))["optim"]["lr"] == 1e-3
