"""The trunk: published sizes, where strides are, canvases."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from frcnn_jax.models.layers import Conv, max_pool
from frcnn_jax.models.norm import Norm
from frcnn_jax.models.resnet import STRIDES, Bottleneck, ResNet, Stage, _end
from frcnn_jax.ops import canvas

# Learnable numbers of torchvision's models without their classifier.
PARAMETERS = {
    18: 11_176_512,
    34: 21_284_672,
    50: 23_508_032,
    101: 42_500_160,
    152: 58_143_808,
}


def shapes(model, hw=(64, 96)):
    """Shapes of the variables and of the maps, without computing anything."""
    images = jax.ShapeDtypeStruct((2, *hw, 3), jnp.float32)
    maps, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    return maps, variables


flat = partial(traverse_util.flatten_dict, sep="/")


def bottleneck(planes, *, dilation):
    """One of pytorch style without groups, but for its stride."""
    own = {"stride_in_1x1": False, "groups": 1, "group_width": 64}
    layers = {"conv": partial(Conv), "norm": partial(Norm)}
    return partial(Bottleneck, planes, dilation=dilation, **own, **layers)


@pytest.mark.parametrize("depth", PARAMETERS)
def test_sizes_are_the_published_ones(depth):
    maps, variables = shapes(ResNet(depth))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == PARAMETERS[depth]
    widest = 512 if depth < 50 else 2048
    for stage, stride in STRIDES.items():
        channels = widest * stride // 32
        assert maps[stage].shape == (2, 64 // stride, 96 // stride, channels)


def test_both_styles_have_the_same_parameters_and_other_strides():
    """Caffe style halves in the first 1x1 of a stage, pytorch style in the 3x3."""
    images = jnp.zeros((1, 32, 32, 3))
    styles = {}
    for stride_in_1x1 in (False, True):
        model = ResNet(50, width=4, stride_in_1x1=stride_in_1x1)
        _, state = jax.eval_shape(
            lambda model=model: model.init_with_output(
                jax.random.key(0), images, capture_intermediates=True
            )
        )
        inner = flat(state["intermediates"])
        del state["intermediates"]
        styles[stride_in_1x1] = flat(state), inner
    (variables, pytorch), (others, caffe) = styles[False], styles[True]
    assert {k: v.shape for k, v in variables.items()} == {
        k: v.shape for k, v in others.items()
    }

    def side(inner, conv):
        found = [v for k, v in inner.items() if f"layer2/block0/{conv}/" in k]
        return found[0][0].shape[1]

    assert (side(pytorch, "conv1"), side(pytorch, "conv2")) == (8, 4)
    assert (side(caffe, "conv1"), side(caffe, "conv2")) == (4, 4)


def test_a_trunk_ends_at_the_deepest_stage_asked_for():
    maps, variables = shapes(ResNet(18, width=4, stages=("c3", "c4")))
    assert set(maps) == {"c3", "c4"}
    assert set(variables["params"]) == {"stem", "layer1", "layer2", "layer3"}


@pytest.fixture(scope="module", params=("frozen", "batch"))
def trunk(request):
    """A tiny trunk with random variables, and a program for both canvases."""
    model = ResNet(18, width=4, norm=request.param)
    _, state = shapes(model)
    rng = np.random.default_rng(1)

    def fresh(path, leaf):
        noise = jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32)
        kind = path[-1].key
        if kind in ("scale", "var"):
            return 1 + 0.3 * jnp.abs(noise)
        return noise * (0.2 if kind == "kernel" else 0.5)

    variables = jax.tree_util.tree_map_with_path(fresh, state)

    def run(images, image_hw):
        masks = {
            stride: canvas.inside(
                (images.shape[1] // stride, images.shape[2] // stride),
                canvas.cells(image_hw, stride),
            )
            for stride in (1, 2, 4, 8, 16, 32)
        }
        return model.apply(variables, images, masks, True, mutable=["batch_stats"])

    return jax.jit(run)


def test_a_larger_canvas_changes_nothing(trunk):
    """Maps and batch statistics of a 40 x 70 image, padded to 64 x 96 or more."""
    image = np.random.default_rng(2).standard_normal((40, 70, 3)).astype(np.float32)
    hw = jnp.asarray([[40.0, 70.0]])
    tight, large = (np.zeros((1, *c, 3), np.float32) for c in ((64, 96), (128, 128)))
    tight[0, :40, :70] = large[0, :40, :70] = image
    maps, updates = trunk(jnp.asarray(tight), hw)
    larger, larger_updates = trunk(jnp.asarray(large), hw)
    for stage, expected in maps.items():
        h, w = expected.shape[1:3]
        tolerance = 1e-5 * float(jnp.abs(expected).max())
        np.testing.assert_allclose(larger[stage][:, :h, :w], expected, atol=tolerance)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        updates,
        larger_updates,
    )


# ---- ResNeXt, DC5, Caffe's stem


@pytest.mark.parametrize(
    ("groups", "group_width", "widths", "count"),
    [
        (32, 4, (128, 256, 512, 1024), 42_128_704),
        (32, 8, (256, 512, 1024, 2048), 86_742_336),
        (64, 4, (256, 512, 1024, 2048), 81_406_272),
    ],
)
def test_resnext_has_the_published_widths_and_size(groups, group_width, widths, count):
    """Counts are torchvision's and mmdetection's ResNeXt-101 without classifier."""
    _, variables = shapes(ResNet(101, groups=groups, group_width=group_width))
    params = flat(variables["params"])
    for layer, width in enumerate(widths, start=1):
        kernel = params[f"layer{layer}/block0/conv2/kernel"]
        assert kernel.shape == (3, 3, width // groups, width)
    assert sum(leaf.size for leaf in params.values()) == count


def test_a_dilated_stage_keeps_its_stride_and_its_parameters():
    maps, variables = shapes(ResNet(50, width=4, dilate_c5=True))
    plain_maps, plain = shapes(ResNet(50, width=4))
    assert maps["c5"].shape[1:3] == maps["c4"].shape[1:3]
    assert plain_maps["c5"].shape[1] * 2 == plain_maps["c4"].shape[1]
    same = jax.tree.map(lambda a, b: a.shape == b.shape, variables, plain)
    assert all(jax.tree.leaves(same))


def test_every_block_of_a_dilated_stage_sees_two_cells_far(rng):
    """Also the first; three blocks spread one cell over 13."""
    trunk = ResNet(50, width=4, dilate_c5=True)
    names = {k: v for k, v in shapes(trunk)[1].items()}
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(np.abs(rng.standard_normal(leaf.shape)), jnp.float32),
        {k: v["layer4"] for k, v in names.items()},
    )
    maps = jnp.zeros((1, 21, 21, 64)).at[0, 10, 10].set(1.0)
    stage = Stage(3, 1, bottleneck(32, dilation=2))
    change = stage.apply(variables, maps, (None, None), False)
    change -= stage.apply(variables, maps * 0, (None, None), False)
    rows = np.flatnonzero(np.abs(np.asarray(change[0])).max((1, 2)))
    assert rows.tolist() == list(range(4, 17, 2))


def test_caffes_stem_pools_without_padding():
    """Its windows start at the first cell: a step at column 8 shows one cell later."""
    step = jnp.zeros((1, 8, 16, 1)).at[:, :, 8:].set(1.0)
    padded = np.asarray(max_pool(step))[0, 0, :, 0]
    caffe = np.asarray(max_pool(step, padding=(0, 1)))[0, 0, :, 0]
    assert padded.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert caffe.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_a_wide_resnet_is_a_matter_of_group_width():
    """wide_resnet50_2 has one group of 128 channels; torchvision's number, no fc."""
    _, variables = shapes(ResNet(50, group_width=128))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 66_834_240


