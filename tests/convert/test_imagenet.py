"""Classification ResNets, with batch norm and with batch norm folded."""

import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

from frcnn_jax.convert import files, imagenet
from frcnn_jax.convert.rules import ConversionError
from frcnn_jax.models.vgg import VGG16

GOLDEN = Path(__file__).parents[1] / "golden"

EPS = 1e-3  # far from the usual 1e-5, so that a forgotten argument shows


def layer(rng, conv, norm, shape):
    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return {
        f"{conv}.weight": draw(*shape),
        f"{norm}.weight": draw(shape[0]),
        f"{norm}.bias": draw(shape[0]),
        f"{norm}.running_mean": draw(shape[0]),
        f"{norm}.running_var": np.abs(draw(shape[0])) + 0.5,
        f"{norm}.num_batches_tracked": np.array(0, np.int64),
    }


def tiny_resnet(*, stages=4, blocks=2, convs=2):
    """ResNet names with one to a few channels."""
    rng = np.random.default_rng(0)
    state = layer(rng, "conv1", "bn1", (2, 3, 7, 7))
    for stage in range(1, stages + 1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            for i in range(1, convs + 1):
                state |= layer(rng, f"{at}.conv{i}", f"{at}.bn{i}", (2, 2, 3, 3))
        if stage > 1 or convs == 3:
            at = f"layer{stage}.0.downsample"
            state |= layer(rng, f"{at}.0", f"{at}.1", (2, 2, 1, 1))
    return state


def folded(state):
    """Folds batch norm into the convolutions: weight * gain, bias."""
    out = {}
    for name in state:
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and state[name].ndim == 4:
            norm = module.replace("conv", "bn").replace("downsample.0", "downsample.1")
            gain = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + EPS)
            bias = state[f"{norm}.bias"] - gain * state[f"{norm}.running_mean"]
            out[name] = state[name] * gain[:, None, None, None]
            out[f"{module}.bias"] = bias.astype(np.float32)
    return out


def test_paths():
    variables = imagenet.from_state_dict(tiny_resnet(convs=3), norm_eps=EPS)
    for path in (
        "params/backbone/stem/conv/kernel",
        "batch_stats/backbone/stem/norm/mean",
        "params/backbone/layer1/block0/shortcut_conv/kernel",
        "params/backbone/layer4/block1/norm3/scale",
        "batch_stats/backbone/layer2/block0/shortcut_norm/var",
    ):
        assert path in variables


@pytest.mark.parametrize("convs", [2, 3])
def test_round_trip(convs):
    state = tiny_resnet(convs=convs)
    back = imagenet.to_state_dict(imagenet.from_state_dict(state, norm_eps=EPS))
    assert set(back) == set(state)
    assert all(back[name].tobytes() == state[name].tobytes() for name in state)


def test_classifier_is_dropped_and_reported():
    state = {**tiny_resnet(), "fc.weight": np.ones((5, 2)), "fc.bias": np.ones(5)}
    converted = imagenet.conversion(state, norm_eps=EPS)
    assert all(path.split("/")[1] == "backbone" for path in converted.variables)
    assert any("2 arrays, the classification layer" in n for n in converted.notes())


def test_folded_file_is_the_same_function_with_an_identity_norm():
    state = folded(tiny_resnet())
    assert imagenet.is_folded(state) and not imagenet.is_folded(tiny_resnet())
    variables = imagenet.from_state_dict(state, norm_eps=EPS)
    norm = "backbone/layer2/block0/shortcut_norm"
    assert (variables[f"params/{norm}/scale"] == 1).all()
    bias = state["layer2.0.downsample.0.bias"]
    assert (variables[f"params/{norm}/bias"] == bias).all()
    assert (variables[f"batch_stats/{norm}/mean"] == 0).all()
    assert (variables[f"batch_stats/{norm}/var"] == np.float32(1 - EPS)).all()
    assert set(variables) == set(imagenet.from_state_dict(tiny_resnet(), norm_eps=EPS))

    # One pixel through the stem: conv + bias against conv, then batch norm.
    x = np.random.default_rng(1).standard_normal((7, 7, 3)).astype(np.float32)
    want = np.einsum("yxi,oiyx->o", x, state["conv1.weight"]) + state["conv1.bias"]
    y = np.einsum("yxi,yxio->o", x, variables["params/backbone/stem/conv/kernel"])
    params, stats = "params/backbone/stem/norm/", "batch_stats/backbone/stem/norm/"
    y = (y - variables[stats + "mean"]) / np.sqrt(variables[stats + "var"] + EPS)
    y = y * variables[params + "scale"] + variables[params + "bias"]
    np.testing.assert_allclose(y, want, rtol=1e-5)


