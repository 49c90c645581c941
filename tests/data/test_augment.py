"""What is drawn, and that boxes go where the pixels they mark go."""

import colorsys
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.data import augment
from frcnn_jax.data.records import Record
from frcnn_jax.data.transforms import Pixels


def record(path, hw, boxes):
    boxes = np.float32(boxes).reshape(-1, 4)
    count = len(boxes)
    labels, crowd = np.arange(1, count + 1, dtype=np.int32), np.zeros(count, bool)
    return Record(path, 7, hw[1], hw[0], boxes, labels, crowd)


def whole(image):
    return Pixels(image, "", image.shape[:2])


def noise(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def mask_extent(mask):
    """xyxy of the true pixels."""
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_boxes_follow_the_pixels_they_mark(factor, flip):
    h, w = 20, 30
    data = config.Data(max_side=1000)
    rng = np.random.default_rng(3)
    for _ in range(20):
        x1, y1 = rng.integers(0, (w - 4, h - 4))
        x2, y2 = x1 + rng.integers(1, w - x1 + 1), y1 + rng.integers(1, h - y1 + 1)
        image = np.zeros((h, w, 3), np.uint8)
        image[y1:y2, x1:x2] = 255
        rec = record(Path("a"), (h, w), [[x1, y1, x2, y2]])
        drawn = augment.Drawn(h * factor, flip)
        sample = augment.make_sample(whole(image), rec, data, drawn, 4)
        assert sample.image.shape == (h * factor, w * factor, 3)
        # A whole factor puts edges between pixels: half brightness is the edge.
        np.testing.assert_array_equal(
            sample.boxes[0], mask_extent(sample.image[..., 0] > 127)
        )
        assert sample.image_id == 4 and sample.scale_xy.tolist() == [factor, factor]


def test_scales_are_those_of_each_axis():
    rec = record(Path("a"), (37, 51), [[0, 0, 51, 37]])
    drawn = augment.Drawn(50)
    sample = augment.make_sample(whole(noise(37, 51)), rec, config.Data(), drawn, 0)
    assert sample.image.shape[:2] == (50, 69)
    np.testing.assert_allclose(sample.scale_xy, [69 / 51, 50 / 37], rtol=1e-6)
    np.testing.assert_allclose(sample.boxes, [[0, 0, 69, 50]], rtol=1e-6)
    assert (sample.boxes <= [69, 50, 69, 50]).all()


# ---- drawing


def test_draw_covers_the_range_inclusively():
    rng = np.random.default_rng(0)
    for mode, expected in (("choice", {4, 7}), ("range", {4, 5, 6, 7})):
        data = config.Data(short_sides=(4, 7), short_side_mode=mode, flip=0.5)
        draws = [augment.draw(data, rng) for _ in range(200)]
        assert {drawn.short_side for drawn in draws} == expected
        assert 60 < sum(drawn.flip for drawn in draws) < 140
    with pytest.raises(ValueError, match="short_side_mode"):
        augment.draw(config.Data(short_side_mode="any"), rng)


@pytest.mark.parametrize(("flip", "expected"), [(0.0, False), (1.0, True)])
def test_flip_can_be_certain(flip, expected):
    rng = np.random.default_rng(0)
    data = config.Data(flip=flip)
    assert {augment.draw(data, rng).flip for _ in range(50)} == {expected}


EVERYTHING = {
    "crop": (64, 96),
    "scale_jitter": (0.1, 2.0),
    "brightness": 0.4,
    "contrast": 0.3,
    "saturation": 0.2,
    "hue": 0.1,
}


def test_every_augmentation_draws_the_same_numbers_whatever_else_is_on():
    def drawn(**fields):
        return augment.draw(config.Data(**fields), np.random.default_rng(5))

    plain, full = drawn(), drawn(**EVERYTHING)
    assert plain.factors == (1, 1, 1) and plain.hue == plain.scale == 0
    assert (plain.flip, plain.place, plain.order) == (full.flip, full.place, full.order)
    assert drawn(brightness=0.4).factors[0] == full.factors[0] != 1
    assert drawn(hue=0.1).hue == full.hue and abs(full.hue) <= 0.1


def test_what_is_drawn_spreads_over_its_range():
    rng = np.random.default_rng(0)
    draws = [augment.draw(config.Data(**EVERYTHING), rng) for _ in range(500)]
    for values, low, high in (
        ([d.scale for d in draws], 0.1, 2.0),
        ([d.factors[0] for d in draws], 0.6, 1.4),
        ([d.hue for d in draws], -0.1, 0.1),
    ):
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
    assert len({d.order for d in draws}) == 24


# ---- crops and jitter


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("jitter", [(), (0.2, 2.0)])
def test_boxes_of_crops_follow_the_pixels_they_mark(seed, jitter):
    rng = np.random.default_rng(seed)
    data = config.Data(short_sides=(80, 160), max_side=400, crop=(64, 96))
    data.scale_jitter, data.crop_keeps_box = jitter, bool(seed % 2)
    h, w = 90, 120
    corners = [np.sort(rng.integers(0, side, (6, 2)), 1) for side in (w, h)]
    boxes = [[x[0], y[0], x[1] + 9, y[1] + 9] for x, y in zip(*corners, strict=True)]
    boxes = np.minimum(boxes, [w, h, w, h])
    drawn = augment.draw(data, rng)
    found = {}
    for number, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        mask = np.zeros((h, w, 3), np.uint8)
        mask[y1:y2, x1:x2] = 255
        sample = augment.make_sample(
            whole(mask), record("a", (h, w), boxes), data, drawn, 0
        )
        assert sample.image.shape[0] <= 64 and sample.image.shape[1] <= 96
        if (sample.image > 127).any():
            found[number] = mask_extent(sample.image[..., 0] > 127)
    kept = dict(zip(sample.labels.tolist(), sample.boxes, strict=True))
    slivers = {n for n in kept.keys() ^ found.keys()}
    assert all((kept[n][2:] - kept[n][:2]).min() < 2 for n in slivers & kept.keys())
    assert not slivers - kept.keys()
    for number in kept.keys() & found.keys():
        np.testing.assert_allclose(kept[number], found[number], atol=1.01)
    if data.crop_keeps_box:
        assert kept


def test_a_crop_smaller_than_the_image_is_full_and_reaches_every_corner():
    data = config.Data(crop=(32, 64))
    boxes = np.zeros((0, 4), np.float32)
    corners = [
        augment.crop_corner((40, 100), boxes, data, (down, across, 0.0))
        for down in (0.0, 0.999)
        for across in (0.0, 0.999)
    ]
    assert corners == [(0, 0), (0, 36), (8, 0), (8, 36)]
    assert augment.crop_corner((20, 30), boxes, data, (0.9, 0.9, 0.0)) == (0, 0)


def test_boxes_with_too_little_left_are_dropped_with_their_labels():
    data = config.Data(crop=(32, 32), crop_visible=0.5)
    boxes = np.float32(
        [[0, 0, 10, 10], [28, 0, 38, 10], [20, 20, 40, 30], [50, 0, 60, 9]]
    )
    _, left, kept = augment.crop(noise(40, 64), boxes, (0, 0), data)
    assert kept.tolist() == [0, 2]
    assert left.tolist() == [[0, 0, 10, 10], [20, 20, 32, 30]]
    data.crop_visible = 0.0
    assert augment.crop(noise(40, 64), boxes, (0, 0), data)[2].tolist() == [0, 1, 2]


def test_jitter_is_a_share_of_what_fits_the_crop():
    data = config.Data(crop=(64, 96), scale_jitter=(0.5, 0.5))
    drawn = augment.draw(data, np.random.default_rng(0))
    assert augment.resized_hw(100, 100, data, drawn) == (32, 32)
    assert augment.resized_hw(10, 1000, data, drawn) == (1, 48)


# ---- colours, by torchvision's definitions


def plain_colours(name, image, value):
    pixels = image.astype(float)
    grey = (pixels * [0.2989, 0.587, 0.114]).sum(2, keepdims=True)
    if name == "hue":
        rows = [
            colorsys.hsv_to_rgb((h + value) % 1, s, v)
            for h, s, v in (
                colorsys.rgb_to_hsv(*p) for p in pixels.reshape(-1, 3) / 255
            )
        ]
        return np.array(rows).reshape(image.shape) * 255
    other = {"brightness": 0.0, "contrast": grey.mean(), "saturation": grey}[name]
    return np.clip(pixels * value + other * (1 - value), 0, 255)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("value", [0.3, 0.9, 1.6])
def test_each_colour_change_is_torchvisions(name, value):
    image, factors = noise(11, 13), [1.0, 1.0, 1.0]
    names = ("brightness", "contrast", "saturation", "hue")
    if name == "hue":
        drawn = augment.Drawn(1, hue=value, order=(0, 1, 2, 3))
    else:
        factors[names.index(name)] = value
        drawn = augment.Drawn(1, factors=tuple(factors), order=(0, 1, 2, 3))
    changed = augment.recolour(image, drawn)
    assert changed.dtype == np.uint8
    assert np.abs(changed - plain_colours(name, image, value)).max() <= 2


def test_the_order_of_colour_changes_matters():
    image = noise(5, 6)
    first = augment.Drawn(1, factors=(1.8, 0.4, 1.0), order=(0, 1, 2, 3))
    last = first._replace(order=(1, 0, 2, 3))
    assert (augment.recolour(image, first) != augment.recolour(image, last)).any()
    np.testing.assert_array_equal(augment.recolour(image, augment.Drawn(1)), image)
