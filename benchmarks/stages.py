"""Where the time of a prediction or a training step goes, stage by stage.

    python benchmarks/stages.py --mode=infer --size=800x1216 --batch=1
    python benchmarks/stages.py --mode=train --size=800x1216 --batch=2 --boxes=20

Each stage is compiled and timed by itself, on what the stages before it gave; training
stages include their gradients, and frozen weights have none. A stage's floor is the
larger of two times: its operations (XLA's count) at the speed of a large matrix product
on this device, and its inputs, outputs and gradients, touched once, at the speed of a
large copy. Loops whose length depends on data (suppression, RoIAlign) count once, so
their floor is too low (see `devices.operations`). Operations are those of the
definition, of which CPUs do fewer in long 3x3 convolutions (`ops/winograd.py`), so a
stage may be quicker than its floor. `rest_ms` is the whole call less the
stages: what fusing across stages saves is negative. The table goes to standard error,
the line of JSON to standard output.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from benchmarks import record, timing, workload  # noqa: E402
from frcnn_jax import config  # noqa: E402
from frcnn_jax.detectors import faster_rcnn, network, roi, rpn  # noqa: E402
from frcnn_jax.ops import sampling  # noqa: E402
from frcnn_jax.training import (  # noqa: E402
    devices,
    distributed,
    optimizer,
    schedule,
    step,
)
from frcnn_jax.training.state import create  # noqa: E402
from frcnn_jax.types import Batch  # noqa: E402


def options() -> dict[str, str]:
    """Those that training and prediction compile with here."""
    return devices.compiler_options(jax.default_backend())


class Stages:
    """Runs stages one after the other, each compiled alone, and keeps their times."""

    def __init__(self, repeats: int, peak: tuple[float, float]):
        """`peak` is GFLOP/s and GB/s of the device."""
        self.rows: list[dict[str, Any]] = []
        self.repeats, self._peak = repeats, peak

    def time(self, name: str, function: Callable, *args: Any) -> Any:
        """Times `function(*args)` on the device; returns what it gives."""
        traced = jax.jit(function, compiler_options=options()).trace(*args)
        compiled, gflop = traced.lower().compile(), devices.operations(traced) / 1e9
        found, ms = call(lambda: compiled(*args), self.repeats)
        gb = size(jax.tree.leaves((args, found))) / 1e9
        self.add(name, ms, gflop, gb)
        return found

    def add(self, name: str, ms: list[float], gflop: float, gb: float) -> None:
        """Keeps a row."""
        floor = 1e3 * max(gflop / self._peak[0], gb / self._peak[1])
        self.rows.append(
            {
                "stage": name,
                "median_ms": round(statistics.median(ms), 2),
                "min_ms": round(min(ms), 2),
                "max_ms": round(max(ms), 2),
                "gflop": round(gflop, 2),
                "mb": round(gb * 1e3, 1),
                "floor_ms": round(floor, 2),
            }
        )


def call(function: Callable[[], Any], repeats: int) -> tuple[Any, list[float]]:
    """The result, and the milliseconds of each call after the first."""
    done = partial(lambda f: jax.block_until_ready(f()), function)
    return done(), timing.measure(done, warmup=1, repeats=repeats).ms


def size(leaves: list[Any]) -> int:
    """Bytes of arrays, or of their shapes."""
    plain = [x for x in leaves if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return sum(x.size * x.dtype.itemsize for x in plain)


def main() -> None:
    parser = workload.parser(__doc__, batch=1)
    parser.add_argument("--mode", choices=("infer", "train"), default="infer")
    parser.add_argument("--boxes", type=int, default=20, help="objects per image")
    asked = parser.parse_args()
    run = workload.load(asked)
    arrays = workload.arrays(
        np.random.default_rng(asked.seed),
        batch=asked.batch,
        hw=asked.size,
        classes=run.model.num_classes,
        boxes=asked.boxes,
    )
    variables = jax.device_put(workload.variables(run.model, asked.size, asked.seed))
    peak = (devices.matmul_gflops(run.model.dtype), copy_gbs())
    stages = Stages(asked.repeats, peak)
    visit = {"infer": prediction, "train": training}[asked.mode]
    whole = statistics.median(visit(stages, run, variables, arrays))
    total = sum(row["median_ms"] for row in stages.rows)
    figures = {
        **workload.settings(asked),
        "mode": asked.mode,
        "boxes": asked.boxes,
        "repeats": asked.repeats,
        "peak_gflops": round(peak[0], 1),
        "peak_gbs": round(peak[1], 1),
        "stages": stages.rows,
        "whole_ms": round(whole, 2),
        "rest_ms": round(whole - total, 2),
        "device": timing.device(),
    }
    print(table(figures), file=sys.stderr)
    record.emit("stages", figures, asked.save)


def prediction(stages: Stages, run: config.Run, variables, arrays) -> list[float]:
    """Every stage of `detector.predict`; the milliseconds of the whole."""
    model = run.model
    batch = send(stages, arrays)
    features = trunk(stages, model, variables, batch)
    raw = stages.time(
        "RPN head",
        apply(model, "propose_raw"),
        *(only(variables, "rpn"), features, batch.image_hw),
    )
    grid = grid_of(model, features)
    propose = partial(faster_rcnn.propose, grid=grid, model=model, train=False)
    proposals = stages.time(
        "proposals: top-k, decode, NMS", jax.vmap(propose), *raw, batch.image_hw
    )
    crop = partial(faster_rcnn.crop, model=model)
    crops = stages.time("RoIAlign", crop, features, proposals.boxes, batch.image_hw)
    head = only(variables, "box_head")
    outputs = stages.time("box head", apply(model, "classify"), head, crops)
    outputs = per_image(outputs, proposals.valid.shape)
    detect = partial(roi.detect, section=model.roi, convention=model.box_coder)
    found = stages.time(
        "post-processing",
        jax.vmap(detect),
        *(*outputs, proposals, batch.image_hw, batch.scale_xy),
    )
    _, ms = call(lambda: jax.tree.map(fetch, found), stages.repeats)
    stages.add("detections to the host", ms, 0, size(jax.tree.leaves(found)) / 1e9)
    predict = jax.jit(faster_rcnn.make(model).predict, compiler_options=options())
    whole = lambda: distributed.to_host(predict(variables, send_all(arrays)))  # noqa: E731
    return call(whole, stages.repeats)[1]


def training(stages: Stages, run: config.Run, variables, arrays) -> list[float]:
    """Every stage of a training step, gradients included; ms of the whole."""
    model, train = run.model, run.train
    learns, frozen = optimizer.split(variables["params"], train.freeze)
    rest = {k: v for k, v in variables.items() if k != "params"}

    def whole(learned):
        return {**rest, "params": optimizer.join({**learns, **learned}, frozen)}

    def part(*names):
        return {k: v for k, v in learns.items() if k.split("/")[0] in names}

    batch = send(stages, arrays)
    features = trunk(stages, model, whole, batch, part)
    raw = stages.time(
        "RPN head",
        pulled(
            lambda w, maps: apply(model, "propose_raw")(whole(w), maps, batch.image_hw)
        ),
        *(part("rpn"), features),
    )[0]
    key, grid = jax.random.key(0), grid_of(model, features)

    def stage_one(logits, deltas):
        one = partial(
            faster_rcnn.stage_one,
            **{"grid": grid, "model": model, "key": key},
            priority=sampling.random_priority,
        )
        terms, samples, _ = jax.vmap(one)(logits, deltas, image=batch)
        return terms[0].sum() + terms[1].sum(), samples

    name = "RPN targets, losses, proposals, sampling"
    (_, samples), _ = stages.time(
        name, jax.value_and_grad(stage_one, (0, 1), has_aux=True), *raw
    )
    crop = partial(
        faster_rcnn.crop, boxes=samples.boxes, image_hw=batch.image_hw, model=model
    )
    crops = stages.time("RoIAlign", crop, features)
    stages.time(
        "RoIAlign, gradient", lambda m, up: jax.vjp(crop, m)[1](up), features, crops
    )

    def head(learned, crops):
        valid = samples.valid.reshape(-1)
        outputs = apply(model, "classify")(whole(learned), crops, valid, True)
        outputs = per_image(outputs, samples.valid.shape)
        own = partial(roi.loss, section=model.roi, convention=model.box_coder)
        terms = jax.vmap(own)(*outputs, samples)
        return terms[0].sum() + terms[1].sum()

    stages.time("box head and losses", jax.grad(head, (0, 1)), part("box_head"), crops)
    return update(stages, run, variables, arrays, learns)


def update(stages: Stages, run: config.Run, variables, arrays, learns) -> list[float]:
    """The optimiser, then the whole step."""
    tx = optimizer.make(run.train, schedule.learning_rate(run.train, ()))

    def apply_gradients(params, state):
        changes, state = tx.update(params, state, params)  # any numbers will do
        return optax.apply_updates(params, changes), state

    stages.time("optimiser", apply_gradients, learns, tx.init(learns))
    mesh = distributed.make_mesh(1)
    detector, freeze = faster_rcnn.make(run.model), run.train.freeze
    take, key = step.make_train_step(detector, tx, freeze, mesh), jax.random.key(0)
    copied = jax.tree.map(jnp.copy, variables)
    state = distributed.replicate(create(copied, tx, freeze), mesh)

    def one():
        nonlocal state
        state, metrics = take(state, distributed.to_batch(arrays, mesh), key)
        return metrics

    return call(one, stages.repeats)[1]


def trunk(stages: Stages, model: config.FasterRCNN, weights, batch: Batch, part=None):
    """Backbone and pyramid; with `part` their gradients, too, and `weights` joins."""
    pixels = partial(network.normalise, model=model)
    pixels = stages.time("normalise", pixels, batch.images, batch.image_hw)
    net, train = faster_rcnn.Network(model), part is not None

    def backbone(variables, pixels):
        run = lambda net, x: net.backbone(x, masks(net, x, batch), False)  # noqa: E731
        return net.apply(variables, pixels, method=run)

    def pyramid(variables, maps):
        run = lambda net, x: net.fpn(x, inside(net, batch, model, x), False)  # noqa: E731
        return net.apply(variables, maps, method=run)

    if not train:
        maps = stages.time("backbone", backbone, only(weights, "backbone"), pixels)
        if model.fpn is None:
            return tuple(maps[stage] for stage in sorted(maps))
        return stages.time("FPN", pyramid, only(weights, "fpn"), maps)
    forward = lambda w: backbone(weights(w), pixels)  # noqa: E731
    maps = stages.time("backbone", pulled(forward), part("backbone"))[0]
    if model.fpn is None:
        return tuple(maps[stage] for stage in sorted(maps))
    forward = lambda w, maps: pyramid(weights(w), maps)  # noqa: E731
    return stages.time("FPN", pulled(forward), part("fpn"), maps)[0]


def masks(net, pixels, batch: Batch):
    """Which cells belong to the images, as the backbone takes it."""
    return net.masks(pixels.shape[1:3], batch.image_hw, [1, 2, 4, 8, 16, 32])


def inside(net, batch: Batch, model: config.FasterRCNN, maps):
    """The same for the pyramid."""
    found = masks(net, batch.images, batch)
    strides = network.output_strides(model.backbone)
    return found and {stage: found[strides[stage]] for stage in maps}


def apply(model: config.FasterRCNN, method: str) -> Callable:
    """One method of the network as a function of the variables."""
    return partial(faster_rcnn.Network(model).apply, method=method)


def only(variables, part: str):
    """The variables of one part of the network, that no other's bytes are counted."""
    return {
        kind: {part: parts[part]} for kind, parts in variables.items() if part in parts
    }


