"""What the benchmarks run on: a detector with random weights, images, boxes.

**Weights.** Untrained weights give no detection or thousands of equal ones, and time
spent in suppression depends on that. So fresh weights are scaled as a published script
for torchvision's model does ("some detections"): the last norm of every residual
branch by 0.25 (frozen norms over He-initialised branches let activations grow), the
RPN's deltas by 0.1, class logits to a spread of 0.8 over RoIs, their biases 0 except
background's 3. The spread is measured on a noise image of a quarter of the size, there
on its proposals, here on clipped anchors, the same number of each level, which is what
proposals with deltas near 0 are. The box head's deltas keep their own narrow
distribution (0.001), which gives outputs of about the same size as there.

Seen with R-50-FPN at 480x640, there and here: class logits spread by 1.2 and 1.0 over
RoIs, the classes' means by 3.2 and 3.0; on 1000 RoIs 4800 and PAIRS (RoI, class) pairs
pass the threshold of 0.05, and 100 and 100 detections remain. There are 90 classes
there, 80 here.

**Images** are uint8 noise with the spectrum of photographs (octaves of equal strength,
smooth between their points) and fill the canvas. **Boxes** are drawn as there: sides
uniform from 16 pixels to 0.4 of the image's side (and 16), anywhere inside.

Only JAX, Flax, Optax, numpy and the parts of frcnn_jax without data loading or scoring
are imported, so a machine without those libraries can measure too.
"""

import argparse
import re
import runpy
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from benchmarks import record
from frcnn_jax import config
from frcnn_jax.detectors import faster_rcnn
from frcnn_jax.ops import boxes as box_ops
from frcnn_jax.ops.anchors import pyramid_anchors
from frcnn_jax.ops.canvas import DIVISOR
from frcnn_jax.ops.roi_align import Pooling, roi_align
from frcnn_jax.types import Batch, Variables

CLASSES = 80  # where the configuration takes their number from the data
SPREAD = 0.8  # of class logits over RoIs
BACKGROUND = 3.0  # bias of the background logit
SCALES = ((r".*/last_norm/scale", 0.25), (r"params/rpn/deltas/kernel", 0.1))
PROBES = 200  # boxes of each level on which the spread is measured


def parser(description: str, *, batch: int) -> argparse.ArgumentParser:
    """The options that every measurement has."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--config", type=Path, default=Path("configs/r50_fpn_1x.py"))
    made.add_argument("--size", type=size, default=(800, 1216), metavar="HxW")
    made.add_argument("--batch", type=int, default=batch, help="images per step")
    made.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    made.add_argument(
        "--precision",
        choices=("default", "tensorfloat32", "highest"),
        default="default",
        help="of float32 products; on GPUs the default may be TF32",
    )
    made.add_argument("--devices", type=int, default=1, help="0 = all")
    made.add_argument("--warmup", type=int, default=2, help="the first one compiles")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--seed", type=int, default=0)
    record.add_save(made)
    return made


def size(text: str) -> tuple[int, int]:
    """`800x1216` as (height, width), which must be multiples of 32."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    hw = (int(found[1]), int(found[2])) if found else (0, 0)
    if min(hw) < 1 or any(side % DIVISOR for side in hw):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HEIGHTxWIDTH in multiples of {DIVISOR}, as 800x1216 is"
        )
    return hw


def settings(asked: argparse.Namespace) -> dict[str, Any]:
    """The options that belong into a line of results."""
    return {
        "config": asked.config.stem,
        "size": list(asked.size),
        "batch": asked.batch,
        "dtype": asked.dtype,
        "precision": asked.precision,
        "warmup": asked.warmup,
        "seed": asked.seed,
    }


def load(asked: argparse.Namespace) -> config.Run:
    """The run of a configuration file, with the options put in, validated.

    Errors: FileNotFoundError, and ValueError from `config.validate`.
    """
    path = asked.config
    if not path.is_file() and not path.is_absolute():
        path = record.ROOT / path
    if not path.is_file():
        raise FileNotFoundError(f"--config={asked.config} does not exist")
    run = runpy.run_path(str(path))["get_config"]()
    run.model.num_classes = run.model.num_classes or CLASSES
    run.model.dtype = asked.dtype
    run.train.batch_size = asked.batch
    config.validate(run)
    if asked.precision != "default":
        jax.config.update("jax_default_matmul_precision", asked.precision)
    return run


