"""Writes `format_N.zip` here: a tiny run's folder as the version of that format leaves it.

    PYTHONPATH=CHECKOUT python tests/golden/checkpoints/make.py N

CHECKOUT is this project at that time: 1 is 23 Nov 2026 ("First light"), 2 is 25 Nov
2026 before checkpoints told their format. The tests take the numbers from here.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

TRAIN = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "clip_norm": 35.0}
STEP, SKIPPED = 7, 2


def numbers(shape, start) -> jax.Array:
    """Eighths from `start` on, exact in float32."""
    return jnp.float32(start + np.arange(np.prod(shape)).reshape(shape) / 8)


def variables():
    trunk = {"kernel": numbers((2, 3), 1), "bias": numbers((3,), -1)}
    params = {"trunk": trunk, "head": {"kernel": numbers((3, 1), 5)}}
    return {"params": params, "batch_stats": {"trunk": {"mean": numbers((3,), 9)}}}


def optimiser_state():
    """Of the shapes that SGD has, with numbers of our own."""
    from frcnn_jax import config
    from frcnn_jax.training import optimizer

    make = getattr(optimizer, "make", None) or optimizer.sgd
    trainable, _ = optimizer.split(variables()["params"], ())
    state = make(config.Train(**TRAIN), lambda step: 0.1).init(trainable)
    leaves, shape = jax.tree.flatten(state)
    leaves = [numbers(x.shape, i).astype(x.dtype) + STEP for i, x in enumerate(leaves)]
    return jax.tree.unflatten(shape, leaves)


def main(number: str) -> None:
    from frcnn_jax.training.checkpoint import Checkpoints
    from frcnn_jax.training.state import TrainState

    counts = {"skipped": jnp.int32(SKIPPED)} if "skipped" in TrainState._fields else {}
    state = TrainState(
        step=jnp.int32(STEP),
        variables=variables(),
        opt_state=optimiser_state(),
        **counts,
    )
    with tempfile.TemporaryDirectory() as name:
        with Checkpoints(name, keep=2) as saved:
            saved.save(state)
        target = Path(__file__).with_name(f"format_{number}.zip")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(Path(name).rglob("*")):
                file.write(path, path.relative_to(name))
    print(target, target.stat().st_size, "bytes")


if __name__ == "__main__":
    main(sys.argv[1])
