"""Decode once: training canvases and evaluation crops, made on all cores and kept in a memory-mapped file."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import Int32, UInt8

from jaxft.data.images import BadImageError, decode, pixel_size, to_array
from jaxft.data.sources import Source
from jaxft.errors import UserError

CODE_VERSION = 1
"""Raise it when a change here changes pixels: older caches are then no longer found."""

LARGEST_CANVAS = 384  # For 224 pixels: beyond it a ResNet50's accuracy on ImageNet photos no longer gained.
CANVAS_STEP = 32
LISTED = 10

Progress = Callable[[int, int], None]


class Canvas(NamedTuple):
    """For training: the whole photograph squeezed by Lanczos into a square of `size` pixels."""

    size: int


class EvalCrop(NamedTuple):
    """For evaluation: torchvision's Resize, short side or both sides to 256/224 of `size`, and CenterCrop(size)."""

    size: int
    resize: Literal["short", "squash"]


class Decoded(NamedTuple):
    """A decoded set. `sizes` are the photographs' heights and widths; `names` say where each came from."""

    images: UInt8[np.ndarray, "n s s 3"]
    sizes: Int32[np.ndarray, "n 2"]
    labels: Int32[np.ndarray, " n"]
    names: tuple[str, ...]
    skipped: tuple[str, ...]


def to_canvas(image: PIL.Image.Image, recipe: Canvas) -> UInt8[np.ndarray, "s s 3"]:
    """The photograph squeezed into a square."""
    return to_array(image.resize((recipe.size, recipe.size), PIL.Image.Resampling.LANCZOS))


def eval_crop(image: PIL.Image.Image, recipe: EvalCrop) -> UInt8[np.ndarray, "s s 3"]:
    """torchvision's evaluation transform, bit for bit. Source: torchvision/transforms/functional.py."""
    resized = round(recipe.size * 256 / 224)
    width, height = image.size
    if recipe.resize == "squash":
        width, height = resized, resized
    elif width <= height:
        width, height = resized, int(resized * height / width)
    else:
        width, height = int(resized * width / height), resized
    image = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
    top, left = round((height - recipe.size) / 2.0), round((width - recipe.size) / 2.0)
    return to_array(image.crop((left, top, left + recipe.size, top + recipe.size)))


