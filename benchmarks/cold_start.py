"""How long a user waits: from the command line to the first picture and the first step.

    python benchmarks/cold_start.py --save
    python benchmarks/cold_start.py --config=configs/demo.py --batch=8

Runs `predict.py` on one picture, with weights of one step, until it names it, and
`train.py` on drawn shapes until its first step is logged, each in a process that starts
from nothing: `cold_s` with an empty folder for JAX's compilation cache, `cached_s` with
the same folder again. `imports_s` is a process that imports the script and ends.
Seconds are medians of `--repeats`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

from benchmarks import record  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/r50_fpn_1x.py")
    parser.add_argument("--batch", type=int, default=2, help="images of a step")
    parser.add_argument("--repeats", type=int, default=3)
    record.add_save(parser)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cold_start_") as place:
        found = measured(asked, Path(place))
    figures = {"config": Path(asked.config).stem, "batch": asked.batch}
    figures |= {"dtype": "float32", "repeats": asked.repeats}
    record.emit("cold_start", figures | found, asked.save)


def measured(asked: argparse.Namespace, place: Path) -> dict[str, dict]:
    """Figures of both scripts."""
    words = ["--train=8", "--val=2", "--seed=0"]
    script("tools/make_shapes.py", f"--out={place / 'data'}", *words)
    picture = place / "data" / "images" / "val_0000.jpg"
    config, classes = f"--config={asked.config}", "--config.model.num_classes=5"
    train = ["train.py", config, f"--config.data.root={place / 'data'}", classes]
    train += ["--config.data.train=train", "--config.data.val=val"]
    train += [f"--config.train.batch_size={asked.batch}", "--config.train.steps=1"]
    train += ["--config.train.log_every=1", "--config.init.load="]
    script(*train, f"--workdir={place / 'run'}")  # for a checkpoint to predict with
    predict = ["predict.py", f"--workdir={place / 'run'}", str(picture)]
    predict += [f"--out={place / 'found'}"]
    return {
        "predict": waits(predict, f"{picture}: ", place / "predict", asked.repeats),
        "train": waits(train, "step 1/1", place / "train", asked.repeats),
    }


def waits(words: list[str], until: str, place: Path, repeats: int) -> dict:
    """Seconds until a line of a script begins with `until`."""
    module = Path(words[0]).stem
    imports = [script("-c", f"import {module}") for _ in range(repeats + 1)][1:]
    found = {"imports_s": round(statistics.median(imports), 2)}
    for kind in ("cold", "cached"):
        seconds = []
        for turn in range(repeats):
            cache = place / (str(turn) if kind == "cold" else "0")
            own = [f"--workdir={place / kind / str(turn)}"] * (module == "train")
            seconds.append(time_until(until, [*words, *own], cache))
        found[f"{kind}_s"] = round(statistics.median(seconds), 2)
        found[f"{kind}_all_s"] = [round(s, 2) for s in seconds]
    return found


def time_until(until: str, words: list[str], cache: Path | None = None) -> float:
    """Seconds from the start of a script to a line; the script is ended there.

    Errors: RuntimeError where it ends without that line.
    """
    start, said = time.perf_counter(), []
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=record.ROOT,
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        for line in run.stdout:
            said.append(line)
            if line.startswith(until):
                seconds = time.perf_counter() - start
                run.kill()
                return seconds
    raise RuntimeError(f"{words[0]} never said {until!r}: {''.join(said[-5:])}")


def script(*words: str) -> float:
    """Seconds of a whole process."""
    start = time.perf_counter()
    command = [sys.executable, *words]
    subprocess.run(
        command, cwd=record.ROOT, env=environment(None), check=True, stdout=sys.stderr
    )
    return time.perf_counter() - start


def environment(cache: Path | None) -> dict[str, str]:
    """With a compilation cache in a folder, or without one."""
    own = {"PYTHONPATH": str(record.ROOT), "JAX_COMPILATION_CACHE_DIR": str(cache)}
    own |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    own |= {"JAX_ENABLE_COMPILATION_CACHE": "false" if cache is None else "true"}
    return {**os.environ, **own}


if __name__ == "__main__":
    main()
