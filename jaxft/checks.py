"""Checks of what the user gave."""

from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxft.errors import UserError


def check(holds: bool, message: str) -> None:
    """Raise a UserError with this message where a condition does not hold."""
    if not holds:
        raise UserError(message)


def check_choices(config: Any) -> None:
    """Raise a UserError where a Literal field of a config holds none of its choices."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            choices = ", ".join(map(str, get_args(hint)))
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {getattr(config, name)}: no such choice. Choose one of {choices}.")