def test_unfolding_undoes_folding_as_a_function():
    state = tiny_resnet()
    again = imagenet.unfold(folded(state), norm_eps=EPS)
    counters = {name for name in state if name.endswith("tracked")}
    assert set(again) == set(state) - counters


@pytest.mark.parametrize(
    "gone",
    [
        "layer3.1.conv2.weight",
        "layer3.0.downsample.0.weight",
        "layer3.0.bn1.running_var",
    ],
)
def test_incomplete_stage_is_dropped_whole(gone):
    state = tiny_resnet()
    del state[gone]
    converted = imagenet.conversion(state, norm_eps=EPS)
    stages = {path.split("/")[2] for path in converted.variables}
    assert stages == {"stem", "layer1", "layer2", "layer4"}
    names = [name for name, why in converted.unused.items() if "incomplete" in why]
    assert set(names) == {name for name in state if name.startswith("layer3.")}
    (note,) = [n for n in converted.notes() if "incomplete" in n]
    assert gone in note and "'backbone/layer3/.*'" in note


def test_incomplete_folded_stage_reports_names_of_the_file():
    state = folded(tiny_resnet())
    for name in [n for n in state if n.startswith("layer4.") and "weight" in n]:
        if "downsample" not in name:
            del state[name]
    converted = imagenet.conversion(state, norm_eps=EPS)
    assert set(converted.unused) == {n for n in state if n.startswith("layer4.")}
    assert not any("layer4" in path for path in converted.variables)


def test_whole_convolution_missing_between_others():
    state = tiny_resnet()
    state = {n: a for n, a in state.items() if not n.startswith("layer2.0.")}
    converted = imagenet.conversion(state, norm_eps=EPS)
    assert not any("layer2" in path for path in converted.variables)


def test_missing_stage_is_no_error():
    variables = imagenet.from_state_dict(tiny_resnet(stages=3), norm_eps=EPS)
    assert not any("layer4" in path for path in variables)


def test_missing_stem_and_foreign_names_are_errors():
    state = tiny_resnet()
    with pytest.raises(ConversionError, match="stem .* lacks bn1.bias"):
        rest = {name: array for name, array in state.items() if name != "bn1.bias"}
        imagenet.conversion(rest, norm_eps=EPS)
    with pytest.raises(ConversionError, match="layer1.0.se.fc1.weight"):
        foreign = {**state, "layer1.0.se.fc1.weight": np.ones((1, 1))}
        imagenet.conversion(foreign, norm_eps=EPS)


def test_only_backbones_go_back():
    with pytest.raises(ConversionError, match="params/rpn/conv/bias"):
        imagenet.to_state_dict({"params/rpn/conv/bias": np.zeros(3)})


def test_vgg_with_batch_norm_fills_the_trunk_and_the_head():
    listed = (GOLDEN / "classifiers" / "vgg16_bn.json.gz").read_bytes()
    narrow = {4096: 2, 25088: 2 * 49}  # the head's sides, which are free
    state = {
        name: np.full([narrow.get(side, side) for side in shape], number, dtype)
        for number, (name, (shape, dtype)) in enumerate(
            json.loads(gzip.decompress(listed)).items()
        )
    }
    assert files.recognise(state) == "imagenet"
    converted = imagenet.conversion(state, norm_eps=1e-5)
    assert {name for name in converted.unused if not name.endswith("tracked")} == {
        "classifier.6.weight",
        "classifier.6.bias",
    }
    model = VGG16(norm="frozen")
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3)))
    flat = traverse_util.flatten_dict(shapes, sep="/")
    ours = {
        path.replace("/", "/backbone/", 1): leaf.shape for path, leaf in flat.items()
    }
    trunk = {k: a.shape for k, a in converted.variables.items() if "/backbone/" in k}
    assert trunk == ours
    back = imagenet.to_state_dict(converted.variables)
    assert back.keys() == state.keys() - {"classifier.6.weight", "classifier.6.bias"}
    for name in back.keys() - {n for n in back if n.endswith("tracked")}:
        np.testing.assert_array_equal(back[name], state[name])
    last = converted.variables["batch_stats/backbone/stage5/norm3/var"]
    assert last[0] == state["features.41.running_var"][0]
