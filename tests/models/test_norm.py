"""Batch normalisation: formulas in numpy, masks, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.norm import Norm

EPS = 1e-5


def example(rng):
    x = rng.standard_normal((4, 5, 6, 3)).astype(np.float32) * 3 + 1
    variables = {
        "params": {"scale": rng.uniform(0.5, 2, 3), "bias": rng.standard_normal(3)},
        "batch_stats": {"mean": rng.standard_normal(3), "var": rng.uniform(1, 3, 3)},
    }
    return x, jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), variables)


def formula(x, mean, var, variables):
    params = variables["params"]
    unit = (x - np.asarray(mean)) / np.sqrt(np.asarray(var) + EPS)
    return unit * np.asarray(params["scale"]) + np.asarray(params["bias"])


@pytest.mark.parametrize(
    ("statistics", "train"), [("frozen", False), ("frozen", True), ("batch", False)]
)
def test_running_statistics_are_used(statistics, train, rng):
    """Frozen ones always, those of the batch kind outside of training."""
    x, variables = example(rng)
    layer = Norm(statistics, EPS)
    ours, updates = layer.apply(
        variables, jnp.asarray(x), None, train, mutable=["batch_stats"]
    )
    stats = variables["batch_stats"]
    theirs = formula(x, stats["mean"], stats["var"], variables)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], stats)


def test_batch_statistics_and_their_update(rng):
    """Biased variance normalises, the unbiased one is remembered (torch)."""
    x, variables = example(rng)
    ours, updates = Norm("batch", EPS).apply(
        variables, jnp.asarray(x), None, True, mutable=["batch_stats"]
    )
    cells = x.reshape(-1, 3).astype(np.float64)
    theirs = formula(x, cells.mean(0), cells.var(0), variables)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    old, new = variables["batch_stats"], updates["batch_stats"]
    mean = 0.9 * np.asarray(old["mean"]) + 0.1 * cells.mean(0)
    np.testing.assert_allclose(new["mean"], mean, rtol=1e-5)
    var = 0.9 * np.asarray(old["var"]) + 0.1 * cells.var(0, ddof=1)
    np.testing.assert_allclose(new["var"], var, rtol=1e-5)


def test_cells_outside_the_images_do_not_count(rng):
    x, variables = example(rng)
    inside = np.zeros((4, 5, 6, 1), bool)
    inside[:, :3, :4] = True
    inside[3] = False  # an image without cells
    garbage = np.where(inside, x, np.float32(1e4))
    layer = Norm("batch", EPS)
    ours, updates = layer.apply(
        variables,
        jnp.asarray(garbage),
        jnp.asarray(inside),
        True,
        mutable=["batch_stats"],
    )
    tight = jnp.asarray(x[:3, :3, :4])
    theirs, expected = layer.apply(variables, tight, None, True, mutable="batch_stats")
    np.testing.assert_allclose(ours[:3, :3, :4], theirs, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), updates, expected
    )


@pytest.mark.parametrize("devices", (2, 4))
def test_devices_share_their_statistics(devices, rng):
    """Values, updates and gradients are those of the whole batch on one device."""
    x, variables = example(rng)
    up = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)

    def run(layer, x, up):
        def total(variables, x):
            y, updates = layer.apply(variables, x, None, True, mutable=["batch_stats"])
            return (y * up).sum(), (y, updates)

        return jax.value_and_grad(total, (0, 1), has_aux=True)(variables, x)

    (_, (y, updates)), (grads, dx) = jax.jit(
        lambda x, up: run(Norm("batch", EPS), x, up)
    )(jnp.asarray(x), up)
    mesh = jax.make_mesh((devices,), ("data",), (jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def shard(x, up):
        (_, (y, updates)), (grads, dx) = run(
            Norm("batch", EPS, axis_name="data"), x, up
        )
        return y, updates, jax.lax.psum(grads, "data"), dx

    rows, whole = spec("data"), spec()
    sharded = jax.shard_map(
        shard,
        mesh=mesh,
        in_specs=(rows, rows),
        out_specs=(rows, whole, whole, rows),
        check_vma=False,
    )
    found = jax.jit(sharded)(jnp.asarray(x), up)
    for ours, theirs in zip(found, (y, updates, grads, dx), strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, theirs
        )


def test_constant_maps_become_the_bias():
    """Variance 0: the epsilon keeps values and gradients finite."""
    layer, x = Norm("batch", EPS), jnp.full((2, 3, 3, 1), 7.0)
    variables = layer.init(jax.random.key(0), x)

    def total(x):
        y, _ = layer.apply(variables, x, None, True, mutable=["batch_stats"])
        return y.sum(), y

    grad, y = jax.grad(total, has_aux=True)(x)
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_initialising_leaves_the_statistics_alone():
    variables = Norm("batch").init(
        jax.random.key(0), jnp.full((1, 2, 2, 2), 5.0), None, True
    )
    assert variables["batch_stats"]["mean"].tolist() == [0, 0]
    assert variables["batch_stats"]["var"].tolist() == [1, 1]


def test_bfloat16_is_computed_from_float32_factors(rng):
    x, variables = example(rng)
    ours = Norm("frozen", EPS, jnp.bfloat16).apply(variables, jnp.asarray(x))
    theirs = Norm("frozen", EPS).apply(variables, jnp.asarray(x))
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=0.1, rtol=0.02)
