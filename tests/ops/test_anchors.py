"""Anchors: mmdetection's grids, hand-made shapes, a naive loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops import anchors, canvas

FPN = anchors.AnchorSpec(
    ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)),
    (0.5, 1.0, 2.0),
    (4, 8, 16, 32, 64),
)
C4 = anchors.AnchorSpec(((32.0, 64.0, 128.0, 256.0, 512.0),), (0.5, 1.0, 2.0), (16,))
SPECS = {"fpn": FPN, "c4": C4}


@pytest.fixture(scope="module")
def peer(golden):
    return np.load(golden / "mmdet" / "a_anchors.npz")


@pytest.mark.parametrize("name", SPECS)
def test_base_anchors_and_grids_equal_the_peers(name, peer):
    spec = SPECS[name]
    sizes = [tuple(int(n) for n in hw) for hw in peer[f"{name}_sizes"]]
    for level, grid in enumerate(anchors.pyramid_anchors(spec, sizes)):
        base = anchors.base_anchors(spec.sizes[level], spec.ratios)
        np.testing.assert_array_equal(base, peer[f"{name}_base_{level}"])
        np.testing.assert_array_equal(grid, peer[f"{name}_grid_{level}"])
        assert grid.dtype == np.float32


@pytest.mark.parametrize("name", SPECS)
def test_cells_of_a_smaller_image_equal_the_peers_flags(name, peer):
    """A 150 x 300 image in the batch of 256 x 320."""
    spec = SPECS[name]
    sizes = [tuple(int(n) for n in hw) for hw in peer[f"{name}_sizes"]]
    hw = jnp.asarray([150.0, 300.0])
    for level, cells in enumerate(anchors.cell_index(sizes, spec.per_cell)):
        exists = (cells < np.asarray(canvas.cells(hw, spec.strides[level]))).all(-1)
        np.testing.assert_array_equal(exists, peer[f"{name}_valid_{level}"])


def test_shapes_by_hand():
    """Ratio is height / width: 4 makes 32 x 32 into 16 wide and 64 high."""
    found = anchors.base_anchors((32.0,), (1.0, 4.0, 0.25))
    assert found.tolist() == [
        [-16, -16, 16, 16],
        [-8, -32, 8, 32],
        [-32, -8, 32, 8],
    ]


def test_order_is_row_column_ratio_size():
    base = anchors.base_anchors((2.0, 4.0), (1.0, 4.0))
    assert base[:, 2].tolist() == [1, 2, 0.5, 1]  # half widths: sizes within a ratio
    grid = anchors.level_anchors(base, 8, (2, 3))
    naive = [
        [x * 8 + b[0], y * 8 + b[1], x * 8 + b[2], y * 8 + b[3]]
        for y in range(2)
        for x in range(3)
        for b in base
    ]
    np.testing.assert_array_equal(grid, np.asarray(naive, np.float32))
    cells = anchors.cell_index([(2, 3)], 4)[0]
    naive = [[y, x] for y in range(2) for x in range(3) for _ in range(4)]
    assert cells.tolist() == naive


def test_areas_and_ratios_are_the_ones_asked_for():
    spec = anchors.AnchorSpec(((7.0, 50.0),), (0.3, 1.0, 2.7), (16,))
    w, h = np.split(anchors.base_anchors(spec.sizes[0], spec.ratios)[:, 2:] * 2, 2, 1)
    np.testing.assert_allclose((w * h).ravel(), [49, 2500] * 3, rtol=1e-5)
    np.testing.assert_allclose((h / w).ravel(), np.repeat(spec.ratios, 2), rtol=1e-5)
    assert spec.per_cell == 6


def test_one_map_per_level_is_needed():
    with pytest.raises(ValueError):
        anchors.pyramid_anchors(FPN, [(4, 4)])


def test_an_empty_map_has_no_anchors():
    (grid,) = anchors.pyramid_anchors(C4, [(0, 5)])
    assert grid.shape == (0, 4)
    assert anchors.cell_index([(0, 5)], 15)[0].shape == (0, 2)


def test_rounded_anchors_by_hand():
    """Half sides of 32: 22.6 and 11.3 become 23 and 11; halves go to even."""
    found = anchors.base_anchors((32.0, 5.0), (0.5, 1.0), "rounded")
    assert found.tolist() == [
        [-23, -11, 23, 11],
        [-4, -2, 4, 2],  # 3.54 and 1.77
        [-16, -16, 16, 16],
        [-2, -2, 2, 2],  # 2.5
    ]


def test_caffe_anchors_by_hand():
    """Scale 4 of py-faster-rcnn's table, whose last pixels are one less than here."""
    found = anchors.base_anchors((64.0,), (0.5, 1.0, 2.0), "caffe")
    last_pixels = found - [0, 0, 1, 1]
    assert last_pixels.tolist() == [
        [-38, -16, 53, 31],
        [-24, -24, 39, 39],
        [-14, -36, 29, 51],
    ]
