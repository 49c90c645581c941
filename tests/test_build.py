import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import traverse_util

from frcnn_jax import build, config, labels, runs
from frcnn_jax.convert import files
from frcnn_jax.data import batching, coco_classes
from frcnn_jax.training import distributed


def flat(variables):
    found = traverse_util.flatten_dict(variables, sep="/")
    return {name: np.asarray(value) for name, value in found.items()}


@pytest.fixture
def loaded(tiny_run):
    return build.datasets(tiny_run)


# ---- data and classes


def test_classes_come_from_the_data(tiny_run, capsys):
    run, train, val = build.datasets(tiny_run)
    assert run.model.num_classes == 5 == len(train.class_names)
    assert val.class_names == train.class_names
    assert len(train.records) == 12 and len(val.records) == 6
    printed = capsys.readouterr().out
    assert "train: 12 images" in printed and "val: 6 images" in printed


def test_an_own_number_of_classes_has_to_agree(tiny_run):
    tiny_run.model.num_classes = 80
    with pytest.raises(ValueError, match="num_classes is 80, but train has 5 classes"):
        build.datasets(tiny_run)
    tiny_run.model.num_classes = 5
    assert build.datasets(tiny_run)[0].model.num_classes == 5


def test_the_given_run_is_not_changed(tiny_run):
    build.datasets(tiny_run)
    assert tiny_run.model.num_classes == 0


