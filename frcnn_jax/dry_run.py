"""What a training would need, found by compiling its programs; no picture is read.

Programs are compiled for shapes only, so that neither weights nor images are in memory.
What the configuration leaves to the data, `with_data` fills in from annotations that
are there; else what is assumed instead is said:
`ASSUMED_BOXES` rows of ground truth, COCO's number of images for a split of its name,
and one canvas per orientation that holds every image.
"""

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from frcnn_jax import build, config
from frcnn_jax.data import batching
from frcnn_jax.terminal import Part, Rows, duration
from frcnn_jax.training import devices, loss_scale, optimizer, step
from frcnn_jax.training.distributed import AXIS
from frcnn_jax.training.state import create
from frcnn_jax.types import Batch

ASSUMED_BOXES = 96  # rows per image where the data would decide
TIGHT = 0.9  # share of the memory from which on a run is said not to fit
# Images of COCO's training split, and those with objects: its publishers' files.
COCO_IMAGES = {"train2017": (118287, 117266)}


class Program(NamedTuple):
    """One compiled program."""

    name: str  # "train 800x1344"
    gflops: float  # over all devices, loops of unknown length counted once
    memory: int  # bytes on each device, arguments included
    seconds: float  # to trace and compile


class Needs(NamedTuple):
    """What a run would take."""

    parameters: int
    trainable: int
    programs: tuple[Program, ...]
    memory: int  # bytes there on each device
    memory_of: str  # "device" or "host"
    steps: int | None  # None: only the data could tell
    peak: float  # GFLOP/s of a matrix product, all devices together
    notes: tuple[str, ...]  # what was assumed


def with_data(run: config.Run) -> config.Run:
    """The run with what its data decides: classes, canvases, rows of boxes, steps.

    Canvases are those of training, which prediction is taken to have too. The same run
    where `data.root` is not there. Errors: those of reading the annotations.
    """
    if not run.data.root or not Path(run.data.root).exists():
        return run
    run, data, _ = build.datasets(run)
    batches = build.train_batches(run, data, 0)
    found: dict[str, Any] = {"max_boxes": batches.max_boxes}
    if not run.data.crop:
        found["buckets"] = batches.buckets
    total = build.plan(run, batches.schedule).total
    batches.close()
    return dataclasses.replace(
        run,
        data=dataclasses.replace(run.data, **found),
        train=dataclasses.replace(run.train, steps=total),
    )


def needs(run: config.Run, mesh: Mesh) -> Needs:
    """Compiles every program of a run and measures the speed of its devices.

    Errors: `model.num_classes` 0, or a batch that does not divide by the devices.
    """
    if not run.model.num_classes:
        raise ValueError(
            "model.num_classes is 0 (taken from the data), and data.root is not there:"
            " set --config.data.root=DIR or --config.model.num_classes=N"
        )
    (canvases, notes), (steps, note) = buckets(run.data), count_steps(run)
    if not run.data.max_boxes:
        notes += (f"{ASSUMED_BOXES} rows of boxes an image (data.max_boxes is 0)",)
    state, trainable, take = training(run, mesh)
    programs = compile_all(run, mesh, canvases, state, take)
    there, of = memory(mesh)
    # The CPU devices of a process share its cores.
    alone = mesh.devices.flat[0].platform != "cpu"
    workers = mesh.size if alone else mesh.size // len(mesh.local_devices)
    return Needs(
        parameters=sum(x.size for x in jax.tree.leaves(state.variables["params"])),
        trainable=trainable,
        programs=programs,
        memory=there,
        memory_of=of,
        steps=steps,
        peak=devices.matmul_gflops(run.model.dtype) * workers,
        notes=(*notes, *([note] if note else [])),
    )


