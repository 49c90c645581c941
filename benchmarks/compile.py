"""Seconds to compile the two programs of a detector, cold and from the cache on disk.

    python benchmarks/compile.py --size=800x1216 --batch=1

Runs `inference.py` and `train_step.py`, each twice in a process of its own with the
same new JAX compilation cache: the first process compiles, the second one reads. Of
`--rounds` such pairs the medians count. Other options than the ones below go to both
scripts, which print a line each. `first_call_s` holds tracing, lowering, compiling (or
reading) and the first run, which is slower than later ones, of `step_ms`. `compile_s`
is the compiling alone. A last process compiles under a profiler, which says what XLA's
time went into (`xla`; {} where its events have other names, as on GPUs).
"""

import argparse
import gzip
import json
import re
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

from benchmarks import record, timing  # noqa: E402

HERE = Path(__file__).resolve().parent
SCRIPTS = {"infer": HERE / "inference.py", "train": HERE / "train_step.py"}
# Events of XLA's compiler for CPUs, none inside another but in the first.
EVENTS = {
    "whole_s": r"PjRtCpuClient::Compile",
    "passes_s": r"HLO passes .* \(jit_.*\)",  # over the program, fusing among them
    "kernels_s": r"ThunkEmitter::(EmitEntryComputation|ConsumeKernels)",  # written
    "code_s": r"JitCompiler::Compile",  # machine code of the kernels
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=("infer", "train", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=3)
    record.add_save(parser)
    asked, options = parser.parse_known_args()
    modes = SCRIPTS if asked.mode == "both" else (asked.mode,)
    same = ("config", "size", "batch", "dtype", "precision", "device")
    for mode in modes:
        figures, seen = cold_and_cached(SCRIPTS[mode], options, asked.rounds)
        record.emit("compile", {k: seen[k] for k in same} | {mode: figures}, asked.save)


def cold_and_cached(script: Path, options: list[str], rounds: int) -> tuple[dict, dict]:
    """The figures of one script's program, and the last line that it printed.

    Parts of a first call are those of the round whose first call is the median.
    """
    command = [sys.executable, script, *options, "--warmup=1", "--repeats=1"]
    found: dict[str, list[dict]] = {"cold": [], "cached": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="compilation_cache_") as folder:
            environment = {
                "JAX_COMPILATION_CACHE_DIR": folder,
                "JAX_ENABLE_COMPILATION_CACHE": "true",
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
            for lines in found.values():
                lines.append(record.from_process(command, environment))
    last = found["cached"][-1]
    later = [line["median_ms"] for lines in found.values() for line in lines]
    figures = {"programs": last["programs"], "step_ms": statistics.median(later)}
    for name, lines in found.items():
        lines.sort(key=lambda line: line["first_call_s"])
        middle = lines[(rounds - 1) // 2]
        figures |= {f"{name}_{k}": middle[k] for k in ("first_call_s", *timing.PARTS)}
        figures[f"{name}_all_s"] = [line["first_call_s"] for line in lines]
    return figures | {"xla": under_profiler(command)}, last


def under_profiler(command: list) -> dict:
    """Seconds of the parts of XLA's compiling, and how many kernels it compiled."""
    uncached = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    with tempfile.TemporaryDirectory(prefix="profile_") as folder:
        record.from_process([*command, f"--profile={folder}"], uncached)
        (trace,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    timed = [event for event in events if event.get("ph") == "X"]
    found: dict[str, float] = {}
    for name, pattern in EVENTS.items():
        parts = [x["dur"] for x in timed if re.fullmatch(pattern, x["name"])]
        found |= {name: round(sum(parts) / 1e6, 3)} if parts else {}
    symbols = [int(x.get("args", {}).get("num_symbols", 0)) for x in timed]
    return found and {**found, "kernels": sum(symbols)}


if __name__ == "__main__":
    main()
