"""A detector as ONNX files, one for each canvas size, and their check in onnxruntime.

Needs `onnx`, the check `onnxruntime` too. What is written is read by `detect.py`,
which goes along into the folder.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from frcnn_jax.export import detect, stablehlo
from frcnn_jax.types import Batch, Detections, Variables

NEEDED = ("onnx", "onnxruntime")
NAMES = ("boxes", "scores", "labels")
# Of the check: pixels, probability, and detections whose order or threshold rounds.
PIXELS, SCORE, UNMATCHED = 0.1, 1e-3, 0.01


def write(
    folder: Path,
    predict: Callable[[Variables, Batch], Detections],
    variables: Variables,
    canvases: Sequence[stablehlo.Canvas],
    about: Mapping[str, Any],
) -> list[Path]:
    """Writes files, `about.json` and `detect.py`; returns the files.

    Arguments as in `stablehlo.write`. Each file holds the weights. Errors:
    FileExistsError where the folder is not empty, ValueError without the libraries or
    for a detector that has no translation, a dtype other than float32 for one.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(
            f"ONNX needs {' and '.join(missing)}: pip install {' '.join(NEEDED)}"
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: remove it or name another")
    made = [(c, model(predict, variables, c)) for c in canvases]
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for canvas, proto in made:
        files.append(folder / f"{canvas[0]}x{canvas[1]}.onnx")
        files[-1].write_bytes(proto.SerializeToString())
    told = {**about, "canvases": list(canvases), "format": "onnx"}
    (folder / "about.json").write_text(json.dumps(told, indent=1) + "\n")
    shutil.copy(detect.__file__, folder / "detect.py")
    return files


def model(
    predict: Callable[[Variables, Batch], Detections],
    variables: Variables,
    canvas: stablehlo.Canvas,
):
    """The `onnx.ModelProto` of one canvas: picture in, boxes, scores, labels out."""
    import onnx
    from onnx import helper

    from frcnn_jax.export import onnx_graph, onnx_ops

    flat = traverse_util.flatten_dict(variables, sep="/")
    flat = {name: np.asarray(array) for name, array in sorted(flat.items())}
    pair = jax.ShapeDtypeStruct((1, 2), np.float32)
    image = jax.ShapeDtypeStruct((1, *canvas, 3), np.uint8)
    traced = jax.make_jaxpr(stablehlo.calls(predict))(flat, image, pair, pair)
    inner = [v.aval for v in traced.jaxpr.invars[len(flat) :]]
    graph = onnx_graph.Graph(onnx_ops.RULES)
    names = zip(detect.INPUTS, inner, strict=True)
    inputs = [graph.made(name, aval) for name, aval in names]
    weights = [graph.known(array) for array in flat.values()]
    consts = [graph.known(x) for x in traced.consts]
    found = graph.run(traced.jaxpr, consts, [*weights, *inputs])
    outputs = []
    for name, value, aval in zip(NAMES, found, traced.out_avals, strict=True):
        graph.nodes.append(helper.make_node("Identity", [graph.full(value)], [name]))
        outputs.append(onnx_graph.info(graph.made(name, aval)))
    whole = helper.make_graph(
        graph.nodes,
        "detector",
        list(map(onnx_graph.info, inputs)),
        outputs,
        list(graph.constants.values()),
    )
    opset = [helper.make_opsetid("", onnx_graph.OPSET)]
    proto = helper.make_model(whole, opset_imports=opset, ir_version=10)
    proto.producer_name = "frcnn_jax"
    onnx.checker.check_model(proto)
    return proto


def check(
    folder: Path,
    predict: Callable[[Variables, Batch], Detections],
    variables: Variables,
    images: Sequence[np.ndarray],
) -> dict[str, float]:
    """Compares the files in onnxruntime with the detector, image by image.

    Each image (uint8 RGB, any size) is put into each canvas as it is, cut off where it
    is larger. Returns the detections seen, those without a partner of the same label
    within `PIXELS` and `SCORE`, and the largest differences of the others. Errors:
    ValueError where more than a share of `UNMATCHED` have no partner.
    """
    read = detect.Detector(folder)
    flat = traverse_util.flatten_dict(variables, sep="/")
    direct = jax.jit(stablehlo.calls(predict))
    told = {"detections": 0, "unmatched": 0, "pixels": 0.0, "score": 0.0}
    for height, width in read.about["canvases"]:
        for image in images:
            cut = image[:height, :width]
            canvas = np.zeros((1, height, width, 3), np.uint8)
            canvas[0, : cut.shape[0], : cut.shape[1]] = cut
            inputs = (
                canvas,
                np.array([cut.shape[:2]], np.float32),
                np.ones((1, 2), np.float32),
            )
            ours = [np.asarray(x)[0] for x in direct(flat, *inputs)]
            theirs = [x[0] for x in read.run(*inputs)]
            _compare(ours, theirs, told)
    if told["unmatched"] > UNMATCHED * told["detections"]:
        raise ValueError(
            f"{folder}: {told['unmatched']} of {told['detections']} detections in"
            " onnxruntime are not those of the detector that it was made of"
        )
    return told


def _compare(ours, theirs, told: dict[str, float]) -> None:
    """Each detection's nearest one of its label on the other side, both ways."""
    ours, theirs = ([x[found[2] > 0] for x in found] for found in (ours, theirs))
    told["detections"] += max(len(ours[0]), len(theirs[0]))
    free = np.ones(len(theirs[0]), bool)
    for box, score, label in zip(*ours, strict=True):
        pixels = np.abs(theirs[0] - box).max(1, initial=0.0)
        scores = np.abs(theirs[1] - score)
        near = free & (theirs[2] == label) & (pixels <= PIXELS) & (scores <= SCORE)
        if not near.any():
            told["unmatched"] += 1
            continue
        best = np.where(near, pixels, np.inf).argmin()
        free[best] = False
        told["pixels"] = max(told["pixels"], float(pixels[best]))
        told["score"] = max(told["score"], float(scores[best]))
    told["unmatched"] += max(len(theirs[0]) - len(ours[0]), 0)
