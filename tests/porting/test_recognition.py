"""Which configuration a file belongs to, and when that cannot be told."""

import functools

import numpy as np
import pytest

from frcnn_jax import cli, config, runs
from frcnn_jax.convert import files, published
from frcnn_jax.porting import recognition

# ml_collections loads configuration files with a method that is to go.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

CAFFE = "backbone=dict(style='caffe'), mean=[103.53, 116.28, 123.675], std=[1., 1., 1.]"
PYTORCH = (
    "backbone=dict(style='pytorch'), data_preprocessor=dict(mean=[123.675, 116.28,"
    " 103.53],\n std=[58.395, 57.12, 57.375])"
)


def load(name) -> config.Run:
    return cli.run_of(str(runs.CONFIGS / f"{name}.py"))


@functools.cache
def zeros(name, classes=None, depth=None):
    """Arrays of a configuration's shapes that take no memory."""
    run = load(name)
    run.model.num_classes = classes or run.model.num_classes
    run.model.backbone.depth = depth or getattr(run.model.backbone, "depth", None)
    found = recognition.shapes(run.model)
    return {k: np.broadcast_to(np.float32(0), v.shape) for k, v in found.items()}


def loaded(name, kind="mmdet", text="", names="", **changes):
    metadata = {"meta.config": text} if text else {}
    metadata |= {"meta.CLASSES": names} if names else {}
    return files.Loaded(zeros(name, **changes), metadata, kind, ())


@pytest.mark.parametrize(
    ("name", "kind", "text", "file", "why"),
    [
        ("r50_fpn_1x", "mmdet", PYTORCH, "w.pth", "the configuration in the file"),
        ("r50_caffe_fpn_1x", "mmdet", CAFFE, "w.pth", "'style': 'caffe'"),
        ("r50_caffe_fpn_1x", "mmdet", "", "my_caffe-2.pth", "the file's name"),
        ("r50_caffe_c4_1x", "mmdet", "", "w.pth", "of this model"),
        ("r50_caffe_dc5_1x", "mmdet", "", "w.pth", "of this model"),
        ("x101_32x8d_fpn_ms_3x", "mmdet", "", "w.pth", "of this model"),
        ("x101_64x4d_fpn_1x", "mmdet", "", "w.pth", "of this model"),
        ("torchvision_r50_fpn", "torchvision", "", "w.pth", "of this model"),
        ("torchvision_r50_fpn_v2", "torchvision", "", "w.pth", "of this model"),
        ("jwyang_res101_800", "jwyang", "", "coco_800.pth", "the file's name"),
        ("jwyang_vgg16_voc07", "jwyang", "", "w.pth", "of this model"),
        ("detectron2_r50_c4", "detectron2", "", "model_final_1.pkl", "of this model"),
        ("detectron2_r50_dc5", "detectron2", "", "model_final_1.pkl", "of this model"),
        ("detectron2_r101_fpn", "detectron2", "", "model_final_1.pkl", "of this model"),
        ("detectron2_x101_fpn", "detectron2", "", "model_final_1.pkl", "of this model"),
    ],
)
def test_it_is_recognised(name, kind, text, file, why, capsys):
    assert recognition.recognise(loaded(name, kind, text), file) == load(name)
    printed = capsys.readouterr().out
    assert f"configs/{name}.py: {kind} names, " in printed and why in printed


def test_a_published_file_goes_by_its_name(capsys):
    row = published.find("mmdet:r50_fpn_giou_1x")
    found = recognition.recognise(loaded("r50_fpn_1x"), f"some/folder/{row.file}")
    assert found == load("r50_fpn_giou_1x")
    assert "recognised by its file name" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "model = dict(type='FasterRCNN')"])
def test_styles_that_nothing_tells_apart(text):
    with pytest.raises(ValueError) as caught:
        recognition.recognise(loaded("r50_fpn_1x", text=text), "epoch_12.pth")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("epoch_12.pth: ")
    assert "configs/r50_fpn_1x.py or --config=" in message
    assert message.endswith("configs/r50_caffe_fpn_1x.py")


def test_a_style_that_no_configuration_has():
    text = PYTORCH.replace("58.395", "50.0")
    with pytest.raises(ValueError, match=r"says .*50\.0.*unlike all here"):
        recognition.recognise(loaded("r50_fpn_1x", text=text), "w.pth")


def test_classes_of_its_own():
    """Architecture by the rest; subsets of COCO only where the file names them."""
    one = loaded("r50_fpn_1x", text=CAFFE, classes=1)
    assert recognition.recognise(one, "w.pth") == load("r50_caffe_fpn_1x")
    person = loaded("r50_fpn_1x", text=CAFFE, names='["person"]', classes=1)
    found = recognition.recognise(person, "w.pth")
    assert found == load("r50_caffe_fpn_ms_1x_person")


def test_an_architecture_without_a_configuration():
    found = loaded("jwyang_res101_600", "jwyang", depth=50)
    with pytest.raises(ValueError, match="no configuration here has .* nearest --conf"):
        recognition.recognise(found, "res50.pth")


def test_our_own_file_without_a_configuration():
    with pytest.raises(ValueError, match="carries no configuration: name the one"):
        recognition.recognise(loaded("r50_fpn_1x", "ours"), "w.safetensors")


def test_other_numbers_of_classes_drop_the_subset():
    run = recognition.with_classes(load("r50_caffe_fpn_ms_1x_person"), 4)
    assert run.model.num_classes == 4 and run.data.classes == ()
    assert recognition.with_classes(run, 4) is run
