"""The site: it builds without a warning, its pages are README.md's and the code's own, and it asks nobody else."""

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

import jaxft

pytest.importorskip("mkdocstrings", reason='the site is built where pip install -e ".[docs]" has been')

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOADED = {"src", "srcset", "poster", "data"}
"""Attributes whose address a browser fetches by itself."""


class Html(HTMLParser):
    """A page's text, anchors, links, and what a browser loads with it."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.loaded, self.text, self.inside = set(), [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.add(found.get("id"))
        self.loaded += [found[name] for name in LOADED & set(found)]
        if tag == "link" and found.get("rel") != "canonical":
            self.loaded.append(found["href"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("article", "script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if self.inside == ["article"]:
            self.text.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as CI builds it; with --quiet, --strict would hear of no warning."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return out


@pytest.fixture(scope="module")
def pages(site):
    """Its pages, by their addresses from its root."""
    found = {path.parent.relative_to(site).as_posix(): path for path in sorted(site.rglob("index.html"))}
    return {"" if name == "." else f"{name}/": Html(path) for name, path in found.items()}


def words(text):
    """The words and figures of a text, without punctuation."""
    return re.findall(r"\w+", text)


def words_of_markdown(text):
    return words(re.sub(r"!\[[^]]*\]\([^)]*\)|\]\([^)]*\)|^```\w*|`", "", text, flags=re.MULTILINE))


def is_command(path):
    """Whether a file is run by `python -m`."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in body)


def test_the_first_page_is_the_first_screen_of_the_readme(pages):
    assert words("".join(pages[""].text)) == words_of_markdown(README.partition("\n## ")[0])


def test_every_section_of_the_readme_is_a_page(pages):
    texts = [words("".join(page.text)) for page in pages.values()]
    for section in README.split("\n## ")[1:]:
        assert words_of_markdown(section) in texts, section.partition("\n")[0]


def test_every_public_name_is_on_the_library_page(pages):
    assert not [name for name in jaxft.__all__ if f"jaxft.{name}" not in pages["library/"].ids]


def test_every_field_of_a_config_is_on_the_library_page(pages):
    text = set(words("".join(pages["library/"].text)))
    assert not set(jaxft.Config.__dataclass_fields__) - text


def test_every_command_has_its_help_on_the_commands_page(pages):
    text = "".join(pages["commands/"].text)
    files = [path for folder in ("jaxft", "convert") for path in (ROOT / folder).rglob("*.py") if is_command(path)]
    assert files
    for path in files:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        assert f"usage: python -m {name} " in text, f"add {name} to COMMANDS in docs/hooks.py"


def test_every_page_is_in_the_navigation_and_every_link_holds(pages):
    reached = set()
    for name, page in pages.items():
        for link in page.links:
            address, anchor = urldefrag(urljoin(f"http://site/{name}", link))
            if address.startswith("http://site/"):
                target = address.removeprefix("http://site/")
                assert target in pages, (name, link)
                assert not anchor or unquote(anchor) in pages[target].ids, (name, link)
                reached |= {target} if name == "" else set()
    assert reached == set(pages)


def test_a_browser_loads_nothing_from_elsewhere(site, pages):
    for name, page in pages.items():
        assert not [address for address in page.loaded if "//" in address], name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"""(@import|url\()\s*["']?(https?:)?//""", sheet.read_text(encoding="utf-8")), sheet
