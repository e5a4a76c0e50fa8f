import pytest

from jaxft.config import Config, ImageConfig
from jaxft.config_file import from_json, to_json
from jaxft.data.augment_spec import OPS, PRESETS, mixes, parse_augment
from jaxft.errors import UserError


def test_defaults_are_torchvisions_and_the_papers():
    assert parse_augment(tuple(OPS)) == {
        "crop": (0.08,),
        "flip": (0.5,),
        "vflip": (0.5,),
        "jitter": (0.4, 0.4, 0.4, 0.1),
        "randaugment": (2, 9),
        "erase": (0.25,),
        "mixup": (0.2,),
        "cutmix": (1.0,),
    }


def test_values_are_read_and_the_order_is_the_engines():
    ops = parse_augment(("mixup=0.4", "jitter=0,.5,1e0,0.5", "crop=0.3"))
    assert list(ops.items()) == [("crop", (0.3,)), ("jitter", (0.0, 0.5, 1.0, 0.5)), ("mixup", (0.4,))]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_ops_that_can_be(name):
    assert parse_augment((name,)) == (parse_augment(PRESETS[name]) if PRESETS[name] else {})
    assert mixes((name,)) == (name == "strong")


def test_the_default_is_the_chapters():
    assert ImageConfig().augment == PRESETS["chapter"]


def test_a_config_holds_it_and_json_keeps_it():
    config = Config(images=ImageConfig(augment=("crop=0.5", "cutmix")))
    assert from_json(to_json(config), "config.json") == config
    assert from_json("{}", "config.json").images.augment == ("crop", "flip")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), r"--augment: names nothing. Pass none for the plain centre crop, or ops out of crop, flip"),
        (
            ("jiter",),
            r"--augment jiter: no such op. Did you mean jitter\? Pass ops out of crop, .* or one preset of",
        ),
        (("stong",), r"Did you mean strong\?"),
        (("blur",), r"--augment blur: no such op. Pass ops out of"),
        (("crop", "flip", "crop=0.5"), r"--augment crop flip crop=0.5: crop comes twice. Pass it once."),
        (("crop", "strong"), r"--augment crop strong: strong is a preset. Pass strong alone, or ops only."),
        (("none", "flip"), r"none is a preset. Pass none alone"),
        (("light", "light"), r"light is a preset. Pass light alone"),
        (("light=2",), r"--augment light=2: light is a preset. light takes no values."),
        (
            ("jitter=0.4,0.4",),
            r"--augment jitter=0.4,0.4: 2 values where jitter takes 4 \(jitter=BRIGHTNESS,CONTRAST,SATURATION,HUE\). "
            r"Write it like jitter=0.4,0.4,0.4,0.1, or jitter alone",
        ),
        (("crop=",), r"--augment crop=: MIN_AREA nothing must be in 0.01 to 1. Write it like crop=0.08."),
        (("crop=0",), r"MIN_AREA 0 must be in 0.01 to 1"),
        (("flip=1.5",), r"--augment flip=1.5: P 1.5 must be in 0 to 1. Write it like flip=0.5."),
        (("flip=nan",), r"P nan must be in 0 to 1"),
        (("erase=often",), r"--augment erase=often: P often must be in 0 to 1"),
        (("jitter=0.4,0.4,0.4,0.6",), r"HUE 0.6 must be in 0 to 0.5"),
        (("randaugment=2.5,9",), r"N 2.5 must be a whole number in 1 to 10. Write it like randaugment=2,9."),
        (("randaugment=2,31",), r"MAGNITUDE 31 must be a whole number in 0 to 30"),
        (("mixup=0",), r"ALPHA 0 must be in 0.01 to 100"),
        (("cutmix=inf",), r"ALPHA inf must be"),
    ],
)
def test_specs_that_cannot_be(words, message):
    with pytest.raises(UserError, match=message):
        ImageConfig(augment=words)
