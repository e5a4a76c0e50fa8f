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
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as SIGINT does; of several processes JAX has it."""
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[Callable[[int], bool]]:
    """Gives a function of the step: whether to stop after it. Ask it once a step.

    Several processes agree on the step, by JAX's preemption service. That has SIGTERM for itself, so that there a
    second SIGTERM counts only once the processes have agreed; SIGINT is passed on to it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda _: False  # Python lets the main thread alone handle signals.
        return
    several = jax.process_count() > 1
    handled = (signal.SIGINT,) if several else SIGNALS
    asked = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        # In a thread, for a Python handler waits until the main thread comes back from XLA.
        while number := int.from_bytes(os.read(reading, 1), "little"):
            if number not in handled:
                continue
            if asked.is_set():
                if sys.stdout.isatty():
                    os.write(sys.stdout.fileno(), SHOW_CURSOR)
                os._exit(128 + number)
            asked.set()
            if several:
                os.kill(os.getpid(), signal.SIGTERM)
            say("stopping after this step, and saving; once more to stop at once")

    def agreed(step: int) -> bool:
        reached = reached_preemption_sync_point(step)
        if reached:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
        return reached

    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in handled}
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield agreed if several else lambda _: asked.is_set()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.write(writing, b"\0")
        watcher.join()
        os.close(reading)
        os.close(writing)
