import numpy as np
import pytest
from PIL import Image

from frcnn_jax import vis
from frcnn_jax.data import transforms
from frcnn_jax.prediction.found import Found, pixels

FOUND = Found(
    np.float32([[10, 5, 40, 30], [0, 0, 20, 20]]),
    np.float32([0.9, 0.3]),
    np.int32([2, 1]),
    ("cat", "dog", "cow"),
    (40, 60),
)


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (40, 60, 3), np.uint8)


def test_names_follow_labels():
    assert len(FOUND) == 2
    assert FOUND.names.tolist() == ["dog", "cat"]
    assert FOUND.names.dtype.kind == "U"


def test_a_threshold_leaves_the_rest_out():
    few = FOUND.above(0.5)
    assert few.names.tolist() == ["dog"] and few.xyxy.shape == (1, 4)
    assert FOUND.above(0.9).scores.tolist() == FOUND.scores[:1].tolist()
    none = FOUND.above(1.0)
    assert (len(none), none.xyxy.shape, none.names.shape) == (0, (0, 4), (0,))
    assert none.names.dtype.kind == "U"


def test_what_supervision_takes():
    made = FOUND.to_supervision()
    assert set(made) == {"xyxy", "confidence", "class_id", "data"}
    assert made["xyxy"].shape == (2, 4) and made["confidence"].shape == (2,)
    assert made["class_id"].tolist() == [1, 0]
    assert made["data"]["class_name"].tolist() == ["dog", "cat"]


def test_it_draws_on_an_array_and_on_a_file(image, tmp_path):
    Image.fromarray(image).save(tmp_path / "a.png")
    drawn = FOUND.draw(image)
    rows = FOUND.xyxy, FOUND.labels, FOUND.scores
    expected = vis.draw(image, *rows, class_names=FOUND.class_names)
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(FOUND.draw(str(tmp_path / "a.png")), expected)
    with pytest.raises(transforms.BadImage, match=r"none\.png: cannot be read"):
        FOUND.draw(tmp_path / "none.png")


def test_arrays_become_colour_pictures(image):
    np.testing.assert_array_equal(pixels(image), image)
    np.testing.assert_array_equal(pixels(Image.fromarray(image)), image)
    alpha = np.dstack([image, image[..., 0]])
    np.testing.assert_array_equal(pixels(alpha), image)
    grey = pixels(image[..., 0])
    assert grey.shape == image.shape and (grey == image[..., :1]).all()


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(3, np.uint8)]
)
def test_what_is_no_picture(wrong):
    with pytest.raises(ValueError, match=r"must be uint8 RGB of shape \(height, width"):
        pixels(wrong)
    with pytest.raises(ValueError, match="has no pixels"):
        pixels(np.zeros((0, 4, 3), np.uint8))
