"""What saving costs a training run: seconds that it blocks, and seconds until whole.

    python benchmarks/checkpoint.py --config=configs/r50_fpn_1x.py --step-ms=7700

Saves a whole training state, parameters and momentum, as `train.py` does: the copy off
the device blocks, writing goes on beside the next steps. `share_percent` compares the
blocking, and the processor time of all of it, with `--every` steps of `--step-ms` each
(take it from `train_step.py` on the same machine).
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

from benchmarks import record  # noqa: E402
from frcnn_jax import build, cli  # noqa: E402
from frcnn_jax.training import optimizer  # noqa: E402
from frcnn_jax.training.checkpoint import Checkpoints  # noqa: E402
from frcnn_jax.training.state import create  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/r50_fpn_1x.py")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--every", type=int, default=500, help="steps between saves")
    parser.add_argument("--step-ms", type=float, required=True)
    record.add_save(parser)
    asked = parser.parse_args()
    run = cli.run_of(asked.config)
    run.model.num_classes = run.model.num_classes or 80
    tx = optimizer.make(run.train, lambda step: 0.01)
    state = jax.block_until_ready(
        create(build.fresh_variables(run), tx, run.train.freeze)
    )
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 2**20
    blocked, whole, processor = measure(state, asked.repeats)
    between = asked.every * asked.step_ms / 1e3
    figures = {
        "config": Path(asked.config).stem,
        "state_mb": round(size, 1),
        "blocked_s": round(statistics.median(blocked), 3),
        "whole_s": round(statistics.median(whole), 3),
        "processor_s": round(statistics.median(processor), 3),
        "every": asked.every,
        "step_ms": asked.step_ms,
        "blocked_share_percent": round(100 * statistics.median(blocked) / between, 4),
        "share_percent": round(100 * statistics.median(processor) / between, 4),
    }
    record.emit("checkpoint", figures, asked.save)


def measure(state, repeats: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds blocked, until written, and of the processor, of each save."""
    blocked, whole, processor = [], [], []
    with tempfile.TemporaryDirectory(prefix="checkpoint_") as folder:
        with Checkpoints(folder, keep=2) as saves:
            for number in range(repeats):
                state = state._replace(step=jax.numpy.int32(number))
                start, cpu = time.perf_counter(), time.process_time()
                saves.save(state)
                blocked.append(time.perf_counter() - start)
                saves.wait()
                whole.append(time.perf_counter() - start)
                processor.append(time.process_time() - cpu)
    return blocked, whole, processor


if __name__ == "__main__":
    main()
