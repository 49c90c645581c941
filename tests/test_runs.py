import dataclasses
import errno
import json
import re

import numpy as np
import pytest
from PIL import Image

from frcnn_jax import config, labels, runs
from frcnn_jax.data import sources
from frcnn_jax.evaluation import results, score
from frcnn_jax.types import Detections

LABELS = labels.Labels(("cat", "dog"), (3, "7"))


def test_a_folder_keeps_run_and_classes(tmp_path):
    run = config.Run(seed=4)
    runs.save_run(tmp_path, run, LABELS)
    assert runs.load_run(tmp_path) == (run, LABELS)
    runs.save_run(tmp_path, run, LABELS)  # the same again


def test_harmless_changes_are_printed_and_kept(tmp_path, capsys):
    runs.save_run(tmp_path, config.Run(), LABELS)
    run = config.Run()
    run.train.log_every = 7
    runs.save_run(tmp_path, run, LABELS)
    assert "train.log_every 50 -> 7" in capsys.readouterr().out
    assert runs.load_run(tmp_path)[0].train.log_every == 7


def test_other_versions_are_told(tmp_path, capsys):
    runs.save_run(tmp_path, config.Run(), LABELS)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text()) | {"orbax-checkpoint": "0.0.1"}
    path.write_text(json.dumps(content))
    runs.save_run(tmp_path, config.Run(), LABELS)
    now = runs.versions()["orbax-checkpoint"]
    assert f"began: orbax-checkpoint 0.0.1 -> {now}\n" in capsys.readouterr().out
    runs.save_run(tmp_path, config.Run(), LABELS)
    assert capsys.readouterr().out == ""


def test_a_failed_write_leaves_the_old_configuration(tmp_path):
    runs.save_run(tmp_path, config.Run(), LABELS)
    (tmp_path / "config.tmp").mkdir()  # in the way of the new file
    with pytest.raises(IsADirectoryError):
        runs.save_run(tmp_path, config.Run(), LABELS)
    assert runs.load_run(tmp_path) == (config.Run(), LABELS)


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path):
    with runs.writing(tmp_path / "new" / "run"):
        assert list((tmp_path / "new" / "run").iterdir()) == []
    assert not (tmp_path / "new" / "run").exists()  # nothing was written
    (tmp_path / "file").touch()
    for place in ("file", "file/run"):
        with (
            pytest.raises(OSError, match=f"{place} cannot be written .*--workdir"),
            runs.writing(tmp_path / place),
        ):
            pytest.fail("it went on")


def test_writes_that_fail_later_name_their_place(tmp_path):
    def fails(*words):
        with runs.writing(tmp_path):
            raise OSError(*words)

    with pytest.raises(OSError, match=f"^{tmp_path} cannot be written .No space"):
        fails(errno.ENOSPC, "No space left on device")  # as writing says it
    file = str(tmp_path / "eval.json")
    with pytest.raises(OSError, match=f"^{file} cannot be written .Permission den"):
        fails(errno.EACCES, "Permission denied", file)
    with pytest.raises(OSError, match="^.Errno 13. Permission denied: '/else'"):
        fails(errno.EACCES, "Permission denied", "/else")
    with pytest.raises(OSError, match="^all is said$"):
        fails("all is said")


def test_sizes_that_decide_the_order_of_images_stay(tmp_path):
    runs.save_run(tmp_path, config.Run(), LABELS)
    run = config.Run()
    run.data.short_sides, run.data.max_side = (640,), 1000
    with pytest.raises(ValueError, match=r"\(data.short_sides, data.max_side\)"):
        runs.save_run(tmp_path, run, LABELS)


def test_other_models_seeds_and_classes_are_refused(tmp_path):
    runs.save_run(tmp_path, config.Run(), LABELS)
    run = config.Run(seed=1)
    run.model.fpn.channels = 8
    with pytest.raises(ValueError, match=r"seed, model.fpn.channels\): continue it"):
        runs.save_run(tmp_path, run, LABELS)
    run = config.Run()
    run.train.optimizer = "adamw"
    with pytest.raises(ValueError, match=r"\(train.optimizer\): continue it"):
        runs.save_run(tmp_path, run, LABELS)
    other = LABELS._replace(class_names=("dog", "cat"))
    with pytest.raises(ValueError, match="the classes of the data"):
        runs.save_run(tmp_path, config.Run(), other)
    assert runs.load_run(tmp_path) == (config.Run(), LABELS)


