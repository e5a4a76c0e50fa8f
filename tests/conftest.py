"""Eight CPU devices, shapes checked at run time, rank promotion refused: set before JAX starts."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jaxtyping import install_import_hook

import jaxft

jax.config.update("jax_numpy_rank_promotion", "raise")
# Not the config: it checks its own values, with messages that tests read.
MODULES = sorted(Path(jaxft.__path__[0]).glob("*.py"))
CHECKED = [f"jaxft.{module.stem}" for module in MODULES if module.stem not in ("__init__", "config")]
PACKAGES = sorted(init.parent.name for init in Path(jaxft.__path__[0]).glob("*/__init__.py"))
install_import_hook([*CHECKED, *(f"jaxft.{name}" for name in PACKAGES), "convert"], "typecheck.typecheck")


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory):
    """The processes that tests start share what they compile and decode, and nothing of the user's.

    This process has read JAX's setting already.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAXFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


@pytest.fixture(scope="module")
def compiled_once():
    """Every step is compiled once, in this process as in others."""
    folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
    values = {"jax_compilation_cache_dir": folder, "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in values}
    for settings in (values, before):
        for name, value in settings.items():
            jax.config.update(name, value)
        reset_cache()
        if settings is values:
            yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs (data/) and weights (weights/), named by JAXFT_SHARED."""
    folder = os.environ.get("JAXFT_SHARED")
    if not folder:
        pytest.skip("JAXFT_SHARED is not set: it names a folder with real photographs (data/) and weights (weights/)")
    return Path(folder)


@pytest.fixture
def compile_plainly(monkeypatch):
    """Called: from then on a CPU gets the convolutions and pools that other devices get."""

    def plain(*operands, cpu, default):
        return default(*operands)

    return partial(monkeypatch.setattr, jax.lax, "platform_dependent", plain)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and notes what was asked for; /short promises more than it sends."""

    def __init__(self, *args, requests: list[str], **kwargs):
        self.requests = requests
        super().__init__(*args, **kwargs)

    def do_GET(self):
        self.requests.append(self.path)
        if self.path != "/short":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[str, Path, list[str]]]:
    """A server on this machine: its address, the folder that it serves, and the paths that it was asked for."""
    folder, requests = tmp_path / "served", []
    folder.mkdir()
    handler = partial(Handler, directory=str(folder), requests=requests)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder, requests
        httpd.shutdown()


@pytest.fixture
def photos(tmp_path):
    """Twelve noisy pictures of each of two colours to train on; of five to test on, one has the other's colour."""
    rng = np.random.default_rng(0)
    colours = {"hot dogs": (200, 80, 40), "salad": (40, 160, 60)}
    for split, num in (("train", 12), ("val", 5)):
        for name, other in (("hot dogs", "salad"), ("salad", "hot dogs")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(num):
                colour = colours[other if (split, i) == ("val", 4) else name]
                pixels = np.clip(np.array(colour) + rng.normal(0, 40, (48, 40, 3)), 0, 255).astype(np.uint8)
                PIL.Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return tmp_path / "photos"
