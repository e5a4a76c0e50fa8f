"""Evaluation compiled in a thread while the training step is compiled and runs."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import jax

from jaxft.build import Run
from jaxft.data.feed import Feed


@contextmanager
def compiling_evaluation(run: Run, feed: Feed) -> Iterator[Run]:
    """The run with an evaluation that is being compiled; its first call waits for that, and raises what went wrong."""
    # Several processes compile what has collectives in one order; kept features come later, and are soon evaluated.
    if jax.process_count() > 1 or run.frozen is not None:
        yield run
        return
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), run.state)

    def compile_step() -> None:
        with closing(feed.test()) as batches:
            batch = run.put(next(batches))
        run.eval_step.lower(state, batch).compile()

    with ThreadPoolExecutor(1) as beside:
        compiled = beside.submit(compile_step)

        def eval_step(*arguments: Any) -> Any:
            compiled.result()
            return run.eval_step(*arguments)

        yield run._replace(eval_step=eval_step)
