"""TensorFlow Datasets, read without TensorFlow by random access. Imported only where such a set is opened.

What tfds prepares, it unpacks and encodes with TensorFlow: that stays with `tfds build`.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.data.images import Encoded
from jaxft.data.prepared import INFO, SetName, build_command, data_dir, explain_missing, find_prepared, parse_spec
from jaxft.data.sources import Splits, shown, split_source
from jaxft.errors import UserError

FORMAT = "array_record"
TEST_SPLITS = ("validation", "test")


@contextmanager
def hushed() -> Iterator[None]:
    """Without tfds's and absl's words on the console."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


try:
    with hushed():
        import tensorflow_datasets as tfds
        from tensorflow_datasets import builder_from_directory  # tfds hides it where its own import failed.
except ImportError as error:
    raise UserError(
        f"--data tfds:…: TensorFlow Datasets cannot be imported ({error}). Run: pip install -U tensorflow-datasets"
    ) from None

Place = tuple[str, ...]


@dataclass(frozen=True)
class TfdsSource:
    """A split of a set: its records, the features read of them, and where in those the image and the label are."""

    records: Any
    features: Any
    image: Place
    label: Place
    class_names: tuple[str, ...]
    where: str

    def __len__(self) -> int:
        return len(self.records)

    def read(self, i: int) -> tuple[Encoded, int]:
        """The bytes of image i as they were stored, and its label.

        Raises:
            UserError: it has no label, or its file is damaged.
        """
        as_stored = _nested({self.image: tfds.decode.SkipDecoding()})
        example = self.features.deserialize_example_np(self._record(i), decoders=as_stored)
        return _at(example, self.image), self._checked(i, _at(example, self.label))

    @cached_property
    def labels(self) -> list[int]:
        """All labels, read once; the images are passed over.

        Raises:
            UserError: as `read`.
        """
        wanted = _subset(self.features, self.label)
        examples = (wanted.deserialize_example_np(self._record(i)) for i in range(len(self)))
        return [self._checked(i, _at(example, self.label)) for i, example in enumerate(examples)]

    def _record(self, i: int) -> bytes:
        try:
            record, reason = self.records[i], "no record"
        except Exception as error:  # array_record raises what its reader meets: ValueError, RuntimeError, …
            record, reason = b"", _first_line(error)
        if not record:  # Of a file cut at the end of a block it reads empty records, without a word.
            raise UserError(f"{self.where}: image {i} cannot be read ({reason}). The file is damaged: prepare it anew.")
        return record

    def _checked(self, i: int, label: Any) -> int:
        if not 0 <= label < len(self.class_names):
            raise UserError(
                f"{self.where}: image {i} has label {label}, and {len(self.class_names)} classes are named. A split "
                "without labels cannot be used: pass another --test-split or --train-split."
            )
        return int(label)


def open_tfds(
    spec: str,
    *,
    tfds_dir: Path | None,
    train_split: str | None,
    test_split: str | None,
    val_fraction: float,
    seed: int,
) -> Splits:
    """A prepared set, `tfds:NAME[:CONFIG][:VERSION]`, in `tfds_dir`: tfds's data_dir, or the set's own folder.

    By default the training split is train, and the test split validation or else test; where there is neither, a part
    of each class of the training split.

    Raises:
        UserError: no such set, config, version or split; not prepared, or without random access; not one image and one
            class label in an example; splits that share images.
    """
    wanted = parse_spec(spec)
    with hushed():
        builder = _open_builder(wanted, tfds_dir)
        name = f"tfds:{builder.info.full_name}"
        there = tuple(builder.info.splits)
        trained = train_split or "train"
        tested = test_split or next((split for split in TEST_SPLITS if split in there), None)
        train = _open_split(builder, name, "--train-split", trained)
        if tested is None:
            where, lacks = f"{name}, split {trained},", "validation or test split"
            return split_source(train, where=where, lacks=lacks, val_fraction=val_fraction, seed=seed)
        test = _open_split(builder, name, "--test-split", tested)
        _check_apart(builder, trained, tested)
    note = f"{name}: trained on split {trained} ({len(train)} images), tested on {tested} ({len(test)})"
    return Splits(train, test, () if train_split and test_split else (note,))


