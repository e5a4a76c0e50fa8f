import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.data.augment import Augmented, normalise
from jaxft.data.canvas import Photo
from jaxft.data.views import displayable, first_good, in_turn, pixels_of, shares_of, unsquashed
from jaxft.errors import UserError


def test_what_is_seen_is_brought_back_to_colours():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(displayable(Augmented(normalise(jnp.asarray(pixels)))), pixels)


def test_mixed_labels_have_their_shares():
    names, images = ("ants", "bees"), jnp.zeros((4, 2, 2, 3))
    mixed = Augmented(images, jnp.array([1, 0, 1, 0]), jnp.array([0.7, 0.5, 0.999, 0.001]))
    told = [shares_of(mixed, i, label, names) for i, label in enumerate((0, 0, 0, 1))]
    assert told == [(("ants", 70), ("bees", 30)), (("ants", 100),), (("ants", 100),), (("ants", 100),)]
    assert shares_of(Augmented(images), 0, 0, names) == ()


def test_each_class_has_its_turn():
    labels = [0] * 50 + [1] * 3 + [2] * 2
    rows = in_turn(lambda i: labels[i], len(labels), 6, seed=0)
    assert sorted(rows) == list(range(55))
    assert [labels[i] for i in rows[:9]] == [0, 1, 2, 0, 1, 2, 0, 1, 0]
    assert rows == in_turn(lambda i: labels[i], len(labels), 6, seed=0)
    assert rows != in_turn(lambda i: labels[i], len(labels), 6, seed=1)


def test_photographs_come_in_pairs():
    assert first_good([1, None, 2, 3, 4, 5], 3) == [1, 2, 3, 4]
    assert first_good([1, 2, None, 3], 4) == [1, 2]
    assert first_good([None, 1], 2) == []


def test_a_canvas_gets_its_proportions_back():
    canvas, sizes = np.zeros((30, 30, 3), np.uint8), ((40, 80), (80, 40), (1, 900))
    shapes = [unsquashed(Photo(canvas, size, 0, "", None)).shape for size in sizes]
    assert shapes == [(15, 30, 3), (30, 15, 3), (1, 30, 3)]


def test_an_image_that_is_gone_is_named():
    with pytest.raises(UserError, match="a.jpg: No such file or directory"):
        pixels_of(Photo(None, (0, 0), 0, "a.jpg", "No such file or directory"))
