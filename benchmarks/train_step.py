"""Times a training step: uint8 images and boxes in host memory to updated weights.

    python benchmarks/train_step.py --size=800x1216 --batch=2 --repeats=5

The timed path is that of `train.py` after decoding, resizing and flipping: transfer to
the device, `training.step.make_train_step` with the configuration's frozen parameters,
momentum and weight decay, until state and losses are there. The learning rate is 1e-5,
so that weights hardly move. Weights: see `workload.py`. The fields of the line:
`README.md` beside this.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import record, timing, workload  # noqa: E402
from frcnn_jax.detectors import faster_rcnn  # noqa: E402
from frcnn_jax.training import distributed, optimizer, schedule, step  # noqa: E402
from frcnn_jax.training.state import create  # noqa: E402


def main() -> None:
    parser = workload.parser(__doc__, batch=2)
    parser.add_argument("--boxes", type=int, default=8, help="objects per image")
    asked = parser.parse_args()
    run = workload.load(asked)
    mesh = distributed.make_mesh(asked.devices)
    arrays = workload.arrays(
        np.random.default_rng(asked.seed),
        batch=asked.batch,
        hw=asked.size,
        classes=run.model.num_classes,
        boxes=asked.boxes,
    )
    variables = workload.variables(run.model, asked.size, asked.seed)
    trainable, _ = optimizer.split(variables["params"], run.train.freeze)
    tx = optimizer.make(run.train, schedule.learning_rate(run.train, ()))
    state = distributed.replicate(create(variables, tx, run.train.freeze), mesh)
    train = step.make_train_step(
        faster_rcnn.make(run.model), tx, run.train.freeze, mesh
    )
    key, metrics = jax.random.key(asked.seed), {}

    def call():
        nonlocal state, metrics
        batch = distributed.to_batch(arrays, mesh)
        state, metrics = jax.block_until_ready(train(state, batch, key))

    found = timing.measure(
        call, warmup=asked.warmup, repeats=asked.repeats, profile=asked.profile
    )
    loss = float(metrics["loss"])
    if not math.isfinite(loss):
        raise SystemExit(f"train_step: the loss is {loss}; these times mean nothing")
    figures = {
        **workload.settings(asked),
        "boxes": asked.boxes,
        **timing.figures(found, asked.batch),
        "loss": round(loss, 4),
        "parameters": workload.parameters(state.variables),
        "trainable": sum(leaf.size for leaf in trainable.values()),
        "peak_rss_mb": record.peak_rss_mb(),
        "device": timing.device() | {"count": mesh.size},
    }
    record.emit("train_step", figures, asked.save)


if __name__ == "__main__":
    main()
