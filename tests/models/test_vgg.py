"""VGG-16: names, shapes, and independence of the canvas. Parity is in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from frcnn_jax.models.vgg import VGG16
from frcnn_jax.ops import canvas


@pytest.fixture(scope="module", params=["none", "batch"])
def narrow(request):
    model = VGG16(width=2, norm=request.param)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)

    def draw(leaf):
        return jnp.asarray(rng.standard_normal(leaf.shape) * 0.3, jnp.float32)

    return model, jax.tree.map(draw, shapes)


def test_names_and_shapes():
    variables = jax.eval_shape(
        VGG16().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    assert len(flat) == 26
    assert flat["stage1/conv1/kernel"].shape == (3, 3, 3, 64)
    assert flat["stage2/conv2/bias"].shape == (128,)
    assert flat["stage5/conv3/kernel"].shape == (3, 3, 512, 512)
    assert sum(x.size for x in flat.values()) == 14_714_688


@pytest.mark.parametrize("hw", [(64, 64), (71, 95), (80, 49)])
def test_a_larger_canvas_changes_nothing(narrow, hw):
    model, variables = narrow
    rng = np.random.default_rng(1)
    pixels = rng.standard_normal((1, *hw, 3)).astype(np.float32)
    tight = model.apply(variables, jnp.asarray(pixels))["c5"]
    assert tight.shape == (1, hw[0] // 16, hw[1] // 16, 16)
    large = np.zeros((1, 96, 128, 3), np.float32)
    large[:, : hw[0], : hw[1]] = pixels
    masks = {
        stride: canvas.inside(
            (96 // stride, 128 // stride),
            canvas.cells(jnp.asarray([hw], jnp.float32), stride, "floor"),
        )
        for stride in (1, 2, 4, 8, 16)
    }
    found = model.apply(variables, jnp.asarray(large), masks)["c5"]
    found = found[:, : tight.shape[1], : tight.shape[2]]
    np.testing.assert_allclose(found, tight, atol=1e-5 * np.abs(tight).max())
