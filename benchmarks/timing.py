"""How long a call takes: the first one, which compiles, and the ones after it.

Conventions: a call returns when its work is finished, transfers included; wall time in
milliseconds, compilation in seconds. Calls follow each other without overlap, so the
figures are latencies; images/s is the batch divided by the median.

Not here: what is called (see `inference.py` and `train_step.py`).
"""

import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

# Parts of a first call as JAX reports them; the last one also when read from a cache.
PARTS = {
    "trace_s": "/jax/core/compile/jaxpr_trace_duration",
    "lower_s": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "compile_s": "/jax/core/compile/backend_compile_duration",
}


class Timing(NamedTuple):
    """What `measure` found."""

    first_s: float  # the first call: tracing, compiling, running
    parts: dict[str, float]  # of it, those of PARTS
    programs: int  # compiled or read from the cache over all calls
    ms: list[float]  # wall time of each timed call
    cpu_ms: list[float]  # processor time of all threads in each timed call


def measure(
    call: Callable[[], Any], *, warmup: int, repeats: int, profile: Path | None = None
) -> Timing:
    """Times `repeats` calls after `warmup` others, the first of which compiles.

    With `profile` that folder gets a profiler's trace of the first one, which costs it
    some time. Errors: ValueError without a warm-up or without a call to time.
    """
    if min(warmup, repeats) < 1:
        raise ValueError(
            f"warm-up {warmup} and repeats {repeats}: both must be 1 or more"
        )
    seen: dict[str, list[float]] = {event: [] for event in PARTS.values()}

    def listen(event: str, seconds: float, **_) -> None:
        if event in seen:
            seen[event].append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        start = time.perf_counter()
        with _profiled(profile):
            call()
        first_s = time.perf_counter() - start
        # A function traced inside another one reports too, so the longest is the whole.
        parts = {name: max(seen[event], default=0.0) for name, event in PARTS.items()}
        for _ in range(warmup - 1):
            call()
        pairs = [_timed(call) for _ in range(repeats)]
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    ms, cpu_ms = (list(column) for column in zip(*pairs, strict=True))
    return Timing(first_s, parts, len(seen[PARTS["compile_s"]]), ms, cpu_ms)


def _profiled(folder: Path | None) -> contextlib.AbstractContextManager[None]:
    if folder is None:
        return contextlib.nullcontext()
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Python's own calls would fill the trace
    return jax.profiler.trace(folder, profiler_options=options)


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    call()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return wall * 1e3, processor * 1e3


def figures(timing: Timing, batch: int) -> dict[str, Any]:
    """The numbers of a line of results; `min_cpu_ms` tells a busy machine from slow."""
    median = statistics.median(timing.ms)
    return {
        "repeats": len(timing.ms),
        "median_ms": round(median, 3),
        "min_ms": round(min(timing.ms), 3),
        "max_ms": round(max(timing.ms), 3),
        "min_cpu_ms": round(min(timing.cpu_ms), 3),
        "images_per_s": round(batch * 1e3 / median, 3),
        "first_call_s": round(timing.first_s, 3),
        **{name: round(seconds, 3) for name, seconds in timing.parts.items()},
        "programs": timing.programs,
        "compilation_cache": bool(jax.config.jax_compilation_cache_dir),
    }


def device() -> dict[str, Any]:
    """The first device, and its memory in MiB where it keeps count."""
    first = jax.local_devices()[0]
    stats = first.memory_stats() or {}
    memory = {
        name.replace("bytes", "mb"): round(stats[name] / 2**20, 1)
        for name in ("peak_bytes_in_use", "bytes_in_use", "bytes_limit")
        if name in stats
    }
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "memory": memory or None,
    }