def pulled(function: Callable) -> Callable:
    """`function` with all its gradients, for outputs that all count one."""

    def both(*args):
        out, pull = jax.vjp(function, *args)
        return out, pull(jax.tree.map(jnp.ones_like, out))

    return both


def grid_of(model: config.FasterRCNN, features) -> rpn.Grid:
    """The anchors of these maps."""
    shapes = [level.shape[1:3] for level in features]
    return rpn.grid(faster_rcnn.anchor_spec(model), shapes, model.cells)


def per_image(outputs, shape):
    """[B * K, ...] as [B, K, ...]."""
    return tuple(x.reshape(*shape, *x.shape[1:]) for x in outputs)


def send(stages: Stages, arrays: dict[str, np.ndarray]) -> Batch:
    """The batch on the device; timed."""
    batch, ms = call(lambda: send_all(arrays), stages.repeats)
    stages.add("batch to the device", ms, 0, size(list(arrays.values())) / 1e9)
    return batch


def send_all(arrays: dict[str, np.ndarray]) -> Batch:
    """A fresh copy, as if the arrays were new."""
    return jax.device_put(Batch(**{k: np.copy(v) for k, v in arrays.items()}))


def fetch(x: jax.Array) -> np.ndarray:
    """A copy on the host that is not kept for the next time."""
    return np.array(x, copy=True)


