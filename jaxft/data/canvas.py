"""Decode once: training canvases and evaluation crops, made on all cores and kept in a memory-mapped file."""

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from jaxtyping import Int32, UInt8

from jaxft.data.images import (
    Canvas,
    EvalCrop,
    Recipe,
    decode,
    eval_crop,
    fingerprint,
    pixel_size,
    quiet,
    render,
    to_canvas,
)
from jaxft.data.sources import Source, shown
from jaxft.errors import UserError

__all__ = ["Canvas", "Decoded", "EvalCrop", "canvas_size", "decode", "decode_set", "eval_crop", "to_canvas"]

CODE_VERSION = 2
"""Raise it when a change here changes pixels: older caches are then no longer found."""

LARGEST_CANVAS = 384  # At 224 pixels, beyond it a ResNet50's accuracy on ImageNet photos no longer gained.
CANVAS_STEP = 32
SAMPLED = 1000
CHUNK = 1024
LISTED = 10
BUILDING = ".building-"
ABANDONED_SECONDS = 24 * 3600

Progress = Callable[[int, int], None]


class Decoded(NamedTuple):
    """A decoded set: pixels, the photographs' upright (height, width), labels, where each came from, what was bad."""

    images: UInt8[np.ndarray, "n s s 3"]
    sizes: Int32[np.ndarray, "n 2"]
    labels: Int32[np.ndarray, " n"]
    names: tuple[str, ...]
    skipped: tuple[str, ...]


