"""Decode once: training canvases and evaluation crops, made on all cores and kept in a memory-mapped file."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from jaxtyping import Int32, UInt8

from jaxft.data import cache
from jaxft.data.images import (
    Canvas,
    Encoded,
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
from jaxft.data.sharing import Sharing, in_all, writes
from jaxft.data.sources import Source, shown
from jaxft.data.workers import AHEAD, in_order
from jaxft.errors import UserError
from jaxft.host import num_cores

__all__ = ["Canvas", "Decoded", "EvalCrop", "canvas_size", "decode", "decode_set", "eval_crop", "to_canvas"]

CODE_VERSION = 3
"""Raise it when a change here changes pixels: older caches are then no longer found."""

LARGEST_CANVAS = 384  # At 224 pixels, beyond it a ResNet50's accuracy on ImageNet photos no longer gained.
CANVAS_STEP = 32
SAMPLED = 1000
LISTED = 10
SHARE = 32  # Images that a process decodes in a round.

Progress = Callable[[int, int], None]


class Decoded(NamedTuple):
    """A decoded set, in the source's order."""

    images: UInt8[np.ndarray, "n s s 3"]
    """Canvases or crops; mapped from the cache's file where they are kept in one."""
    sizes: Int32[np.ndarray, "n 2"]
    """The photographs' own height and width, upright."""
    labels: Int32[np.ndarray, " n"]
    names: tuple[str, ...]
    """Where each came from."""
    skipped: tuple[str, ...]
    """What was left out, and why."""
    notes: tuple[str, ...] = ()
    """Lines that the user should read."""


class Photo(NamedTuple):
    """One image decoded by a recipe; `bad` is the reason why it could not be, and then it has no pixels."""

    pixels: UInt8[np.ndarray, "s s 3"] | None
    size: tuple[int, int]
    label: int
    name: str
    bad: str | None


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
    cache_dir: Path | None = None,
    cache_limit: int = cache.LIMIT_BYTES,
    skip_bad: bool = False,
    progress: Progress | None = None,
    sharing: Sharing | None = None,
) -> Decoded:
    """Decode every image of a source, on all cores, or find it decoded in `cache_dir`.

    Args:
        source: the images, e.g. `open_folder(…).train`.
        recipe: `Canvas(size)` for training, `EvalCrop(size)` for evaluation.
        cache_dir: keeps what is decoded, for the next time, and maps it; None holds it in memory.
        cache_limit: bytes that the folder may take.
        skip_bad: leave out images that cannot be decoded.
        progress: is told (done, of how many).
        sharing: of several processes, each decodes a part and gets the rest from the others.

    Raises:
        UserError: images that cannot be decoded, unless `skip_bad`; a class of which none is left; a cache folder that
            cannot be written, or more than `cache_limit` bytes.
    """
    if not len(source):
        raise UserError("the set has no images. Pass one that has.")
    row = (recipe.size, recipe.size, 3)
    photos: list[Photo] = []
    with quiet():
        rows = _rows(source, recipe, photos, skip_bad, progress, sharing)
        if cache_dir is None:
            images = np.empty((len(source), *row), np.uint8)
            for place, pixels in enumerate(rows):
                images[place] = pixels
            return _decoded(images, _about(photos))
        path = cache_dir / f"{type(recipe).__name__.lower()}-{recipe.size}-{_key(source, recipe)}.npy"
        kept, damaged = _find(path, row, source, recipe)
        notes = (f"{shown(path)} was damaged: its images have been decoded anew",) if damaged else ()
        if in_all(sharing, kept is not None) and kept is not None:
            _check_good(kept[1]["skipped"], len(source), skip_bad)
            return _decoded(*kept)
        write = partial(cache.write, path, row, rows, len(source), lambda: _about(photos), cache_limit)
        _keep(sharing, path, rows, write)
    return _decoded(*cache.read(path, row, check=False))._replace(notes=notes)


def _keep(sharing: Sharing | None, path: Path, rows: Iterator[np.ndarray], write: Callable[[], None]) -> None:
    """Write the rows; of processes that share a cache folder, one does. All are done when it is."""
    failed = None
    try:
        if writes(sharing, path):
            write()
    except UserError as error:
        failed = error
    if sharing is not None:
        # What is not written here is still this process's to decode for the others.
        deque(rows, maxlen=0)
    if not in_all(sharing, failed is None):
        raise failed or UserError("another process could not keep the decoded images: it says why.")


def decode_one(source: Source, i: int, recipe: Recipe) -> Photo:
    """Image i of a source, decoded; for threads, their starter inside `quiet`."""
    item, label = source.read(i)
    pixels, size, bad = render(item, recipe)
    return Photo(pixels, size, label, name_of(item, i), bad)


def name_of(item: Encoded, i: int) -> str:
    """What image i is called where it is spoken of."""
    return shown(item) if isinstance(item, Path) else f"image {i}"


