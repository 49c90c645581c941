"""Which kind of device JAX found, why not the one that was meant, and its speed."""

import functools
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

# What a machine with an accelerator, or made for one, has: device files and packages.
FILES = {
    "gpu": ("proc/driver/nvidia/version", "dev/nvidia0", "dev/kfd"),
    "tpu": ("dev/accel0", "dev/vfio/0"),
}
PACKAGES = {
    "gpu": ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin"),
    "tpu": ("libtpu",),
}
# Convolutions and products by XLA's older CPU kernels: with the newer ones R-50-FPN
# took 1.1 times as long to predict on two cores, which they keep less busy.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
INSTALL = {"gpu": '"jax[cuda13]"', "tpu": '"jax[tpu]"'}


class WrongDevice(ValueError):
    """JAX runs on another kind of device than was asked for, or on none."""


def check(require: str | None = None) -> None:
    """Warns of a fall-back to the CPU; with `require` another kind is an error.

    Starts JAX's backends. Errors: WrongDevice with the cause as JAX tells it, also
    when the platform that JAX_PLATFORMS names does not start (a TPU in use, say).
    """
    try:
        found = jax.devices()[0].platform
    except RuntimeError as error:
        raise WrongDevice(f"no device: {first_line(error)}") from error
    if require not in (None, found):
        raise WrongDevice(
            f"--require={require}, but JAX runs on {found}: {cause(require)}"
        )
    if found != "cpu" or require == "cpu" or chosen():
        return
    for kind in ("tpu", "gpu"):
        if said := fallback(kind):
            print(said, file=sys.stderr, flush=True)


@functools.cache
def compiler_options(platform: str) -> dict[str, str]:
    """Return what makes `jax.jit` compile faster programs for a platform.

    Nothing where this XLA does not know it: such options are experimental.
    """
    if platform != "cpu":
        return {}
    try:
        jax.jit(lambda x: x + 1, compiler_options=CPU_OPTIONS).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return CPU_OPTIONS


def fallback(kind: str, root: Path = Path("/")) -> str:
    """The line to print on the CPU where there are signs of a kind; "" without."""
    seen = signs(kind, root)
    if not seen:
        return ""
    return (
        f"warning: RUNNING ON THE CPU, though there is {' and '.join(seen)}:"
        f" {cause(kind)}. --require={kind} makes this an error, --require=cpu says"
        " that it is meant"
    )


def chosen() -> str:
    """The platforms that the user named for JAX; "" where JAX chooses."""
    named = jax.config.jax_platforms  # type: ignore[attr-defined]
    return named or os.environ.get("JAX_PLATFORMS", "")


def signs(kind: str, root: Path = Path("/")) -> list[str]:
    """Device files under `root` and installed packages that speak for a kind."""
    files = [f"/{name}" for name in FILES[kind] if (root / name).exists()]
    packages = [x for x in PACKAGES[kind] if importlib.util.find_spec(x)]
    return files + [f"the package {name}" for name in packages]


def cause(kind: str) -> str:
    """Why JAX does not run on a kind of device."""
    if kind != "cpu" and not any(map(importlib.util.find_spec, PACKAGES[kind])):
        return f"JAX has no {kind.upper()} support here, pip install {INSTALL[kind]}"
    if chosen():
        return f"JAX_PLATFORMS is {chosen()!r}"
    try:
        jax.devices(kind)
    except RuntimeError as error:
        return first_line(error)
    return f"set JAX_PLATFORMS={'cuda' if kind == 'gpu' else kind}"


def matmul_gflops(dtype: str, seconds: float = 0.05) -> float:
    """GFLOP/s of square matrix products on the first device, the best of a few sizes.

    Sizes double until one product takes `seconds`.
    """
    product, best, side, took = jax.jit(jnp.matmul), 0.0, 1024, 0.0
    while took < seconds and side <= 16384:
        x = jnp.ones((side, side), dtype)
        product(x, x).block_until_ready()
        for _ in range(2):
            start = time.perf_counter()
            product(x, x).block_until_ready()
            took = time.perf_counter() - start
            best = max(best, 2 * side**3 / took / 1e9)
        side *= 2
    return best


def operations(traced: Any) -> float:
    """Floating-point operations of `jax.jit(f).trace(...)`, counted before compiling.

    Counted as for a TPU, whatever is here: on CPUs convolutions in groups are wider
    than they must be, and loops of weight gradients would count once. Loops whose
    length depends on data (suppression, RoIAlign) do count once. The body of a
    shard_map counts with the shapes of one device.
    """
    lowered = traced.lower(lowering_platforms=("tpu",))
    return lowered.cost_analysis()["flops"]


def first_line(error: BaseException) -> str:
    """An error's message up to its first line break."""
    return str(error).partition("\n")[0]
