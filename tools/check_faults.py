"""Kills training at random moments and compares what it leaves with a run left alone.

    python tools/check_faults.py [--kills=20] [--seed=0]

Draws a small data set, trains on it once without interruption, then again and again
killed: by SIGKILL, SIGTERM or SIGINT, after a random time, so that loading, steps,
saves and evaluations are all hit; the same command goes on each time. In the end
parameters, optimiser state, scores and logged losses have to be the same, bit for bit.
"""

import argparse
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

from frcnn_jax.data import shapes  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
WAYS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}
STARTS = 1.0  # seconds until Python has surely begun to read train.py
SMALL = "short_sides=(64,) max_side=96 eval_short_side=64 threads=2 prefetch=2".split()


def main(arguments: list[str] | None = None) -> int:
    """Runs the comparison; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    rng, left, faults = random.Random(asked.seed), asked.kills, []
    with tempfile.TemporaryDirectory(prefix="faults_") as name:
        folder = Path(name)
        shapes.write_shapes(folder / "data", train_images=24, val_images=8, seed=0)
        seconds = finish(command(folder, folder / "whole", asked.steps))
        print(f"left alone: {seconds:.1f} s for {asked.steps} steps", flush=True)
        for number in range(asked.kills):
            if left:
                killed = folder / f"killed_{number}"
                words = command(folder, killed, asked.steps)
                left -= kill(words, seconds, left, rng)
                faults += differences(folder / "whole", killed)
    print("\n".join(faults) or "the same bits: checkpoints, scores, logged losses")
    return int(bool(faults or left))


def command(folder: Path, workdir: Path, steps: int) -> list[str]:
    """Training of a narrow detector, saved and scored often."""
    words = [f"--config.data.{word}" for word in SMALL]
    train = f"steps={steps} batch_size=4 epochs=6 milestones=() eval_every=1.0"
    words += [f"--config.train.{word}" for word in train.split()]
    words += ["--config.train.checkpoint_every=3", "--config.train.log_every=1"]
    words += ["--config.train.keep_checkpoints=2", "--config.model.backbone.width=8"]
    data = f"--config.data.root={folder / 'data'}"
    start = [sys.executable, "train.py", "--config=configs/demo.py", data]
    return [*start, *words, f"--workdir={workdir}"]


def environment() -> dict[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu"}


def finish(words: list[str]) -> float:
    """Runs to the end; returns the seconds. Errors: RuntimeError."""
    start = time.monotonic()
    done = subprocess.run(
        words, cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"training ended with {done.returncode}:\n{done.stderr}")
    return time.monotonic() - start


def kill(words: list[str], seconds: float, most: int, rng: random.Random) -> int:
    """Starts and kills, at most so often, until a run ends by itself; gives the kills.

    Errors: RuntimeError for an exit code that no kill explains.
    """
    for hits in range(most + 1):
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        way, wait = rng.choice(WAYS), rng.uniform(STARTS, 0.7 * seconds)
        try:
            _, told = process.communicate(timeout=None if hits == most else wait)
        except subprocess.TimeoutExpired:
            process.send_signal(way)
            _, told = process.communicate(timeout=120)
            print(
                f"{way.name} after {wait:.1f} s: ended with {process.returncode}",
                flush=True,
            )
        if process.returncode == 0:
            return hits
        if process.returncode != CODES[way]:
            raise RuntimeError(f"training ended with {process.returncode}:\n{told}")
    return most


def differences(whole: Path, killed: Path) -> list[str]:
    """What the two folders do not have in common."""
    faults = []
    if (whole / "eval.json").read_text() != (killed / "eval.json").read_text():
        faults.append("eval.json differs")
    if losses(whole) != losses(killed):
        faults.append("logged losses or scores differ")
    newest = max(int(p.name) for p in (whole / "checkpoints").iterdir())
    for kind in (f"checkpoints/{newest}", "best"):
        first, second = arrays(whole / kind), arrays(killed / kind)
        if first != second:
            faults.append(f"{kind} differs")
    return faults


def losses(workdir: Path) -> list[dict]:
    """Every logged line without what measures time."""
    timed = (
        "images_per_s",
        "data_wait",
        "seconds",
        "memory",
        "data_",
        "device_",
        "host_",
    )
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith(timed)}
        for line in lines
    ]


def arrays(folder: Path) -> dict[str, bytes]:
    """All arrays of a checkpoint, read back as bytes."""
    read = (
        "import sys, pickle, jax, orbax.checkpoint as ocp; from pathlib import Path\n"
        "found = {}\n"
        "for part in sorted(Path(sys.argv[1]).rglob('_METADATA')):\n"
        "    tree = ocp.StandardCheckpointer().restore(part.parent)\n"
        "    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):\n"
        "        name = part.parent.name + jax.tree_util.keystr(path)\n"
        "        found[name] = jax.numpy.asarray(leaf).tobytes()\n"
        "sys.stdout.buffer.write(pickle.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", read, str(folder)],
        env=environment(),
        capture_output=True,
        check=True,
    )
    found = pickle.loads(done.stdout)
    if not found:
        raise RuntimeError(f"{folder} holds no arrays")
    return found


if __name__ == "__main__":
    sys.exit(main())
