"""Where on disk a prepared TensorFlow Dataset lies: DATA_DIR/NAME[/CONFIG]/VERSION with a dataset_info.json."""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxft.data.sources import shown, some
from jaxft.errors import UserError

INFO = "dataset_info.json"
PART = re.compile(r"[\w+-][\w.+-]*")
VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")


class SetName(NamedTuple):
    """A set's name, and its config and version where they were given."""

    name: str
    config: str | None
    version: str | None

    @property
    def path(self) -> str:
        """As tfds writes it: NAME/CONFIG:VERSION."""
        return self.name + (f"/{self.config}" if self.config else "") + (f":{self.version}" if self.version else "")


def parse_spec(spec: str) -> SetName:
    """`tfds:NAME[:CONFIG][:VERSION]`, or as tfds writes it, `tfds:NAME/CONFIG:VERSION`.

    Raises:
        UserError: anything else.
    """
    parts = re.split("[:/]", spec)[1:]
    good = bool(parts) and all(PART.fullmatch(part) for part in parts)
    name, *rest = parts or [""]
    version = rest.pop() if rest and VERSION.fullmatch(rest[-1]) else None
    if not good or len(rest) > 1:
        raise UserError(f"--data {shown(spec)}: not a set's name. Write tfds:NAME or tfds:NAME:CONFIG.")
    return SetName(name, rest[0] if rest else None, version)


def data_dir() -> Path:
    """Where tfds keeps sets: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_prepared(wanted: SetName, root: Path) -> Path | None:
    """The folder of a prepared set, its newest version unless one is wanted; None where nothing of it is prepared.

    Raises:
        UserError: it is prepared, but not in this config or version, or in several configs of which none is named.
    """
    folder = root / wanted.name
    configs = {entry.name: entry for entry in _folders(folder) if _versions(entry)}
    if wanted.config:
        folder = folder / wanted.config
        if configs and wanted.config not in configs:
            raise UserError(
                f"--data tfds:{wanted.path}: config {wanted.config} is not prepared in {shown(root)}; there is "
                f"{', '.join(sorted(configs))}. Pass one of those, or prepare it: {build_command(wanted, root)}"
            )
    elif configs and not _versions(folder):
        if len(configs) > 1:
            raise UserError(
                f"--data tfds:{wanted.path}: prepared in the configs {', '.join(sorted(configs))}. "
                f"Say which, such as tfds:{wanted.name}:{min(configs)}."
            )
        (folder,) = configs.values()
    versions = _versions(folder)
    if wanted.version and versions and wanted.version not in versions:
        raise UserError(
            f"--data tfds:{wanted.path}: version {wanted.version} is not prepared in {shown(folder)}; there is "
            f"{', '.join(versions)}. Pass one of those, or leave the version out."
        )
    return versions[wanted.version or list(versions)[-1]] if versions else None


def build_command(wanted: SetName, root: Path) -> str:
    """The command that prepares a set."""
    return (
        f"tfds build {wanted.path} --data_dir {shown(root)} --file_format array_record (which needs TensorFlow; "
        "to read what it made does not)"
    )


def explain_missing(wanted: SetName, root: Path, known: Sequence[str], configs: Sequence[str]) -> str:
    """Why nothing is prepared, of a set that tfds knows, with its configs, or does not; and what to do."""
    start = f"--data tfds:{wanted.path}:"
    if wanted.name not in known:
        prepared = [entry.name for entry in _folders(root)]
        close = difflib.get_close_matches(wanted.name, [*prepared, *known], n=1)
        hint = f"Did you mean tfds:{close[0]}?" if close else "tensorflow.org/datasets/catalog lists the sets."
        return f"{start} no set of that name in {shown(root)}, and tfds knows none. {hint}"
    if wanted.config and wanted.config not in configs:
        close = difflib.get_close_matches(wanted.config, configs, n=1)
        has = f"it has {some(close or configs)}. Pass one that it has" if configs else "it has none. Leave it out"
        return f"{start} {wanted.name} has no config {wanted.config}; {has}."
    return f"{start} not prepared in {shown(root)}. Run {build_command(wanted, root)}."


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in sorted(folder.iterdir()) if entry.is_dir()] if folder.is_dir() else []


def _versions(folder: Path) -> dict[str, Path]:
    """The prepared versions in a folder, the newest last."""
    found = [each for each in _folders(folder) if VERSION.fullmatch(each.name) and (each / INFO).is_file()]
    return {each.name: each for each in sorted(found, key=lambda each: [int(n) for n in each.name.split(".")])}
