"""Finished runs to report on, made without training: drawn photographs, a random network, records of a made-up loop."""

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import PIL.Image

import jaxft
from convert.pretrained import load_pretrained
from jaxft.config import Config, ImageConfig, ModelConfig
from jaxft.data.load import open_splits
from jaxft.model_file import describe_model, save_model
from jaxft.records import Record
from jaxft.report.summary import summarise
from jaxft.run_folder import describe, write_records

HOSTILE = (
    '<script>alert("1")<∕script>',
    "a & 'b' <b>",
    "نحل عسل \u202e",
    "bees 🐝 with a name that goes on and on and on",
)


def write_photos(folder: Path, names: Sequence[str], num_train: int, num_test: int) -> Path:
    """Noise in each class's own colour; the files' names would be markup too."""
    rng = np.random.default_rng(0)
    for split, num in (("train", num_train), ("val", num_test)):
        for name in names:
            (folder / split / name).mkdir(parents=True)
            colour = rng.integers(30, 220, 3)
            for i in range(num):
                pixels = np.clip(colour + rng.normal(0, 30, (40, 48, 3)), 0, 255).astype(np.uint8)
                PIL.Image.fromarray(pixels).save(folder / split / name / f"<img src=x onerror=alert(1)> '{i}\".png")
    return folder


def records(num_epochs: int, accuracy: float) -> list[Record]:
    """A loop that learns slowly, five windows an epoch, and ends with this test accuracy."""
    found = []
    for epoch in range(1, num_epochs + 1):
        for window in range(1, 6):
            at = epoch - 1 + window / 5
            found.append(Record(5 * (epoch - 1) + window, at, "train", 2 / (1 + at), at / (1 + at), 70.0))
        last = epoch == num_epochs
        found.append(Record(5 * epoch, epoch, "test", 1.8 / epoch, accuracy if last else epoch / 20, 90.0))
    return found


def write_run(out: Path, data: Path, accuracy: float, *, num_epochs: int = 4, image_size: int = 32) -> Path:
    """The folder of a run on the photographs in `data`: the demo's network with a head at random."""
    images = ImageConfig(image_size=image_size, augment=("crop", "flip", "mixup"))
    config = Config(data=str(data), model=ModelConfig(width=16, weights="demo"), images=images, epochs=num_epochs)
    names = open_splits(config, out).train.class_names
    found = records(num_epochs, accuracy)
    variables = load_pretrained(config.model, out).variables  # pyright: ignore[reportOptionalMemberAccess]
    head = {"kernel": np.random.default_rng(3).normal(0, 0.3, (128, len(names))).astype(np.float32)}
    out.mkdir()
    bias = np.zeros(len(names), np.float32)
    for _ in range(2):
        params = variables["params"] | {"fc": head | {"bias": bias}}
        save_model(out / "model.safetensors", variables | {"params": params}, describe_model(config, names))
        # Each class is as likely as any other, on average, so that all are predicted.
        bias = -np.log(jaxft.load(out).predict(sorted(data.glob("train/*/*"))[:64])).mean(0)
    describe(out, config, names)
    write_records(out, found)
    (out / "summary.json").write_text(json.dumps(summarise(found, 250.0, jax.local_devices(), config)))
    return out


class Page(HTMLParser):
    """What a browser finds in a page: its text, every element with its attributes, and the rows of its tables."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self.raw = ""
        self.in_cell = False
        self.feed(html)

    @property
    def text(self) -> str:
        """All text, its white space single blanks, outside of style and script."""
        return " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.raw = tag if tag in ("style", "script") else ""
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True
        if tag in ("br", "small", "p", "td", "th", "dt", "dd", "li", "figcaption"):
            self.words.append(" ")

    def handle_endtag(self, tag):
        if tag == self.raw:
            self.raw = ""
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data):
        if self.raw:
            return
        self.words.append(data)
        if self.in_cell:
            self.tables[-1][-1][-1] += data.strip()

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of this kind."""
        return [attributes for name, attributes in self.elements if name == tag]
