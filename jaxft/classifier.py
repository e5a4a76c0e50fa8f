"""A trained network, ready to use: photographs in, probabilities out, prepared as evaluation prepares them."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt8

from jaxft.data.augment import normalise
from jaxft.data.images import Encoded, EvalCrop, quiet, render, to_array, to_rgb
from jaxft.data.sources import shown
from jaxft.data.workers import AHEAD, in_order
from jaxft.errors import UserError
from jaxft.host import num_cores
from jaxft.parallel import Devices, mesh_of, put_shared
from jaxft.resnet import ResNet
from jaxft.step import AXIS

BATCH_SIZE = 64
IN_FLIGHT = 2  # Batches that the devices have while the next one is decoded.

Image = str | Path | bytes | np.ndarray | PIL.Image.Image
"""A file, the bytes of one, uint8 pixels [h, w, 3], or PIL's image."""


class Scores(NamedTuple):
    """What the network says of a batch: probabilities and, where asked for, each class's activation map."""

    probabilities: Float[Array, "b k"]
    maps: Float[Array, "b h w k"] | None
    """Class activation maps (Zhou et al., 2016): their mean over h and w is the class's logit, less its bias."""


class Prediction(NamedTuple):
    """Of one image: probabilities, or the reason why there are none."""

    probabilities: Float[np.ndarray, " k"] | None
    bad: str | None = None
    """Why the image cannot be decoded."""
    crop: UInt8[np.ndarray, "s s 3"] | None = None
    """What the network saw."""
    maps: Float[np.ndarray, "h w k"] | None = None
    """As in Scores, where they are asked for."""


@dataclass(frozen=True)
class Classifier:
    """A network, its class names and how it wants its images; nothing in it changes. Made by `jaxft.load`."""

    model: ResNet
    """With nothing frozen and no mesh axis, whatever it was in training."""
    variables: Any
    """{"params", "batch_stats"}, on every one of `devices`."""
    class_names: tuple[str, ...]
    """A name for each column of the probabilities."""
    recipe: EvalCrop
    """How a photograph becomes the square that the network sees."""
    devices: Devices
    """Each batch is split over them."""

    def predict(self, images: Image | Sequence[Image], *, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Probabilities, float32 [n, k]; of one image, [k].

        Args:
            images: files, the bytes of files, uint8 arrays [h, w, 3], PIL images, or one uint8 array [n, h, w, 3].
            batch_size: how many go through the network at once, over all devices.

        Raises:
            UserError: an image that cannot be decoded.
        """
        one = isinstance(images, Image) and not (isinstance(images, np.ndarray) and images.ndim == 4)
        items: list[Any] = [images] if one else list(images)  # pyright: ignore[reportArgumentType]
        rows = np.zeros((len(items), len(self.class_names)), np.float32)
        with closing(self.stream([encoded(item) for item in items], batch_size=batch_size)) as predictions:
            for i, prediction in enumerate(predictions):
                if prediction.bad is not None:
                    name = shown(items[i]) if isinstance(items[i], str | Path) else f"image {i}"
                    raise UserError(f"{name}: {prediction.bad}")
                rows[i] = prediction.probabilities
        return rows[0] if one else rows

    def stream(
        self, items: Sequence[Encoded], *, batch_size: int = BATCH_SIZE, with_maps: bool = False
    ) -> Generator[Prediction, None, None]:
        """A prediction an image, in order; decoded on all cores while the devices compute, in bounded memory."""
        waiting: deque[tuple[list[Decoded], Scores | None]] = deque()
        cores = num_cores()
        ahead = in_order(
            lambda i: render(items[i], self.recipe), 0, len(items), threads=cores, ahead=batch_size + AHEAD * cores
        )
        with quiet(), closing(ahead) as decoded:
            while group := [(pixels, bad) for pixels, _, bad in islice(decoded, batch_size)]:
                good = [pixels for pixels, _ in group if pixels is not None]
                waiting.append((group, self.score(np.stack(good), batch_size, with_maps) if good else None))
                if len(waiting) > IN_FLIGHT:
                    yield from _predictions(*waiting.popleft())
        for group, scores in waiting:
            yield from _predictions(group, scores)

    def score(
        self, crops: UInt8[np.ndarray, "b s s 3"], batch_size: int = BATCH_SIZE, with_maps: bool = False
    ) -> Scores:
        """What the network says of at most `batch_size` crops; returns before the devices are done.

        The first b rows are theirs: a part of a batch is filled up to one of few sizes, each of which is compiled.
        """
        num = len(self.devices)
        size = min(1 << (len(crops) - 1).bit_length(), batch_size)
        filled = np.zeros((-(-size // num) * num, *crops.shape[1:]), np.uint8)
        filled[: len(crops)] = crops
        placed = jax.device_put(filled, NamedSharding(mesh_of(self.devices), P(AXIS)))
        return forward(self.model, self.variables, placed, with_maps=with_maps)


Decoded = tuple[UInt8[np.ndarray, "s s 3"] | None, str | None]


def make_classifier(
    model: ResNet, variables: Any, class_names: Sequence[str], recipe: EvalCrop, devices: Devices
) -> Classifier:
    """A classifier of variables that lie anywhere."""
    # Each image is classified by itself, whatever was frozen or shared in training.
    model = model.clone(frozen=(), axis_name=None)
    return Classifier(model, put_shared(variables, devices), tuple(class_names), recipe, devices)


@partial(jax.jit, static_argnames=("model", "with_maps"))
def forward(model: ResNet, variables: Any, images: UInt8[Array, "b s s 3"], *, with_maps: bool = False) -> Scores:
    """Probabilities of crops and, with maps, each class's: the last stage's output times the head's matrix."""
    logits, shown_by = model.apply(variables, normalise(images), train=False, mutable=["intermediates"])
    probabilities = jax.nn.softmax(logits)
    if not with_maps:
        return Scores(probabilities, None)
    features: Any = shown_by["intermediates"]["layer4"][0]
    return Scores(probabilities, features.astype(jnp.float32) @ variables["params"]["fc"]["kernel"])


def encoded(image: Image) -> Encoded:
    """An image as the decoder takes it."""
    if isinstance(image, str):
        return Path(image)
    if isinstance(image, PIL.Image.Image):
        return to_array(to_rgb(image))
    return image


def _predictions(group: Sequence[Decoded], scores: Scores | None) -> Iterator[Prediction]:
    fetched = jax.device_get(scores)
    row = 0
    for pixels, bad in group:
        if bad is not None:
            yield Prediction(None, bad)
            continue
        maps = None if fetched.maps is None else fetched.maps[row]
        yield Prediction(fetched.probabilities[row], None, pixels, maps)
        row += 1
