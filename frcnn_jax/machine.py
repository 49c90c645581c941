"""What a machine has for training: versions, devices, caches, and what is wrong."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from frcnn_jax import __version__
from frcnn_jax.convert import download
from frcnn_jax.training import devices

OPTIONAL = {  # what else may be there, and what for
    "faster-coco-eval": 'eval.backend="faster"',
    "flatbuffers": "tools/export.py",
    "huggingface_hub": "convert.py to hf:OWNER/NAME",
    "tensorboardX": "TensorBoard's log",
    "wandb": "train.wandb",
}
ROOM = 2 * 2**30  # free bytes below which a run is likely to stop


class Line(NamedTuple):
    """One thing looked at."""

    name: str
    found: str
    fault: str = ""  # what is wrong with it and what to do; "" = nothing


def report() -> tuple[str, int]:
    """The whole report for people, and the number of faults."""
    parts = (versions, hardware, caches, options)
    lines = [line for part in parts for line in part()]
    width = max(len(line.name) for line in lines)
    told = [f"{line.name:<{width}}  {line.found}" for line in lines]
    faults = [f"wrong: {line.name}: {line.fault}" for line in lines if line.fault]
    return "\n".join([*told, *(faults or ["nothing is wrong"])]), len(faults)


def versions() -> Iterator[Line]:
    """Python, this package and what it needs, beside the oldest that it runs with."""
    yield Line("frcnn_jax", f"{__version__} in {Path(__file__).parent}")
    yield Line("python", f"{platform.python_version()}, {platform.platform()}")
    for name, least in requirements().items():
        there = version(name)
        if there is None:
            fault = f"is not installed: pip install {name}"
        elif least and numbers(there) < numbers(least):
            fault = f"{there} is older than {least}: pip install --upgrade {name}"
        else:
            fault = ""
        yield Line(name, there or "missing", fault)
    jaxes = version("jax"), version("jaxlib")
    if None not in jaxes and numbers(jaxes[0])[:2] != numbers(jaxes[1])[:2]:
        fault = f"jax {jaxes[0]} with jaxlib {jaxes[1]}: install both of one version"
        yield Line("jaxlib", jaxes[1], fault)


def requirements() -> dict[str, str]:
    """{package: oldest version} of this package's own metadata; {} uninstalled."""
    try:
        listed = importlib.metadata.requires("frcnn_jax") or []
    except importlib.metadata.PackageNotFoundError:
        listed = []
    found = (re.match(r"([\w.-]+)(?:>=([\d.]+))?$", text) for text in listed)
    return {match[1]: match[2] or "" for match in found if match}


def version(package: str) -> str | None:
    """The installed version, None without."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "0.10.2.dev1" gives (0, 10, 2)."""
    return tuple(map(int, re.match(r"\d+(?:\.\d+)*", text)[0].split(".")))


def hardware() -> Iterator[Line]:
    """Cores, memory, and the devices that JAX found, tried with a small product."""
    yield Line("cores", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield Line("memory", gib(memory))
    try:
        found = jax.devices()
    except RuntimeError as error:
        yield Line("devices", "none", devices.first_line(error))
        return
    kind = found[0].platform
    limit = (found[0].memory_stats() or {}).get("bytes_limit")
    names = f"{len(found)} x {found[0].device_kind} ({kind})"
    names += f", {gib(limit)} each" if limit else ""
    falls = [devices.fallback(kind) for kind in ("tpu", "gpu")] if kind == "cpu" else []
    meant = devices.chosen() == "cpu"
    fault = "" if meant else " ".join(text for text in falls if text)
    yield Line("devices", names, fault.removeprefix("warning: "))
    yield tried("device at work", product)


def product() -> str:
    """Speed of a product of float32 matrices."""
    return f"{devices.matmul_gflops('float32'):.0f} GFLOP/s in float32"


def tried(name: str, look: Callable[[], str]) -> Line:
    """What `look` finds, or that it failed."""
    try:
        return Line(name, look())
    except (RuntimeError, OSError) as error:
        return Line(name, "fails", devices.first_line(error))


def caches() -> Iterator[Line]:
    """Where compiled programs and fetched weights are kept, and the room there."""
    programs = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if programs:
        yield folder("compiled programs", Path(programs))
    else:
        advice = "not kept: JAX_COMPILATION_CACHE_DIR=DIR makes later starts quicker"
        yield Line("compiled programs", advice)
    yield folder("fetched weights", download.folder())
    free = shutil.disk_usage(".").free
    fault = f"less than {gib(ROOM)}: checkpoints may not fit" if free < ROOM else ""
    yield Line("free in this folder", gib(free), fault)


def folder(name: str, place: Path) -> Line:
    """A folder with its files and bytes; a fault where nothing can be written."""
    parent = next(p for p in (place, *place.absolute().parents) if p.exists())
    fault = ""
    if not parent.is_dir():
        fault = f"{parent} is a file, where a folder is needed"
    elif not os.access(parent, os.W_OK):
        fault = f"{parent} is not writable"
    if not place.is_dir():
        return Line(name, f"{place} (not made yet)", fault)
    sizes = [p.stat().st_size for p in place.rglob("*") if p.is_file()]
    return Line(name, f"{place}: {len(sizes)} files, {gib(sum(sizes))}", fault)


def options() -> Iterator[Line]:
    """Libraries and programs that something optional needs."""
    for name, use in OPTIONAL.items():
        yield Line(name, f"{version(name) or 'not there'}, for {use}")
    there = shutil.which("ffmpeg") or "not there"
    yield Line("ffmpeg", f"{there}, for predicting on videos")


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size < 2**33 else f"{size / 2**30:.0f} GiB"
