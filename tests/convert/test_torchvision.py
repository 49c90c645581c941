"""torchvision names: round trips of real manifests, old names, what is refused."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.convert import files, torchvision
from frcnn_jax.convert.rules import ConversionError

MANIFESTS = Path(__file__).parents[1] / "golden" / "torchvision_manifests"


def manifest(name):
    return json.loads(gzip.decompress((MANIFESTS / f"{name}.json.gz").read_bytes()))


def arrays(listing):
    """Random bits of the listed shapes: any float32 pattern, NaN too, must survive."""
    rng = np.random.default_rng(0)

    def array(shape, dtype):
        if dtype == "int64":
            return np.zeros(shape, np.int64)
        return np.frombuffer(rng.bytes(4 * int(np.prod(shape))), dtype).reshape(shape)

    return {name: array(*entry) for name, entry in listing.items()}


def before_0_13(state):
    """The names of files that older versions wrote."""
    pattern = r"((?:inner|layer)_blocks\.\d)\.0|(head\.conv)\.0\.0"
    return {re.sub(pattern, lambda m: m[1] or m[2], k): v for k, v in state.items()}


def assert_same_bits(a, b):
    assert set(a) == set(b)
    for name in a:
        assert a[name].shape == b[name].shape and a[name].dtype == b[name].dtype, name
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.fixture(scope="module", params=("r50_fpn", "r50_fpn_v2", "mobilenet_fpn"))
def model(request):
    return request.param, arrays(manifest(request.param))


def test_round_trip_of_a_published_model(model):
    name, state = model
    assert len(state) == {"r50_fpn": 295, "r50_fpn_v2": 404}.get(name, 284)
    converted = torchvision.conversion(state)
    assert all(n.endswith("num_batches_tracked") for n in converted.unused)
    assert len(converted.variables) + len(converted.unused) == len(state)
    assert_same_bits(torchvision.to_state_dict(converted.variables), state)


@pytest.mark.parametrize("name", ("r50_fpn", "mobilenet_fpn"))
def test_old_names_are_read_and_new_ones_written(name):
    state = arrays(manifest(name))
    old = before_0_13(state)
    assert len(set(old) - set(state)) == (18 if name == "r50_fpn" else 10)
    variables = torchvision.from_state_dict(old)
    assert_same_bits(variables, torchvision.from_state_dict(state))
    assert_same_bits(torchvision.to_state_dict(variables), state)


def test_norms_that_count_steps():
    """A model built without weights has batch norm where published ones are frozen."""
    state = arrays(manifest("r50_fpn"))
    norms = [name.rpartition(".")[0] for name in state if name.endswith("_mean")]
    counters = {f"{n}.num_batches_tracked": np.zeros((), np.int64) for n in norms}
    assert len(counters) == 53
    variables = torchvision.from_state_dict(state | counters)
    back = torchvision.to_state_dict(variables, counters=True)
    assert_same_bits(back, state | counters)


def test_paths(model):
    name, state = model
    found = {path: a.shape for path, a in torchvision.from_state_dict(state).items()}
    expected = {
        "params/rpn/conv/kernel": (3, 3, 256, 256),
        "params/box_head/fc1/kernel": (12544, 1024),
        "params/box_head/predictor/classes/bias": (91,),
        "params/box_head/predictor/deltas/bias": (364,),
    }
    expected |= {
        "r50_fpn": {
            "params/backbone/stem/conv/kernel": (7, 7, 3, 64),
            "params/fpn/lateral5/kernel": (1, 1, 2048, 256),
            "params/fpn/output2/bias": (256,),
            "params/box_head/fc2/kernel": (1024, 1024),
        },
        "r50_fpn_v2": {
            "params/fpn/lateral5_norm/scale": (256,),
            "batch_stats/fpn/output2_norm/var": (256,),
            "params/rpn/conv2/bias": (256,),
            "params/box_head/conv4/kernel": (3, 3, 256, 256),
            "batch_stats/box_head/norm4/mean": (256,),
        },
        "mobilenet_fpn": {
            "params/backbone/stem/conv/kernel": (3, 3, 3, 16),
            "params/backbone/block1/depthwise_conv/kernel": (3, 3, 1, 16),
            "params/backbone/block4/squeeze/kernel": (1, 1, 72, 24),
            "params/backbone/block4/excite/bias": (72,),
            "params/backbone/block15/project_norm/scale": (160,),
            "params/backbone/last/conv/kernel": (1, 1, 160, 960),
            "params/fpn/lateral5/kernel": (1, 1, 160, 256),
            "params/fpn/lateral6/kernel": (1, 1, 960, 256),
        },
    }[name]
    assert {path: found[path] for path in expected} == expected


def test_background_stays_first():
    state = arrays(manifest("r50_fpn"))
    ours = torchvision.from_state_dict(state)
    for theirs, path in (("cls_score", "classes"), ("bbox_pred", "deltas")):
        weight = state[f"roi_heads.box_predictor.{theirs}.weight"]
        kernel = ours[f"params/box_head/predictor/{path}/kernel"]
        assert kernel.T.tobytes() == weight.tobytes()


@pytest.mark.parametrize(
    "name",
    [
        "backbone.body.layer5.0.conv1.weight",
        "backbone.fpn.inner_blocks.4.0.weight",
        "rpn.head.conv.2.0.weight",
        "roi_heads.mask_head.0.0.weight",
        "backbone.body.0.0.bias",
    ],
)
def test_layers_we_do_not_have_are_refused(name):
    state = arrays(manifest("r50_fpn"))
    with pytest.raises(ConversionError, match=name):
        torchvision.from_state_dict({**state, name: np.zeros((1, 1, 1, 1), "f4")})


def test_half_a_layer_is_refused_under_old_names_too():
    state = before_0_13(arrays(manifest("r50_fpn")))
    del state["rpn.head.conv.bias"]
    with pytest.raises(ConversionError, match="params/rpn/conv/bias"):
        torchvision.from_state_dict(state)
    both = arrays(manifest("r50_fpn")) | before_0_13(arrays(manifest("r50_fpn")))
    with pytest.raises(ConversionError, match="another name already became"):
        torchvision.from_state_dict(both)


def test_a_file_is_recognised(model, tmp_path):
    name, state = model
    files_of = [state] if name == "r50_fpn_v2" else [state, before_0_13(state)]
    for number, names in enumerate(files_of):
        path = tmp_path / f"{number}.safetensors"
        files.save(path, names, {})
        loaded = files.load_variables(path, norm_eps=1e-5)
        assert loaded.kind == "torchvision"
        assert_same_bits(loaded.variables, torchvision.from_state_dict(state))