def canvas_size(source: Source, image_size: int, largest: int = LARGEST_CANVAS) -> int:
    """The median short side of the set, rounded up to a multiple of 32; at least image_size, at most `largest`.

    `largest` grows with image_size beyond 224. Of a large set, 1,000 images spread evenly over it are looked at, and of
    those the headers alone.
    """
    most = round(largest * max(image_size / 224, 1)) // CANVAS_STEP * CANVAS_STEP
    sample = np.unique(np.linspace(0, len(source) - 1, min(len(source), SAMPLED)).astype(int)).tolist()
    short_sides = [min(pixel_size(source.read(i)[0])) for i in sample]
    median = int(np.median([side for side in short_sides if side] or [most]))
    return max(image_size, min(most, -(-median // CANVAS_STEP) * CANVAS_STEP))


def decode_set(
    source: Source,
    recipe: Recipe,
    *,
    cache_dir: Path | None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Decoded:
    """Decode every image of a source, or find it decoded in `cache_dir`; in memory when that is None.

    Raises:
        UserError: images that cannot be decoded, unless `skip_bad`; a class of which none is left; a cache folder that
            cannot be written.
    """
    if not len(source):
        raise UserError("the set has no images. Pass one that has.")
    shape = (len(source), recipe.size, recipe.size, 3)
    with quiet():
        if cache_dir is None:
            return _fill(np.empty(shape, np.uint8), source, recipe, skip_bad, progress)[0]
        cache = cache_dir / f"{type(recipe).__name__.lower()}-{recipe.size}-{_key(source, recipe)}.npy"
        found = _read_cache(cache, shape)
        if found is None or any(render(source.read(i)[0], recipe)[2] is None for i in found[1]):
            _write_cache(cache, shape, source, recipe, skip_bad, progress)
            found = _read_cache(cache, shape)
            assert found is not None
    decoded = found[0]
    if decoded.skipped and not skip_bad:
        raise UserError(_bad_message(decoded.skipped, len(source)))
    return decoded


class _Row(NamedTuple):
    """What decoding found out about one image; `bad` is the reason why it could not be decoded."""

    size: tuple[int, int]
    label: int
    name: str
    bad: str | None


def _fill(
    images: np.ndarray, source: Source, recipe: Recipe, skip_bad: bool, progress: Progress | None
) -> tuple[Decoded, list[int]]:
    """Decode into `images` on all cores, each image into its own row; then close the gaps. Also which were bad."""

    def one(i: int) -> _Row:
        item, label = source.read(i)
        pixels, size, bad = render(item, recipe)
        if pixels is not None:
            images[i] = pixels
        return _Row(size, label, shown(item) if isinstance(item, Path) else f"image {i}", bad)

    rows: list[_Row] = []
    with ThreadPoolExecutor(_num_cores()) as pool:
        for start in range(0, len(source), CHUNK):
            for row in pool.map(one, range(start, min(start + CHUNK, len(source)))):
                rows.append(row)
                if progress is not None:
                    progress(len(rows), len(source))
    _check(rows, source.class_names, skip_bad)
    kept = [i for i, row in enumerate(rows) if row.bad is None]
    for place, i in enumerate(kept):
        if place != i:
            images[place] = images[i]
    sizes, labels, names, _ = zip(*(rows[i] for i in kept), strict=True)
    skipped = tuple(f"{row.name}: {row.bad}" for row in rows if row.bad is not None)
    decoded = Decoded(images[: len(kept)], np.array(sizes, np.int32), np.array(labels, np.int32), names, skipped)
    return decoded, [i for i, row in enumerate(rows) if row.bad is not None]


def _num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(rows: Sequence[_Row], class_names: tuple[str, ...], skip_bad: bool) -> None:
    """Raise a UserError for bad images, or where leaving them out would leave a class without any."""
    bad = [f"{row.name}: {row.bad}" for row in rows if row.bad is not None]
    if bad and not skip_bad:
        raise UserError(_bad_message(bad, len(rows)))
    lost = {row.label for row in rows} - {row.label for row in rows if row.bad is None}
    if lost:
        raise UserError(
            f"class {class_names[min(lost)]}: none of its images can be decoded. {bad[0]}. Mend or remove them."
        )


def _bad_message(bad: Sequence[str], num_images: int) -> str:
    listed = "".join(f"\n  {line}" for line in bad[:LISTED])
    more = f"\n  and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    return (
        f"{len(bad)} of {num_images} images cannot be decoded:{listed}{more}\n"
        "Mend or remove them, or pass --skip-bad-images."
    )


def _key(source: Source, recipe: Recipe) -> str:
    """A name for exactly these pixels: code and PIL version, recipe, labels, each file's path, size and change."""
    digest = hashlib.sha256(repr((CODE_VERSION, PIL.__version__, recipe, source.class_names)).encode())
    for i in range(len(source)):
        item, label = source.read(i)
        digest.update(hashlib.sha256(fingerprint(item)).digest() + b"%d " % label)
    return digest.hexdigest()[:24]


@contextmanager
def _keeping(cache_dir: Path) -> Iterator[None]:
    """A mishap in writing becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{cache_dir}: the decoded images cannot be kept there ({error.strerror}). "
            "Make room or pass another --cache-dir."
        ) from None


def _write_cache(
    cache: Path, shape: tuple[int, ...], source: Source, recipe: Recipe, skip_bad: bool, progress: Progress | None
) -> None:
    """Decode into a file of another name, the pixels and then a JSON object, and publish it by one rename."""
    building = cache.parent / f"{BUILDING}{uuid.uuid4().hex}.npy"
    try:
        with _keeping(cache.parent):
            cache.parent.mkdir(parents=True, exist_ok=True)
            _make_room(cache.parent, int(np.prod(shape)))
            images = np.lib.format.open_memmap(building, "w+", np.uint8, shape)
        decoded, bad = _fill(images, source, recipe, skip_bad, progress)
        about = {**decoded._asdict(), "sizes": decoded.sizes.tolist(), "labels": decoded.labels.tolist(), "bad": bad}
        del about["images"]
        with _keeping(cache.parent):
            images.flush()
            with building.open("ab") as file:
                file.write(json.dumps(about).encode())
            building.replace(cache)
    finally:
        with suppress(OSError):
            building.unlink()


def _make_room(cache_dir: Path, num_bytes: int) -> None:
    """Remove what killed runs left, and refuse a disk too full: writing to a map of one would kill the process."""
    for left in cache_dir.glob(f"{BUILDING}*"):
        if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
            left.unlink(missing_ok=True)
    free = shutil.disk_usage(cache_dir).free
    if free < num_bytes:
        raise OSError(errno.ENOSPC, f"{num_bytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB free")


def _read_cache(cache: Path, shape: tuple[int, ...]) -> tuple[Decoded, list[int]] | None:
    """What an earlier run kept, and which images were bad; None where there is nothing or it is damaged."""
    try:
        images = np.load(cache, mmap_mode="r")
        if images.shape != shape or images.dtype != np.uint8:
            return None
        with cache.open("rb") as file:
            file.seek(images.offset + images.nbytes)
            about = json.loads(file.read())
        sizes, labels = np.array(about["sizes"], np.int32), np.array(about["labels"], np.int32)
        names, skipped, bad = tuple(about["names"]), tuple(about["skipped"]), about["bad"]
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError):
        return None
    if sizes.shape != (len(names), 2) or labels.shape != (len(names),) or len(names) + len(skipped) != shape[0]:
        return None
    return Decoded(images[: len(names)], sizes, labels, names, skipped), bad
