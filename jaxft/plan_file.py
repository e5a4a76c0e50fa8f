"""The plan of many runs, a file of their folder: a config, and what is made of it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxft.config import Config
from jaxft.config_file import from_json, to_json
from jaxft.errors import UserError
from jaxft.run_folder import replace_text

Plan = TypeVar("Plan")


def write_plan_file(path: Path, config: Config, values: Mapping[str, Any]) -> None:
    """Keep the config and the values beside it."""
    replace_text(path, json.dumps({**values, "config": json.loads(to_json(config))}, indent=2) + "\n")


def read_plan_file(path: Path, what: str, build: Callable[[Config, dict[str, Any]], Plan]) -> Plan | None:
    """What `build` makes of them; None where there is no file. `what` it is a plan of is for the message.

    Raises:
        UserError: a file that is no such plan.
    """
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return build(from_json(json.dumps(values.pop("config")), str(path)), values)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the plan of a {what} ({error}). Pass another --out.") from None
