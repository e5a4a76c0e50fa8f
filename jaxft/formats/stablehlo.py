"""The whole computation as jax.export serialises it: StableHLO for every platform, for any batch."""

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, UInt8

from jaxft.classifier import forward
from jaxft.formats.contract import Format, Predict, Trained, crop_snippet, self_contained_facts
from jaxft.model_file import Description

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
ABOUT = "metadata.json"


def encode(trained: Trained) -> bytes:
    """A file for `jax.export.deserialize`, uint8 crops [b, s, s, 3] to probabilities [b, k], and a zip archive at once.

    jax.export has no room for metadata. Its flatbuffer is read from the first byte on and a zip archive from the last
    back, so that the facts are appended as an archive, as TensorFlow Lite's are.
    """

    def classify(images: UInt8[Array, "b s s 3"]) -> Float[Array, "b k"]:
        return forward(trained.model, trained.variables, images).probabilities

    side = trained.description.recipe.size
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), side, side, 3), jnp.uint8)
    with no_source_paths():
        exported = export.export(jax.jit(classify), platforms=PLATFORMS)(images)
        file = io.BytesIO(exported.serialize())
    # An entry's default date is fixed: one network gives the same bytes.
    with zipfile.ZipFile(file, "a") as archive:
        facts = self_contained_facts(trained.description)
        archive.writestr(zipfile.ZipInfo(ABOUT), json.dumps(facts, ensure_ascii=False, indent=1))
    return file.getvalue()


@contextmanager
def no_source_paths() -> Iterator[None]:
    """Operations are written without where in this machine's files they were made."""
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)


def open_file(path: Path) -> Predict:
    """The file, run by JAX."""
    call = export.deserialize(bytearray(path.read_bytes())).call
    return lambda crops: np.asarray(call(crops))


def snippet(description: Description, file: str) -> str:
    """Python that opens the file with JAX alone and classifies a photograph."""
    return f"""\
import json
import zipfile
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageOps

model = jax.jit(jax.export.deserialize(Path({file}).read_bytes()).call)
about = json.loads(zipfile.ZipFile({file}).read("{ABOUT}"))

{crop_snippet(description)}
print(dict(zip(about["classes"], model(np.asarray(image)[None])[0].tolist())))
"""


STABLEHLO = Format(".stablehlo", encode, open_file, snippet)
