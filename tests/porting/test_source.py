"""Every published layout: a peer's file to ours and back, with the same bits."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util

from frcnn_jax import build, cli, config, labels, runs
from frcnn_jax.convert import files, peers
from frcnn_jax.convert.rules import ConversionError
from frcnn_jax.porting import recognition, source
from frcnn_jax.training import optimizer
from frcnn_jax.training.checkpoint import Checkpoints
from frcnn_jax.training.state import create

# ml_collections loads configuration files with a method that is to go.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

GOLDEN = Path(__file__).parents[1] / "golden"
# (peer, manifest, configuration of ours with its names and shapes)
LAYOUTS = [
    ("mmdet", path, path.name.removesuffix(".json.gz"))
    for path in sorted((GOLDEN / "mmdet_manifests").glob("*.json.gz"))
]
LAYOUTS += [
    ("torchvision", path, f"torchvision_{path.name.removesuffix('.json.gz')}")
    for path in sorted((GOLDEN / "torchvision_manifests").glob("*.json.gz"))
]
_OF_DETECTRON2 = {
    "R_50_C4": "r50_caffe_c4_1x",
    "R_101_C4": "r50_caffe_c4_1x",
    "R_50_DC5": "r50_caffe_dc5_1x",
    "R_101_DC5": "r50_caffe_dc5_1x",
    "R_50_FPN": "r50_caffe_fpn_1x",
    "R_101_FPN": "r101_caffe_fpn_1x",
    "X_101_32x8d_FPN": "x101_32x8d_fpn_ms_3x",
}
LAYOUTS += [
    ("detectron2", GOLDEN / "detectron2" / f"names_{name}.json.gz", ours)
    for name, ours in _OF_DETECTRON2.items()
]
_OF_JWYANG = {
    "vgg16_coco": "jwyang_vgg16_800",
    "vgg16_voc": "jwyang_vgg16_voc07",
    "res101_coco": "jwyang_res101_600",
    "res101_voc": "jwyang_res101_voc07",
    "res50_coco": "jwyang_res101_600",
}
LAYOUTS += [
    ("jwyang", GOLDEN / "jwyang" / f"{name}.json.gz", ours)
    for name, ours in _OF_JWYANG.items()
]


@pytest.fixture(autouse=True, scope="module")
def quick_shapes():
    """Shapes of a model are asked for several times; once is enough."""
    kept, shapes = {}, recognition.shapes

    def once(model):
        key = json.dumps(config.to_dict(model))
        if key not in kept:
            kept[key] = shapes(model)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recognition, "shapes", once)
        yield


def listing(path: Path) -> dict:
    return json.loads(gzip.decompress(path.read_bytes()))


def run_of(path: Path, name: str) -> config.Run:
    run = cli.run_of(str(runs.CONFIGS / f"{name}.py"))
    if "R_101" in path.name or "res50" in path.name:
        run.model.backbone.depth = 101 if "R_101" in path.name else 50
    return run


def narrow(run: config.Run) -> config.Run:
    """The same names, few numbers."""
    model = run.model
    model.roi.fc = tuple(8 for _ in model.roi.fc)
    model.roi.convs = tuple(8 for _ in model.roi.convs)
    model.rpn.channels = 8
    if model.fpn is not None:
        model.fpn.channels = 8
        model.roi.convs = tuple(8 for _ in model.roi.convs)
    match model.backbone:
        case config.MobileNetV3():
            model.backbone.width = 0.25
        case config.ResNet() if model.backbone.groups > 1:
            model.backbone.groups, model.backbone.group_width = 2, 2
        case _:
            model.backbone.width = 4
    return run


def random_bits(shapes: dict) -> dict[str, np.ndarray]:
    """Any float32 pattern, NaN too, must survive."""
    rng = np.random.default_rng(0)
    return {
        name: np.frombuffer(rng.bytes(4 * int(np.prod(s.shape))), np.float32).reshape(
            s.shape
        )
        for name, s in shapes.items()
    }


def assert_same_bits(a, b):
    assert set(a) == set(b)
    for name in a:
        assert a[name].shape == b[name].shape and a[name].dtype == b[name].dtype, name
        assert a[name].tobytes() == b[name].tobytes(), name


def test_no_layout_is_left_out():
    there = {path for _, path, _ in LAYOUTS}
    for folder in ("mmdet_manifests", "torchvision_manifests", "detectron2", "jwyang"):
        assert set((GOLDEN / folder).glob("*.json.gz")) <= there
    assert {peer for peer, _, _ in LAYOUTS} == set(peers.PEERS)


@pytest.mark.parametrize(
    ("peer", "path", "name"), LAYOUTS, ids=[f"{p}-{f.name[:-8]}" for p, f, _ in LAYOUTS]
)
def test_to_our_file_and_back(peer, path, name, tmp_path):
    full = run_of(path, name)
    leaves = {
        k: np.broadcast_to(np.float32(0), leaf.shape)
        for k, leaf in recognition.shapes(full.model).items()
    }
    theirs = peers.to_state_dict(leaves, full.model, peer)
    found = {key: [list(a.shape), str(a.dtype)] for key, a in theirs.items()}
    assert found == listing(path)

    run = narrow(run_of(path, name))
    weights = random_bits(recognition.shapes(run.model))
    state = peers.to_state_dict(weights, run.model, peer)
    assert set(state) == set(theirs)
    files.save(tmp_path / "theirs.safetensors", state, {})
    read = source.read(str(tmp_path / "theirs.safetensors"), run)
    source.write(read, tmp_path / "ours.safetensors")
    again = source.read(str(tmp_path / "ours.safetensors"))
    assert_same_bits(again.variables, weights)
    assert again.run == read.run and again.labels == read.labels
    for file in ("back.safetensors", "back.npz"):
        source.write(again, tmp_path / file, peer)
        assert_same_bits(files.load(tmp_path / file)[0], state)
    back = source.read(str(tmp_path / "back.safetensors"))  # carries it too
    assert back.run == run


def test_a_whole_file_is_recognised_and_comes_back(tmp_path, capsys):
    """77 MB as they are, by names and shapes, and a word of the file's name."""
    path = GOLDEN / "torchvision_manifests" / "mobilenet_fpn.json.gz"
    state = random_bits(
        {k: np.broadcast_to(np.float32(0), s) for k, (s, _) in listing(path).items()}
    )
    files.save(tmp_path / "mobilenet_320.safetensors", state, {})
    found = source.read(str(tmp_path / "mobilenet_320.safetensors"))
    assert found.run.data.eval_short_side == 320
    assert found.labels.class_names[12] == "stop sign" and len(found.labels[0]) == 90
    source.write(found, tmp_path / "ours.safetensors")
    ours = source.read(str(tmp_path / "ours.safetensors"))
    source.write(ours, tmp_path / "back.npz", "torchvision")
    assert_same_bits(files.load(tmp_path / "back.npz")[0], state)
    printed = capsys.readouterr().out
    assert "recognised --config=" in printed and "the file's name says so" in printed
    assert "COCO's, for 90 of them" in printed