def test_validation_classes_are_matched_by_name(tiny_run, shapes_root, tmp_path):
    """The same file with its categories numbered the other way round."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").symlink_to(shapes_root / "images")
    names = shapes_root / "annotations"
    (tmp_path / "annotations/train.json").symlink_to(names / "train.json")
    content = json.loads((names / "val.json").read_text())
    for category in content["categories"]:
        category["id"] = 60 - 10 * category["id"]
    for row in content["annotations"]:
        row["category_id"] = 60 - 10 * row["category_id"]
    (tmp_path / "annotations/val.json").write_text(json.dumps(content))
    plain = build.datasets(tiny_run)[2]
    tiny_run.data.root = str(tmp_path)
    _, train, val = build.datasets(tiny_run)
    assert val.class_names == train.class_names
    assert val.category_ids == (50, 40, 30, 20, 10)
    for ours, theirs in zip(val.records, plain.records, strict=True):
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    content["categories"][0]["name"] += "s"
    (tmp_path / "annotations/val.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"val: .* is missing .did you mean '\w+s'"):
        build.datasets(tiny_run)


def test_a_model_with_a_class_for_each_id_reads_data_by_id(tiny_run):
    tiny_run.data.classes = ("square", "ring")
    plain = build.datasets(tiny_run)[2]
    assert plain.category_ids == (2, 5)
    tiny_run.model.num_classes = 5
    run, train, val = build.datasets(tiny_run)
    assert run.model.num_classes == 5
    assert train.category_ids == val.category_ids == (None, 2, None, None, 5)
    for ours, theirs in zip(val.records, plain.records, strict=True):
        ids = np.asarray([0, 2, 5])[theirs.labels]
        np.testing.assert_array_equal(ours.labels, ids)


def test_a_detector_needs_to_know_its_classes(tiny_run):
    with pytest.raises(ValueError, match="num_classes is 0.*load the data first"):
        build.detector(tiny_run.model)


def guessed(num_classes, *names):
    run = config.Run()
    run.model.num_classes, run.data.classes = num_classes, names
    return labels.guessed(run)


def test_labels_of_weights_that_name_none():
    coco = guessed(80)
    assert coco == (coco_classes.NAMES, coco_classes.IDS)
    names, ids = guessed(90)
    assert names[12] == "stop sign" and ids[12] == 13
    assert names[11] == "unused 12" and ids[11] is None and len(names) == 90
    three = guessed(3)
    assert three == (("class 1", "class 2", "class 3"), (1, 2, 3))


def test_labels_of_a_subset_of_coco():
    assert guessed(1, "person") == (("person",), (1,))
    # As data sets have it: the order of COCO, not of the list.
    cars = guessed(3, "car", "person", "traffic light")
    assert cars == (("person", "car", "traffic light"), (1, 3, 10))
    assert guessed(2, "person", "crab") == (("class 1", "class 2"), (1, 2))
    assert guessed(2, "person") == (("class 1", "class 2"), (1, 2))


def test_oddities_are_told_only_when_there_are_some(loaded, tmp_path):
    run, data, _ = loaded
    run.data.on_bad_image = "skip"
    broken, wrong = tmp_path / "broken.jpg", data.records[0]
    broken.write_bytes(b"<html>")
    records = [*data.records]
    records[3] = records[3]._replace(path=broken)
    records[0] = wrong._replace(width=wrong.width + 1, height=wrong.height + 1)
    spoiled = dataclasses.replace(data, records=tuple(records))
    mesh = distributed.make_mesh(1)
    for dataset, text in (
        (data, ""),
        (
            spoiled,
            "train images: 1 unreadable, left out or replaced by others; 1 of another"
            " size or rotation than the JSON says",
        ),
    ):
        batches = build.Evaluator(run, dataset, mesh).batches
        assert build.oddities("train", batches) == ""
        list(batches)
        assert build.oddities("train", batches) == text


# ---- weights


@pytest.fixture
def fresh(loaded):
    run = loaded[0]
    run.model.backbone.norm = "frozen"
    return run, build.fresh_variables(run)


def test_the_same_seed_gives_the_same_weights(fresh):
    run, variables = fresh
    jax.tree.map(np.testing.assert_array_equal, build.fresh_variables(run), variables)
    other = build.fresh_variables(dataclasses.replace(run, seed=1))
    kernel = "params/box_head/fc1/kernel"
    assert (flat(other)[kernel] != flat(variables)[kernel]).mean() > 0.9


def test_weights_of_a_whole_detector(fresh, tmp_path, capsys):
    run, variables = fresh
    trained = {name: value + 1 for name, value in flat(variables).items()}
    files.save(tmp_path / "w.safetensors", trained, {})
    found = build.variables(run, str(tmp_path / "w.safetensors"))
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    for name, value in flat(found).items():
        np.testing.assert_array_equal(value, trained[name])
    printed = capsys.readouterr().out
    assert "w.safetensors (ours names)" in printed
    assert f"loaded {len(trained)} arrays" in printed


def test_weights_of_a_trunk_leave_the_rest_fresh(fresh, tmp_path, capsys):
    """With a stage more than the model has, as published trunks do."""
    run, variables = fresh
    ours = flat(variables)
    trunk = {k: v + 1 for k, v in ours.items() if k.split("/")[1] == "backbone"}
    deeper = {k.replace("layer2", "layer3"): v for k, v in trunk.items()}
    files.save(tmp_path / "w.safetensors", {**deeper, **trunk}, {})
    found = flat(build.variables(run, str(tmp_path / "w.safetensors")))
    for name, value in found.items():
        np.testing.assert_array_equal(value, trunk.get(name, ours[name]))
    assert "kept fresh, not in the file" in capsys.readouterr().out


def stored(folder, state):
    np.savez(folder / "w.npz", **state)
    return str(folder / "w.npz")


def test_weights_of_a_classifier_fill_the_head_of_vgg(tmp_path):
    run = config.Run()
    model = run.model
    model.backbone, model.fpn, model.num_classes = config.VGG16(width=2), None, 2
    model.rpn.channels, model.rpn.anchor_sizes, model.roi.fc = 4, ((32.0,),), (6, 5)
    fresh = flat(build.fresh_variables(run))
    rng = np.random.default_rng(0)
    state, inputs = {}, 3
    stages = (0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)
    for positions, factor in zip(stages, (1, 2, 4, 8, 8), strict=True):
        for position in positions:
            shape = (2 * factor, inputs, 3, 3)
            state[f"features.{position}.weight"] = rng.standard_normal(shape)
            state[f"features.{position}.bias"] = rng.standard_normal(shape[0])
            inputs = shape[0]
    for layer, shape in ((0, (6, 49 * 16)), (3, (5, 6)), (6, (9, 5))):
        state[f"classifier.{layer}.weight"] = rng.standard_normal(shape)
        state[f"classifier.{layer}.bias"] = rng.standard_normal(shape[0])
    found = flat(build.variables(run, stored(tmp_path, state)))
    for name, value in found.items():
        kept = "/rpn/" in name or "/predictor/" in name
        assert (value == fresh[name]).all() == kept, name
    bias = found["params/box_head/fc2/bias"]
    np.testing.assert_allclose(bias, state["classifier.3.bias"], rtol=1e-6)


def test_the_last_stage_of_a_classifier_is_the_head_of_c4_models(tmp_path):
    run = config.Run()
    model = run.model
    model.backbone = config.ResNet(width=2, group_width=64, stages=("c4",))
    model.fpn, model.roi.fc, model.roi.res5 = None, (), True
    model.num_classes, model.rpn.channels, model.rpn.anchor_sizes = 2, 4, ((32.0,),)
    fresh = flat(build.fresh_variables(run))
    trunk = {
        name.replace("/box_head/", "/backbone/"): value + 1
        for name, value in fresh.items()
        if "/backbone/" in name or "/box_head/layer4/" in name
    }
    files.save(tmp_path / "w.safetensors", trunk, {})
    found = flat(build.variables(run, str(tmp_path / "w.safetensors")))
    for name, value in found.items():
        kept = "/rpn/" in name or "/predictor/" in name
        np.testing.assert_array_equal(value, fresh[name] + (0 if kept else 1))


def test_weights_that_do_not_fit_are_listed(fresh, tmp_path):
    run, variables = fresh
    ours = flat(variables)
    ours.pop("params/rpn/conv/bias")
    files.save(tmp_path / "w.safetensors", ours, {})
    with pytest.raises(ValueError, match="params/rpn/conv/bias"):
        build.variables(run, str(tmp_path / "w.safetensors"))
    run.init.skip = ("rpn/conv/bias",)
    assert flat(build.variables(run, str(tmp_path / "w.safetensors")))


def test_weights_for_other_classes_name_the_field_and_the_fix(fresh, tmp_path, capsys):
    """A detector of more classes, as the published subsets start from one."""
    run, variables = fresh
    other = dataclasses.replace(run.model, num_classes=7)
    theirs = flat(build.fresh_variables(dataclasses.replace(run, model=other)))
    files.save(tmp_path / "w.safetensors", theirs, {})
    with pytest.raises(ValueError) as caught:
        build.variables(run, str(tmp_path / "w.safetensors"))
    message = str(caught.value)
    assert "classes/bias: model (6,), file (8,)" in message
    assert "--config.init.skip='box_head/predictor/.*'" in message
    run.init.skip = ("box_head/predictor/.*",)
    found = flat(build.variables(run, str(tmp_path / "w.safetensors")))
    for name, value in found.items():
        kept = flat(variables) if "/predictor/" in name else theirs
        np.testing.assert_array_equal(value, kept[name])
    assert "kept fresh, skipped: 4 (box_head/predictor 4)" in capsys.readouterr().out


HEAD = "params/box_head/predictor/classes/bias"


def theirs_of(run, count):
    """Weights of a detector with so many classes, none of them as it starts."""
    model = dataclasses.replace(run.model, num_classes=count)
    made = flat(build.fresh_variables(dataclasses.replace(run, model=model)))
    return {name: value + 7 for name, value in made.items()}


def test_classes_that_a_file_names_keep_their_rows(fresh, loaded, tmp_path, capsys):
    run, variables = fresh
    names = loaded[1].class_names
    theirs = theirs_of(run, 2)
    metadata = {"meta.CLASSES": ["elsewhere", names[3]]}
    files.save(tmp_path / "w.safetensors", theirs, metadata)
    found = flat(build.variables(run, str(tmp_path / "w.safetensors"), names))
    expected = flat(variables)[HEAD].copy()
    expected[[0, 4]] = theirs[HEAD][[0, 2]]
    np.testing.assert_array_equal(found[HEAD], expected)
    kernel = "params/box_head/predictor/deltas/kernel"
    np.testing.assert_array_equal(found[kernel][:, 12:16], theirs[kernel][:, 4:])
    np.testing.assert_array_equal(
        found[kernel][:, :12], flat(variables)[kernel][:, :12]
    )
    trunk = "params/rpn/conv/kernel"
    np.testing.assert_array_equal(found[trunk], theirs[trunk])
    printed = capsys.readouterr().out
    assert f"kept 1 ({names[3]}), re-initialised 4 (" in printed
    assert "unused 1 (elsewhere)" in printed


def test_skipped_class_heads_stay_fresh_whatever_is_named(
    fresh, loaded, tmp_path, capsys
):
    run, variables = fresh
    names = loaded[1].class_names
    files.save(
        tmp_path / "w.safetensors", theirs_of(run, 2), {"class_names": names[:2]}
    )
    run.init.skip = ("box_head/predictor/.*",)
    found = flat(build.variables(run, str(tmp_path / "w.safetensors"), names))
    np.testing.assert_array_equal(found[HEAD], flat(variables)[HEAD])
    assert "by name" not in capsys.readouterr().out


@pytest.mark.parametrize(("count", "row"), [(80, 3), (90, 3)])
def test_heads_as_wide_as_cocos_have_its_names(fresh, tmp_path, capsys, count, row):
    """As data sets number them, or by id; "car" is third in both."""
    run, _ = fresh
    theirs = theirs_of(run, count)
    files.save(tmp_path / "w.safetensors", theirs, {})
    names = ("drone", "car", "a", "b", "c")
    found = flat(build.variables(run, str(tmp_path / "w.safetensors"), names))
    assert found[HEAD][2] == theirs[HEAD][row]
    assert "kept 1 (car), re-initialised 4" in capsys.readouterr().out


def test_a_head_that_fits_is_not_guessed_about(fresh, loaded, tmp_path, capsys):
    """Names of the file count; where it has none, equal numbers are taken as equal."""
    run, names = fresh[0], loaded[1].class_names
    theirs = theirs_of(run, 5)
    stale = {"meta.CLASSES": ["person", "dog"]}  # of the file it was tuned from
    for metadata in ({}, stale, {"class_names": list(names)}):
        files.save(tmp_path / "w.safetensors", theirs, metadata)
        found = flat(build.variables(run, str(tmp_path / "w.safetensors"), names))
        np.testing.assert_array_equal(found[HEAD], theirs[HEAD])
    assert "by name" not in capsys.readouterr().out
    files.save(tmp_path / "w.safetensors", theirs, {"class_names": names[::-1]})
    found = flat(build.variables(run, str(tmp_path / "w.safetensors"), names))
    np.testing.assert_array_equal(found[HEAD], theirs[HEAD][[0, 5, 4, 3, 2, 1]])


def test_a_file_that_carries_its_configuration(fresh, tmp_path):
    run, variables = fresh
    path = str(tmp_path / "w.safetensors")
    metadata = {
        "frcnn_jax": "0",
        "config": config.to_json(run),
        "class_names": list("abcde"),
        "category_ids": [1, 2, 3, 5, 8],
    }
    files.save(path, flat(variables), metadata)
    assert runs.chosen(None, None, path) == run
    other = config.Run(seed=9)
    assert runs.chosen(other, None, path) is other
    found = runs.trained(run, None, path)
    assert found.labels == (tuple("abcde"), (1, 2, 3, 5, 8))
    del metadata["frcnn_jax"]  # a stranger's "config"
    files.save(path, flat(variables), metadata)
    with pytest.raises(ValueError, match="a file that convert.py made"):
        runs.chosen(None, None, path)


@pytest.mark.parametrize(
    ("freeze", "norm", "load", "named"),
    [
        (("backbone/stem/.*",), "batch", "", "train.freeze = ('backbone/stem/.*',)"),
        ((), "frozen", "", 'model.backbone.norm = "frozen"'),
        ((), "batch", "", None),
        (("backbone/stem/.*",), "frozen", "w.npz", None),
    ],
)
def test_frozen_random_layers_are_warned_of(freeze, norm, load, named):
    run = config.Run()
    run.train.freeze, run.model.backbone.norm, run.init.load = freeze, norm, load
    warning = build.scratch_warning(run)
    if named is None:
        assert warning == ""
    else:
        assert warning.startswith("warning: ") and "\n" not in warning
        assert named in warning and "--config.init.load=FILE" in warning


def test_a_trunk_without_norms_is_frozen_by_patterns_only():
    run = config.Run()
    run.model.backbone, run.train.freeze = config.VGG16(), ()
    assert build.scratch_warning(run) == ""


def test_a_missing_weights_file_names_the_nearest(fresh, tmp_path):
    run, variables = fresh
    files.save(tmp_path / "weights.safetensors", flat(variables), {})
    with pytest.raises(FileNotFoundError, match="nearest name.*weights.safetensors"):
        build.variables(run, str(tmp_path / "weigths.safetensors"))


# ---- the plan


def schedule_of(run, records=12):
    return batching.Schedule(np.zeros(records, int), run.train.batch_size, run.seed)


def planned(**fields):
    run = config.Run()
    run.train = config.Train(**{"batch_size": 4, "epochs": 6.0, **fields})
    return build.plan(run, schedule_of(run))


def test_epochs_become_steps():
    """12 images in batches of 4: three steps an epoch."""
    plan = planned(milestones=(2.0, 5.0), lr=0.4, lr_batch_size=4, warmup_steps=0)
    assert plan.total == 18
    assert plan.eval_steps == {3, 6, 9, 12, 15, 18} == plan.checkpoint_steps
    rates = [float(plan.rate(step)) for step in (5, 6, 14, 15)]
    np.testing.assert_allclose(rates, [0.4, 0.04, 0.04, 0.004], rtol=1e-6)
    assert plan.epoch_of(9) == 3.0


def test_steps_win_and_epochs_become_shares():
    plan = planned(steps=60, milestones=(3.0,), lr=0.4, lr_batch_size=4, warmup_steps=0)
    assert plan.total == 60 and plan.eval_steps == {10, 20, 30, 40, 50, 60}
    np.testing.assert_allclose([plan.rate(29), plan.rate(30)], [0.4, 0.04], rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "evaluated", "saved"),
    [
        ({"eval_every": 0}, {18}, {18}),
        ({"eval_every": 4}, {12, 18}, {12, 18}),
        ({"eval_every": 0.5}, {2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18}, None),
        ({"eval_every": 100}, {18}, {18}),
        ({"eval_every": 3, "checkpoint_every": 5}, {9, 18}, {0, 5, 10, 15, 18}),
    ],
)
def test_when_to_evaluate_and_save(fields, evaluated, saved):
    plan = planned(milestones=(), **fields)
    assert plan.eval_steps == evaluated
    assert plan.checkpoint_steps == (evaluated if saved is None else saved)


def test_a_set_smaller_than_a_batch_still_takes_a_step():
    run = config.Run()
    run.train = config.Train(batch_size=16, epochs=0.5, milestones=())
    assert build.plan(run, schedule_of(run, records=3)).total == 1


# ---- scoring


@pytest.fixture
def wide(loaded):
    """The run and its wide validation images: one canvas."""
    run, _, val = loaded
    records = tuple(r for r in val.records if r.width > r.height)
    kept = {r.source_id for r in records}
    truth = {
        **val.annotations,
        "images": [i for i in val.annotations["images"] if i["id"] in kept],
        "annotations": [
            a for a in val.annotations["annotations"] if a["image_id"] in kept
        ],
    }
    return run, dataclasses.replace(val, records=records, annotations=truth)


@pytest.mark.usefixtures("quick_compile")
def test_devices_do_not_change_detections(wide):
    """Three devices round the batch of eight up to nine."""
    run, val = wide
    variables = build.fresh_variables(run)
    found = []
    for devices in (1, 3):
        mesh = distributed.make_mesh(devices)
        evaluator = build.Evaluator(run, val, mesh)
        found.append(evaluator.results(distributed.replicate(variables, mesh)))
    assert len(found[0]) == len(val.records) * run.model.roi.max_detections
    keys = [[(r["image_id"], r["category_id"]) for r in results] for results in found]
    assert sorted(keys[0]) == sorted(keys[1])
    sizes = {r.source_id: (r.width, r.height) for r in val.records}
    for row in found[0]:
        x, y, w, h = row["bbox"]
        width, height = sizes[row["image_id"]]
        assert -0.01 <= x <= x + w <= width + 0.01
        assert -0.01 <= y <= y + h <= height + 0.01


@pytest.mark.usefixtures("quick_compile")
def test_no_detections_score_0(wide):
    """A detector that is sure of the background."""
    run, val = wide
    variables = build.fresh_variables(run)
    classes = variables["params"]["box_head"]["predictor"]["classes"]
    classes["bias"] = classes["bias"].at[0].set(100.0)
    mesh = distributed.make_mesh(1)
    evaluator = build.Evaluator(run, val, mesh)
    results = evaluator.results(distributed.replicate(variables, mesh))
    assert results == []
    metrics = evaluator.metrics(results)
    assert metrics["AP"] == 0.0 and len(metrics["per_class"]) == 5
