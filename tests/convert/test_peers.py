"""The two functions that every peer shares, and what is more than a permutation."""

import numpy as np
import pytest

from frcnn_jax import config, convert
from frcnn_jax.convert import files, peers
from frcnn_jax.convert.rules import ConversionError


def model(**roi) -> config.FasterRCNN:
    made = config.FasterRCNN(num_classes=2)
    for name, value in {"pool_size": 2, "fc": (3,), **roi}.items():
        setattr(made.roi, name, value)
    return made


def variables(rng, background=False):
    shapes = {
        "rpn/conv/kernel": (3, 3, 4, 4),
        "rpn/conv/bias": (4,),
        "box_head/fc1/kernel": (16, 3),
        "box_head/fc1/bias": (3,),
        "box_head/predictor/classes/kernel": (3, 3),
        "box_head/predictor/classes/bias": (3,),
        "box_head/predictor/deltas/kernel": (3, 8 + 4 * background),
        "box_head/predictor/deltas/bias": (8 + 4 * background,),
    }
    return {
        f"params/{name}": rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def assert_same(a, b):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("source", ["mmdet", "detectron2"])
def test_there_and_back(rng, source):
    ours = variables(rng)
    state = convert.to_state_dict(ours, model(), source)
    assert files.recognise([*state, "backbone.conv1.weight"]) == source
    assert_same(convert.from_state_dict(state, model(), source), ours)


def test_mmdetection_is_meant_where_no_peer_is_named(rng):
    ours = variables(rng)
    state = convert.to_state_dict(ours, model())
    assert state["roi_head.bbox_head.fc_reg.weight"].shape == (8, 3)
    assert_same(convert.from_state_dict(state, model()), ours)


def test_the_pool_size_is_that_of_the_model(rng):
    ours = variables(rng)
    del ours["params/rpn/conv/kernel"], ours["params/rpn/conv/bias"]
    state = convert.to_state_dict(ours, model(), "mmdet")
    assert_same(convert.from_state_dict(state, model(), "mmdet"), ours)


def test_background_deltas_are_zeros_where_a_peer_wants_them(rng):
    ours = variables(rng)
    state = convert.to_state_dict(ours, model(), "torchvision")
    weight = state["roi_heads.box_predictor.bbox_pred.weight"]
    assert weight.shape == (12, 3) and not weight[:4].any()
    np.testing.assert_array_equal(
        weight[4:].T, ours["params/box_head/predictor/deltas/kernel"]
    )
    assert_same(convert.from_state_dict(state, model(), "torchvision"), ours)


def test_background_deltas_are_dropped_where_a_peer_has_none(rng):
    ours = variables(rng, background=True)
    wide = model(background_deltas=True)
    assert_same(
        convert.from_state_dict(
            convert.to_state_dict(ours, wide, "torchvision"), wide, "torchvision"
        ),
        ours,
    )
    state = convert.to_state_dict(ours, wide, "mmdet")
    assert state["roi_head.bbox_head.fc_reg.bias"].tolist() == (
        ours["params/box_head/predictor/deltas/bias"][4:].tolist()
    )


def test_two_logits_per_anchor_are_jwyangs_alone(rng):
    ours, two_way = variables(rng), model()
    two_way.rpn.two_way = True
    with pytest.raises(ConversionError, match="jwyang has 2 RPN logits .* model 1"):
        convert.to_state_dict(ours, model(), "jwyang")
    with pytest.raises(ConversionError, match="mmdet has 1 RPN logits .* model 2"):
        convert.to_state_dict(ours, two_way, "mmdet")


def test_an_unknown_peer(rng):
    with pytest.raises(ConversionError, match="'keras'; there are mmdet, torchvision"):
        convert.from_state_dict({}, model(), "keras")


def test_no_predictor():
    with pytest.raises(ConversionError, match="no weights of a detector"):
        peers.classes({"params/backbone/stem/conv/kernel": np.zeros(1)})


def test_load_reads_a_file_as_it_stands(tmp_path, rng):
    ours = variables(rng)
    files.save(tmp_path / "w.safetensors", ours, {"a": "b"})
    arrays, metadata = convert.load(tmp_path / "w.safetensors")
    assert_same(arrays, ours)
    assert metadata == files.metadata(tmp_path / "w.safetensors") == {"a": "b"}


def test_files_without_metadata(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros(1))
    (tmp_path / "w.safetensors").write_text("no")
    assert files.metadata(tmp_path / "w.npz") == {}
    assert files.metadata(tmp_path / "missing.safetensors") == {}
    with pytest.raises(ConversionError, match="truncated or damaged"):
        files.metadata(tmp_path / "w.safetensors")
