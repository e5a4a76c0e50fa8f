"""Small photographs and sources of them, made on the spot."""

import io
from pathlib import Path

import numpy as np
import PIL.Image

from jaxft.data.canvas import Decoded
from jaxft.data.sources import FileSource


def encoded(image: PIL.Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(height: int, width: int, seed: int = 0) -> PIL.Image.Image:
    """Smooth colours with a little grain: compresses and resizes as a photograph does."""
    rng = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC), np.float32)
    return PIL.Image.fromarray((smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8))


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


class BytesSource:
    """Encoded images in memory, in turn of class a and b."""

    class_names = ("a", "b")

    def __init__(self, items: list[bytes]) -> None:
        self.items = items
        self.asked = 0

    def __len__(self) -> int:
        return len(self.items)

    def read(self, i: int) -> tuple[bytes, int]:
        self.asked += 1
        return self.items[i], i % 2


def photo_files(folder: Path) -> FileSource:
    """Twelve photographs of different sizes in a new folder, in turn of class a and b."""
    folder.mkdir()
    for i in range(12):
        photo(40 + 3 * i, 90 - 2 * i, seed=i).save(folder / f"{i:02}.png")
    return FileSource(sorted(folder.iterdir()), [i % 2 for i in range(12)], ("a", "b"))


def spoil(source: FileSource, *which: int) -> None:
    for i in which:
        source.paths[i].write_bytes(b"no image")


def same(a: Decoded, b: Decoded) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a[:3], b[:3], strict=True)) and a[3:] == b[3:]


RGB = photo(16, 24)
