"""The MobileNet trunk: published sizes, strides, canvases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.mobilenet import MobileNetV3, channels
from frcnn_jax.ops import canvas

# Learnable numbers of torchvision's mobilenet_v3_large without its classifier.
PARAMETERS = 2_971_952


def shapes(model, hw=(64, 96)):
    images = jax.ShapeDtypeStruct((2, *hw, 3), jnp.float32)
    return jax.eval_shape(model.init_with_output, jax.random.key(0), images)


def test_sizes_are_the_published_ones():
    maps, variables = shapes(MobileNetV3())
    leaves = jax.tree.leaves(variables["params"])
    assert sum(leaf.size for leaf in leaves) == PARAMETERS
    assert {name: x.shape for name, x in maps.items()} == {
        "c5": (2, 2, 3, 160),
        "c6": (2, 2, 3, 960),
    }


@pytest.mark.parametrize(
    ("count", "expected"),
    [(16, 16), (4, 8), (18, 24), (30, 32), (10, 16), (28, 32), (46, 48), (240, 240)],
)
def test_channels_are_multiples_of_eight(count, expected):
    """10 would become 8, which is below nine tenths of it, so it becomes 16."""
    assert channels(count) == expected


def test_which_blocks_have_which_parts():
    _, variables = shapes(MobileNetV3())
    blocks = {k: v for k, v in variables["params"].items() if k.startswith("block")}
    assert len(blocks) == 15
    excited = {name for name, block in blocks.items() if "squeeze" in block}
    assert excited == {f"block{i}" for i in (4, 5, 6, 11, 12, 13, 14, 15)}
    assert {n for n, block in blocks.items() if "expand_conv" not in block} == {
        "block1"
    }


@pytest.fixture(scope="module", params=("frozen", "batch"))
def trunk(request):
    """A narrow trunk with random variables, and a program for any canvas."""
    model = MobileNetV3(width=0.25, norm=request.param)
    _, state = shapes(model)
    rng = np.random.default_rng(1)

    def fresh(path, leaf):
        noise = jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32)
        kind = path[-1].key
        if kind in ("scale", "var"):
            return 1 + 0.3 * jnp.abs(noise)
        if kind == "kernel":
            return noise * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return noise * 0.5

    variables = jax.tree_util.tree_map_with_path(fresh, state)

    # Its chain of fifteen normalised blocks magnifies the rounding of unoptimised code.
    options = {"xla_backend_optimization_level": 1}

    @functools.partial(jax.jit, static_argnames="masked", compiler_options=options)
    def run(images, image_hw, masked=True):
        masks = {
            stride: canvas.inside(
                (images.shape[1] // stride, images.shape[2] // stride),
                canvas.cells(image_hw, stride),
            )
            for stride in (1, 2, 4, 8, 16, 32)
        }
        masks = masks if masked else None
        return model.apply(variables, images, masks, True, mutable=["batch_stats"])

    return run


def test_a_larger_canvas_changes_nothing(trunk):
    """Maps and statistics of a 40 x 70 image, padded to 64 x 96 or more.

    Squeeze-and-excitation reads a whole map, so it has to know where the image ends.
    """
    image = np.random.default_rng(2).standard_normal((40, 70, 3)).astype(np.float32)
    hw = jnp.asarray([[40.0, 70.0]])
    tight, large = (np.zeros((1, *c, 3), np.float32) for c in ((64, 96), (128, 128)))
    tight[0, :40, :70] = large[0, :40, :70] = image
    maps, updates = trunk(jnp.asarray(tight), hw)
    larger, larger_updates = trunk(jnp.asarray(large), hw)
    bare, _ = trunk(jnp.asarray(tight), hw, masked=False)
    for stage, expected in maps.items():
        h, w = expected.shape[1:3]
        tolerance = 1e-4 * float(jnp.abs(expected).max())
        np.testing.assert_allclose(larger[stage][:, :h, :w], expected, atol=tolerance)
        np.testing.assert_allclose(bare[stage], expected, atol=tolerance)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        updates,
        larger_updates,
    )
