"""Compiled steps kept from one run to the next, by JAX's own cache."""

import os
import platform
import zlib
from pathlib import Path

import jax

LEAST_SECONDS = 0.05


def keep_compiled(cache_folder: Path) -> None:
    """From now on, look for compiled programs in the cache folder, and keep new ones there.

    JAX_COMPILATION_CACHE_DIR, where it is set, goes before.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder / "compiled" / machine()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def machine() -> str:
    """A name for this kind of CPU: JAX's cache does not tell one from another, whose instructions may be fewer."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # Not Linux.
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{zlib.crc32(flags.encode()):08x}"