def copy_gbs(count: int = 2**27) -> float:
    """GB/s read and written by a pass over half a GiB, the best of five."""
    x, add = jnp.ones(count, jnp.float32), jax.jit(lambda x: x + 1)
    _, ms = call(lambda: add(x), 5)
    return 2 * x.nbytes / min(ms) / 1e6


def table(figures: dict[str, Any]) -> str:
    """The stages for people, aligned."""
    whole = figures["whole_ms"]

    def line(stage, median_ms, gflop, mb, floor_ms, **_):
        share, times = median_ms / whole, median_ms / max(floor_ms, 0.01)
        return (
            f"{stage:<42}{median_ms:>9.1f}{share:>7.1%}{gflop:>9.1f}{mb:>8.0f}"
            f"{floor_ms:>9.1f}{times:>9.1f}"
        )

    head = f"{'stage':<42}{'ms':>9}{'share':>7}{'GFLOP':>9}{'MB':>8}{'floor':>9}"
    lines = [head + f"{'x floor':>9}", *(line(**row) for row in figures["stages"])]
    lines.append(f"{'rest':<42}{figures['rest_ms']:>9.1f}")
    lines.append(f"{'whole':<42}{whole:>9.1f}")
    peak = f"{figures['peak_gflops']:.0f} GFLOP/s, {figures['peak_gbs']:.0f} GB/s"
    return "\n".join([*lines, f"peak of this device: {peak}"])


if __name__ == "__main__":
    main()