# ---- a small file


@pytest.fixture
def run():
    return narrow(cli.run_of(str(runs.CONFIGS / "r50_fpn_1x.py")))


def stored(run, path, metadata=(), **changes):
    """A file with mmdetection's names; `changes` replace arrays, None removes them."""
    weights = random_bits(recognition.shapes(run.model))
    state = peers.to_state_dict(weights, run.model, "mmdet")
    for name, array in changes.items():
        name = name.replace("__", ".")
        if array is None:
            del state[name]
        else:
            state[name] = array
    files.save(path, state, dict(metadata))
    return str(path)


def test_our_file_says_where_it_comes_from(run, tmp_path):
    run.model.num_classes = 2
    metadata = {"meta.CLASSES": '["cat", "crab"]'}
    read = source.read(stored(run, tmp_path / "a.safetensors", metadata), run)
    source.write(read, tmp_path / "b.safetensors")
    kept = files.metadata(tmp_path / "b.safetensors")
    assert kept["source"] == "a.safetensors" and len(kept["source_sha256"]) == 64
    assert kept["channel_order"] == "rgb" and kept["frcnn_jax"]
    assert json.loads(kept["pixel_std"]) == list(run.model.pixel_std)
    assert config.from_dict(json.loads(kept["config"])) == run
    assert labels.of_metadata(kept) == (("cat", "crab"), (1, 2))


@pytest.mark.parametrize(
    ("metadata", "count", "expected"),
    [
        ({"meta.CLASSES": '["car", "person"]'}, 2, (("car", "person"), (3, 1))),
        ({"meta.CLASSES": '["car"]'}, 2, None),
        ({}, 2, None),
    ],
)
def test_names_of_classes(run, metadata, count, expected, tmp_path):
    run.model.num_classes = count
    name = stored(run, tmp_path / "a.safetensors", metadata)
    assert source.read(name, run).labels == expected


