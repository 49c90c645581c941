"""Initial values: stated distributions, and what they depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.initialise import initialise


def tree(**leaves) -> dict:
    """{"params__fpn__kernel": shape} as nested shapes; two underscores per level."""
    nested = {}
    for name, shape in leaves.items():
        *parents, leaf = name.split("__")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return nested


def fresh(
    path: str, shape: tuple[int, ...], seed: int = 0, style: str = "mmdet"
) -> np.ndarray:
    name = path.replace("/", "__")
    value = initialise(jax.random.key(seed), tree(**{name: shape}), style)
    for part in path.split("/"):
        value = value[part]
    return np.asarray(value)


@pytest.mark.parametrize(
    ("path", "shape", "std"),
    [
        # He, fan out: sqrt(2 / (3 * 3 * 64)).
        ("params/backbone/layer1/block0/conv2/kernel", (3, 3, 32, 64), 0.0589),
        ("params/backbone/stem/conv/kernel", (7, 7, 3, 64), 0.0253),
        ("params/rpn/conv/kernel", (3, 3, 32, 32), 0.01),
        ("params/rpn/objectness/kernel", (1, 1, 256, 30), 0.01),
        ("params/rpn/deltas/kernel", (1, 1, 256, 30), 0.01),
        ("params/box_head/predictor/classes/kernel", (256, 81), 0.01),
        ("params/box_head/predictor/deltas/kernel", (256, 80), 0.001),
    ],
)
def test_normal_kernels(path, shape, std):
    value = fresh(path, shape)
    assert value.shape == shape and value.dtype == np.float32
    np.testing.assert_allclose(value.std(), std, rtol=0.05)
    assert abs(value.mean()) < 4 * std / np.sqrt(value.size)
    assert np.abs(value).max() > 3 * std  # not cut off at two


@pytest.mark.parametrize(
    ("path", "shape", "style", "limit"),
    [
        # Xavier: sqrt(6 / (fan in + fan out)).
        ("params/fpn/lateral3/kernel", (1, 1, 64, 32), "mmdet", 0.25),
        ("params/fpn/output3/kernel", (3, 3, 32, 32), "mmdet", 0.1021),
        ("params/box_head/fc1/kernel", (490, 110), "mmdet", 0.1),
        ("params/box_head/fc12/kernel", (110, 490), "mmdet", 0.1),
        # sqrt(3 / fan in), and 1 / sqrt(fan in).
        ("params/fpn/lateral3/kernel", (1, 1, 48, 32), "torchvision", 0.25),
        ("params/box_head/fc1/kernel", (400, 110), "torchvision", 0.05),
        ("params/box_head/predictor/deltas/kernel", (400, 80), "torchvision", 0.05),
    ],
)
def test_uniform_kernels(path, shape, style, limit):
    value = np.abs(fresh(path, shape, style=style))
    assert 0.99 * limit < value.max() <= 1.001 * limit
    np.testing.assert_allclose(value.mean(), limit / 2, rtol=0.05)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("params/rpn/conv/bias", 0),
        ("params/backbone/stem/norm/bias", 0),
        ("params/backbone/stem/norm/scale", 1),
        ("batch_stats/backbone/stem/norm/mean", 0),
        ("batch_stats/backbone/stem/norm/var", 1),
    ],
)
def test_constants(path, number):
    np.testing.assert_array_equal(fresh(path, (5,)), number)


@pytest.mark.parametrize(
    "path", ("params/mask_head/conv/kernel", "params/rpn/conv/weight", "params/kernel")
)
def test_an_unknown_path_is_an_error(path):
    with pytest.raises(ValueError, match=path):
        fresh(path, (3, 3))


def test_values_depend_on_the_key_and_the_path_alone():
    small = tree(params__rpn__conv__kernel=(3, 3), params__rpn__deltas__kernel=(3, 3))
    large = tree(
        params__backbone__layer9__kernel=(1, 1, 2, 2),
        params__rpn__conv__kernel=(3, 3),
        params__rpn__deltas__kernel=(3, 3),
    )
    one = initialise(jax.random.key(0), small, "mmdet")["params"]["rpn"]
    two = initialise(jax.random.key(0), large, "mmdet")["params"]["rpn"]
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert (one["conv"]["kernel"] != one["deltas"]["kernel"]).all()
    other = initialise(jax.random.key(1), small, "mmdet")["params"]["rpn"]
    assert (one["conv"]["kernel"] != other["conv"]["kernel"]).all()