def compile_all(run: config.Run, mesh: Mesh, canvases, state, take) -> tuple:
    """The `Program` of training and of prediction for each canvas."""
    rows = run.data.max_boxes or ASSUMED_BOXES
    key = jax.eval_shape(lambda: jax.random.key(0))
    predict = step.make_predict_step(build.detector(run.model), mesh)
    eval_size = -(-run.eval.batch_size // mesh.size) * mesh.size
    found = []
    for hw in training_canvases(run.data, canvases):
        batch = batch_shapes(hw, run.train.batch_size, rows, mesh)
        found.append(compiled("train", hw, mesh, take, state, batch, key))
    for hw in canvases:
        batch = batch_shapes(hw, eval_size, rows, mesh)
        found.append(compiled("predict", hw, mesh, predict, state.variables, batch))
    return tuple(found)


def buckets(data: config.Data) -> tuple[tuple, tuple[str, ...]]:
    """The canvases of a run, and a note where the data would make them tighter."""
    if data.buckets:
        return data.buckets, ()
    sides = max(*data.short_sides, data.eval_short_side), data.max_side
    low, high = sorted(
        -(-side // batching.MULTIPLE) * batching.MULTIPLE for side in sides
    )
    found = tuple(dict.fromkeys([(low, high), (high, low)]))
    return found, ("one canvas per orientation; the data may allow tighter ones",)


def training_canvases(data: config.Data, canvases: tuple) -> tuple:
    """Those of training: the crop alone where `data.crop` is set."""
    return (tuple(data.crop),) if data.crop else canvases


def count_steps(run: config.Run) -> tuple[int | None, str]:
    """Steps of the whole run, and where their number comes from."""
    train = run.train
    if train.steps:
        return train.steps, ""
    known = COCO_IMAGES.get(run.data.train)
    if known is None or run.data.classes or run.data.image_ids:
        return None, (
            f"number of steps unknown: {train.epochs:g} epochs of data that is not"
            " read; set train.steps to have it"
        )
    images = known[0] if run.data.keep_empty else known[1]
    images = round(images * run.data.fraction)
    steps = batching.Schedule(np.zeros(images, int), train.batch_size, 0)
    return steps.epoch_start(train.epochs), (
        f"steps for {train.epochs:g} epochs of COCO's {images} images"
    )


def training(run: config.Run, mesh: Mesh) -> tuple[Any, int, Any]:
    """The shapes of the state, its number of trainable parameters, and the step."""
    total = run.train.steps or 100000  # the length of a schedule is no shape
    share = total / run.train.epochs
    milestones = tuple(round(m * share) for m in run.train.milestones)
    rate = build.schedule.learning_rate(run.train, milestones)
    tx = optimizer.make(run.train, rate)

    def start():
        scale = None
        if run.model.dtype == "float16":
            scale = loss_scale.start(run.train.loss_scale)
        variables, averaged = build.fresh_variables(run), run.train.ema > 0
        return create(variables, tx, run.train.freeze, scale, averaged=averaged)

    state = placed(jax.eval_shape(start), NamedSharding(mesh, P()))
    trainable, _ = optimizer.split(state.variables["params"], run.train.freeze)
    take = build.train_step(run, tx, mesh)
    return state, sum(x.size for x in trainable.values()), take


def batch_shapes(hw: tuple[int, int], size: int, rows: int, mesh: Mesh) -> Batch:
    """A batch without contents, split over the mesh."""
    one = batching.collate([None], hw, rows)
    shapes: dict[str, Any] = {
        k: jax.ShapeDtypeStruct((size, *v.shape[1:]), v.dtype) for k, v in one.items()
    }
    return placed(Batch(**shapes), NamedSharding(mesh, P(AXIS)))


def placed(tree: Any, sharding: NamedSharding) -> Any:
    """Shapes with a place."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )


def compiled(kind: str, hw: tuple[int, int], mesh: Mesh, function, *shapes) -> Program:
    """Compiles a function for shapes; XLA counts operations and plans memory.

    Errors: ValueError for what XLA refuses, which on a TPU includes too little memory.
    """
    start = time.perf_counter()
    traced = function.trace(*shapes)
    try:
        plan = traced.lower().compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{kind} {hw[0]}x{hw[1]} does not compile: {reason}"
        ) from error
    seconds = time.perf_counter() - start
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes
    held += plan.temp_size_in_bytes - plan.alias_size_in_bytes
    flops = devices.operations(traced) * mesh.size
    return Program(f"{kind} {hw[0]}x{hw[1]}", flops / 1e9, held, seconds)


def memory(mesh: Mesh) -> tuple[int, str]:
    """Bytes for each device of the mesh; CPU devices share the host's."""
    stats = mesh.local_devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"], "device"
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return host // len(mesh.local_devices), "host"


def table(found: Needs, run: config.Run, mesh: Mesh) -> list[Part]:
    """The needs for people."""
    train, batch = run.train, run.train.batch_size
    gflops = [p.gflops for p in found.programs if p.name.startswith("train")]
    mean = sum(gflops) / len(gflops)
    most = max(p.memory for p in found.programs)
    share = most / found.memory
    tight = "" if share < TIGHT else ": TOO TIGHT, lower train.batch_size"
    seconds = sum(p.seconds for p in found.programs)
    learn = f"{found.trainable / 1e6:.2f} M learn"
    if train.freeze:
        learn += f", without {' '.join(train.freeze)}"
    rows = (
        ("devices", f"{mesh.size} x {mesh.devices.flat[0].device_kind}"),
        ("parameters", f"{found.parameters / 1e6:.2f} M; {learn}"),
        ("images per step", f"{batch}, {batch // mesh.size} a device"),
        ("computed in", run.model.dtype),
        ("memory needed", f"{gib(most)} a device"),
        ("memory there", f"{gib(found.memory)} a device ({found.memory_of})"),
        ("", f"{share:.0%} of it is needed{tight}"),
        ("programs", f"{len(found.programs)}, compiled in {duration(seconds)}"),
        ("GFLOPs per step", f"{mean:,.1f}, mean over canvases"),
        ("matmul speed", f"{found.peak:,.0f} GFLOP/s, measured just now"),
        ("steps", "unknown" if found.steps is None else f"{found.steps:,}"),
        ("expected time", expected(mean / found.peak, found.steps)),
    )
    wide = max(len(name) for name, _ in rows)
    lines = [f"{name:<{wide}}  {value}" for name, value in rows]
    notes = (f"- {x}" for x in found.notes)
    return [*lines, "", _programs(found.programs), "", *notes]


def _programs(programs: Sequence[Program]) -> Rows:
    rows = [
        (p.name, f"{p.gflops:,.1f}", gib(p.memory), f"{p.seconds:.1f}s")
        for p in programs
    ]
    return Rows([("program", "GFLOPs", "memory", "compiled"), *rows])


def expected(step_seconds: float, steps: int | None) -> str:
    """A lower bound, said as such."""
    per_step = f"at least {step_seconds * 1e3:,.0f} ms a step"
    whole = "" if steps is None else f", {duration(step_seconds * steps)} in all"
    return f"{per_step}{whole} (an estimate: everything at the matmul speed)"


def gib(count: int) -> str:
    """Bytes as "1.50 GiB"."""
    return f"{count / 2**30:.2f} GiB"
