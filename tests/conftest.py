"""Eight CPU devices, shapes checked at run time, rank promotion refused: set before JAX starts."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

import jaxft

jax.config.update("jax_numpy_rank_promotion", "raise")
# Not the config: it checks its own values, with messages that tests read.
MODULES = sorted(Path(jaxft.__path__[0]).glob("*.py"))
CHECKED = [f"jaxft.{module.stem}" for module in MODULES if module.stem not in ("__init__", "config")]
install_import_hook([*CHECKED, "jaxft.data", "convert"], "typecheck.typecheck")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs (data/) and weights (weights/), named by JAXFT_SHARED."""
    folder = os.environ.get("JAXFT_SHARED")
    if not folder:
        pytest.skip("JAXFT_SHARED is not set: it names a folder with real photographs (data/) and weights (weights/)")
    return Path(folder)
