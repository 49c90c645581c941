"""Dynamic loss scaling: the same step, and none at all after an overflow."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import build, config
from frcnn_jax.training import distributed, loss_scale, optimizer, step
from frcnn_jax.training.checkpoint import Checkpoints
from frcnn_jax.training.state import create
from frcnn_jax.types import Detector

ADAM = config.Train(optimizer="adamw", lr=0.05, lr_batch_size=0, warmup_steps=0)


def host(tree):
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)


def overflowing(detector: Detector) -> Detector:
    """The detector with a loss that is infinite for batches with a marked image."""

    def loss(variables, batch, key, axis_name=None):
        total, rest = detector.loss(variables, batch, key, axis_name)
        marked = (batch.image_id == 1000).any()
        return total * jnp.where(marked, jnp.inf, 1.0), rest

    return detector._replace(loss=loss)


def begin(detector, devices=1, scale=65536.0):
    mesh = distributed.make_mesh(devices)
    tx = optimizer.make(ADAM, lambda step: 0.05)
    start = None if scale is None else loss_scale.start(scale)
    state = create(detector.init(jax.random.key(0), None), tx, ("trunk/bias",), start)
    take = step.make_train_step(detector, tx, ("trunk/bias",), mesh)

    def advance(state, arrays):
        return take(state, distributed.to_batch(arrays, mesh), jax.random.key(0))

    return distributed.replicate(state, mesh), advance


def marked(arrays):
    ids = arrays["image_id"].copy()
    ids[-1] = 1000
    return {**arrays, "image_id": ids}


# ---- the rule


def test_it_halves_at_once_and_doubles_after_many_good_steps():
    scale = loss_scale.start(8.0)
    scale = loss_scale.adjusted(scale, jnp.asarray(False))
    assert host(scale) == (4.0, 0)
    scale = loss_scale.adjusted(scale, jnp.asarray(True))
    assert host(scale) == (4.0, 1)
    almost = scale._replace(good_steps=jnp.int32(loss_scale.GOOD_STEPS - 1))
    assert host(loss_scale.adjusted(almost, jnp.asarray(True))) == (8.0, 0)
    assert host(loss_scale.adjusted(almost, jnp.asarray(False))) == (2.0, 0)


def test_small_gradients_survive_float16():
    def loss(x, scale):
        small = (x.astype(jnp.float16) * jnp.float16(2.0**-14)).astype(jnp.float32)
        return loss_scale.scaled(small * 2.0**-14, scale)

    x, scale = jnp.float32(1.0), loss_scale.start(65536.0)
    assert jax.grad(loss)(x, None) == 0.0
    assert loss_scale.unscaled(jax.grad(loss)(x, scale), scale) == 2.0**-28


# ---- in a step


def test_scaled_and_unscaled_take_the_same_step(linear, arrays_of):
    """A power of two changes no bit of a float32 gradient."""
    (plain, take), (scaled, take_scaled) = begin(linear, scale=None), begin(linear)
    for number in range(3):
        plain, metrics = take(plain, arrays_of(number))
        scaled, others = take_scaled(scaled, arrays_of(number))
    jax.tree.map(np.testing.assert_array_equal, plain.variables, scaled.variables)
    jax.tree.map(np.testing.assert_array_equal, plain.opt_state, scaled.opt_state)
    assert {*others} - {*metrics} == {"loss_scale"}
    assert all(metrics[name] == others[name] for name in metrics)
    assert host(scaled.loss_scale) == (65536.0, 3)


@pytest.mark.parametrize("devices", [1, 8])
def test_an_overflow_is_skipped_and_halves_the_scale(linear, arrays_of, devices):
    """The marked image lies on the last device only: all of them must agree."""
    state, take = begin(overflowing(linear), devices)
    state, _ = take(state, arrays_of(0))
    before = host(state)
    state, metrics = take(state, marked(arrays_of(1)))
    assert not np.isfinite(metrics["grad_norm"])
    assert (metrics["loss_scale"], metrics["skipped_steps"]) == (32768.0, 1)
    assert state.step == 2 and host(state.loss_scale) == (32768.0, 0)
    for name in ("variables", "opt_state"):
        pair = getattr(before, name), host(getattr(state, name))
        jax.tree.map(np.testing.assert_array_equal, *pair)
    shards = state.variables["params"]["head"]["kernel"].addressable_shards
    assert len({shard.data.tobytes() for shard in shards}) == 1
    state, metrics = take(state, arrays_of(2))
    kernels = [s.variables["params"]["head"]["kernel"] for s in (before, state)]
    assert (kernels[0] != kernels[1]).all() and metrics["skipped_steps"] == 1


def test_a_step_that_is_not_finite_has_no_effect_without_a_scale_too(linear, arrays_of):
    state, take = begin(overflowing(linear), 8, scale=None)
    before = host(state)
    state, metrics = take(state, marked(arrays_of(0)))
    assert not metrics["finite"] and state.step == 1 and state.skipped == 1
    for name in ("variables", "opt_state"):
        pair = getattr(before, name), host(getattr(state, name))
        jax.tree.map(np.testing.assert_array_equal, *pair)
    state, metrics = take(state, arrays_of(1))
    assert metrics["finite"] and metrics["skipped_steps"] == 1


def test_it_is_saved_and_restored(tmp_path, linear, arrays_of):
    state, take = begin(overflowing(linear))
    state, _ = take(state, marked(arrays_of(0)))
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(state)
    with Checkpoints(tmp_path, keep=1) as saved:
        found = saved.restore(begin(linear)[0])
    assert host(found.loss_scale) == (32768.0, 0) and found.skipped == 1
    assert found.loss_scale.value.sharding == state.loss_scale.value.sharding


# ---- the real detector


@pytest.mark.usefixtures("quick_compile")
def test_a_detector_trains_in_float16(tiny_run):
    """From a scale that overflows, so that both kinds of steps happen."""
    tiny_run.model.dtype, tiny_run.model.backbone.norm = "float16", "frozen"
    tiny_run.train.loss_scale, tiny_run.data.flip = 2.0**18, 0.0
    tiny_run.train.batch_size = tiny_run.train.lr_batch_size = 2
    run, data, _ = build.datasets(tiny_run)
    run.data.buckets = run.data.buckets[:1]
    wide = tuple(r for r in data.records if r.width > r.height)
    data = dataclasses.replace(data, records=wide[:2])
    mesh = distributed.make_mesh(1)
    batches = build.train_batches(run, data, 0)
    plan = build.plan(run, batches.schedule)
    state, tx = build.training_state(run, mesh, plan, load=True)
    take = step.make_train_step(build.detector(run.model), tx, run.train.freeze, mesh)
    start, found = host(state.variables["params"]), []
    for _ in range(12):
        batch = distributed.to_batch(next(batches), mesh)
        state, metrics = take(state, batch, jax.random.key(0))
        found.append({name: float(value) for name, value in metrics.items()})
    batches.close()
    skipped = found[-1]["skipped_steps"]
    assert 0 < skipped < 12 and found[-1]["loss_scale"] == 2.0 ** (18 - skipped)
    for leaf in jax.tree.leaves(state.variables):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()
    kernel = start["box_head"]["fc1"]["kernel"]
    assert (kernel != state.variables["params"]["box_head"]["fc1"]["kernel"]).any()
    assert all(np.isfinite(one["loss"]) for one in found)
    assert found[-1]["loss"] < found[0]["loss"]


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", None), ("bfloat16", None), ("float16", 1024.0)]
)
def test_float16_alone_has_a_scale(tiny_run, dtype, scale):
    run = tiny_run
    run.model.num_classes, run.model.dtype, run.train.loss_scale = 2, dtype, 1024.0
    plan = type("Plan", (), {"rate": staticmethod(lambda step: 0.1)})
    state, _ = build.training_state(run, distributed.make_mesh(1), plan, load=False)
    assert (state.loss_scale and float(state.loss_scale.value)) == scale