def test_a_blocks_end_is_a_relu(rng):
    """Also where it is 0 or not finite, and in its gradient."""
    edges = np.float32([0.0, -0.0, np.nan, np.inf, -np.inf])
    x = jnp.asarray(np.concatenate([edges, rng.normal(size=50).astype(np.float32)]))
    np.testing.assert_array_equal(_end(x), nn.relu(x))
    found, expected = (jax.grad(lambda x, f=f: f(x).sum())(x) for f in (_end, nn.relu))
    np.testing.assert_array_equal(found, expected)


def test_kernels_do_not_grow_with_depth(rng):
    """On CPUs the end of a block would else contain those of all blocks before it."""
    if jax.default_backend() != "cpu":
        pytest.skip("of XLA for CPUs")
    x = jnp.asarray(rng.normal(size=(1, 8, 8, 64)), jnp.float32)

    def inputs_of_the_largest_kernel(blocks):
        stage = Stage(blocks, 1, bottleneck(16, dilation=1))
        variables = stage.init(jax.random.key(0), x, (None, None), False)

        def loss(variables):
            return jnp.square(stage.apply(variables, x, (None, None), False)).sum()

        text = jax.jit(jax.grad(loss)).lower(variables).compile().as_text()
        calls = re.findall(r" fusion\(([^)]*)\)", text)
        return max(call.count("%") for call in calls)

    assert inputs_of_the_largest_kernel(9) == inputs_of_the_largest_kernel(5)
