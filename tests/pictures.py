"""Small pictures, and small sets of them, made for tests."""

import io
from pathlib import Path

import numpy as np
import PIL.Image


def photo(height: int, width: int, seed: int = 0) -> PIL.Image.Image:
    """Smooth colours with a little grain, as a photograph has."""
    rng = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (7, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC), np.float32)
    return PIL.Image.fromarray((smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))


def encoded(image: PIL.Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def frames(kind: str, **options) -> bytes:
    return encoded(photo(16, 16), kind, save_all=True, append_images=[photo(16, 16, 1)], **options)


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def sound(num: int = 3) -> dict[str, bytes]:
    """train/ and test/, ants and bees: no two pictures alike."""
    names = [f"{split}/{name}/{i}.png" for split in ("train", "test") for name in ("ants", "bees") for i in range(num)]
    return {name: encoded(photo(40, 50, seed)) for seed, name in enumerate(names)}


class Bytes:
    """A source that has to be read to be looked at, as tfds's."""

    class_names = ("a", "b")

    def __init__(self, *items: bytes):
        self.items = items
        self.asked = 0

    def __len__(self) -> int:
        return len(self.items)

    def read(self, i: int) -> tuple[bytes, int]:
        self.asked += 1
        return self.items[i], i % 2


RGB = photo(16, 24)
