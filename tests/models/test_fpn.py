"""The pyramid: sums by hand, levels beyond the backbone's, canvases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.fpn import FPN
from frcnn_jax.ops import canvas

SIZES = {"c2": (16, 24), "c3": (8, 12), "c4": (4, 6), "c5": (2, 3)}


def passing(stages, channels):
    """Weights that pass maps on: identities, and zero biases."""
    params = {}
    for stage in stages:
        eye = np.eye(channels, dtype=np.float32)
        centre = np.zeros((3, 3, channels, channels), np.float32)
        centre[1, 1] = eye
        zero = np.zeros(channels, np.float32)
        params[f"lateral{stage[1]}"] = {"kernel": eye[None, None], "bias": zero}
        params[f"output{stage[1]}"] = {"kernel": centre, "bias": zero}
    return {"params": jax.tree.map(jnp.asarray, params)}


def random_maps(rng, channels=2, sizes=SIZES):
    return {
        stage: jnp.asarray(rng.standard_normal((1, *hw, channels)), jnp.float32)
        for stage, hw in sizes.items()
    }


def test_sums_from_the_top_down(rng):
    """Each level is its own map plus the one above, every cell repeated 2 x 2."""
    maps = random_maps(rng)
    outputs = FPN(2, 4).apply(passing(SIZES, 2), maps)
    above = np.zeros((1, 1, 2, 2))
    for stage, output in zip(reversed(SIZES), reversed(outputs), strict=True):
        h, w = SIZES[stage]
        repeated = above.repeat(2, 1).repeat(2, 2)[:, :h, :w]
        above = np.asarray(maps[stage]) + (repeated if stage != "c5" else 0)
        np.testing.assert_allclose(output, above, atol=1e-5)


def test_extra_levels_take_every_second_cell(rng):
    """P6 = P5[::2, ::2], and again for P7; odd sides are rounded up."""
    outputs = FPN(2, 6).apply(passing(SIZES, 2), random_maps(rng))
    assert [p.shape[1:3] for p in outputs] == [*SIZES.values(), (1, 2), (1, 1)]
    np.testing.assert_array_equal(outputs[4], outputs[3][:, ::2, ::2])
    np.testing.assert_array_equal(outputs[5], outputs[4][:, ::2, ::2])


@pytest.mark.parametrize("stages", (("c4", "c5"), ("c3",)))
def test_other_stages(stages):
    """Names follow the stage, whatever comes first."""
    maps = {stage: jnp.zeros((1, *SIZES[stage], 5)) for stage in stages}
    outputs, variables = jax.eval_shape(
        lambda: FPN(3, 3).init_with_output(jax.random.key(0), maps)
    )
    names = {f"{part}{stage[1]}" for stage in stages for part in ("lateral", "output")}
    assert set(variables["params"]) == names
    assert len(outputs) == 3
    assert all(p.shape[-1] == 3 for p in outputs)


def test_a_larger_canvas_changes_nothing(rng):
    """Cells beyond a 64 x 96 image hold garbage; the image's own outputs stay."""
    maps = random_maps(rng)
    model = FPN(3, 5)
    shapes = jax.eval_shape(model.init, jax.random.key(0), maps)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes
    )
    larger = {}
    for stage, value in maps.items():
        h, w = SIZES[stage]
        padded = np.full((1, 2 * h, 2 * w, 2), 1e3, np.float32)
        padded[:, :h, :w] = value
        larger[stage] = jnp.asarray(padded)

    @jax.jit
    def run(maps):
        inside = {
            stage: canvas.inside(x.shape[1:3], jnp.asarray([SIZES[stage]], jnp.float32))
            for stage, x in maps.items()
        }
        return model.apply(variables, maps, inside)

    for ours, theirs in zip(run(larger), run(maps), strict=True):
        h, w = theirs.shape[1:3]
        np.testing.assert_allclose(ours[:, :h, :w], theirs, atol=1e-4)


def test_norms_take_the_place_of_biases(rng):
    maps = random_maps(rng)
    shapes = jax.eval_shape(FPN(3, 5, norm="batch").init, jax.random.key(0), maps)
    assert set(shapes["params"]["lateral2"]) == {"kernel"}
    assert set(shapes["params"]["output5_norm"]) == {"scale", "bias"}
    assert set(shapes["batch_stats"]) == {
        f"{part}{level}_norm" for part in ("lateral", "output") for level in range(2, 6)
    }


def test_maps_of_one_size_are_added_as_they_are(rng):
    """MobileNet's two outputs have the same stride."""
    sizes = {"c5": (2, 3), "c6": (2, 3)}
    maps = random_maps(rng, sizes=sizes)
    outputs = FPN(2, 3).apply(passing(sizes, 2), maps)
    np.testing.assert_allclose(outputs[0], maps["c5"] + maps["c6"], atol=1e-6)
    assert outputs[2].shape[1:3] == (1, 2)
