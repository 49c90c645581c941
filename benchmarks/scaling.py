"""What data parallelism costs: the collectives of a training step, and its time.

    python benchmarks/scaling.py --counts=1,2,4,8 --size=320x416 --save

The step of `train.py` is compiled for the first N devices of this machine, with
`--batch` images for each (weak scaling), and the compiled program's own text is read:
how many collectives, of how many bytes, beside the bytes of the parameters that learn
and all bytes that one device touches. Neither figure depends on the machine or, but for
norms that are synchronised, on the image size. On a CPU the devices are virtual and
share its cores, so there `median_ms` says nothing about scaling: N devices have N times
the work for the same cores. `docs/tpu.md` projects other machines from the bytes.
"""

import math
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too
if "JAX_NUM_CPU_DEVICES" not in os.environ:
    os.environ["JAX_NUM_CPU_DEVICES"] = "8"  # before JAX starts; no effect elsewhere

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import record, timing, workload  # noqa: E402
from frcnn_jax.detectors import faster_rcnn  # noqa: E402
from frcnn_jax.training import distributed, optimizer, schedule, step  # noqa: E402
from frcnn_jax.training.state import create  # noqa: E402

KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
# `%x = (f32[64]{0}, f32[]) all-reduce(...)`, or `-start(` where it is asynchronous.
COLLECTIVE = re.compile(rf"= (\(.*?\)|\S+) ({KINDS})(?:-start)?\(")
SHAPE = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")


def main() -> None:
    parser = workload.parser(__doc__, batch=1)
    parser.set_defaults(size=(320, 416))
    parser.add_argument("--boxes", type=int, default=8, help="objects per image")
    parser.add_argument("--counts", default="1,2,4,8", help="numbers of devices")
    asked = parser.parse_args()
    run = workload.load(asked)
    variables = workload.variables(run.model, asked.size, asked.seed)
    trainable, _ = optimizer.split(variables["params"], run.train.freeze)
    numbers = [int(number) for number in asked.counts.split(",")]
    figures = {
        **workload.settings(asked),
        "boxes": asked.boxes,
        "parameters": workload.parameters(variables),
        "trainable_mb": megabytes(sum(leaf.nbytes for leaf in trainable.values())),
        "scaling": [measured(asked, run, variables, number) for number in numbers],
        "device": timing.device(),
    }
    record.emit("scaling", figures, asked.save)


def measured(asked, run, variables, devices: int) -> dict:
    """Collectives and time of one step on so many devices."""
    mesh = distributed.make_mesh(devices)
    if mesh.size != devices:
        raise SystemExit(f"scaling: {devices} devices asked for, {mesh.size} are here")
    tx = optimizer.make(run.train, schedule.learning_rate(run.train, ()))
    state = distributed.replicate(create(variables, tx, run.train.freeze), mesh)
    detector = faster_rcnn.make(run.model)
    train = step.make_train_step(detector, tx, run.train.freeze, mesh)
    arrays = workload.arrays(
        np.random.default_rng(asked.seed),
        batch=asked.batch * devices,
        hw=asked.size,
        classes=run.model.num_classes,
        boxes=asked.boxes,
    )
    key, metrics = jax.random.key(asked.seed), {}
    batch = distributed.to_batch(arrays, mesh)
    compiled = train.lower(state, batch, key).compile()

    def call():
        nonlocal state, metrics
        batch = distributed.to_batch(arrays, mesh)
        state, metrics = jax.block_until_ready(compiled(state, batch, key))

    found = timing.measure(call, warmup=asked.warmup, repeats=asked.repeats)
    if not math.isfinite(loss := float(metrics["loss"])):
        raise SystemExit(f"scaling: the loss is {loss}; these times mean nothing")
    touched = compiled.cost_analysis()["bytes accessed"]
    counted = collectives(compiled.as_text())
    moved = sum(size for _, size in counted.values())
    return {
        "devices": devices,
        "images": asked.batch * devices,
        "collectives": {kind: count for kind, (count, _) in counted.items()},
        "collective_mb": megabytes(moved),
        "share_of_bytes": round(moved / touched, 6),
        "median_ms": timing.figures(found, asked.batch * devices)["median_ms"],
        "loss": round(loss, 4),
    }


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """{kind: (how many, bytes of their results)} in a compiled program's text."""
    found: dict[str, tuple[int, int]] = {}
    for shapes, kind in COLLECTIVE.findall(text):
        count, size = found.get(kind, (0, 0))
        found[kind] = count + 1, size + shape_bytes(shapes)
    return found


def shape_bytes(text: str) -> int:
    """Bytes of all shapes in a piece of a program's text, as "(f32[2,3], bf16[4])"."""
    total = 0
    for kind, sides in SHAPE.findall(text):
        bits = 8 if kind == "pred" else int(re.search(r"\d+", kind)[0])
        total += math.prod(map(int, filter(None, sides.split(",")))) * bits // 8
    return total


def megabytes(count: int) -> float:
    """Bytes in MB of 10^6, as networks are rated."""
    return round(count / 1e6, 3)


if __name__ == "__main__":
    main()
