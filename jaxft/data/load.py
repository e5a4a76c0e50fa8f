"""From a data SPEC to the sources of training and test images."""

import shutil
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from jaxft.config import Config
from jaxft.data import kitchen
from jaxft.data.folders import open_folder
from jaxft.data.sources import ArraySource, Splits
from jaxft.data.table import open_table
from jaxft.download import fetch
from jaxft.errors import UserError


def open_splits(config: Config, cache_dir: Path) -> Splits:
    """The sources that a data SPEC names: `demo`, `demo-source`, `tfds:NAME`, a folder, a zip of one, or a CSV file.

    Raises:
        UserError: nothing there, or nothing that can be trained on.
    """
    spec, val_fraction, seed = config.data, config.images.val_fraction, config.seed
    if spec in ("demo", "demo-source"):
        draw = kitchen.target_set if spec == "demo" else kitchen.source_set
        return Splits(ArraySource(*draw("train")), ArraySource(*draw("test")), ())
    if spec.startswith("tfds:"):
        from jaxft.data.tfds import open_tfds  # Slow to import, and not everywhere installed.

        return open_tfds(
            spec,
            tfds_dir=Path(config.tfds_dir).expanduser() if config.tfds_dir else None,
            train_split=config.train_split,
            test_split=config.test_split,
            val_fraction=val_fraction,
            seed=seed,
        )
    if spec.startswith(("http://", "https://")):
        folder = fetch_zip(spec, cache_dir / "data")
    else:
        folder = Path(spec).expanduser()
    if folder.suffix.lower() == ".csv" and not folder.is_dir():
        return open_table(folder, val_fraction=val_fraction, seed=seed)
    return open_folder(folder, val_fraction=val_fraction, seed=seed)


def fetch_zip(url: str, folder: Path) -> Path:
    """The folder inside a zip file, fetched and unpacked once; `#sha1=…` or `#sha256=…` in the address is checked.

    Raises:
        UserError: no network, a wrong checksum, or no zip file.
    """
    parts = urlsplit(url)
    sums = dict(parse_qsl(parts.fragment))
    unknown = set(sums) - {"sha1", "sha256"}
    if unknown:
        raise UserError(f"--data {url}: unknown checksum {', '.join(sorted(unknown))}. Use #sha1=… or #sha256=….")
    name = Path(parts.path).name
    if not name.endswith(".zip"):
        raise UserError(f"--data {url}: only .zip files are fetched. Unpack it and pass the folder.")
    target = folder / name.removesuffix(".zip")
    if not target.is_dir():
        archive = fetch(
            parts._replace(fragment="").geturl(),
            folder / name,
            sha1=sums.get("sha1", ""),
            sha256=sums.get("sha256", ""),
            hint="Or unpack a copy and pass its folder with --data FOLDER.",
        )
        unpack(archive, target)
    inside = [entry for entry in target.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else target


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip file into a new folder, whole or not at all.

    Raises:
        UserError: not a zip file, or a damaged one.
    """
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(scratch)
        scratch.replace(target)
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive}: not a whole zip file ({error}). Delete it and run again.") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
