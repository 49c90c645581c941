"""The step: the same on any number of devices, the same every time."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from frcnn_jax import build, config
from frcnn_jax.data import batching
from frcnn_jax.training import distributed, optimizer, step
from frcnn_jax.training.state import create
from frcnn_jax.types import Detector

LINEAR = config.Train(lr=0.05, lr_batch_size=0, warmup_steps=0)


def flat(tree):
    return {
        k: np.asarray(v) for k, v in traverse_util.flatten_dict(tree, sep="/").items()
    }


def linear_state(detector, mesh, freeze=(), train=LINEAR, ema=0.0, parts=1):
    variables = detector.init(jax.random.key(3), None)
    tx = optimizer.make(train, lambda step: 0.05)
    state = create(variables, tx, freeze, averaged=ema > 0)
    state = distributed.replicate(state, mesh)
    take = step.make_train_step(detector, tx, freeze, mesh, parts=parts, ema=ema)
    return state, take


def steps(detector, arrays_of, *, devices=1, count=3, freeze=(), seed=0, **options):
    mesh = distributed.make_mesh(devices)
    state, take = linear_state(detector, mesh, freeze, **options)
    for number in range(count):
        batch = distributed.to_batch(arrays_of(number), mesh)
        state, metrics = take(state, batch, jax.random.key(seed))
    return jax.tree.map(np.asarray, (state, metrics))


# ---- any detector


def test_the_gradient_is_that_of_the_whole_batch(linear, arrays_of):
    """One step against jax.grad of the loss without any device axis."""
    mesh = distributed.make_mesh(4)
    state, take = linear_state(linear, mesh)
    batch = distributed.to_batch(arrays_of(0), mesh)
    before = jax.tree.map(np.asarray, state.variables)
    plain = jax.tree.map(jnp.asarray, arrays_of(0))
    key = jax.random.fold_in(jax.random.key(0), 0)

    def loss(params):
        variables = {**before, "params": params}
        return linear.loss(variables, type(batch)(**plain), key)

    grads, (_, updates) = jax.grad(loss, has_aux=True)(before["params"])
    state, metrics = take(state, batch, jax.random.key(0))
    for name, gradient in flat(grads).items():
        start = flat(before["params"])[name]
        expected = start - 0.05 * (gradient + LINEAR.weight_decay * start)
        found = flat(state.variables["params"])[name]
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)
    found = state.variables["batch_stats"]["trunk"]["mean"]
    mean = updates["batch_stats"]["trunk"]["mean"]
    np.testing.assert_allclose(found, mean, rtol=1e-6)
    norm = np.sqrt(sum((g**2).sum() for g in flat(grads).values()))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    assert state.step == 1


def test_devices_share_the_loss(linear, arrays_of):
    (_, one), (_, eight) = (steps(linear, arrays_of, devices=n) for n in (1, 8))
    assert one.keys() == eight.keys()
    for name, value in one.items():
        assert np.shape(value) == () and np.isfinite(value)
        np.testing.assert_allclose(eight[name], value, rtol=1e-5, err_msg=name)


def test_the_same_seed_gives_the_same_bits(linear, arrays_of):
    first, again, other = (steps(linear, arrays_of, seed=s)[0] for s in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    kernels = [s.variables["params"]["trunk"]["kernel"] for s in (first, other)]
    assert (kernels[0] != kernels[1]).any()


def test_every_step_has_its_own_key(linear, arrays_of):
    mesh = distributed.make_mesh(1)
    frozen = config.Train(lr=0.0, weight_decay=0.0)
    state, take = linear_state(linear, mesh, train=frozen)
    losses = []
    for _ in range(3):
        batch = distributed.to_batch(arrays_of(0), mesh)
        start = jax.tree.map(jnp.copy, state.variables)
        state, metrics = take(state, batch, jax.random.key(0))
        state = state._replace(variables=start)
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3


def test_frozen_parameters_keep_their_bits(linear, arrays_of):
    start = flat(linear.init(jax.random.key(3), None)["params"])
    state, _ = steps(linear, arrays_of, devices=2, freeze=("trunk/.*",))
    end = flat(state.variables["params"])
    for name, value in start.items():
        assert (end[name] == value).all() == name.startswith("trunk/"), name
    assert state.variables["batch_stats"]["trunk"]["mean"].all()


def test_nothing_is_computed_backwards_below_frozen_parameters(linear, arrays_of):
    """A frozen path whose derivative must not be asked for."""

    @jax.custom_jvp
    def one_way(x):
        return x

    @one_way.defjvp
    def refuse(primals, tangents):
        raise AssertionError("differentiated")

    def loss(variables, batch, key, axis_name=None):
        params = variables["params"]
        trunk = jax.tree.map(one_way, params["trunk"])
        variables = {**variables, "params": {**params, "trunk": trunk}}
        return linear.loss(variables, batch, key, axis_name)

    guarded = Detector(linear.init, loss, linear.predict)
    steps(guarded, arrays_of, count=1, freeze=("trunk/.*",))
    with pytest.raises(AssertionError, match="differentiated"):
        steps(guarded, arrays_of, count=1, freeze=("trunk/bias",))


def test_a_batch_in_parts_takes_the_step_of_the_whole(linear, arrays_of):
    """Losses that are means over images: equal to rounding; statistics go on twice."""
    (one, whole), (two, parts) = (
        steps(linear, arrays_of, devices=2, count=1, parts=n) for n in (1, 2)
    )
    for name, value in flat(one.variables["params"]).items():
        found = flat(two.variables["params"])[name]
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-7, err_msg=name)
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5, err_msg=name)
    colour = arrays_of(0)["images"].mean((1, 2)) / 255
    # Devices hold rows 0..3 and 4..7; a part is two of each.
    first, second = colour[[0, 1, 4, 5]].mean(0), colour[[2, 3, 6, 7]].mean(0)
    mean = two.variables["batch_stats"]["trunk"]["mean"]
    np.testing.assert_allclose(mean, 0.09 * first + 0.1 * second, rtol=1e-5)


def test_the_average_follows_the_weights(linear, arrays_of):
    """After n steps d = min(decay, (1 + n) / (10 + n)); frozen ones keep their bits."""
    found = []
    for count in (1, 2, 3):
        made = steps(linear, arrays_of, count=count, ema=0.15, freeze=("head/.*",))
        found.append(made[0])
    expected = flat(linear.init(jax.random.key(3), None))
    for number, state in enumerate(found):
        decay = min(0.15, (1 + number) / (10 + number))
        now = flat(state.variables)
        expected = {k: decay * v + (1 - decay) * now[k] for k, v in expected.items()}
        for name, value in flat(state.ema).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)
            if name.startswith("params/head"):
                np.testing.assert_array_equal(value, now[name])
    assert found[-1].best is found[-1].ema


def test_losses_without_a_step_are_those_of_the_step(linear, arrays_of):
    mesh = distributed.make_mesh(4)
    variables = linear.init(jax.random.key(3), None)
    batch = distributed.to_batch(arrays_of(0), mesh)
    key = jax.random.fold_in(jax.random.key(0), 0)
    found = step.make_loss_step(linear, mesh)(variables, batch, key)
    _, metrics = steps(linear, arrays_of, count=1)
    for name, value in found.items():
        np.testing.assert_allclose(value, metrics[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("devices", [1, 8])
def test_prediction_keeps_the_order_of_images(linear, arrays_of, devices):
    mesh = distributed.make_mesh(devices)
    variables = linear.init(jax.random.key(0), None)
    predict = step.make_predict_step(linear, mesh)
    arrays = arrays_of(0)
    batch = distributed.to_batch(arrays, mesh)
    found = predict(distributed.replicate(variables, mesh), batch)
    found = distributed.to_host(found)
    red = arrays["images"][:, 0, 0, 0] / 255.0
    expected = np.where(arrays["labels"] > 0, red[:, None], 0.0)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)
    np.testing.assert_array_equal(found.labels, arrays["labels"])


# ---- the real detector


@pytest.fixture
def batch_arrays(tiny_run):
    run, data, _ = build.datasets(tiny_run)
    batches = build.train_batches(run, data, 0)
    arrays = next(batches)
    batches.close()
    return run, arrays, build.plan(run, batches.schedule)


def real_step(run, arrays, plan, devices):
    mesh = distributed.make_mesh(devices)
    state, tx = build.training_state(run, mesh, plan, load=True)
    start = flat(state.variables)
    take = step.make_train_step(build.detector(run.model), tx, run.train.freeze, mesh)
    batch = distributed.to_batch(arrays, mesh)
    state, metrics = take(state, batch, jax.random.key(run.seed))
    return start, flat(state.variables), jax.tree.map(float, metrics)


@pytest.mark.usefixtures("quick_compile")
def test_1_2_and_8_devices_take_the_same_step(batch_arrays):
    """With trainable synchronised batch norm; the stem is frozen."""
    start, one, metrics = real_step(*batch_arrays, 1)
    assert all(np.isfinite(value) for value in metrics.values())
    for name, value in one.items():
        still = name.startswith("params/backbone/stem/")
        assert (start[name] == value).all() == still, name
    for devices in (2, 8):
        _, found, others = real_step(*batch_arrays, devices)
        for name, value in one.items():
            error = np.abs(found[name] - value).max()
            assert error <= 1e-6 * np.abs(value).max(), (devices, name, error)
        for name, value in metrics.items():
            np.testing.assert_allclose(others[name], value, rtol=1e-5, err_msg=name)


ODD = {  # (width, height) of the picture, its boxes
    "empty": ((60, 50), []),
    "pixel": ((1, 1), [[0, 0, 1, 1]]),
    "flat": ((3000, 2), [[100, 0, 2000, 2]]),
    "tall": ((2, 3000), [[0, 100, 2, 2000]]),
    "crowded": ((60, 50), [[n % 40, n % 31, 9, 9 + n % 7] for n in range(1000)]),
}


def write_odd(root):
    """A COCO folder of these pictures, each in a file of its own."""
    images, annotations = [], []
    for key, ((w, h), boxes) in enumerate(ODD.values(), start=1):
        images.append({"id": key, "file_name": f"{key}.png", "width": w, "height": h})
        for box in boxes:
            number = len(annotations) + 1
            where = {"id": number, "image_id": key, "category_id": 1}
            annotations.append(where | {"bbox": box, "area": box[2] * box[3]})
        Image.new("RGB", (w, h), (200, 90, 30)).save(root / f"{key}.png")
    (root / "annotations").mkdir()
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "thing"}]
    for split in ("train", "val"):
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))


@pytest.mark.usefixtures("quick_compile")
def test_batches_of_odd_pictures_take_finite_steps(tiny_run, tmp_path, capsys):
    """From their files on, where anchors must lie inside the picture."""
    write_odd(tmp_path)
    tiny_run.data.root, tiny_run.data.buckets = str(tmp_path), ((96, 96),)
    tiny_run.data.max_boxes, tiny_run.model.rpn.allowed_border = 1000, 0.0
    tiny_run.train.batch_size = tiny_run.train.lr_batch_size = 2
    run, data, _ = build.datasets(tiny_run)
    told = capsys.readouterr().out
    assert "train: 5 images (1 without boxes), 1003 boxes, 1 classes" in told
    assert "1 images hold more than 100 boxes (up to 1000)" in told
    mesh, found = distributed.make_mesh(1), {}
    for name, record in zip(ODD, data.records, strict=True):
        batches = build.train_batches(
            run, dataclasses.replace(data, records=(record,)), 0
        )
        if not found:
            plan = build.plan(run, batches.schedule)
            state, tx = build.training_state(run, mesh, plan, load=True)
            take = step.make_train_step(
                *(build.detector(run.model), tx, run.train.freeze, mesh)
            )
        arrays = next(batches)
        batches.close()
        boxes = len(ODD[name][1])
        assert ((arrays["labels"] > 0).sum(1) == boxes).all()  # none is cut
        batch = distributed.to_batch(arrays, mesh)
        state, metrics = take(state, batch, jax.random.key(0))
        found[name] = jax.tree.map(float, metrics)
        assert all(map(np.isfinite, found[name].values())), (name, found[name])
        assert all(map(np.all, map(np.isfinite, flat(state.variables).values())))
    for name in ("flat", "tall"):  # no anchor lies inside
        assert found[name]["loss_rpn_cls"] == found[name]["loss_rpn_bbox"] == 0
    assert found["empty"]["loss_rpn_bbox"] == found["empty"]["loss_bbox"] == 0
    assert all(one["loss_cls"] > 0 for one in found.values())
    assert found["crowded"]["loss_bbox"] > 0 < found["pixel"]["loss_bbox"]
    run.data.max_boxes = 999
    with pytest.raises(ValueError, match=r"5.png \(image id 5\) has 1000 boxes; raise"):
        build.train_batches(run, data, 0)


def test_frozen_stages_cost_no_gradient(tiny_run):
    """Convolutions and loops in the program: forward only where nothing learns."""
    run = tiny_run
    run.model.num_classes = 2
    arrays = batching.collate([None] * 2, (64, 64), 8)
    counts = [convolutions(run, arrays, freeze) for freeze in ((), ("backbone/.*",))]
    # A convolution that learns has two more in its gradient: of its input, and of its
    # kernel (a loop over blocks on CPUs). The trunk has 9, of the first of which, whose
    # input is the image, only the kernel's is needed; those of 1x1 are matrix products.
    assert counts[0] - counts[1] == 2 * 9 - 1


def convolutions(run, arrays, freeze):
    mesh = distributed.make_mesh(1)
    detector = build.detector(run.model)
    tx = optimizer.make(run.train, lambda step: 0.1)
    batch = distributed.to_batch(arrays, mesh)
    variables = jax.eval_shape(detector.init, jax.random.key(0), batch)
    state = jax.eval_shape(lambda v: create(v, tx, freeze), variables)
    take = step.make_train_step(detector, tx, freeze, mesh)
    text = take.lower(state, batch, jax.random.key(0)).as_text()
    return text.count("stablehlo.convolution") + text.count("stablehlo.while")
