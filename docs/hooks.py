"""The pages that are not files of docs/: README.md in parts, the commands' own help, and documents from elsewhere."""

import io
import os
import re
import textwrap
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from markdown.extensions.toc import slugify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
COMMANDS = (
    *("jaxft.train", "jaxft.lrfind", "jaxft.sweep", "jaxft.compare", "jaxft.report.__main__", "jaxft.predict"),
    *("jaxft.export", "jaxft.runs", "jaxft.data.check", "jaxft.data.preview", "convert.__main__"),
)
"""The modules of the commands: the help of each is on their page."""
COPIED = {"benchmarks/RESULTS.md": "results.md", "CHANGELOG.md": "changelog.md"}
DOCUMENTS = COPIED | {"docs/library.md": "library.md"}
"""Where the site has what README.md links to."""
HELP_COLUMNS = 80
NO_CONTENTS = "---\nhide: [toc]\n---\n"
"""For pages that have no headings, or wide tables: the width is theirs."""


class Page(NamedTuple):
    """One page: its name in the navigation, its file and its Markdown."""

    title: str
    path: str
    text: str


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation: README.md's sections are the guide, in its order."""
    start, *guide = readme_pages()
    config.nav = [
        {start.title: start.path},
        {"Guide": [{page.title: page.path} for page in guide]},
        {"Reference": [{"Library": "library.md"}, {"Commands": "commands.md"}]},
        {"Results": "results.md"},
        {"Changelog": "changelog.md"},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of docs/ and the pages made here."""
    made = {page.path: page.text for page in readme_pages()}
    made |= {path: NO_CONTENTS + read(name) for name, path in COPIED.items()} | {"commands.md": commands_page()}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def readme_pages() -> list[Page]:
    """README.md's first screen, and a page for each of its sections."""
    start, *sections = re.split(r"^## ", read("README.md"), flags=re.MULTILINE)
    titles = [section.partition("\n")[0] for section in sections]
    places = DOCUMENTS | {f"#{slug(title)}": f"{slug(title)}.md" for title in titles}
    pages = [Page("Start", "index.md", start)]
    pages += [Page(title, f"{slug(title)}.md", f"# {text}") for title, text in zip(titles, sections, strict=True)]
    return [page._replace(text=NO_CONTENTS + relinked(page.text, places)) for page in pages]


def relinked(text: str, places: dict[str, str]) -> str:
    """The Markdown with its links going to where the site has things."""
    return re.sub(r"\]\(([^)]+)\)", lambda link: f"]({places.get(link[1], link[1].removeprefix('docs/'))})", text)


def commands_page() -> str:
    """Every command's help, as it prints it."""
    parts = ["# The commands"]
    for module in COMMANDS:
        parts += [f"## python -m {module.removesuffix('.__main__')}", f"```text\n{help_of(module)}\n```"]
    return "\n\n".join(parts)


def help_of(module: str) -> str:
    """What the command prints of itself."""
    printed = io.StringIO()
    with patch.dict(os.environ, {"COLUMNS": str(HELP_COLUMNS)}), redirect_stdout(printed):
        try:
            import_module(module).main(["--help"])
        except SystemExit:
            return "\n".join(textwrap.fill(line, HELP_COLUMNS) for line in printed.getvalue().strip().splitlines())
    raise AssertionError(f"{module} --help did not end the command")


def slug(title: str) -> str:
    """A heading's anchor, as GitHub and the site have it."""
    return slugify(title, "-")


def read(name: str) -> str:
    """A document of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")
