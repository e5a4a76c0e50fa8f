"""A run's config as JSON, in and out: the config.json of its folder."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxft.checks import check
from jaxft.config import Config
from jaxft.errors import UserError


def to_json(config: Config) -> str:
    """The config as indented JSON; `from_json` gives it back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str, source: str) -> Config:
    """The config that `to_json` wrote; what the text leaves out has its default.

    Raises:
        UserError: not JSON, an unknown name, or a value of the wrong kind; `source` says where it was read.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: not JSON ({error}). Pass the config.json of a run folder.") from None
    return _build(Config, values, source, "")


def read_config(path: Path) -> Config:
    """The config in a file.

    Raises:
        UserError: no such file, or not a config.
    """
    try:
        return from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: cannot be read ({error}). Pass the config.json of a run folder.") from None


def with_flags(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with other values of some flags.

    Raises:
        UserError: a flag that there is not, or a value that it cannot have.
    """
    tree = json.loads(to_json(config))
    for flag, value in values.items():
        name = flag.removeprefix("--").replace("-", "_")
        parts = [tree, *(part for part in tree.values() if isinstance(part, dict))]
        holder = next((part for part in parts if not isinstance(part.get(name, {}), dict)), None)
        if holder is None:
            raise UserError(f"{flag}: no such flag of a run.")
        holder[name] = [value] if isinstance(holder[name], list) else value
    return _build(Config, tree, " ".join(values), "")


def _build(cls: type, values: Any, source: str, prefix: str) -> Any:
    check(isinstance(values, dict), f"{source}: {prefix or 'the config'} must be an object, not {values!r}.")
    hints = get_type_hints(cls)
    unknown = [prefix + name for name in values if name not in hints]
    check(not unknown, f"{source}: unknown {', '.join(unknown)}. Known are {', '.join(prefix + h for h in hints)}.")
    built = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            built[name] = _build(hint, value, source, f"{prefix}{name}.")  # pyright: ignore[reportArgumentType]
        else:
            built[name] = _value(hint, value, source, prefix + name)
    return cls(**built)


def _value(hint: Any, value: Any, source: str, name: str) -> Any:
    """One field's value, with JSON's lists as tuples and whole numbers as floats where a float is meant."""
    if get_origin(hint) is tuple:
        check(
            isinstance(value, list) and all(isinstance(entry, str) for entry in value),
            f"{source}: {name} must be a list of strings, not {value!r}.",
        )
        return tuple(value)
    kinds = (str,) if get_origin(hint) is Literal else get_args(hint) or (hint,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    check(
        type(value) in kinds,
        f"{source}: {name} must be {' or '.join(kind.__name__ for kind in kinds)}, not {value!r}.",
    )
    return value
