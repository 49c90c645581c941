"""Export to ONNX: onnxruntime finds what the detector finds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import build
from frcnn_jax.export import detect, onnx_file
from frcnn_jax.ops.convolution import convolve
from tests.export.samples import ABOUT, found_without, photo

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper  # noqa: E402

from frcnn_jax.export import onnx_graph, onnx_ops  # noqa: E402

CANVAS = (64, 96)


@pytest.fixture
def model(tiny_run):
    tiny_run.model.num_classes, tiny_run.model.roi.score_threshold = 5, 0.001
    return build.detector(tiny_run.model).predict, build.fresh_variables(tiny_run)


def test_onnxruntime_alone_finds_what_the_detector_finds(model, tmp_path, rng):
    folder, (predict, variables) = tmp_path / "out", model
    files = onnx_file.write(folder, predict, variables, [CANVAS], ABOUT)
    assert [f.name for f in files] == ["64x96.onnx"]
    assert json.loads((folder / "about.json").read_text())["format"] == "onnx"
    pictures = [photo(rng, 64, 96), photo(rng, 48, 72)]
    told = onnx_file.check(folder, predict, variables, pictures)
    assert told["detections"] > 20 and told["unmatched"] == 0
    assert told["pixels"] < 1e-2 and told["score"] < 1e-4
    missing = "frcnn_jax jax flax onnx cv2 PIL"
    found = found_without(missing, folder, pictures[0], score=0.1)
    for name, values in detect.Detector(folder)(pictures[0], score=0.1).items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    other = jax.tree.map(lambda x: x * 1.1, variables)
    with pytest.raises(ValueError, match="are not those of the detector"):
        onnx_file.check(folder, predict, other, pictures)


def run(function, *arrays):
    """What onnxruntime makes of a function."""
    import onnxruntime

    traced, graph = jax.make_jaxpr(function)(*arrays), onnx_graph.Graph(onnx_ops.RULES)
    names = [f"input{i}" for i in range(len(arrays))]
    inputs = [
        graph.made(n, v.aval) for n, v in zip(names, traced.jaxpr.invars, strict=True)
    ]
    found = graph.run(traced.jaxpr, [graph.known(x) for x in traced.consts], inputs)
    outputs = [
        graph.made(graph.op("Identity", graph.full(x)), aval)
        for x, aval in zip(found, traced.out_avals, strict=True)
    ]
    whole = helper.make_graph(
        graph.nodes,
        "function",
        [onnx_graph.info(x) for x in inputs],
        [onnx_graph.info(x) for x in outputs],
        list(graph.constants.values()),
    )
    opset = [helper.make_opsetid("", onnx_graph.OPSET)]
    model = helper.make_model(whole, opset_imports=opset, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, dict(zip(names, arrays, strict=True)))


KERNEL = np.linspace(-1, 1, 3 * 3 * 2 * 4, dtype=np.float32).reshape(3, 3, 2, 4)
MANY = np.sin(np.arange(3 * 3 * 2 * 64, dtype=np.float32)).reshape(3, 3, 2, 64)
EACH = MANY[:, :, :1]
VECTOR = np.float32([3, -1, 0, 2, 2, 7])


def counted(x):
    """Rows of a batch that end after different numbers of turns."""
    step = lambda row: jax.lax.while_loop(lambda v: v.sum() < 9, lambda v: v + 1, row)  # noqa: E731
    return jax.vmap(step)(x)


def folded(x):
    """A convolution, its constants and both uses of it."""
    y = jax.lax.conv_general_dilated(
        *(x, KERNEL, (2, 2), [(1, 1), (1, 1)]),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    z = y * np.arange(4, dtype=np.float32) + 0.5
    return jnp.maximum(z, 0), y + z


def grouped(x):
    """Convolutions that choose their way by the platform, ResNeXt's and MobileNet's."""
    x, many, each = map(jnp.asarray, (x, MANY, EACH))
    return convolve(x, many, groups=32) + convolve(x * 2, each, groups=64)


FUNCTIONS = {
    "batched while": (counted, VECTOR.reshape(3, 2)),
    "convolution": (
        folded,
        np.sin(np.arange(70, dtype=np.float32)).reshape(1, 5, 7, 2),
    ),
    "groups": (
        grouped,
        np.cos(np.arange(20 * 64, dtype=np.float32)).reshape(1, 4, 5, 64),
    ),
    "sort": (lambda x: (jnp.argsort(-x), jax.lax.top_k(x, 3)), VECTOR),
    "division": (
        lambda a, b: (a // b, a % b),
        np.int32([7, -7, 5]),
        np.int32([2, 2, 3]),
    ),
    "outside": (
        lambda x, i: (
            jnp.take(x, i, mode="fill"),
            jnp.asarray(x).at[i].set(9, mode="drop"),
        ),
        *(VECTOR, np.int32([0, 5, 6, 70])),
    ),
    "scan": (lambda x: jax.lax.scan(lambda c, v: (c + v, c * v), 1.0, x), VECTOR),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_primitives_mean_the_same(name):
    function, *arrays = FUNCTIONS[name]
    ours, theirs = jax.tree.leaves(function(*arrays)), run(function, *arrays)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_has_no_translation_is_named():
    with pytest.raises(ValueError, match="no translation to ONNX for JAX's primitive"):
        run(lambda x: jnp.linalg.cholesky(x), np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match="add --config.model.dtype=float32"):
        run(lambda x: x.astype(jnp.bfloat16) + 1, VECTOR)


def test_missing_libraries_are_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "NEEDED", ("onnx", "onnx_of_nobody"))
    with pytest.raises(ValueError, match="pip install onnx onnx_of_nobody"):
        onnx_file.write(tmp_path / "out", *model, [CANVAS], ABOUT)
    assert not (tmp_path / "out").exists()
