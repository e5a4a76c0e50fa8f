"""Sets written by tfds itself, without TensorFlow, and read back; and the message for every set that is refused."""

import contextlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from jaxft.config import Config, ImageConfig
from jaxft.data.canvas import decode_set
from jaxft.data.folders import open_folder
from jaxft.data.images import Canvas
from jaxft.data.load import open_splits
from jaxft.data.prepared import data_dir
from jaxft.data.sources import Splits
from jaxft.errors import UserError

ROOT = Path(__file__).parents[1]
NAMES = ["bee of the wood", "蜜蜂", "ants"]


def photo(i: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(i).integers(0, 255, (30 + i, 40, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def example(i: int) -> dict:
    return {"image": photo(i), "label": i % 3}


def write(
    root: Path,
    splits: dict[str, list[dict]],
    features: dict | None = None,
    *,
    name: str = "tiny",
    configs: tuple[str, ...] = (),
    version: str = "1.0.0",
    keys: tuple[str, str] | None = None,
    file_format: str = "array_record",
) -> Path:
    """Have tfds prepare a set; returns its folder."""
    features = features or {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=NAMES)}

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=keys, disable_shuffling=True
        )

    body = {
        "VERSION": tfds.core.Version(version),
        "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=config) for config in configs],
        "name": name,
        "_info": info,
        "_split_generators": lambda self, _: {split: self._generate_examples(rows) for split, rows in splits.items()},
        "_generate_examples": lambda self, rows: enumerate(rows),
    }
    base, keywords = (tfds.core.GeneratorBasedBuilder,), {"skip_registration": True}
    cls = types.new_class(name, base, keywords, lambda namespace: namespace.update(body))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for config in configs or (None,):
            builder = cls(data_dir=root, config=config, file_format=file_format)
            builder.download_and_prepare()
    return Path(builder.data_dir)


def opened(root: Path, spec: str = "tfds:tiny", **flags) -> Splits:
    return open_splits(Config(data=spec, tfds_dir=str(root), **flags), root)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """tiny: 20 training and 4 test images."""
    folder = tmp_path_factory.mktemp("sets")
    write(folder, {"train": [example(i) for i in range(20)], "test": [example(i) for i in range(50, 54)]})
    return folder


def items(source) -> list:
    return [source.read(i) for i in range(len(source))]


def test_the_stored_bytes_are_handed_out(root, capfd):
    splits = opened(root)
    assert items(splits.train) == [(photo(i), i % 3) for i in range(20)]
    assert items(splits.test) == [(photo(i), i % 3) for i in range(50, 54)]
    assert splits.train.class_names == tuple(NAMES)
    assert splits.notes == ("tfds:tiny/1.0.0: trained on split train (20 images), tested on test (4)",)
    assert capfd.readouterr() == ("", "")


def test_a_set_is_what_a_folder_of_its_files_is(root, tmp_path):
    for i in range(20):
        folder = tmp_path / str(i % 3)
        folder.mkdir(exist_ok=True)
        (folder / f"{i:02}.jpg").write_bytes(photo(i))
    apart = open_folder(tmp_path, val_fraction=0.2, seed=7)
    ours = opened(root, train_split="train", test_split="test").train
    whole = decode_set(ours, Canvas(32), cache_dir=None)
    labels = {pixels.tobytes(): label for pixels, label in zip(whole.images, whole.labels, strict=True)}
    for source in (apart.train, apart.test):
        decoded = decode_set(source, Canvas(32), cache_dir=None)
        assert [labels[pixels.tobytes()] for pixels in decoded.images] == decoded.labels.tolist()


def test_splits_can_be_sliced(root):
    splits = opened(root, train_split="train[:50%]", test_split="train[15:]")
    assert items(splits.train) == [(photo(i), i % 3) for i in range(10)]
    assert items(splits.test) == [(photo(i), i % 3) for i in range(15, 20)]
    assert splits.notes == ()


def test_validation_goes_before_test(tmp_path):
    write(tmp_path, {"train": [example(1)], "test": [example(2)], "validation": [example(3)]})
    splits = opened(tmp_path)
    assert items(splits.test) == [(photo(3), 0)]
    assert "tested on validation (1)" in splits.notes[0]


def test_without_a_test_split_a_part_of_each_class_is_for_testing(tmp_path):
    write(tmp_path, {"train": [example(i) for i in range(30)]})
    splits = opened(tmp_path, seed=3)
    expected = [3 * i + k for k in range(3) for i in np.random.default_rng([3, k]).permutation(10)[:2]]
    assert items(splits.test) == [(photo(i), i % 3) for i in sorted(expected)]
    assert len(splits.train) == 24
    (note,) = splits.notes
    assert note.startswith("tfds:tiny/1.0.0, split train, has no validation or test split: 20% of each class")
    assert len(opened(tmp_path, images=ImageConfig(val_fraction=0.5), train_split="train[:12]").test) == 6


def test_a_set_can_be_named_by_its_own_folder_or_by_tfds_variable(root, monkeypatch):
    assert len(opened(root / "tiny" / "1.0.0").train) == 20
    with pytest.raises(UserError, match=r"--tfds-dir .*/tiny/1.0.0 holds tiny, not other. Pass --data tfds:tiny"):
        opened(root / "tiny" / "1.0.0", "tfds:other")
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    assert len(open_splits(Config(data="tfds:tiny"), root).train) == 20
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert data_dir() == Path(constants.get_default_data_dir()).expanduser()


def test_configs_and_versions(tmp_path):
    first = {"train": [example(0)], "test": [example(1)]}
    for version in ("1.9.0", "1.10.0"):
        write(tmp_path, first, configs=("small",), version=version)
    for spec in ("tfds:tiny", "tfds:tiny:small", "tfds:tiny/small", "tfds:tiny:small:1.10.0", "tfds:tiny/small:1.10.0"):
        assert opened(tmp_path, spec).notes[0].startswith("tfds:tiny/small/1.10.0:")
    assert opened(tmp_path, "tfds:tiny:small:1.9.0").notes[0].startswith("tfds:tiny/small/1.9.0:")
    with pytest.raises(UserError, match=r"version 2.0.0 is not prepared in .*/small; there is 1.9.0, 1.10.0. Pass one"):
        opened(tmp_path, "tfds:tiny:small:2.0.0")
    with pytest.raises(UserError, match=r"config big is not prepared in .*; there is small. Pass one of"):
        opened(tmp_path, "tfds:tiny:big")
    write(tmp_path, first, configs=("large",))
    with pytest.raises(UserError, match=r"prepared in the configs large, small. Say which, such as tfds:tiny:large"):
        opened(tmp_path)


IMAGE, LABEL = tfds.features.Image(), tfds.features.ClassLabel(names=NAMES)


def test_nested_features_are_found_and_nothing_else_is_decoded(tmp_path):
    features = {
        "photo": {"jpeg": IMAGE, "mask": tfds.features.LabeledImage(labels=3, shape=(None, None, 1))},
        "about": {"kind": LABEL, "words": tfds.features.Text()},
        "boxes": tfds.features.Sequence({"label": LABEL}),
    }
    row = {
        # The mask is no image: to decode it would raise.
        "photo": {"jpeg": photo(1), "mask": b"mask"},
        "about": {"kind": 1, "words": "w"},
        "boxes": [{"label": 2}],
    }
    write(tmp_path, {"train": [row, row], "test": [row]}, features)
    splits = opened(tmp_path)
    assert items(splits.test) == [(photo(1), 1)]


def test_of_two_labels_the_supervised_one_is_taken(tmp_path):
    features = {"image": IMAGE, "label": LABEL, "coarse": tfds.features.ClassLabel(num_classes=2)}
    rows = [{"image": photo(i), "label": i, "coarse": 0} for i in (1, 2)]
    write(tmp_path, {"train": rows[:1], "test": rows[1:]}, features, keys=("image", "label"))
    assert [label for _, label in items(opened(tmp_path).test)] == [2]


@pytest.mark.parametrize(
    ("features", "row", "message"),
    [
        (
            {"image": IMAGE, "label": LABEL, "coarse": LABEL},
            {"label": 0, "coarse": 0},
            r"2 features that are a class label: coarse, label; its features are .*label \(ClassLabel\).* Use a set",
        ),
        (
            {"image": IMAGE, "other": IMAGE, "label": LABEL},
            {"label": 0, "other": photo(0)},
            r"2 features that are an image: image, other; its features are",
        ),
        ({"image": IMAGE, "n": tfds.features.Scalar(np.int64)}, {"n": 1}, r"no features that are a class label; its"),
        (
            {"image": tfds.features.Tensor(shape=(2, 2, 3), dtype=np.uint8), "label": LABEL},
            {"image": np.zeros((2, 2, 3), np.uint8), "label": 0},
            r"no features that are an image; its features are image \(Tensor\), label \(ClassLabel\)",
        ),
        (
            {"image": IMAGE, "label": tfds.features.ClassLabel(names=["one"])},
            {"label": 0},
            r"label has 1 named classes. A classifier needs two",
        ),
    ],
)
def test_features_that_cannot_be_used_are_listed(tmp_path, features, row, message):
    row = {"image": photo(0), **row}
    write(tmp_path, {"train": [row]}, features)
    with pytest.raises(UserError, match=message):
        opened(tmp_path)


def test_pixels_that_are_floats_in_disguise_are_refused(tmp_path):
    folder = write(tmp_path, {"train": [example(0)], "test": [example(1)]})
    # tfds keeps a float32 image as a PNG of its bytes; to write one, it needs TensorFlow.
    about = json.loads((folder / "features.json").read_text())
    about["featuresDict"]["features"]["image"]["image"] = {
        "dtype": "float32",
        "shape": {"dimensions": ["-1", "-1", "1"]},
        "encodingFormat": "png",
    }
    (folder / "features.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="image has float32 pixels, whose white is not known. Use a set of 8 or 16 bit"):
        opened(tmp_path)


def test_images_without_labels(tmp_path):
    rows = [{"image": photo(i), "label": -1} for i in range(2)]
    write(tmp_path, {"train": rows, "test": [example(0)]})
    with pytest.raises(UserError, match=r"tiny/1.0.0, split train: image 1 has label -1, and 3 classes are named. A"):
        opened(tmp_path).train.read(1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"test_split": "dev"}, r"--test-split dev: Unknown split 'dev'.* tiny/1.0.0 has train \(20 images\), test"),
        ({"train_split": "train[:5"}, r"--train-split train\[:5: .*Pass one of those, or a slice: train\[:80%\]"),
        ({"train_split": "train[:500]"}, r"--train-split train\[:500\]: .*incompatible with 20 examples"),
        ({"test_split": "train[:1%]"}, r"--test-split train\[:1%\]: no images. Take a larger slice"),
        ({"test_split": "train[80%:]"}, r"--train-split train and --test-split train\[80%:\] share 4 images: the test"),
        ({"train_split": "all"}, r"--train-split all and --test-split test share 4 images"),
    ],
)
def test_splits_that_cannot_be(root, flags, message):
    with pytest.raises(UserError, match=message.replace("tiny/", "tfds:tiny/")):
        opened(root, **flags)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfds:tinny", r"no set of that name in .*, and tfds knows none. Did you mean tfds:tiny\?"),
        ("tfds:mnits", r"Did you mean tfds:mnist\?"),
        ("tfds:zzzzzzzzz", r"tfds knows none. tensorflow.org/datasets/catalog lists the sets"),
        ("tfds:mnist", r"not prepared in .*. Run tfds build mnist --data_dir .* --file_format array_record \(which"),
        ("tfds:mnist:x", r"mnist has no config x; it has none. Leave it out"),
        ("tfds:cifar10_corrupted:fog_11", r"has no config fog_11; it has fog_1. Pass one that it has"),
        ("tfds:cifar10_corrupted:fog_1", r"Run tfds build cifar10_corrupted/fog_1 --data_dir"),
        ("tfds:", r"--data tfds:: not a set's name. Write tfds:NAME or tfds:NAME:CONFIG"),
        ("tfds:../tiny", "not a set's name"),
        ("tfds:a:b:c", "not a set's name"),
    ],
)
def test_sets_that_are_not_there(root, spec, message):
    with pytest.raises(UserError, match=message):
        opened(root, spec)


