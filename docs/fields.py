"""For the library page: a class's fields as one table, not a heading each, and defaults by their values."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from griffe import (
    Attribute,
    Class,
    DocstringAttribute,
    DocstringParameter,
    DocstringSection,
    DocstringSectionAttributes,
    DocstringSectionParameters,
    Extension,
    Function,
    Object,
)


class Fields(Extension):
    """Dataclasses, NamedTuples and Flax modules have fields."""

    def on_class(self, *, cls: Class, **_: Any) -> None:
        """Move a class's fields from its members into a table in its docstring."""
        fields = [member for member in cls.members.values() if isinstance(member, Attribute) and is_field(member)]
        if not fields or cls.docstring is None:
            return
        cls.docstring.parsed.insert(1, table(fields))
        for field in fields:
            cls.del_member(field.name)
        cls.members.pop("__init__", None)  # A dataclass's signature would say the same again.

    def on_function(self, *, func: Function, **_: Any) -> None:
        """Put the values of constants in the place of their names."""
        for parameter in func.parameters:
            if str(parameter.default).rpartition(".")[2].isupper():
                parameter.default = value_of(str(parameter.default), func)


def table(fields: Sequence[Attribute]) -> DocstringSection:
    """Name, type and description of each and, where any has one, default."""
    with_defaults = any(field.value is not None for field in fields)
    kind = DocstringParameter if with_defaults else DocstringAttribute
    rows: list[Any] = [
        kind(field.name, annotation=field.annotation, description=described(field), value=default_of(field))
        for field in fields
    ]
    section = DocstringSectionParameters if with_defaults else DocstringSectionAttributes
    return section(rows, title="Fields:")


def is_field(attribute: Attribute) -> bool:
    """Whether an attribute is a public field, not a property."""
    return attribute.annotation is not None and attribute.is_public and "property" not in attribute.labels


def described(field: Attribute) -> str:
    """What its docstring says, which is plain text, for --help prints it: in Markdown an asterisk means more."""
    return "" if field.docstring is None else field.docstring.value.replace("*", r"\*")


def default_of(field: Attribute) -> str | None:
    """Its default, if it has one."""
    if field.value is None:
        return None
    written = str(field.value)
    if written.startswith("field("):
        return written.removeprefix("field(default_factory=").removesuffix(")") + "()"
    return value_of(written, field)


def value_of(written: str, where: Object) -> str:
    """What an expression is in the module of an object; as it is written where it has no plain value."""
    value = repr(eval(written, vars(import_module(where.module.path))))
    return written if value.startswith("<") else value
