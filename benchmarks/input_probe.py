"""What benchmarks/input.py measures in a process of its own: `start` and `memory`. Prints a JSON object."""

import json
import sys
import time
from contextlib import closing
from pathlib import Path

import jax

from jaxft.config import Config, ImageConfig
from jaxft.data.feed import Streamed
from jaxft.data.load import open_splits
from jaxft.data.plan import Keep
from jaxft.data.prepare import Data, load_data, make_feed, stores
from jaxft.parallel import free_memory, local_devices, put_shared

EPOCHS = 3
LIMIT = 50 * 10**9


def open_data(config: Config, cache: Path) -> Data:
    """The set, by the same calls as `python -m jaxft.train`."""
    splits = open_splits(config, cache)
    return load_data(splits, config, Keep(cache, LIMIT), free_memory(local_devices()), lambda *_: None)


def start(folder: str, cache: str) -> dict:
    """Seconds from the folder's name to the first batch on the device."""
    jax.block_until_ready(jax.device_put(0))
    started = time.perf_counter()
    config = Config(data=folder, images=ImageConfig(image_size=224))
    data = open_data(config, Path(cache))
    feed = make_feed(data, config, print)
    sets = stores(data)
    placed = put_shared(sets, local_devices())
    with closing(feed.train(0)) as batches:
        jax.block_until_ready((placed, jax.device_put(next(batches))))
    seconds = time.perf_counter() - started
    num = len(data.train.labels) + len(data.test.labels)
    return {"seconds": seconds, "images": num, "megabytes": sum(f.stat().st_size for f in Path(cache).iterdir()) / 1e6}


def memory(folder: str, cache: str, way: str, size: str) -> dict:
    """Peak memory before, after decoding and after each epoch of batches, in MB."""
    jax.block_until_ready(jax.device_put(0))
    before = peak_megabytes()
    images = ImageConfig(image_size=int(size), canvas=int(size))
    config = Config(data=folder, images=images, input=way)  # pyright: ignore[reportArgumentType]
    data = open_data(config, Path(cache))
    assert isinstance(data.train, Streamed) == (way == "stream")
    feed = make_feed(data, config, print)
    peaks = [peak_megabytes()]
    with closing(feed.train(0)) as batches:
        for _ in range(EPOCHS):
            for _ in range(feed.num_train // config.batch_size):
                jax.block_until_ready(jax.device_put(next(batches)))
            with closing(feed.test()) as tests:
                for batch in tests:
                    jax.block_until_ready(jax.device_put(batch))
            peaks.append(peak_megabytes())
    return {"before": before, "peaks": peaks}


def peak_megabytes() -> float:
    """The most memory that this process has had, in MB: mapped files that lie in memory count."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    result = {"start": start, "memory": memory}[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(result))
