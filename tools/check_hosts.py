"""Trains with several processes on this machine, kills one, and compares with one.

    python tools/check_hosts.py --data=DIR

The same ten steps of a tiny detector run in 1, 2 and 4 processes of one CPU device
each. Losses of every step have to agree to 1e-4 and the scores to 1e-3 with those of
one process. Then one of two processes is killed, the other has to end with code 75 and
say so, and one process, then four, take the run to its end: again the same losses.
One of two is told to stop: both have to save the same step and leave. Last, two
processes score a run with `eval.py` and have to find what training found.
`make hosts` runs it on drawn images.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LOST = 75  # exit code of a process that lost another one
SILENCE = 20  # seconds
TINY = {
    "data.short_sides": (64,),
    "data.max_side": 96,
    "data.eval_short_side": 64,
    "data.threads": 2,
    "data.prefetch": 2,
    "model.backbone.width": 8,
    "model.backbone.stages": ("c2", "c3"),
    "model.fpn.channels": 16,
    "model.fpn.levels": 3,
    "model.rpn.channels": 16,
    "model.rpn.anchor_sizes": ((8.0,), (16.0,), (32.0,)),
    "model.rpn.pre_nms_train": 60,
    "model.rpn.post_nms_train": 30,
    "model.rpn.pre_nms_test": 60,
    "model.rpn.post_nms_test": 30,
    "model.roi.fc": (32, 32),
    "model.roi.samples": 32,
    "model.roi.finest_scale": 14.0,
    "model.roi.score_threshold": 0.001,
    "train.steps": 10,
    "train.warmup_steps": 0,
    "train.milestones": (),
    "train.log_every": 1,
    "train.checkpoint_every": 2,
    "train.eval_every": 0.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder of make_shapes.py")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="check_hosts_") as folder:
        folder, data = Path(folder), os.path.abspath(asked.data)
        one = folder / "one"
        wait(one, start(one, data, 1), [0])
        for count in (2, 4):
            workdir = folder / f"of_{count}"
            wait(workdir, start(workdir, data, count), [0] * count)
            compare(one, workdir, f"{count} processes")
        workdir = folder / "killed"
        after = kill(start(workdir, data, 2), workdir, steps=5)
        print(f"the other process ended {after:.1f} s after the kill, with code {LOST}")
        wait(workdir, start(workdir, data, 1), [0])
        compare(one, workdir, "killed with 2 processes, resumed with 1")
        workdir = folder / "killed_too"
        kill(start(workdir, data, 2), workdir, steps=3)
        wait(workdir, start(workdir, data, 4), [0] * 4)
        compare(one, workdir, "killed with 2 processes, resumed with 4")
        told(folder / "told", data)
        scored(folder / "of_2")


def told(workdir: Path, data: str) -> None:
    """Sends SIGTERM to one of two processes: both have to save the same step."""
    more = ["--config.train.steps=60", "--config.train.checkpoint_every=60"]
    processes = start(workdir, data, 2, *more)
    after_steps(processes, workdir, 5)
    processes[-1].send_signal(signal.SIGTERM)
    begin = time.perf_counter()
    wait(workdir, processes, [128 + signal.SIGTERM] * 2)
    seconds = time.perf_counter() - begin
    saved = max(int(p.name) for p in (workdir / "checkpoints").iterdir())
    print(f"told to stop, both saved step {saved} and left in {seconds:.1f} s")
    wait(workdir, start(workdir, data, 2, *more), [0] * 2)


def scored(workdir: Path) -> None:
    """Scores a run in two processes: the figures of its own last evaluation."""
    out = workdir / "again"
    words = ["eval.py", f"--workdir={workdir}", f"--out={out}"]
    wait(workdir, launch(words, workdir, 2), [0, 0])
    ours, theirs = (json.loads((x / "eval.json").read_text()) for x in (out, workdir))
    if ours != theirs:
        raise SystemExit(f"scored again by two processes: {ours}, not {theirs}")
    print(f"scored again by two processes: AP {ours['AP']:.6f}, all figures equal")


def start(workdir: Path, data: str, count: int, *more: str) -> list[subprocess.Popen]:
    """The processes of one training."""
    words = ["train.py", "--config=configs/demo.py"]
    words += [f"--config.{name}={value}" for name, value in TINY.items()]
    words += [f"--config.data.root={data}", f"--workdir={workdir}", *more]
    return launch(words, workdir, count)


def launch(words: list[str], workdir: Path, count: int) -> list[subprocess.Popen]:
    """Starts a script as several processes; each writes `<workdir>.<process>.log`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, *words]
    if count > 1:
        command += [f"--coordinator={address}", f"--num_processes={count}"]
        command += [f"--lost_after={SILENCE}"]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # a few steps only
    processes = []
    for index in range(count):
        own = [f"--process_id={index}"] if count > 1 else []
        with open(f"{workdir}.{index}.log", "w") as log:
            processes.append(
                subprocess.Popen(
                    [*command, *own], cwd=ROOT, env=env, stdout=log, stderr=log
                )
            )
    return processes


def wait(workdir: Path, processes: list[subprocess.Popen], codes: list[int]) -> None:
    """Waits for all; other exit codes end this program with the last words."""
    found = [process.wait(timeout=600) for process in processes]
    if found != codes:
        for index in range(len(processes)):
            text = Path(f"{workdir}.{index}.log").read_text()
            print(f"process {index}:", *text.splitlines()[-8:], sep="\n  ")
        raise SystemExit(f"exit codes {found}, not {codes}")


def kill(processes: list[subprocess.Popen], workdir: Path, steps: int) -> float:
    """Kills the last process after some steps; seconds until the others ended."""
    after_steps(processes, workdir, steps)
    processes[-1].send_signal(signal.SIGKILL)
    begin = time.perf_counter()
    wait(workdir, processes, [LOST] * (len(processes) - 1) + [-signal.SIGKILL])
    said = Path(f"{workdir}.0.log").read_text()
    if "lost another process" not in said:
        raise SystemExit(f"process 0 does not say what happened:\n{said}")
    return time.perf_counter() - begin


def after_steps(processes: list[subprocess.Popen], workdir: Path, steps: int) -> None:
    """Waits until so many steps are logged."""
    metrics = workdir / "metrics.jsonl"
    while processes[0].poll() is None:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= steps:
            break
        time.sleep(0.02)


def compare(expected: Path, found: Path, what: str) -> None:
    """Prints the largest differences of two runs; ends at larger ones than allowed."""
    ours, theirs = (
        {x["step"]: x["loss"] for x in lines(folder) if "loss" in x}
        for folder in (found, expected)
    )
    if ours.keys() != theirs.keys():
        raise SystemExit(f"{what}: steps {sorted(ours)}, not {sorted(theirs)}")
    loss = max(abs(ours[step] / theirs[step] - 1) for step in theirs)
    ours, theirs = (
        json.loads((folder / "eval.json").read_text()) for folder in (found, expected)
    )
    numbers = [k for k, v in theirs.items() if isinstance(v, float)]
    score = float(np.max([abs(ours[k] - theirs[k]) for k in numbers]))
    print(
        f"{what}: losses of {len(lines(found)) - 1} steps within {loss:.1e}, scores"
        f" within {score:.1e}, AP {ours['AP']:.6f} and {theirs['AP']:.6f}",
        flush=True,
    )
    if loss > 1e-4 or score > 1e-3:
        raise SystemExit(f"{what}: not the run of one process")


def lines(folder: Path) -> list[dict]:
    """The lines of a run's log."""
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


if __name__ == "__main__":
    main()