def _find(path: Path, row: tuple[int, ...], source: Source, recipe: Recipe) -> tuple[Any, bool]:
    """The images and what is said of them, where a file has them all; None otherwise. And whether it is damaged."""
    try:
        images, about = cache.read(path, row)
    except FileNotFoundError:
        return None, False
    except cache.DamagedError:
        return None, True
    mended = any(decode_one(source, i, recipe).bad is None for i in about["bad"])
    return None if mended else (images, about), False


def _rows(
    source: Source,
    recipe: Recipe,
    photos: list[Photo],
    skip_bad: bool,
    progress: Progress | None,
    sharing: Sharing | None,
) -> Iterator[np.ndarray]:
    """The pixels of the good images in order, decoded on all cores; `photos` gets what is known of every image."""
    decode = _decode if sharing is None else partial(_decode_shared, sharing)
    for photo in decode(source, recipe, range(len(source))):
        photos.append(photo._replace(pixels=None))
        if progress is not None:
            progress(len(photos), len(source))
        if photo.pixels is not None:
            yield photo.pixels
    _check_good([f"{photo.name}: {photo.bad}" for photo in photos if photo.bad is not None], len(photos), skip_bad)
    _check_classes(photos, source.class_names)


def _decode(source: Source, recipe: Recipe, which: Sequence[int]) -> Iterator[Photo]:
    """These images of a source, decoded on all cores."""
    cores = num_cores()
    decode = in_order(lambda i: decode_one(source, which[i], recipe), 0, len(which), threads=cores, ahead=AHEAD * cores)
    yield from decode


def _decode_shared(sharing: Sharing, source: Source, recipe: Recipe, which: Sequence[int]) -> Iterator[Photo]:
    """These images, in rounds: each process decodes the next few, and then each gets those of all."""
    rounds = [which[start : start + SHARE * sharing.num] for start in range(0, len(which), SHARE * sharing.num)]
    own = [some[SHARE * sharing.id :][:SHARE] for some in rounds]
    decoded = _decode(source, recipe, [i for some in own for i in some])
    for some in own:
        photos = list(islice(decoded, len(some)))
        pixels = np.zeros((SHARE, recipe.size, recipe.size, 3), np.uint8)
        for place, photo in enumerate(photos):
            if photo.pixels is not None:
                pixels[place] = photo.pixels
        told = sharing.exchange(json.dumps([photo._replace(pixels=None) for photo in photos]).encode())
        for theirs, text in zip(sharing.gather(pixels), told, strict=True):
            for image, (_, size, label, name, bad) in zip(theirs, json.loads(text), strict=False):
                yield Photo(image if bad is None else None, tuple(size), label, name, bad)


def _about(photos: Sequence[Photo]) -> dict[str, Any]:
    """What is kept beside the pixels, as JSON has it."""
    good = [photo for photo in photos if photo.bad is None]
    return {
        "sizes": [photo.size for photo in good],
        "labels": [photo.label for photo in good],
        "names": [photo.name for photo in good],
        "skipped": [f"{photo.name}: {photo.bad}" for photo in photos if photo.bad is not None],
        "bad": [i for i, photo in enumerate(photos) if photo.bad is not None],
    }


def _decoded(images: np.ndarray, about: dict[str, Any]) -> Decoded:
    return Decoded(
        images[: len(about["names"])],
        np.array(about["sizes"], np.int32),
        np.array(about["labels"], np.int32),
        tuple(about["names"]),
        tuple(about["skipped"]),
    )


def _check_good(bad: Sequence[str], num_images: int, skip_bad: bool) -> None:
    """Raise a UserError for bad images, unless they may be left out."""
    if not bad or skip_bad:
        return
    listed = "".join(f"\n  {line}" for line in bad[:LISTED])
    more = f"\n  and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    raise UserError(
        f"{len(bad)} of {num_images} images cannot be decoded:{listed}{more}\n"
        "Mend or remove them, or pass --skip-bad-images."
    )


def _check_classes(photos: Sequence[Photo], class_names: tuple[str, ...]) -> None:
    """Raise a UserError where leaving bad images out would leave a class without any."""
    lost = {photo.label for photo in photos} - {photo.label for photo in photos if photo.bad is None}
    if lost:
        bad = next(photo for photo in photos if photo.label == min(lost))
        raise UserError(
            f"class {shown(class_names[min(lost)])}: none of its images can be decoded. {bad.name}: {bad.bad}. "
            "Mend or remove them."
        )


def _key(source: Source, recipe: Recipe) -> str:
    """A name for exactly these pixels: what makes them, recipe, labels, each file's path, size and time of change."""
    versions = (CODE_VERSION, PIL.__version__, version("cykooz-resizer"))
    digest = hashlib.sha256(repr((versions, recipe, source.class_names)).encode())
    for i in range(len(source)):
        item, label = source.read(i)
        digest.update(hashlib.sha256(fingerprint(item)).digest() + b"%d " % label)
    return digest.hexdigest()[:24]
