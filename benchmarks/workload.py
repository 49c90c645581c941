"""What the benchmarks run on: a detector with random weights, images, boxes.

**Weights.** Untrained weights give no detection or thousands of equal ones, and time
spent in suppression depends on that. So they are made as a published script for
torchvision's model does with its option "some detections": convolutions and dense
layers about as initialised, the last norm of every residual branch scaled by 0.25
(frozen norms over He-initialised branches let activations grow), the RPN's deltas
narrowed by 0.1, class logits brought to a spread of 0.8 over RoIs, their biases 0
except background's 3. The spread is measured on the proposals of one image of a quarter
of the size, of even noise there, of the kind below here. The box head's deltas stay as
initialised (deviation 0.001), which gives outputs of about the same size as there. All
draws are numpy's, so weights are the same on every device.

Seen with R-50-FPN at 480x640: on 1000 RoIs 4800 (RoI, class) pairs passed the score
threshold of 0.05 there (seed 0) and 3300, 1800 and 3300 here (seeds 0 to 2); the
logits of a class spread by 1.2 over RoIs there and 0.7 to 1.1 here, the classes' means
by 3.2 and 2.2 to 2.6. Every image had 100 detections, the most that are returned. There
are 90 classes there, 80 here.

**Images** are uint8 noise with the spectrum of photographs (octaves of equal strength,
smooth between their points) and fill the canvas. **Boxes** are drawn as there: sides
uniform from 16 pixels to 0.4 of the image's side (and 16), anywhere inside.

Only JAX, Flax, Optax, numpy and the parts of frcnn_jax without data loading or scoring
are imported, so a machine without those libraries can measure too.
"""

import argparse
import math
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
from frcnn_jax.detectors import faster_rcnn, rpn
from frcnn_jax.ops.canvas import DIVISOR
from frcnn_jax.ops.roi_align import roi_align
from frcnn_jax.training import devices
from frcnn_jax.types import Batch, Detector, Variables

RATE = 1e-5
CLASSES = 80  # where the configuration takes their number from the data
# Options that change what a configuration says, where they are given.
SIZES = {
    "classes": "classes without background",
    "proposals": "proposals of an image; of each level in the same ratio",
    "max_detections": "most detections of an image",
}
SPREAD = 0.8  # of class logits over RoIs
BACKGROUND = 3.0  # bias of the background logit
LAST_NORM = 0.25  # scale of a residual branch's last norm


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
    for name, what in SIZES.items():
        option = f"--{name.replace('_', '-')}"
        made.add_argument(option, type=int, help=f"{what} (default: configured)")
    made.add_argument("--devices", type=int, default=1, help="0 = all")
    made.add_argument("--warmup", type=int, default=2, help="the first one compiles")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--profile", type=Path, help="a folder: trace the first call")
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
        **{name: value for name in SIZES if (value := getattr(asked, name))},
    }


def load(asked: argparse.Namespace) -> config.Run:
    """The run of a configuration file, with the options put in, validated.

    It learns so slowly that random weights stay near where they began.

    Errors: FileNotFoundError, and ValueError from `config.validate`.
    """
    path = asked.config
    if not path.is_file() and not path.is_absolute():
        path = record.ROOT / path
    if not path.is_file():
        raise FileNotFoundError(f"--config={asked.config} does not exist")
    run = runpy.run_path(str(path))["get_config"]()
    run.model.num_classes = asked.classes or run.model.num_classes or CLASSES
    if asked.proposals:
        propose(run.model.rpn, asked.proposals)
    if asked.max_detections:
        run.model.roi.max_detections = asked.max_detections
    run.model.dtype = asked.dtype
    run.train.batch_size = asked.batch
    run.train.lr, run.train.lr_batch_size, run.train.warmup_steps = RATE, 0, 0
    config.validate(run)
    if asked.precision != "default":
        jax.config.update("jax_default_matmul_precision", asked.precision)
    return run


def propose(section: config.RPN, count: int) -> None:
    """Sets the number of proposals, and before suppression in the ratio it had."""
    for phase in ("train", "test"):
        before, after = f"pre_nms_{phase}", f"post_nms_{phase}"
        ratio = getattr(section, before) / getattr(section, after)
        setattr(section, before, max(round(count * ratio), 1))
        setattr(section, after, count)


