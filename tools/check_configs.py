"""One true training step and one prediction of every architecture, on small images.

    python tools/check_configs.py                    # all, some minutes
    python tools/check_configs.py --part=3/16        # the third of sixteen parts
    python tools/check_configs.py --names r50_fpn_1x jwyang_vgg16_800

The networks are whole, only the canvas is small. Checks that losses are finite, that
what learns moves and what is frozen stays, and that detections have their shapes.
"""

import argparse
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs uninstalled too

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import architectures, workload  # noqa: E402
from frcnn_jax import build, config  # noqa: E402
from frcnn_jax.training import distributed, optimizer, step  # noqa: E402
from frcnn_jax.training.loop import Plan  # noqa: E402

CANVAS = (96, 128)


def check(name: str) -> str:
    """Runs one architecture; returns a line about it.

    Errors: AssertionError saying what is wrong.
    """
    start = time.perf_counter()
    run = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()
    run.train.batch_size, run.train.warmup_steps = 1, 0
    mesh = distributed.make_mesh(1)
    once, rate = frozenset({1}), run.train.lr
    plan = Plan(1, float, lambda _: rate, once, once)
    state, tx = build.training_state(run, mesh, plan, load=False)
    before = jax.tree.map(np.asarray, state.variables["params"])
    rng, classes = np.random.default_rng(0), run.model.num_classes
    arrays = workload.arrays(rng, batch=1, hw=CANVAS, classes=classes, boxes=3)
    batch = distributed.to_batch(arrays, mesh)
    detector = build.detector(run.model)
    train_step = step.make_train_step(detector, tx, run.train.freeze, mesh)
    state, metrics = train_step(state, batch, jax.random.key(0))
    loss = float(metrics["loss"])
    assert np.isfinite(loss) and loss > 0, f"loss {loss}"
    after = jax.tree.map(np.asarray, state.variables["params"])
    _check_moves(before, after, run.train)
    found = step.make_predict_step(detector, mesh)(state.variables, batch)
    _check_detections(found, run.model)
    count = sum(x.size for x in jax.tree.leaves(before))
    seconds = time.perf_counter() - start
    return f"{name}: {count / 1e6:.1f} M parameters, loss {loss:.3f}, {seconds:.0f} s"


def _check_moves(before, after, train: config.Train) -> None:
    """Kernels that learn have moved; what is frozen has not."""
    learns, frozen = optimizer.split(before, train.freeze)
    now = {**optimizer.split(after, train.freeze)[0]}
    still = [k for k, v in learns.items() if k.endswith("/kernel") and _same(v, now[k])]
    assert not still, f"did not learn: {', '.join(still[:3])}"
    now = optimizer.split(after, train.freeze)[1] if frozen else {}
    moved = [k for k, v in frozen.items() if not _same(v, now[k])]
    assert not moved, f"frozen but moved: {', '.join(moved[:3])}"


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a == b).all())


def _check_detections(found, model: config.FasterRCNN) -> None:
    most = model.roi.max_detections
    shapes = tuple(x.shape for x in found)
    assert shapes == ((1, most, 4), (1, most), (1, most)), f"shapes {shapes}"
    assert all(np.isfinite(np.asarray(x)).all() for x in found), "not finite"
    assert int(found.labels.max()) <= model.num_classes, "labels beyond the classes"


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks the architectures that the command line names; returns the status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", nargs="+", default=architectures.CONFIGS)
    parser.add_argument("--part", default="1/1", metavar="K/N", help="one of N parts")
    asked = parser.parse_args(arguments)
    part, parts = map(int, asked.part.split("/"))
    failed = False
    for name in asked.names[(part - 1) % parts :: parts]:
        try:
            print(check(name), flush=True)
        except AssertionError as error:
            print(f"{name}: {error}", flush=True)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
