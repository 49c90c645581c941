"""A profiler's trace of a few training steps."""

from collections.abc import Callable
from pathlib import Path

import jax

FIRST = 4  # the call that begins it: programs are compiled, threads are reading ahead


def traced(step: Callable, count: int, folder: Path) -> Callable:
    """Return `step` with a trace of `count` of its calls in `folder`, from the fourth.

    0 = none. The files are those of `jax.profiler`: TensorBoard's profile page and
    ui.perfetto.dev read them. A run that ends earlier leaves none.
    """
    calls = 0

    def call(*arguments):
        nonlocal calls
        calls += 1
        if calls == FIRST:
            jax.profiler.start_trace(str(folder), create_perfetto_trace=True)
        found = step(*arguments)
        if calls == FIRST + count - 1:
            jax.block_until_ready(found)
            jax.profiler.stop_trace()
            print(f"profile of {count} steps: {folder}", flush=True)
        return found

    return call if count else step