@pytest.mark.parametrize("ids", [(90, 1, 7), (1, 0), ("b", "a")])
def test_category_ids_come_back_through_labels_and_the_folder(tmp_path, ids):
    """From the file to labels, kept with the run, and back for scoring."""
    (tmp_path / "annotations").mkdir()
    Image.new("RGB", (99, 60)).save(tmp_path / "a.png")
    rows = [
        {"id": n + 1, "image_id": 5, "category_id": i, "bbox": [20 * n, 9, 9, 9 + n]}
        for n, i in enumerate(ids)
    ]
    content = {
        "images": [{"id": 5, "file_name": "a.png", "width": 99, "height": 60}],
        "annotations": rows,
        "categories": [{"id": i, "name": f"class {i}"} for i in ids],
    }
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(content))
    asked = config.Data(root=str(tmp_path), val="train")
    data = sources.load(asked, "train", True)
    runs.save_run(tmp_path, config.Run(), labels.of_data(data))
    _, kept = runs.load_run(tmp_path)
    assert kept == labels.of_data(data) and kept.category_ids == tuple(sorted(ids))
    (record,) = data.records
    assert sorted(record.labels) == list(range(1, len(ids) + 1))
    scores = np.ones((1, len(ids)), np.float32)
    found = Detections(record.boxes[None], scores, record.labels[None])
    told = results.to_results(found, np.array([0]), (5,), kept.category_ids)
    assert [row["category_id"] for row in told] == list(ids)
    metrics = score.evaluate(config.Eval(), data.annotations, told, 100)
    found = {name: row["AP"] for name, row in metrics["per_class"].items()}
    assert found == {f"class {i}": pytest.approx(1.0) for i in ids}


def test_a_folder_of_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not the folder of a run; train"):
        runs.load_run(tmp_path)


def test_which_run_is_meant(tmp_path):
    own = config.Run(seed=3)
    own.model.num_classes = 2
    runs.save_run(tmp_path, own, LABELS)
    assert runs.chosen(None, str(tmp_path), None) == own
    run = config.Run(seed=5)
    run.model.num_classes = 0
    assert runs.chosen(run, str(tmp_path), None).model.num_classes == 2
    assert runs.chosen(run, None, "w.safetensors") is run
    for incomplete in ((None, None, None), (run, None, None), (None, None, "w")):
        with pytest.raises(ValueError, match="--workdir, or both --config and --weig"):
            runs.chosen(*incomplete)


# ml_collections loads configuration files with a method that is to go.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_published_weights_bring_their_configuration(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    run = runs.chosen(None, None, "mmdet:r50_caffe_fpn_ms_1x_person")
    assert run.data.classes == ("person",) and run.model.num_classes == 1
    told = capsys.readouterr().out
    assert re.match(
        r"mmdet:r50_caffe_fpn_ms_1x_person: --config=(\.\./)+\S+/configs/"
        r"r50_caffe_fpn_ms_1x_person\.py \(the file name says r50_fpn_1x; ",
        told,
    )
    own = config.Run(seed=4)
    assert runs.chosen(own, None, "mmdet:r50_fpn_1x") is own
    with pytest.raises(
        ValueError, match="ImageNet trunk, not a detector: .*init.load="
    ):
        runs.chosen(None, None, "torchvision:resnet50")
    with pytest.raises(ValueError, match="nearest: mmdet:r50_fpn_1x"):
        runs.chosen(own, None, "mmdet:r50_fpn_1")


@pytest.mark.parametrize(
    ("name", "value", "goes_on"),
    [
        ("lr", 0.5, True),
        ("epochs", 13.0, True),
        ("clip_norm", 1.0, False),  # none before: the optimiser keeps another state
        ("momentum", 0.8, True),
        ("momentum", 0.0, False),
        ("weight_decay", 0.5, True),
        ("weight_decay", 0.0, False),
        ("batch_size", 8, False),
    ],
)
def test_what_may_change_in_a_run(tmp_path, name, value, goes_on):
    runs.save_run(tmp_path, config.Run(), LABELS)
    run = config.Run()
    setattr(run.train, name, value)
    if goes_on:
        runs.save_run(tmp_path, run, LABELS)
        return
    with pytest.raises(ValueError, match=rf"\(train.{name}\): continue it"):
        runs.save_run(tmp_path, run, LABELS)


def test_other_images_are_another_run(tmp_path, tiny_run, capsys):
    data = sources.load(tiny_run.data, "train", True)
    runs.save_run(tmp_path, tiny_run, LABELS, data)
    runs.save_run(tmp_path, tiny_run, LABELS, data)
    fewer = dataclasses.replace(data, records=data.records[1:])
    with pytest.raises(ValueError, match="the images of the training data or their"):
        runs.save_run(tmp_path, tiny_run, LABELS, fewer)
