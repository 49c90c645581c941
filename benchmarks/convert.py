"""Seconds and memory that `convert.py` needs for a peer's file of full size.

    python benchmarks/convert.py --config=configs/r50_fpn_1x.py --peer-python=PYTHON

A file with mmdetection's names and random values is written first: by torch in its zip
or its old format where `--peer-python` has torch, else as safetensors. `convert.py`
then reads it and writes ours, each time in a process of its own. `median_s` is the
whole process; `imports_s` and `imports_rss_mb` are a process that only imports the
same modules, and `extra_mb` is what converting takes beyond that, in memory.
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

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = "from frcnn_jax.porting import check, source"
TORCH = """
import sys, numpy, torch
arrays = {k: torch.from_numpy(v) for k, v in numpy.load(sys.argv[1]).items()}
zip_format = sys.argv[3] == "zip"
state = {"state_dict": arrays}
torch.save(state, sys.argv[2], _use_new_zipfile_serialization=zip_format)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/r50_fpn_1x.py")
    parser.add_argument("--peer-python", help="an interpreter that has torch")
    parser.add_argument("--format", choices=("zip", "old"), default="zip")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only-write", type=Path, metavar="FILE", help="a source")
    record.add_save(parser)
    asked = parser.parse_args()
    if asked.only_write:
        write_source(asked.config, asked.only_write)
        return
    with tempfile.TemporaryDirectory(prefix="convert_") as folder:
        figures = measure(asked, Path(folder))
    settings = {"config": Path(asked.config).stem, "repeats": asked.repeats}
    record.emit("convert", settings | figures, asked.save)


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Writes the source and converts it; returns the figures."""
    source = source_file(asked, folder)
    command = ["convert.py", source, folder / "ours.safetensors"]
    command.append(f"--config={asked.config}")
    runs = []
    for _ in range(asked.repeats):
        (folder / "ours.safetensors").unlink(missing_ok=True)
        runs.append(timed(command))
    imports = [timed(["-c", IMPORTS]) for _ in range(asked.repeats)]
    seconds, peak = (list(part) for part in zip(*runs, strict=True))
    size = source.stat().st_size / 2**20
    baseline = statistics.median(rss for _, rss in imports)
    extra = statistics.median(peak) - baseline
    return {
        "format": source.suffix if not asked.peer_python else asked.format,
        "file_mb": round(size, 1),
        "median_s": round(statistics.median(seconds), 3),
        "min_s": round(min(seconds), 3),
        "max_s": round(max(seconds), 3),
        "imports_s": round(statistics.median(s for s, _ in imports), 3),
        "imports_rss_mb": round(baseline, 1),
        "extra_mb": round(extra, 1),
        "extra_per_file": round(extra / size, 2),
    }


def source_file(asked: argparse.Namespace, folder: Path) -> Path:
    """A file of mmdetection's names and this configuration's shapes.

    Written by other processes: started programs inherit the memory figure of this one.
    """
    plain = folder / ("peer.npz" if asked.peer_python else "peer.safetensors")
    words = [sys.executable, __file__, f"--config={asked.config}"]
    subprocess.run([*words, f"--only-write={plain}"], check=True)
    if not asked.peer_python:
        return plain
    words = plain, folder / "peer.pth", asked.format
    subprocess.run([asked.peer_python, "-c", TORCH, *map(str, words)], check=True)
    return folder / "peer.pth"


def write_source(config_file: str, place: Path) -> None:
    """Writes random weights in mmdetection's layout."""
    import numpy as np

    from frcnn_jax import cli
    from frcnn_jax.convert import files, peers
    from frcnn_jax.porting import recognition

    model, rng = cli.run_of(config_file).model, np.random.default_rng(0)
    model.num_classes = model.num_classes or 80
    arrays = {
        name: rng.standard_normal(leaf.shape, np.float32)
        for name, leaf in recognition.shapes(model).items()
    }
    state = peers.to_state_dict(arrays, model, "mmdet")
    if place.suffix == ".npz":
        files.save_npz(place, state)
    else:
        files.save(place, state, {})


def timed(words: list) -> tuple[float, float]:
    """Seconds and peak MiB of one Python process."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{words[0]} ended with status {child.returncode}")
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