def variables(
    model: config.FasterRCNN, hw: tuple[int, int], seed: int = 0
) -> Variables:
    """Random weights under which a part of the boxes of an image of `hw` are detected.

    See the module's description.
    """
    detector = faster_rcnn.make(model)
    inputs = np.zeros((1, 64, 64, 3), np.uint8), np.full((1, 2), 64.0, np.float32)
    example = Batch(*inputs, *[None] * 5)
    shapes = jax.eval_shape(lambda: detector.init(jax.random.key(0), example))
    rng = np.random.default_rng(seed)
    shapes = traverse_util.flatten_dict(shapes, sep="/")
    flat = {path: drawn(rng, path, leaf.shape) for path, leaf in shapes.items()}
    shallow = getattr(model.backbone, "depth", 50) < 50
    last = "norm2/scale" if shallow else "norm3/scale"
    for path in flat:
        flat[path] *= np.float32(LAST_NORM if path.endswith(last) else 1)
    spread = class_spread(model, traverse_util.unflatten_dict(flat, sep="/"), hw, rng)
    classes = "params/box_head/predictor/classes"
    flat[f"{classes}/kernel"] *= SPREAD / spread
    flat[f"{classes}/bias"][0] = BACKGROUND
    return traverse_util.unflatten_dict(flat, sep="/")


def drawn(rng: np.random.Generator, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values of one parameter, by the end or the part of the model in its path.

    Kernels are normal with the deviations of `frcnn_jax.models.initialise` (He with fan
    out in the trunk, Xavier in pyramid and dense layers), the RPN's deltas a tenth.
    Here and not by JAX: its generator takes ten seconds and more to compile.
    """
    if not path.endswith("/kernel"):
        return np.full(shape, path.endswith(("/scale", "/var")), np.float32)
    *window, fan_in, fan_out = shape
    cells = math.prod(window)
    narrow = {"rpn/conv": 0.01, "rpn/objectness": 0.01, "rpn/deltas": 0.001}
    narrow |= {"predictor/classes": 0.01, "predictor/deltas": 0.001}
    deviation = narrow.get("/".join(path.split("/")[-3:-1]))
    if deviation is None:
        trunk = "/backbone/" in path
        deviation = math.sqrt(2 / (cells * (fan_out if trunk else fan_in + fan_out)))
    return rng.standard_normal(shape, np.float32) * np.float32(deviation)


def class_spread(
    model: config.FasterRCNN,
    variables: Variables,
    hw: tuple[int, int],
    rng: np.random.Generator,
) -> float:
    """Standard deviation of a class's logit over the proposals, mean over the classes.

    Measured on one image of a quarter of `hw`, but at least 64 pixels.
    """
    small = [max(64, round(side / 4 / DIVISOR) * DIVISOR) for side in hw]
    network, spec = faster_rcnn.Network(model), faster_rcnn.anchor_spec(model)
    pooling = faster_rcnn.pooling(model)

    @jax.jit
    def logits(variables, images):
        image_hw = jnp.asarray([small], jnp.float32)
        features = network.apply(variables, images, image_hw, method="extract")
        raw = network.apply(variables, features, image_hw, method="propose_raw")
        scores, deltas = ([level[0] for level in side] for side in raw)
        grid = rpn.grid(spec, [level.shape[1:3] for level in features], model.cells)
        proposals = rpn.propose(
            scores,
            deltas,
            rpn.anchors_exist(grid, image_hw[0]),
            rpn.anchors_of(grid, image_hw[0]),
            image_hw[0],
            model.rpn,
            model.box_coder,
            train=False,
        )
        maps = [level[0] for level in features[: len(pooling.strides)]]
        crops = roi_align(maps, proposals.boxes, pooling)
        found = network.apply(variables, crops, method="classify")[0]
        return found, proposals.valid

    found, valid = logits(variables, photo(rng, small)[None])
    return float(found[np.asarray(valid)].std(0).mean())


def arrays(
    rng: np.random.Generator,
    *,
    batch: int,
    hw: tuple[int, int],
    classes: int,
    boxes: int = 0,
) -> dict[str, np.ndarray]:
    """A batch in host memory, keyed by the fields of `Batch`; 8, 16, .. box rows."""
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


def gflops(detector: Detector, variables: Variables, batch: Batch) -> float:
    """Billions of floating-point operations of one prediction, by XLA's count.

    It does not depend on the device, see `devices.operations`.
    """
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
    traced = jax.jit(detector.predict).trace(like, batch)
    return round(devices.operations(traced) / 1e9, 2)
