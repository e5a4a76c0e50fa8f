"""Variables of a fresh network, drawn on the host: to compile its init would take as long as to compile a step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.resnet import make_resnet


def drawn_variables(arch: str, num_classes: int, width: int = 64) -> Any:
    """{"params", "batch_stats"}, NumPy arrays, float32.

    Numbers of a trained network's size matter: a GPU takes more power, and so is slower, than on zeros or NaN.
    """
    model = make_resnet(arch, num_classes=num_classes, width=width)
    images = jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    rng = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        if path[-1].key == "kernel":
            deviation = (2 / (leaf.size / leaf.shape[-2])) ** 0.5
            return rng.normal(0, deviation, leaf.shape).astype(leaf.dtype)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
