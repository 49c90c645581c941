"""Which cells belong to an image: sizes worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops import canvas


@pytest.mark.parametrize(
    ("hw", "padded"),
    [((1, 32), (32, 32)), ((33, 64), (64, 64)), ((800, 1201), (800, 1216))],
)
def test_sizes_are_rounded_up_to_multiples_of_32(hw, padded):
    found = canvas.padded_hw(jnp.asarray(hw, jnp.float32))
    assert tuple(np.asarray(found)) == padded


@pytest.mark.parametrize(
    ("stride", "cells"),
    [(1, (64, 96)), (4, (16, 24)), (32, (2, 3)), (64, (1, 2)), (128, (1, 1))],
)
def test_cells_of_a_50_by_65_image(stride, cells):
    """Padded to 64 x 96; beyond stride 32 a part of a cell counts as a cell."""
    found = canvas.cells(jnp.asarray([50.0, 65.0]), stride)
    assert tuple(np.asarray(found)) == cells


def test_cells_keep_leading_axes():
    hw = jnp.asarray([[[32.0, 33.0]], [[1.0, 100.0]]])
    found = canvas.cells(hw, 8)
    assert found.shape == (2, 1, 2)
    assert np.asarray(found).tolist() == [[[4, 8]], [[4, 16]]]


def test_inside_marks_the_first_rows_and_columns():
    mask = np.asarray(canvas.inside((3, 4), jnp.asarray([[2.0, 3.0], [3.0, 4.0]])))
    assert mask.shape == (2, 3, 4, 1)
    assert mask[0, :, :, 0].astype(int).tolist() == [
        [1, 1, 1, 0],
        [1, 1, 1, 0],
        [0, 0, 0, 0],
    ]
    assert mask[1].all()


def test_an_image_without_cells_has_an_empty_mask():
    assert not np.asarray(canvas.inside((2, 2), jnp.zeros((1, 2)))).any()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Padded 64 x 96; stride 2 has 26 x 35 cells, Caffe's pool keeps 13 x 17.
        ("padded32", {1: (64, 96), 4: (16, 24), 16: (4, 6)}),
        ("ceil", {1: (51, 70), 4: (13, 18), 16: (4, 5)}),
        ("floor", {1: (51, 70), 2: (25, 35), 16: (3, 4)}),
        ("caffe", {1: (51, 70), 2: (26, 35), 4: (13, 17), 8: (7, 9), 16: (4, 5)}),
    ],
)
def test_rules_for_a_51_by_70_image(rule, expected):
    hw = jnp.asarray([51.0, 70.0])
    for stride, cells in expected.items():
        assert tuple(np.asarray(canvas.cells(hw, stride, rule))) == cells


def test_every_cell_of_a_canvas_counts_under_its_rule():
    cells = canvas.cells(jnp.asarray([[5.0, 7.0]]), 8, "canvas")
    assert np.asarray(canvas.inside((9, 9), cells)).all()


def test_an_unknown_rule_is_an_error():
    with pytest.raises(ValueError, match="'round'"):
        canvas.cells(jnp.asarray([5.0, 7.0]), 8, "round")
