"""Export and back: the same bits, from a folder that needs no frcnn_jax."""

import json

import cv2
import jax
import numpy as np
import pytest

from frcnn_jax import build
from frcnn_jax.export import detect, stablehlo
from tests.export.samples import ABOUT, found_without, photo

CANVASES = ((64, 96), (96, 64))


@pytest.fixture
def model(tiny_run):
    run = tiny_run
    run.model.num_classes, run.model.roi.score_threshold = 5, 0.001
    return build.detector(run.model).predict, build.fresh_variables(run)


@pytest.fixture
def folder(model, tmp_path):
    stablehlo.write(tmp_path / "out", *model, CANVASES, ABOUT)
    return tmp_path / "out"


def test_the_folder_gives_the_detectors_bits(model, folder, rng):
    assert {p.name for p in folder.iterdir()} == {
        *("64x96.stablehlo", "96x64.stablehlo"),
        *("weights.npz", "about.json", "detect.py"),
    }
    about = json.loads((folder / "about.json").read_text())
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert stablehlo.check(folder, *model, photo(rng, 96, 96)) > 10


def test_other_weights_are_noticed(model, folder, rng):
    predict, variables = model
    other = jax.tree.map(lambda x: x * 1.01, variables)
    with pytest.raises(ValueError, match="the program of 64x96 gives other numbers"):
        stablehlo.check(folder, predict, other, photo(rng, 96, 96))


def test_jax_and_numpy_are_enough(folder, rng):
    image = photo(rng, 128, 192)
    missing = "frcnn_jax flax optax cv2 PIL absl"
    found = found_without(missing, folder, image, score=0.2)
    ours = detect.Detector(folder)(image, score=0.2)
    for name, values in ours.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert len(ours["boxes"]) == len(ours["names"]) > 0
    assert ours["scores"].min() >= 0.2 and set(ours["names"]) <= {*ABOUT["class_names"]}
    limits = np.float32([192, 128, 192, 128])
    assert (ours["boxes"] >= 0).all() and (ours["boxes"] <= limits).all()


def test_a_picture_of_the_right_size_is_not_resampled(model, folder, rng):
    predict, variables = model
    image = photo(rng, 64, 96)
    found = detect.Detector(folder)(image)
    inputs = image[None], np.float32([[64, 96]]), np.ones((1, 2), np.float32)
    flat = build.traverse_util.flatten_dict(variables, sep="/")
    boxes, _, labels = jax.jit(stablehlo.calls(predict))(flat, *inputs)
    np.testing.assert_array_equal(found["boxes"], boxes[0][labels[0] > 0])


@pytest.mark.parametrize(("old", "new"), [((60, 80), (64, 85)), ((301, 77), (96, 25))])
def test_resizing_is_opencvs_to_one_level(rng, old, new):
    image = rng.integers(0, 256, (*old, 3)).astype(np.uint8)
    ours = detect.resized(image, new).astype(int)
    theirs = cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR).astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_what_cannot_be_read_is_told(folder):
    read = detect.Detector(folder)
    for wrong in (np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8)):
        with pytest.raises(ValueError, match="not uint8 .h, w, 3. RGB"):
            read(wrong)
    with pytest.raises(ValueError, match="97x64 pixels fit into none of the canvases"):
        read.canvas(97, 64)
    assert read.canvas(64, 64) == (64, 96) and read.canvas(65, 64) == (96, 64)


def test_bad_targets_are_told_before_any_work(model, tmp_path):
    with pytest.raises(ValueError, match="no platform tpv: there are cpu, cuda, tpu"):
        stablehlo.write(tmp_path / "a", *model, CANVASES, ABOUT, ["cpu", "tpv"])
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").touch()
    with pytest.raises(FileExistsError, match="b is not empty"):
        stablehlo.write(tmp_path / "b", *model, CANVASES, ABOUT)