def test_folders_that_cannot_be(root, tmp_path):
    with pytest.raises(UserError, match=r"--tfds-dir .*/none: no such folder. Pass tfds's data_dir, or the folder of"):
        opened(tmp_path / "none")
    shutil.copytree(root / "tiny", tmp_path / "tiny")
    folder = tmp_path / "tiny" / "1.0.0"
    (record,) = folder.glob("tiny-train.array_record*")
    good, info = record.read_bytes(), (folder / "dataset_info.json").read_text()
    for length in (len(good) // 2, len(good) - 10):
        record.write_bytes(good[:length])
        with pytest.raises(UserError, match=r"split train: image 3 cannot be read \(.*The file is damaged: prepare it"):
            opened(tmp_path).train.read(3)
    record.unlink()
    with pytest.raises(UserError, match=r"1 files of split train are not there, .*tiny-train.array_record-00000-of-00"):
        opened(tmp_path)
    (folder / "dataset_info.json").write_text(info.replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UserError, match=r"prepared as tfrecord, and only array_record is read.*pass --tfds-dir DIR"):
        opened(tmp_path)
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match=r"/tiny/1.0.0: not a set that tfds can read \(.*Delete it and run tfds build"):
        opened(tmp_path)


def test_a_set_prepared_in_two_formats_is_read_as_array_record(root, tmp_path):
    shutil.copytree(root / "tiny", tmp_path / "tiny")
    path = tmp_path / "tiny" / "1.0.0" / "dataset_info.json"
    info = {**json.loads(path.read_text()), "fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}
    path.write_text(json.dumps(info))
    assert items(opened(tmp_path).test) == [(photo(i), i % 3) for i in range(50, 54)]


def test_a_source_can_be_sent_to_another_process(root):
    source = opened(root).train
    assert pickle.loads(pickle.dumps(source)).read(3) == source.read(3)


@pytest.mark.parametrize("name", ["tfds_dir", "train_split", "test_split"])
def test_flags_of_sets_are_refused_elsewhere(name):
    flag = name.replace("_", "-")
    with pytest.raises(UserError, match=f"--{flag} x: only for --data tfds:NAME, not for demo. Leave it out"):
        Config(**{name: "x"})


def run(code: str, *paths: Path) -> None:
    path = os.pathsep.join(map(str, [*paths, ROOT]))
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def test_tensorflow_is_never_imported(root, tmp_path):
    """Not even where there is one: it would take a GPU's memory."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("import os; os._exit(9)")
    run(
        "from pathlib import Path\n"
        "from jaxft.config import Config\n"
        "from jaxft.data.load import open_splits\n"
        "from jaxft.errors import UserError\n"
        "import sys\n"
        "try: open_splits(Config(data='/nowhere'), Path('.'))\n"
        "except UserError: pass\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"splits = open_splits(Config(data='tfds:tiny', tfds_dir={str(root)!r}), Path('.'))\n"
        "splits.train.read(0), splits.train.labels\n"
        "for spec in ('tfds:mnist', 'tfds:nothing', 'tfds:mnist:x'):\n"
        "    try: open_splits(Config(data=spec, tfds_dir='/'), Path('.'))\n"
        "    except UserError: pass\n"
        "assert 'tensorflow' not in sys.modules\n",
        tmp_path,
    )


def test_where_tfds_is_not_installed_the_command_is_told():
    run(
        "import sys; sys.modules['tensorflow_datasets'] = None\n"
        "from pathlib import Path\n"
        "from jaxft.config import Config\n"
        "from jaxft.data.load import open_splits\n"
        "try: open_splits(Config(data='tfds:mnist'), Path('.'))\n"
        "except ValueError as error: assert 'pip install -U tensorflow-datasets' in str(error), error\n"
        "else: raise SystemExit(1)\n"
    )