def _open_builder(wanted: SetName, tfds_dir: Path | None) -> Any:
    root = tfds_dir or data_dir()
    if tfds_dir and not root.is_dir():
        raise UserError(f"--tfds-dir {shown(root)}: no such folder. Pass tfds's data_dir, or the folder of a set.")
    folder = root if (root / INFO).is_file() else find_prepared(wanted, root)
    if folder is None:
        # The community's sets are listed on a server, and tfds asks for the list with TensorFlow.
        known = tfds.list_builders(with_community_datasets=False)
        configs = tfds.builder_cls(wanted.name).builder_configs if wanted.name in known else ()
        raise UserError(explain_missing(wanted, root, known, tuple(configs)))
    try:
        builder = builder_from_directory(folder)
        formats = {each.value for each in builder.info.available_file_formats()}
        if FORMAT in formats and builder.info.as_proto.file_format != FORMAT:
            builder.info.set_file_format(FORMAT, override=True, override_if_initialized=True)
    except Exception as error:  # tfds raises what its parsing meets: ParseError, KeyError, OSError, …
        raise UserError(
            f"{shown(folder)}: not a set that tfds can read ({_first_line(error)}). Delete it and run "
            f"{build_command(wanted, root)}."
        ) from None
    if builder.name != wanted.name:
        raise UserError(
            f"--tfds-dir {shown(root)} holds {builder.name}, not {wanted.name}. Pass --data tfds:{builder.name}."
        )
    if FORMAT not in formats:
        raise UserError(
            f"{shown(folder)}: prepared as {', '.join(sorted(formats))}, and only {FORMAT} is read. Prepare it once "
            f"more in another folder: {build_command(wanted, Path('DIR'))}, and pass --tfds-dir DIR."
        )
    return builder


def _open_split(builder: Any, name: str, flag: str, split: str) -> TfdsSource:
    try:
        files = builder.info.splits[split].file_instructions
    except Exception as error:  # tfds raises ValueError, KeyError, and AssertionError where a slice cannot be.
        there = ", ".join(f"{each} ({info.num_examples} images)" for each, info in builder.info.splits.items())
        raise UserError(
            f"{flag} {split}: {_first_line(error)} {name} has {there}. Pass one of those, or a slice: train[:80%]."
        ) from None
    if not files:
        raise UserError(f"{flag} {split}: no images. Take a larger slice.")
    lost = [file.filename for file in files if not Path(file.filename).is_file()]
    if lost:
        raise UserError(
            f"{name}: {len(lost)} files of split {split} are not there, {shown(lost[0])} first. Prepare it anew."
        )
    features = builder.info.features
    image = _place(builder, name, tfds.features.Image, "an image")
    label = _place(builder, name, tfds.features.ClassLabel, "a class label")
    if _at(features, image).np_dtype == np.float32:
        raise UserError(
            f"{name}: {'/'.join(image)} has float32 pixels, whose white is not known. Use a set of 8 or 16 bit."
        )
    class_names = tuple(map(shown, _at(features, label).names or ()))
    if len(class_names) < 2:
        raise UserError(f"{name}: {'/'.join(label)} has {len(class_names)} named classes. A classifier needs two.")
    records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    return TfdsSource(records, _subset(features, image, label), image, label, class_names, f"{name}, split {split}")


def _check_apart(builder: Any, train_split: str, test_split: str) -> None:
    """Refuse splits that share images."""
    train, test = (builder.info.splits[split].file_instructions for split in (train_split, test_split))
    pairs = ((a, b) for a in train for b in test if a.filename == b.filename)
    shared = sum(max(0, min(a.skip + a.take, b.skip + b.take) - max(a.skip, b.skip)) for a, b in pairs)
    if shared:
        raise UserError(
            f"--train-split {train_split} and --test-split {test_split} share {shared} images: the test would be of "
            "what was learnt by heart. Keep them apart, such as train[:80%] and train[80%:]."
        )


def _place(builder: Any, name: str, kind: type, what: str) -> Place:
    """Where the one feature of a kind is; among several, the one that the set names for supervised learning."""
    features = builder.info.features
    # A LabeledImage is an Image to tfds: a mask.
    found = [
        place
        for place, feature in _leaves(features)
        if isinstance(feature, kind) and not isinstance(feature, tfds.features.LabeledImage)
    ]
    supervised = [place for place in found if len(place) == 1 and place[0] in (builder.info.supervised_keys or ())]
    if len(found) > 1 and len(supervised) == 1:
        return supervised[0]
    if len(found) != 1:
        there = ", ".join(f"{'/'.join(place)} ({type(feature).__name__})" for place, feature in _leaves(features))
        named = f": {', '.join('/'.join(place) for place in found)}" if found else ""
        raise UserError(
            f"{name}: an example has {len(found) or 'no'} features that are {what}{named}; its features are "
            f"{there}. Use a set of one image and one class label."
        )
    return found[0]


def _leaves(features: Any) -> Iterator[tuple[Place, Any]]:
    """The features by place, those in a dict of features too."""
    inside = tfds.features.FeaturesDict
    for name, feature in sorted(features.items()) if isinstance(features, inside) else [("example", features)]:
        if isinstance(feature, inside):
            yield from (((name, below), each) for below, each in sorted(feature.items()))
        else:
            yield (name,), feature


def _at(tree: Any, place: Place) -> Any:
    for name in place:
        tree = tree[name]
    return tree


def _nested(values: dict[Place, Any]) -> dict[str, Any]:
    """Values by place as dicts in dicts."""
    tree: dict[str, Any] = {}
    for place, value in values.items():
        inside = tree
        for name in place[:-1]:
            inside = inside.setdefault(name, {})
        inside[place[-1]] = value
    return tree


def _subset(features: Any, *places: Place) -> Any:
    """These features alone, so that nothing else in a record is decoded."""
    return tfds.features.FeaturesDict(_nested({place: _at(features, place) for place in places}))


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
