import jax
import numpy as np
import pytest

from jaxft.errors import UserError
from jaxft.head import Head, imagenet_classes, match_rows, reuse, xavier

IMAGENET = imagenet_classes()


def test_xavier_is_uniform_to_its_bound():
    head = xavier(jax.random.key(0), 512, 2)
    bound = np.sqrt(6 / (512 + 2))
    assert head.kernel.shape == (512, 2)
    assert np.abs(head.kernel).max() <= bound
    np.testing.assert_allclose(np.std(head.kernel), bound / np.sqrt(3), rtol=0.05)
    assert np.abs(head.bias).max() <= 512**-0.5


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("ants", 310),
        ("bees", 309),
        ("hotdog", 934),
        ("hot_dog", 934),
        ("Hot Dogs", 934),
        ("churches", 497),
        ("strawberries", 949),
        ("cardigan", 474),
        ("Cardigan", 264),
        ("not-hotdog", None),
        ("glass", None),
    ],
)
def test_classes_that_imagenet_knows(name, index):
    (row,) = match_rows([name], IMAGENET)
    assert (row.source_index, row.source_name) == (index, None if index is None else IMAGENET[index])


def test_imagenets_names():
    assert len(IMAGENET) == 1000
    assert (IMAGENET[0], IMAGENET[934], IMAGENET[999]) == ("tench", "hotdog", "toilet tissue")


def test_rows_are_copied_whole_and_the_rest_is_drawn():
    rng = np.random.default_rng(0)
    source = Head(rng.normal(size=(8, 1000)).astype(np.float32), rng.normal(size=1000).astype(np.float32))
    drawn = xavier(jax.random.key(0), 8, 3)
    rows = match_rows(["bees", "other", "sausage"], IMAGENET, {"sausage": 934})
    head = reuse(drawn, source, rows)
    np.testing.assert_array_equal(head.kernel[:, 0], source.kernel[:, 309])
    np.testing.assert_array_equal(head.kernel[:, 1], drawn.kernel[:, 1])
    np.testing.assert_array_equal(head.kernel[:, 2], source.kernel[:, 934])
    np.testing.assert_array_equal(head.bias, [source.bias[309], drawn.bias[1], source.bias[934]])


def test_no_class_known_leaves_the_drawn_head():
    drawn = xavier(jax.random.key(0), 8, 2)
    rows = match_rows(["x", "y"], IMAGENET)
    assert reuse(drawn, drawn, rows) is drawn


def test_head_map_errors():
    with pytest.raises(UserError, match=r"--head-map cat=3: no class of that name. Classes are dog, fish."):
        match_rows(["dog", "fish"], IMAGENET, {"cat": 3})
    with pytest.raises(UserError, match=r"--head-map dog=1000: .* has 1000 classes. Pass an index from 0 to 999."):
        match_rows(["dog", "fish"], IMAGENET, {"dog": 1000})
