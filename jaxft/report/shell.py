"""Pages of one file: templates, style and script from this folder; every value that goes in is escaped."""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from jaxft import __version__
from jaxft.report import words


def render(template: str, **values: Any) -> str:
    """A page from a template that extends base.html.jinja: it holds all that it shows, and asks for nothing."""
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """The templates, and the words for numbers as filters."""
    made = Environment(
        loader=FunctionLoader(read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {name: getattr(words, name) for name in ("percent", "chance", "number", "duration")}
    made.globals |= {
        "css": Markup(read("report.css")),
        "js": Markup(read("report.js")),
        "version": __version__,
        "plural": words.plural,
    }
    return made


def read(name: str) -> str:
    """A file of this folder."""
    return files("jaxft.report").joinpath(name).read_text(encoding="utf-8")
