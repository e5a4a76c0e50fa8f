"""From a data SPEC to the sources of training and test images."""

import shutil
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from jaxft.config import Config
from jaxft.data import kitchen
from jaxft.data.sources import ArraySource, Splits, open_folder
from jaxft.download import fetch
from jaxft.errors import UserError


def open_splits(config: Config, cache_dir: Path) -> Splits:
    """The sources that a data SPEC names: `demo`, `demo-source`, a folder, or a zip of one at an http(s) address.

    Raises:
        UserError: nothing there, or nothing that can be trained on.
    """
    spec = config.data
    if spec in ("demo", "demo-source"):
        draw = kitchen.target_set if spec == "demo" else kitchen.source_set
        return Splits(ArraySource(*draw("train")), ArraySource(*draw("test")), ())
    if spec.startswith(("http://", "https://")):
        folder = fetch_zip(spec, cache_dir / "data")
    else:
        folder = Path(spec).expanduser()
    return open_folder(folder, val_fraction=config.images.val_fraction, seed=config.seed)


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
