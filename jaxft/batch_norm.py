"""Batch normalisation with torch's statistics, over every device's part of the batch."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_DECAY = 0.9  # torch momentum 0.1 is Flax momentum 0.9.


class BatchNorm(nn.Module):
    """Batch normalisation with torch's running statistics: momentum 0.1, unbiased running variance n/(n-1).

    Statistics are float32 whatever `dtype` is (float64 for float64). With `axis_name`, they are those of the global
    batch.
    """

    axis_name: str | None = None
    dtype: Any = jnp.float32
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        """Normalise by the batch's statistics and update the stored ones (train), or by the stored ones."""
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if train:
            mean, var, count = batch_moments(x, running_mean.value, self.axis_name)
            # Flax keeps the biased variance here; torch keeps the unbiased one.
            unbiased = var * (count / max(count - 1, 1))
            running_mean.value = BATCH_NORM_DECAY * running_mean.value + (1 - BATCH_NORM_DECAY) * mean
            running_var.value = BATCH_NORM_DECAY * running_var.value + (1 - BATCH_NORM_DECAY) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        gain = scale * jax.lax.rsqrt(var + BATCH_NORM_EPSILON)
        channel = (None, None, None, slice(None))
        centred = widen(x) - mean[channel]
        return (centred * gain[channel] + bias[channel]).astype(self.dtype)


def widen(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Half precision as float32, in which means keep their digits; float32 and float64 as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def batch_moments(
    x: Float[Array, "b h w c"], pivot: Float[Array, " c"], axis_name: str | None
) -> tuple[Float[Array, " c"], Float[Array, " c"], int]:
    """Mean and biased variance over batch and space, in float32 or better, and the number of values in each.

    Moments are taken about `pivot`, any rough guess of the mean: about zero, E[x^2] - E[x]^2 would lose the digits of a
    channel whose mean is far larger than its spread. One pass over `x` and one collective.
    """
    deviations = widen(x) - pivot[None, None, None]
    axes = (0, 1, 2)
    moments = jnp.stack([deviations.mean(axes), jnp.square(deviations).mean(axes)])
    count = math.prod(x.shape[:-1])
    if axis_name is not None:
        moments = jax.lax.pmean(moments, axis_name)
        count *= jax.lax.axis_size(axis_name)
    offset, square = moments
    return pivot + offset, jnp.maximum(square - jnp.square(offset), 0.0), count