def variables(
    model: config.FasterRCNN, hw: tuple[int, int], seed: int = 0
) -> Variables:
    """Random weights under which a part of the boxes of an image of `hw` are detected.

    See the module's description.
    """
    detector = faster_rcnn.make(model)
    inputs = np.zeros((1, 64, 64, 3), np.uint8), np.full((1, 2), 64.0, np.float32)
    example = Batch(*inputs, *[None] * 5)
    key = jax.random.key(seed)
    fresh = jax.jit(lambda key: detector.init(key, example))(key)
    flat = traverse_util.flatten_dict(fresh, sep="/")
    last = "norm3" if model.backbone.depth >= 50 else "norm2"
    for pattern, factor in SCALES:
        matched = re.compile(pattern.replace("last_norm", last)).fullmatch
        flat = {k: v * factor if matched(k) else v for k, v in flat.items()}
    spread = class_spread(model, traverse_util.unflatten_dict(flat, sep="/"), hw, seed)
    classes = "params/box_head/predictor/classes"
    flat[f"{classes}/kernel"] *= SPREAD / spread
    flat[f"{classes}/bias"] = flat[f"{classes}/bias"].at[0].set(BACKGROUND)
    return traverse_util.unflatten_dict(flat, sep="/")


def class_spread(
    model: config.FasterRCNN, variables: Variables, hw: tuple[int, int], seed: int
) -> float:
    """Standard deviation of a class's logit over RoIs, mean over the classes.

    Measured on noise of a quarter of `hw`, but at least 64 pixels.
    """
    rng = np.random.default_rng(seed)
    small = [max(64, round(side / 4 / DIVISOR) * DIVISOR) for side in hw]
    image = rng.integers(0, 256, (1, *small, 3), dtype=np.uint8)
    spec, network = faster_rcnn.anchor_spec(model), faster_rcnn.Network(model)
    cells = [tuple(-(-side // stride) for side in small) for stride in spec.strides]
    levels = [
        level[rng.permutation(len(level))[:PROBES]]
        for level in pyramid_anchors(spec, cells)
    ]
    boxes = box_ops.clip(jnp.concatenate(levels), jnp.asarray(small, jnp.float32))
    crossed = len(model.backbone.stages)
    section, strides = model.roi, spec.strides[:crossed]
    pooling = Pooling(
        section.pool_size,
        section.sampling_ratio,
        section.aligned,
        strides,
        section.finest_scale,
    )

    @jax.jit
    def logits(variables, image, boxes):
        image_hw = jnp.asarray([small], jnp.float32)
        features = network.apply(variables, image, image_hw, method="extract")
        crops = roi_align([level[0] for level in features[:crossed]], boxes, pooling)
        return network.apply(variables, crops, method="classify")[0]

    return float(logits(variables, image, boxes).std(0).mean())


def arrays(
    rng: np.random.Generator,
    *,
    batch: int,
    hw: tuple[int, int],
    classes: int,
    boxes: int = 0,
) -> dict[str, np.ndarray]:
    """A batch in host memory, keyed by the fields of `Batch`; 8, 16, .. rows of boxes."""
    rows = max(-(-boxes // 8) * 8, 8)
    found = {
        "images": np.stack([photo(rng, hw) for _ in range(batch)]),
        "image_hw": np.tile(np.float32(hw), (batch, 1)),
        "scale_xy": np.ones((batch, 2), np.float32),
        "boxes": np.zeros((batch, rows, 4), np.float32),
        "labels": np.zeros((batch, rows), np.int32),
        "crowd": np.zeros((batch, rows), bool),
        "image_id": np.arange(batch, dtype=np.int32),
    }
    wh = np.float32(hw[::-1])
    sides = np.minimum(rng.random((batch, boxes, 2)) * wh * 0.4 + 16, wh)
    corner = rng.random((batch, boxes, 2)) * (wh - sides)
    found["boxes"][:, :boxes] = np.concatenate([corner, corner + sides], -1)
    found["labels"][:, :boxes] = rng.integers(1, classes + 1, (batch, boxes))
    return found


def photo(rng: np.random.Generator, hw: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] uint8 noise whose octaves are equally strong, as in photographs."""
    total = np.zeros((*hw, 3), np.float32)
    points = 2
    while points < max(hw):
        grid = rng.standard_normal((points, points, 3), np.float32)
        rows, columns = (_between(side, points) for side in hw)
        total += np.einsum("hp,pqc,wq->hwc", rows, grid, columns, optimize=True)
        points *= 2
    total += rng.standard_normal((*hw, 3), np.float32)  # the finest octave: grain
    total *= 64 / total.std()
    return np.clip(128 + total, 0, 255).astype(np.uint8)


def _between(side: int, points: int) -> np.ndarray:
    """[side, points] weights of linear interpolation from first to last point."""
    place = np.linspace(0, points - 1, side, dtype=np.float32)
    return np.maximum(1 - np.abs(place[:, None] - np.arange(points)), 0)


def parameters(variables: Variables) -> int:
    """How many numbers are in "params"."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
