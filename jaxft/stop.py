"""Stopping when asked to: SIGTERM and SIGINT finish the step and save; a second one ends the process at once."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SHOW_CURSOR = b"\x1b[?25h"  # A live line hides it, and an end at once does not bring it back.


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[Callable[[int], bool]]:
    """Gives a function of the step: whether to stop after it. Ask it once a step.

    Several processes agree on the step, by JAX's preemption service. That has SIGTERM for itself, so that there a
    second SIGTERM counts only once the processes have agreed; SIGINT is passed on to it.
    """
    several = jax.process_count() > 1
    asked = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        # In a thread, for a Python handler waits until the main thread comes back from XLA.
        while number := int.from_bytes(os.read(reading, 1), "little"):
            if asked.is_set():
                if sys.stdout.isatty():
                    os.write(sys.stdout.fileno(), SHOW_CURSOR)
                os._exit(128 + number)
            asked.set()
            say("stopping after this step, and saving; once more to stop at once")
            if several:
                os.kill(os.getpid(), signal.SIGTERM)

    handled = (signal.SIGINT,) if several else SIGNALS
    before = {number: signal.signal(number, lambda *_: None) for number in handled}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield reached_preemption_sync_point if several else lambda _: asked.is_set()
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writing, b"\0")
        watcher.join()
        os.close(reading)
        os.close(writing)
