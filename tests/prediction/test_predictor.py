"""A narrow detector with fresh weights: what it says is arbitrary, not random."""

import shutil
import subprocess
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest

from frcnn_jax import Predictor, build, labels, runs
from frcnn_jax.convert import files
from frcnn_jax.data import transforms, video, views
from frcnn_jax.porting import source
from frcnn_jax.prediction import merge
from frcnn_jax.prediction.predictor import Times

NAMES = ("cat", "dog", "cow", "hen", "pig")


@pytest.fixture
def run(tiny_run):
    tiny_run.model.num_classes, tiny_run.model.roi.score_threshold = 5, 0.0
    return tiny_run


@pytest.fixture
def model(run):
    named = labels.Labels(NAMES, (1, 2, 3, 4, 5))
    return runs.Trained(run, named, build.fresh_variables(run), "fresh", None)


@pytest.fixture
def predictor(model, quick_compile):
    return Predictor(model, score=0.0)


@pytest.fixture
def files_in(tmp_path, rng):
    """A wide picture, a tall one, and a wide one."""
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for path, hw in zip(paths, ((40, 60), (90, 60), (30, 40)), strict=True):
        cv2.imwrite(str(path), rng.integers(0, 256, (*hw, 3), np.uint8))
    return paths


def equal(one, other):
    assert one.labels.tolist() == other.labels.tolist()
    np.testing.assert_allclose(one.xyxy, other.xyxy, atol=1e-3)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_the_package_is_cheap_to_import():
    code = "import sys, frcnn_jax; sys.exit(bool({'jax', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    import frcnn_jax

    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        _ = frcnn_jax.Predicter


def test_a_path_an_array_and_lists_of_them(predictor, files_in):
    one = predictor(files_in[0])
    assert len(one) > 0 and one.hw == (40, 60)
    assert one.xyxy.dtype == one.scores.dtype == np.float32
    assert (np.diff(one.scores) <= 0).all()
    assert set(one.names) <= set(NAMES) and one.labels.min() > 0
    assert (one.xyxy >= 0).all() and (one.xyxy <= (60, 40, 60, 40)).all()
    image = transforms.decode(files_in[0])
    equal(predictor(image), one)
    several = predictor([str(files_in[0]), *files_in[1:], image])
    assert [found.hw for found in several] == [(40, 60), (90, 60), (30, 40), (40, 60)]
    equal(several[0], one)
    equal(several[3], one)
    assert predictor([]) == []
    (stacked,) = predictor(image[None])
    equal(stacked, one)


def test_a_score_and_classes_leave_the_rest_out(model, predictor, files_in):
    every = predictor(files_in[0])
    name, score = every.names[len(every) // 2], float(np.median(every.scores))
    some = Predictor(model, score=score, classes=[name])(files_in[0])
    equal(some, every.where((every.names == name) & (every.scores >= score)))
    assert 0 < len(some) < len(every)


def test_an_unknown_class_with_its_nearest(model):
    with pytest.raises(
        ValueError, match="'dgo' is none of the 5 .* did you mean 'dog'"
    ):
        Predictor(model, classes=["cat", "dgo"])


def test_files_that_cannot_be_read(predictor, files_in, tmp_path):
    broken = tmp_path / "notes.png"
    broken.write_text("no picture")
    with pytest.raises(transforms.BadImage, match=r"notes\.png: not an image"):
        predictor([files_in[0], broken])
    found = dict(predictor.stream([broken, *files_in], 2))
    assert isinstance(found.pop(0), transforms.BadImage)
    assert sorted(found) == [1, 2, 3]
    times = predictor.times
    assert times.total > 0 and 0 <= times.waiting and times.compiling > 0
    with pytest.raises(ValueError, match="must be uint8 RGB"):
        predictor(np.zeros((4, 4, 3)))


def test_a_weights_file_that_carries_its_configuration(
    model, predictor, files_in, tmp_path
):
    flat = build.traverse_util.flatten_dict(model.variables, sep="/")
    flat = {name: np.asarray(value) for name, value in flat.items()}
    made = source.Source("fresh", model.run, model.labels, flat, "")
    source.write(made, tmp_path / "w.safetensors")
    loaded = Predictor(str(tmp_path / "w.safetensors"), score=0.0)
    assert loaded.class_names == NAMES
    equal(loaded(files_in[1]), predictor(files_in[1]))
    files.save(tmp_path / "bare.safetensors", flat, {})
    with pytest.raises(ValueError, match="weights that carry their configuration"):
        Predictor(tmp_path / "bare.safetensors")
    bare = Predictor(tmp_path / "bare.safetensors", config=model.run)
    assert bare.class_names == tuple(f"class {n}" for n in range(1, 6))


def test_what_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist: name the fol"):
        Predictor(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        Predictor(tmp_path)
    with pytest.raises(ValueError, match="mmdet:r50_fpn_1y: no such published weights"):
        Predictor("mmdet:r50_fpn_1y")


def together(plain, image, chosen):
    """What the views show when each is predicted on as a picture of its own."""
    hw = image.shape[:2]
    parts = []
    for view in chosen:
        shown = views.cut(image, view)
        one = plain(shown[:, ::-1] if view.flip else shown)
        parts.append(merge.Part(view, one.xyxy, one.scores, one.labels))
    roi = plain.run.model.roi
    return merge.merged(parts, hw, iou=roi.nms_iou, most=roi.max_detections)


@pytest.mark.parametrize("asked", [{"tta": True}, {"tile": 40}])
def test_views_together_are_what_each_shows(model, predictor, files_in, asked):
    image = transforms.decode(files_in[1])
    several = Predictor(model, score=0.0, **asked)
    expected_views = {"tta": 2, "tile": 1 + 2 * 3}[next(iter(asked))]
    chosen = views.of_picture(image.shape[:2], several._looks)
    assert len(chosen) == expected_views
    found = several(image)
    xyxy, scores, labels_ = together(predictor, image, chosen)
    equal(found, found.__class__(xyxy, scores, labels_, NAMES, found.hw))
    assert [one.hw for one in several([files_in[0], image])] == [(40, 60), (90, 60)]
    equal(several([files_in[0], image])[1], found)


def test_tiles_that_are_too_small(model):
    with pytest.raises(ValueError, match="tile=8: tiles have 32 pixels or more"):
        Predictor(model, tile=8)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_a_video_gives_its_frames_in_order(predictor, tmp_path, rng):
    made = video.Writer(tmp_path / "a.mkv", (40, 60), Fraction(10))
    for _ in range(7):
        made.write(rng.integers(0, 256, (40, 60, 3), np.uint8))
    made.close()
    seen = list(predictor.video(tmp_path / "a.mkv", every=2))
    assert [number for number, _, _ in seen] == [0, 2, 4, 6]
    for (_, _, found), one in zip(
        seen, predictor([f for _, f, _ in seen]), strict=True
    ):
        equal(found, one)
    with pytest.raises(transforms.BadImage, match=r"none\.mp4: .*No such file"):
        next(predictor.video(tmp_path / "none.mp4"))


def test_times_of_passes_are_added():
    assert Times(1.0, 2.0, 3.0) + Times(10.0, 20.0) == Times(11.0, 22.0, 3.0)
