"""Presets: one a file, each a value; its docstring says what it reached and how."""

import difflib

from configs.ants_bees import ANTS_BEES
from configs.demo import DEMO
from configs.demo_source import DEMO_SOURCE
from configs.folder import FOLDER
from configs.hotdog import HOTDOG
from jaxft.config import Config
from jaxft.errors import UserError

PRESETS: dict[str, Config] = {
    "demo": DEMO,
    "demo-source": DEMO_SOURCE,
    "folder": FOLDER,
    "hotdog": HOTDOG,
    "ants-bees": ANTS_BEES,
}


def preset(name: str) -> Config:
    """The preset of that name: demo, demo-source, folder, hotdog or ants-bees.

    Raises:
        UserError: there is none.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Presets are {', '.join(PRESETS)}."
        raise UserError(f"{name}: no such preset. {hint} A folder goes behind --data.")
    return PRESETS[name]