def canvas_size(source: Source, image_size: int) -> int:
    """The median short side of the set's images, rounded up to a multiple of 32, within image_size to 384/224 of it."""
    largest = round(LARGEST_CANVAS * image_size / 224)
    short_sides = [min(pixel_size(source.read(i)[0])) for i in range(len(source))]
    median = int(np.median([side for side in short_sides if side] or [largest]))
    return max(image_size, min(largest, -(-median // CANVAS_STEP) * CANVAS_STEP))


def decode_set(
    source: Source,
    recipe: Canvas | EvalCrop,
    *,
    cache_dir: Path | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Decoded:
    """Decode every image of a source, or find it decoded in `cache_dir`; in memory when that is None.

    Raises:
        UserError: images that cannot be decoded, unless `skip_bad`; a class of which none is left; a cache folder that
            cannot be written.
    """
    if cache_dir is None:
        images = np.empty((len(source), recipe.size, recipe.size, 3), np.uint8)
        return _check(_fill(images, source, recipe, progress), source, skip_bad)
    folder = cache_dir / _key(source, recipe)
    found = _read_cache(folder, len(source), recipe)
    if found is None:
        try:
            found = _write_cache(folder, source, recipe, progress)
        except OSError as error:
            raise UserError(
                f"{cache_dir}: the decoded images cannot be kept there ({error.strerror}). "
                "Make room or pass another --cache-dir."
            ) from None
    return _check(found, source, skip_bad)


class _Filled(NamedTuple):
    """Decoded images with a reason in place of each bad one."""

    images: np.ndarray
    sizes: np.ndarray
    reasons: dict[int, str]


def _fill(images: np.ndarray, source: Source, recipe: Canvas | EvalCrop, progress: Progress | None) -> _Filled:
    """Decode into `images` on all cores; each image has its own row, so that the order is the source's."""
    sizes = np.zeros((len(source), 2), np.int32)

    def one(i: int) -> str | None:
        try:
            image = decode(source.read(i)[0])
        except BadImageError as error:
            return str(error)
        sizes[i] = image.height, image.width
        images[i] = to_canvas(image, recipe) if isinstance(recipe, Canvas) else eval_crop(image, recipe)
        return None

    reasons = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for i, bad in enumerate(pool.map(one, range(len(source)))):
            if bad is not None:
                reasons[i] = bad
            if progress is not None:
                progress(i + 1, len(source))
    return _Filled(images, sizes, reasons)


def _check(filled: _Filled, source: Source, skip_bad: bool) -> Decoded:
    """The decoded set without its bad images, or the error that names them."""
    labels = np.array([source.read(i)[1] for i in range(len(source))], np.int32)
    names = [item_name(source, i) for i in range(len(source))]
    bad = [f"{names[i]}: {why}" for i, why in sorted(filled.reasons.items())]
    if bad and not skip_bad:
        more = f"\n  and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        listed = "".join(f"\n  {line}" for line in bad[:LISTED])
        raise UserError(
            f"{len(bad)} of {len(source)} images cannot be decoded:{listed}{more}\n"
            "Mend or remove them, or pass --skip-bad-images."
        )
    if not bad:
        return Decoded(filled.images, filled.sizes, labels, tuple(names), ())
    good = np.array([i for i in range(len(source)) if i not in filled.reasons], np.int64)
    left = np.bincount(labels[good], minlength=len(source.class_names))
    if (left == 0).any():
        empty = source.class_names[int(np.argmin(left))]
        raise UserError(f"class {empty}: no image can be decoded. First of {len(bad)}: {bad[0]}")
    kept = tuple(names[i] for i in good)
    return Decoded(filled.images[good], filled.sizes[good], labels[good], kept, tuple(bad))


def item_name(source: Source, i: int) -> str:
    """The path of an image, or its place in a set that has none."""
    item = source.read(i)[0]
    return str(item) if isinstance(item, Path) else f"image {i}"


def _key(source: Source, recipe: Canvas | EvalCrop) -> str:
    """A name for exactly these pixels: code version, recipe, and each file's path, size and time of change."""
    digest = hashlib.sha256(repr((CODE_VERSION, recipe)).encode())
    for part in _fingerprints(source):
        digest.update(hashlib.sha256(part).digest())
    return f"{type(recipe).__name__.lower()}-{recipe.size}-{digest.hexdigest()[:24]}"


def _fingerprints(source: Source) -> Iterator[bytes]:
    for i in range(len(source)):
        item = source.read(i)[0]
        if isinstance(item, Path):
            try:
                stat = item.stat()
            except OSError:
                yield f"{item.absolute()} gone".encode(errors="surrogateescape")
                continue
            yield f"{item.absolute()} {stat.st_size} {stat.st_mtime_ns}".encode(errors="surrogateescape")
        elif isinstance(item, bytes):
            yield item
        else:
            yield repr(item.shape).encode() + item.tobytes()


def _write_cache(folder: Path, source: Source, recipe: Canvas | EvalCrop, progress: Progress | None) -> _Filled:
    """Decode into a scratch folder and publish it by one rename: a kill leaves no half cache under the real name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-", ignore_cleanup_errors=True) as scratch:
        building = Path(scratch) / "cache"
        building.mkdir()
        shape = (len(source), recipe.size, recipe.size, 3)
        images = np.lib.format.open_memmap(building / "images.npy", "w+", np.uint8, shape)
        filled = _fill(images, source, recipe, progress)
        images.flush()
        np.save(building / "sizes.npy", filled.sizes)
        (building / "bad.json").write_text(json.dumps(filled.reasons), encoding="utf-8")
        if filled.reasons:
            # Not kept: the user mends the files, or what is passed over is listed again.
            return filled._replace(images=np.array(images))
        _publish(building, folder)
    found = _read_cache(folder, len(source), recipe)
    assert found is not None
    return found


def _publish(building: Path, folder: Path) -> None:
    """Give a finished cache its name, in place of a corrupt one; another process may have been first."""
    if folder.exists():
        folder.rename(Path(tempfile.mkdtemp(dir=building.parent)) / "corrupt")
    try:
        building.rename(folder)
    except OSError:
        if not folder.exists():
            raise


def _read_cache(folder: Path, num_images: int, recipe: Canvas | EvalCrop) -> _Filled | None:
    """What an earlier run kept; None where there is nothing or it is damaged."""
    try:
        images = np.load(folder / "images.npy", mmap_mode="r")
        sizes = np.load(folder / "sizes.npy")
    except (OSError, ValueError, EOFError):
        return None
    if images.shape != (num_images, recipe.size, recipe.size, 3) or images.dtype != np.uint8:
        return None
    if sizes.shape != (num_images, 2) or not (sizes > 0).all():
        return None
    return _Filled(images, sizes, {})
