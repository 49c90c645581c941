"""jwyang's names: round trips of real manifests, and what our models are called."""

import gzip
import json

import jax
import numpy as np
import pytest
from flax import traverse_util

from frcnn_jax import build
from frcnn_jax.convert import files, jwyang
from frcnn_jax.convert.rules import ConversionError
from tests.parity.compare import load_config

# Manifest -> configuration of ours with the same names and shapes.
ROWS = {
    "vgg16_coco": "jwyang_vgg16_800",
    "vgg16_voc": "jwyang_vgg16_voc07",
    "res101_coco": "jwyang_res101_600",
    "res101_voc": "jwyang_res101_voc07",
    "res50_coco": "jwyang_res101_600",
}


def manifest(golden, name):
    text = gzip.decompress((golden / "jwyang" / f"{name}.json.gz").read_bytes())
    return {key: tuple(shape) for key, (shape, _) in json.loads(text).items()}


def narrow(shapes):
    """The same names with every side above 49 x 32 cut, so that bits are few."""
    return {
        name: tuple(side if side <= 1568 else 1568 for side in shape)
        for name, shape in shapes.items()
    }


def random_bits(shapes):
    """Any float32 pattern, NaN too, must survive."""
    rng = np.random.default_rng(0)
    return {
        name: np.frombuffer(rng.bytes(4 * int(np.prod(s))), np.float32).reshape(s)
        for name, s in shapes.items()
    }


@pytest.mark.parametrize("name", ROWS)
def test_round_trip(golden, name):
    state = random_bits(narrow(manifest(golden, name)))
    converted = jwyang.conversion(state)
    assert not converted.unused and len(converted.variables) == len(state)
    back = jwyang.to_state_dict(converted.variables)
    assert set(back) == set(state)
    for key, array in state.items():
        assert back[key].shape == array.shape and back[key].dtype == array.dtype
        assert back[key].tobytes() == array.tobytes(), key


@pytest.mark.parametrize(("name", "row"), ROWS.items())
def test_our_models_have_these_names_and_shapes(golden, name, row):
    run = load_config(row)
    if "res50" in name:
        run.model.backbone.depth = 50
    init = build.detector(run.model).init
    tree = jax.eval_shape(init, jax.random.key(0), build.example_batch())
    flat = traverse_util.flatten_dict(tree, sep="/")
    # Arrays that take no memory: one zero, seen many times.
    ours = {k: np.broadcast_to(np.float32(0), v.shape) for k, v in flat.items()}
    state = jwyang.to_state_dict(ours)
    assert {key: array.shape for key, array in state.items()} == manifest(golden, name)


def test_step_counters_of_newer_files_are_dropped(golden):
    state = random_bits(narrow(manifest(golden, "res50_coco")))
    counter = {"RCNN_base.1.num_batches_tracked": np.zeros((), np.int64)}
    converted = jwyang.conversion({**state, **counter})
    assert set(converted.unused) == set(counter)
    assert set(jwyang.to_state_dict(converted.variables)) == set(state)


def test_crop_of_the_first_layer_is_read_in_our_order():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 2 * 49)).astype(np.float32)
    state = {"RCNN_base.0.weight": np.zeros((1, 3, 3, 3), np.float32)}
    state |= {"RCNN_base.0.bias": np.zeros(1, np.float32)}
    state |= {"RCNN_top.0.weight": weight, "RCNN_top.0.bias": np.zeros(3, np.float32)}
    ours = jwyang.from_state_dict(state)["params/box_head/fc1/kernel"]
    crop = rng.standard_normal((2, 7, 7)).astype(np.float32)
    theirs = weight @ crop.ravel()
    mine = crop.transpose(1, 2, 0).ravel() @ ours
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["RCNN_top.6.weight", "RCNN_base.3.weight"])
def test_layers_we_do_not_have_are_refused(golden, name):
    state = random_bits(narrow(manifest(golden, "res50_coco")))
    with pytest.raises(ConversionError, match=name):
        jwyang.from_state_dict({**state, name: np.zeros((1, 1, 1, 1), np.float32)})


def test_a_file_is_recognised(golden, tmp_path):
    case = np.load(golden / "jwyang" / "detector.npz")
    names = [name for name in case.files if name.startswith("state/")]
    state = {name.removeprefix("state/"): case[name] for name in names}
    np.savez(tmp_path / "w.npz", **state)
    loaded = files.load_variables(tmp_path / "w.npz", norm_eps=1e-5)
    assert loaded.kind == "jwyang" and loaded.notes == ()
    kernel = loaded.variables["params/box_head/predictor/deltas/kernel"]
    assert (kernel.T == state["RCNN_bbox_pred.weight"]).all()
