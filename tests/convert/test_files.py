"""Reading and writing weight files, and what their errors say."""

import json
import os

import numpy as np
import pytest

from frcnn_jax.convert import files
from frcnn_jax.convert.rules import ConversionError

OURS = {
    "params/backbone/stem/conv/kernel": np.arange(12, dtype=np.float32).reshape(
        1, 1, 3, 4
    ),
    "batch_stats/backbone/stem/norm/mean": np.array([np.nan, -0.0], np.float32),
    "params/scalar": np.array(3, np.int64),
}


def assert_same(a, b):
    assert set(a) == set(b)
    for name in a:
        assert a[name].shape == b[name].shape and a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes(), name


def resnet_state():
    """A folded ResNet of a stem and one stage with one basic block."""
    state = {}
    for name, inputs in (("conv1", 3), ("layer1.0.conv1", 2), ("layer1.0.conv2", 2)):
        state[f"{name}.weight"] = np.ones((2, inputs, 3, 3), np.float32)
        state[f"{name}.bias"] = np.ones(2, np.float32)
    return state


def test_save_and_load(tmp_path):
    path = tmp_path / "w.safetensors"
    files.save(path, OURS, {"config": {"depth": 50}, "note": "12"})
    arrays, metadata = files.load(path)
    assert_same(arrays, OURS)
    assert json.loads(metadata["config"]) == {"depth": 50}
    assert metadata["note"] == "12"
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_load_gives_arrays_and_metadata_without_any(tmp_path):
    files.save(tmp_path / "w.safetensors", OURS, {})
    assert files.load(str(tmp_path / "w.safetensors"))[1] == {}
    np.savez(tmp_path / "w.npz", **OURS)
    arrays, metadata = files.load(tmp_path / "w.npz")
    assert_same(arrays, OURS)
    assert metadata == {}


def test_a_transposed_view_is_stored_in_its_own_order(tmp_path):
    view = np.arange(6, dtype=np.float32).reshape(2, 3).T
    files.save(tmp_path / "w.safetensors", {"params/x": view}, {})
    stored = files.load(tmp_path / "w.safetensors")[0]["params/x"]
    assert stored.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_failed_save_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "w.safetensors"
    files.save(path, OURS, {})
    before = path.read_bytes()
    with pytest.raises(ConversionError, match="w.safetensors: cannot be saved"):
        files.save(path, {"params/x": np.array(["text"])}, {})
    with pytest.raises(ConversionError, match="not JSON serializable"):
        files.save(path, OURS, {"bad": object()})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_saved_file_has_the_permissions_of_any_new_file(tmp_path):
    files.save(tmp_path / "w.safetensors", OURS, {})
    (tmp_path / "plain").touch()
    mode = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "w.safetensors").stat().st_mode == mode


def test_save_refuses_other_suffixes_and_missing_folders(tmp_path):
    with pytest.raises(ConversionError, match=r"\.safetensors only"):
        files.save(tmp_path / "w.npz", OURS, {})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        files.save(tmp_path / "nowhere" / "w.safetensors", OURS, {})


def test_missing_file_names_the_nearest(tmp_path):
    for name in ("r50_fpn.safetensors", "other.npz", "r50_fpm.txt"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"nearest .* r50_fpn\.safetensors"):
        files.load(tmp_path / "r50_fnp.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no .safetensors or .npz"):
        files.load(tmp_path / "empty" / "w.npz")
    with pytest.raises(FileNotFoundError, match="nor does the folder"):
        files.load(tmp_path / "nowhere" / "w.npz")


@pytest.mark.parametrize("name", ["w.onnx", "w.tar", "w"])
def test_unknown_suffix_names_the_supported(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(
        ConversionError, match=r"supported: \.safetensors, \.npz, \.pth"
    ):
        files.load(tmp_path / name)


def test_folder_is_no_weight_file(tmp_path):
    with pytest.raises(ConversionError, match="is a folder"):
        files.load(tmp_path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_file(tmp_path, suffix, keep):
    path = tmp_path / f"w{suffix}"
    if suffix == ".npz":
        np.savez(path, **OURS)
    else:
        files.save(path, OURS, {})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ConversionError, match="truncated or damaged") as error:
        files.load(path)
    assert str(path) in str(error.value)


def test_other_contents_under_a_known_suffix(tmp_path):
    np.savez(tmp_path / "objects.npz", a=np.array([{}, None], object))
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "text.safetensors").write_text("not an archive")
    names = ("objects.npz", "single.npz", "text.npz", "text.safetensors")
    for name in names:
        with pytest.raises(ConversionError, match=name):
            files.load(tmp_path / name)


def test_recognise():
    assert files.recognise(OURS) == "ours"
    assert files.recognise(resnet_state()) == "imagenet"
    mmdet = ["backbone.conv1.weight", "rpn_head.rpn_conv.weight", "__note"]
    assert files.recognise(mmdet) == "mmdet"


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["__note"],
        ["backbone.body.conv1.weight", "head.classification_head.conv.bias"],
        ["module.conv1.weight", "module.layer1.0.conv1.weight"],
        ["params/backbone/stem/conv/kernel", "opt_state/count"],
        ["backbone.conv1.weight", "bbox_head.fc.weight"],
    ],
)
def test_recognise_shows_names_it_does_not_know(names):
    with pytest.raises(ConversionError, match="unknown weight names") as error:
        files.recognise(names)
    assert all(name in str(error.value) for name in names if name[:2] != "__")


def test_load_variables_of_ours(tmp_path):
    files.save(tmp_path / "w.safetensors", OURS, {"epoch": 3})
    loaded = files.load_variables(tmp_path / "w.safetensors", norm_eps=1e-5)
    assert_same(loaded.variables, OURS)
    assert loaded[1:] == ({"epoch": "3"}, "ours", ())


def test_load_variables_of_a_folded_classifier(tmp_path):
    np.savez(tmp_path / "w.npz", **resnet_state(), __origin=np.array("hand-made"))
    loaded = files.load_variables(tmp_path / "w.npz", norm_eps=0.25)
    assert loaded.kind == "imagenet"
    assert loaded.variables["batch_stats/backbone/stem/norm/var"].tolist() == [0.75] * 2
    assert "notes beside the weights (__origin)" in loaded.notes[0]


def test_load_variables_names_the_file_in_conversion_errors(tmp_path):
    np.savez(tmp_path / "w.npz", **resnet_state(), extra=np.zeros(3))
    with pytest.raises(ConversionError, match=r"w\.npz: .*") as error:
        files.load_variables(tmp_path / "w.npz", norm_eps=1e-5)
    assert "extra (3,)" in str(error.value)
