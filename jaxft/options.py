"""Where a run goes and what it keeps: nothing here changes its numbers."""

import re
from dataclasses import dataclass
from pathlib import Path

from jaxft.checks import check
from jaxft.data.cache import GIGABYTE, LIMIT_BYTES
from jaxft.data.plan import Keep
from jaxft.download import cache_folder

KEPT = 2
"""Checkpoints."""
WANDB_PROJECT = r"([^/\\#?%:]+/)?[^/\\#?%:]{1,128}"


@dataclass(frozen=True)
class Options:
    """Where a run goes and what it keeps."""

    out: Path | None = None
    """Run folder; runs/PRESET-DATE-TIME when not given."""
    resume: bool = False
    """Carry on from the newest good checkpoint in --out, with the config of the run there unless one is given; with a
    preset, start the run where there is none yet."""
    force: bool = False
    """With --resume: also where the config or the data have changed."""
    keep: int = KEPT
    """How many of the newest checkpoints are kept, besides the best."""
    save_minutes: float = 10.0
    """A checkpoint is saved at each epoch's end, and so many minutes after the last one."""
    tensorboard: bool = False
    """Write event files for TensorBoard into RUN/tensorboard; tensorboard --logdir runs shows all runs."""
    wandb: str | None = None
    """Log to Weights & Biases: the name of a project there, or TEAM/PROJECT. With WANDB_MODE=offline into RUN/wandb."""
    cache_dir: Path | None = None
    """Where decoded images, compiled steps and downloads are kept; ~/.cache/jaxft when not given."""
    cache: bool = True
    """Keep decoded images and compiled steps for the next run."""
    cache_limit: float = LIMIT_BYTES / GIGABYTE
    """GB of decoded images that are kept; those that no run has used for longest go first."""

    def __post_init__(self) -> None:
        check(self.keep >= 1, f"--keep {self.keep}: must be at least 1.")
        check(self.save_minutes > 0, f"--save-minutes {self.save_minutes}: must be more than 0, e.g. 10.")
        check(self.resume or not self.force, "--force goes with --resume.")
        check(
            self.wandb is None or re.fullmatch(WANDB_PROJECT, self.wandb) is not None,
            f"--wandb {self.wandb}: no name of a project, of at most 128 characters and none of / \\ # ? % :, nor of a "
            "TEAM/PROJECT.",
        )

    @property
    def cache_folder(self) -> Path:
        """The folder that `cache_dir` means."""
        return self.cache_dir or cache_folder()

    @property
    def decoded(self) -> Keep:
        """Where decoded images are kept."""
        folder = self.cache_folder / "decoded" if self.cache else None
        return Keep(folder, round(self.cache_limit * GIGABYTE))
