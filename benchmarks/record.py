"""A measurement as one line of JSON: what was found, where, with what, and when.

Conventions: every script prints exactly one line on standard output and, with --save,
appends it to `benchmarks/results/<name>.jsonl`; a line is never edited afterwards. The
commit is that of this checkout; results files do not count as changes of it.

Not here: timing (see `timing.py`). Nothing here imports JAX, so a script that only
starts others stays small.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")

Line = dict[str, Any]


def add_save(parser: argparse.ArgumentParser) -> None:
    """Adds `--save`, which takes a folder other than `benchmarks/results` too."""
    parser.add_argument(
        "--save",
        nargs="?",
        const=RESULTS,
        type=Path,
        metavar="DIR",
        help="append the line to DIR/<name>.jsonl (default: benchmarks/results)",
    )


def emit(name: str, figures: Mapping[str, Any], save: Path | None) -> Line:
    """Prints the figures with their surroundings as one line; appends it to a file."""
    line = {"name": name, **figures, **surroundings()}
    text = json.dumps(line)
    print(text, flush=True)
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        with open(save / f"{name}.jsonl", "a", encoding="utf-8") as file:
            file.write(text + "\n")
    return line


def surroundings() -> Line:
    """Machine, versions, commit and date (UTC) of this process."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"machine": machine(), "versions": versions(), **commit(), "date": now}


def machine() -> Line:
    """The processor, its cores, and how busy it has been in the last minute."""
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 0))
    return {
        "cpu": _cpu_model(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(usable(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": platform.system(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Python and the packages that decide speed; None = not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def commit() -> Line:
    """This checkout's commit and whether tracked files differ; None without git.

    Results and pictures of runs before this one, and other documents, do not count.
    """
    sha = _git("rev-parse", "HEAD")
    apart = ":!benchmarks/results", ":!docs"
    changes = _git("status", "--porcelain", "-uno", "--", ".", *apart)
    return {
        "commit": None if sha is None else sha[:12],
        "dirty": None if changes is None else bool(changes),
    }


def _git(*words: str) -> str | None:
    command = ["git", *words]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_rss_mb() -> float:
    """The most memory that this process has held, in MiB.

    Linux hands the figure on to started programs: one started by a larger process
    begins with that process's figure.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def from_process(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> Line:
    """The line that another program prints last; its standard error passes through.

    `environment` is put over this process's. Errors: RuntimeError when the program
    fails or its last line is no JSON object.
    """
    command = [str(word) for word in command]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    name = Path(command[1]).name if len(command) > 1 else command[0]
    if done.returncode:
        raise RuntimeError(f"{name} ended with status {done.returncode}; see above")
    said = done.stdout.strip().splitlines()
    try:
        line = json.loads(said[-1]) if said else None
    except ValueError:
        line = None
    if not isinstance(line, dict):
        raise RuntimeError(f"{name}: its last line is no JSON object: {said[-1:]}")
    return line
