import hashlib
import io
import zipfile

import numpy as np
import PIL.Image
import pytest

from configs import HOTDOG
from jaxft.config import Config, ImageConfig
from jaxft.data.load import open_splits
from jaxft.data.plan import Keep
from jaxft.data.prepare import load_data
from jaxft.errors import UserError


def photo() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (40, 30), (9, 8, 7)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def archive(server):
    """A zip like the chapter's: one folder with train/CLASS and test/CLASS."""
    url, folder, requests = server
    with zipfile.ZipFile(folder / "hotdog.zip", "w") as zipped:
        for split in ("train", "test"):
            for name in ("hotdog", "not-hotdog"):
                for i in range(2):
                    zipped.writestr(f"hotdog/{split}/{name}/{i}.png", photo())
    digest = hashlib.sha1((folder / "hotdog.zip").read_bytes()).hexdigest()
    return f"{url}/hotdog.zip", digest, requests


def test_a_zip_is_fetched_checked_and_unpacked_once(archive, tmp_path):
    url, digest, requests = archive
    config = Config(data=f"{url}#sha1={digest}", images=ImageConfig(image_size=32))
    for _ in range(2):
        splits = open_splits(config, tmp_path / "cache")
        assert (len(splits.train), len(splits.test)) == (4, 4)
        assert splits.train.class_names == ("hotdog", "not-hotdog")
    assert requests == ["/hotdog.zip"]
    told = []
    keep = Keep(tmp_path / "cache/decoded", 10**9)
    data = load_data(splits, config, keep, 10**9, lambda *words: told.append(words))
    assert (data.train.images[:, 0, 0] == [9, 8, 7]).all()
    assert data.test.images.shape == (4, 32, 32, 3)
    assert told[-1] == ("decoding test images", 4, 4)


def test_another_file_is_not_kept(archive, tmp_path):
    url, _, _ = archive
    with pytest.raises(UserError, match=r"its sha1 is .*, not fba480.*Or unpack a copy and pass its folder"):
        open_splits(Config(data=f"{url}#sha1=fba480"), tmp_path / "cache")
    assert list((tmp_path / "cache/data").iterdir()) == []


def test_a_damaged_zip_leaves_no_folder(server, tmp_path):
    url, folder, _ = server
    (folder / "cut.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"cut.zip: not a whole zip file .*Delete it and run again"):
        open_splits(Config(data=f"{url}/cut.zip"), tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache/data").iterdir()] == ["cut.zip"]


@pytest.mark.parametrize(
    ("tail", "message"), [("photos.tar", "only .zip files are fetched"), ("a.zip#md5=1", "unknown checksum md5")]
)
def test_addresses_that_cannot_be(tail, message, tmp_path):
    with pytest.raises(UserError, match=message):
        open_splits(Config(data=f"http://127.0.0.1:9/{tail}"), tmp_path)


def test_without_a_network_the_message_says_what_to_fetch(tmp_path):
    with pytest.raises(UserError, match=r"127.0.0.1:9/hotdog.zip cannot be fetched .*put it at .*/data/hotdog.zip"):
        open_splits(Config(data="http://127.0.0.1:9/hotdog.zip#sha1=1"), tmp_path)


def test_the_chapters_recipe_is_for_a_mean_loss():
    assert HOTDOG.data.endswith("hotdog.zip#sha1=fba480ffa8aa7e0febbb511d181409f899b9baa5")
    np.testing.assert_allclose([HOTDOG.optim.lr, HOTDOG.optim.weight_decay], [6.4e-3, 7.8125e-6])


def test_the_demo_needs_no_cache(tmp_path):
    config = Config(images=ImageConfig(image_size=64))
    data = load_data(open_splits(config, tmp_path), config, Keep(tmp_path, 10**9), 10**9, lambda *_: None)
    assert (len(data.train.labels), len(data.test.labels)) == (200, 400)
    assert list(tmp_path.iterdir()) == []