def test_a_number_of_classes_of_its_own(run, tmp_path, capsys):
    run.model.num_classes = 3
    name = stored(run, tmp_path / "a.safetensors")
    run.model.num_classes = 80
    assert source.read(name, run).run.model.num_classes == 3
    assert "classes: 3 as in the weights, not the configuration's 80" in (
        capsys.readouterr().out
    )


def test_weights_that_do_not_fit(run, tmp_path):
    """Missing, extra and turned arrays are listed together."""
    turned = np.zeros((8, 2048 // 16, 3, 1), np.float32)
    name = stored(
        run,
        tmp_path / "a.safetensors",
        rpn_head__rpn_cls__weight=None,
        rpn_head__rpn_cls__bias=None,
        neck__lateral_convs__3__conv__weight=turned,
        backbone__layer1__3__conv1__weight=np.zeros((4, 16, 1, 1), np.float32),
    )
    with pytest.raises(ConversionError) as caught:
        source.read(name, run)
    text = str(caught.value)
    assert text.startswith(f"{name}: weights do not fit the model")
    assert "missing in the file (2)" in text and "params/rpn/objectness/bias" in text
    assert "not in the model (1)" in text and "layer1/block3/conv1/kernel" in text
    assert "wrong shape or type (1)" in text and "params/fpn/lateral5/kernel" in text
    assert "--config.init.skip" not in text  # that would be advice for training


def test_the_configuration_of_another_architecture(run, tmp_path):
    name = stored(run, tmp_path / "a.safetensors")
    run.model.backbone.depth = 101
    with pytest.raises(ConversionError, match=r"missing in the file \(255\)"):
        source.read(name, run)


def test_a_trunk_is_no_detector(tmp_path):
    state = {"conv1.weight": np.ones((2, 3, 7, 7), "f4"), "conv1.bias": np.ones(2)}
    for layer in ("layer1.0.conv1", "layer1.0.conv2"):
        state |= {f"{layer}.weight": np.ones((2, 2, 3, 3), "f4")}
        state |= {f"{layer}.bias": np.ones(2, "f4")}
    np.savez(tmp_path / "w.npz", **state)
    with pytest.raises(ValueError, match="ImageNet trunk, not a detector.*init.load="):
        source.read(str(tmp_path / "w.npz"))


def test_half_a_detector(run, tmp_path):
    head = {f"roi_head__bbox_head__fc_cls__{leaf}": None for leaf in ("weight", "bias")}
    name = stored(run, tmp_path / "a.safetensors", **head)
    with pytest.raises(ValueError, match="a.safetensors: no classifier of RoIs"):
        source.read(name, run)


def test_what_cannot_be_written(tmp_path, monkeypatch):
    there = tmp_path / "there.safetensors"
    there.touch()
    for target, peer, message in (
        (there, None, "exists: remove it or choose another name"),
        (tmp_path / "a.pth", None, r"write .safetensors; .npz only with --to"),
        (tmp_path / "a.npz", None, r"write .safetensors; .npz only with --to"),
        (tmp_path / "a.pth", "mmdet", r"write .safetensors or .npz"),
        (tmp_path / "none" / "a.npz", "mmdet", "none does not exist"),
        (tmp_path / "a.npz", "keras", "--to=keras: there are mmdet, torchvision"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            source.check_target(target, peer)
    source.check_target(tmp_path / "a.npz", "mmdet")
    monkeypatch.setattr(source.os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="is not writable"):
        source.check_target(tmp_path / "a.safetensors", None)


def test_the_newest_checkpoint_of_a_run(tiny_run, tmp_path):
    tiny_run.model.num_classes = 2
    named = labels.Labels(("cat", "dog"), (1, 7))
    runs.save_run(tmp_path, tiny_run, named)
    tx = optimizer.make(tiny_run.train, lambda step: 0.1)
    state = create(build.fresh_variables(tiny_run), tx, ())
    with Checkpoints(tmp_path, 1) as saved:
        saved.save(state)
    found = source.read(str(tmp_path))
    assert found.run == tiny_run and found.labels == named
    flat = traverse_util.flatten_dict(state.variables, sep="/")
    assert_same_bits(found.variables, {k: np.asarray(v) for k, v in flat.items()})
    source.write(found, tmp_path / "w.safetensors")
    assert files.metadata(tmp_path / "w.safetensors")["source"].endswith("at step 0")
    with pytest.raises(ValueError, match="its own configuration: leave --config out"):
        source.read(str(tmp_path), tiny_run)


def test_a_missing_source(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        source.read(str(tmp_path / "w.pth"))
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        source.read(str(tmp_path))
