"""Drawn pixels: shapes where and as large as they claim, soft edges, full canvases."""

import numpy as np
import pytest

from frcnn_jax.data import drawing, shapes


def test_painted_pixels_lie_in_the_box():
    rng = np.random.default_rng(0)
    for k in range(30):
        shape = drawing.place(rng, 1 + k % 5, hw=(200, 200), near=[])
        canvas = np.zeros((200, 200, 3), np.float32)  # a shadow on black is black
        drawing.paint(canvas, shape, rng)
        painted = shapes.mask_box(canvas.max(2) > 0)
        inner = shapes.mask_box(drawing.coverage(shape, (200, 200)) >= 0.5)
        # smooth edges: a pixel more on flat sides, a little more at sharp tips
        assert np.abs(np.subtract(painted, inner)).max() <= 3


@pytest.mark.parametrize(("label", "fraction"), [(1, np.pi / 4), (2, 1 / 2)])
def test_masks_have_the_area_of_their_shape(label, fraction):
    # a disc covers pi/4 of its square; a square turned by 0 in its circle covers 1/2
    rng = np.random.default_rng(1)
    for _ in range(20):
        shape = drawing.place(rng, label, hw=(300, 300), near=[])
        share = shape.alpha.sum() / (2 * shape.radius) ** 2
        # stretched down to 0.84; OpenCV fills 1/8 pixel beyond each side
        assert 0.82 * fraction < share < 1.04 * fraction


def test_half_pixel_placement_is_unbiased():
    rng = np.random.default_rng(2)
    offsets = []
    for _ in range(60):
        before = rng.bit_generator.state
        shape = drawing.place(rng, 1, hw=(256, 256), near=[])
        replay = np.random.default_rng()
        replay.bit_generator.state = before
        replay.uniform()  # the radius
        inset = 0.6 * shape.radius
        centre = replay.uniform((inset, inset), (256 - inset, 256 - inset))
        y, x = np.mgrid[: shape.alpha.shape[0], : shape.alpha.shape[1]] + 0.5
        middle = [(shape.alpha * a).sum() / shape.alpha.sum() for a in (x, y)]
        offsets.append(np.add(middle, shape.corner) - centre)
    assert np.abs(np.mean(offsets, 0)).max() < 0.02


@pytest.mark.parametrize(
    ("corner", "seen"),
    [((0, 0), 16), ((-2, 0), 8), ((6, 5), 2), ((-4, 0), 0), ((8, 6), 0)],
)
def test_coverage_is_cut_at_the_border(corner, seen):
    full = np.ones((4, 4), np.float32)  # a window of 4 x 4 on an image of 6 x 8
    shape = drawing.Shape(1, corner, full, np.zeros_like(full), 2.0)
    covered = drawing.coverage(shape, (6, 8))
    assert covered.shape == (6, 8) and covered.sum() == seen


def test_a_shape_outside_the_image_paints_nothing():
    full = np.ones((4, 4), np.float32)
    shape = drawing.Shape(2, (-40, 3), full, np.zeros_like(full), 2.0)
    canvas = np.full((6, 8, 3), 7.0, np.float32)
    drawing.paint(canvas, shape, np.random.default_rng(0))
    assert (canvas == 7).all()


def test_a_ring_has_a_hole_and_the_others_do_not():
    rng = np.random.default_rng(6)
    for label, name in enumerate(drawing.CLASSES, 1):
        shape = drawing.place(rng, label, hw=(200, 200), near=[])
        y, x = np.mgrid[: shape.alpha.shape[0], : shape.alpha.shape[1]]
        inside = shape.alpha >= 0.5
        middle = shape.alpha[round(y[inside].mean()), round(x[inside].mean())]
        assert middle == (0 if name == "ring" else 1), name
        assert (shape.rim <= shape.alpha).all() and shape.rim.max() == 1


def test_backgrounds_fill_the_canvas_and_are_muted():
    for seed, hw in enumerate([(64, 96), (120, 70), (64, 64)]):
        canvas = drawing.background(np.random.default_rng(seed), hw)
        assert canvas.shape == (*hw, 3) and canvas.dtype == np.float32
        assert np.isfinite(canvas).all() and canvas.std() > 1
        spread = canvas.max(2) - canvas.min(2)
        assert np.median(spread) < 0.5 * np.median(canvas.max(2))


def test_developing_clips_to_bytes():
    canvas = np.full((20, 30, 3), 400.0, np.float32)
    canvas[10:] = -90
    image = drawing.develop(np.random.default_rng(0), canvas)
    assert image.dtype == np.uint8 and image.shape == canvas.shape
    assert (image[:7] == 255).all() and (image[13:] == 0).all()
