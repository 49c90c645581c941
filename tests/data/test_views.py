import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.data import views
from frcnn_jax.data.views import View

DATA = config.Data(eval_short_side=64, short_sides=(48, 64, 80), max_side=128)


def looks(**given):
    asked = {"tta": False, "tile": 0, "overlap": 0.2, **given}
    return views.chosen(DATA, **asked)


def test_the_whole_picture_once_unless_more_is_asked_for():
    assert views.of_picture((40, 60), looks()) == [View((0, 0, 60, 40), 64)]


def test_augmentation_mirrors_and_takes_the_short_sides_of_training():
    found = views.of_picture((40, 60), looks(tta=True))
    assert {view.part for view in found} == {(0, 0, 60, 40)}
    expected = [(side, flip) for side in (64, 48, 80) for flip in (False, True)]
    assert [(view.short_side, view.flip) for view in found] == expected


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("hw", [(100, 250), (401, 100), (37, 1000)])
def test_tiles_cover_the_picture_and_overlap_enough(hw, overlap):
    whole, *tiles = views.of_picture(hw, looks(tile=100, overlap=overlap))
    assert whole.part == (0, 0, hw[1], hw[0])
    seen = np.zeros(hw, int)
    for x1, y1, x2, y2 in (tile.part for tile in tiles):
        assert (y2 - y1, x2 - x1) == (min(100, hw[0]), 100)
        seen[y1:y2, x1:x2] += 1
    assert seen.min() == 1
    starts = np.unique([t.part[0] for t in tiles] if hw[1] > hw[0] else [0])
    assert (np.diff(starts) <= 100 * (1 - overlap)).all()


def test_a_picture_of_one_tile_has_no_others():
    assert len(views.of_picture((90, 100), looks(tile=100))) == 1
    assert len(views.of_picture((90, 101), looks(tile=100))) == 3
    assert len(views.of_picture((90, 101), looks(tile=100, tta=True))) == 3 * 6


def test_canvases():
    assert views.canvases(DATA, looks()) == ((64, 128), (128, 64))
    assert views.canvases(DATA, looks(tta=True)) == ((96, 128), (128, 96))
    squares = ((64, 64), (64, 128), (128, 64))
    assert views.canvases(DATA, looks(tile=100)) == squares
    own = config.Data(buckets=((64, 96),))
    assert views.canvases(own, looks(tile=100)) == ((64, 96),)


def test_what_is_cut_out(rng):
    image = rng.integers(0, 256, (40, 60, 3), np.uint8)
    found = views.cut(image, View((10, 5, 30, 25), 64, True))
    np.testing.assert_array_equal(found, image[5:25, 10:30])


def test_what_makes_no_tiles():
    with pytest.raises(ValueError, match="tile=10: tiles have 32 pixels or more"):
        looks(tile=10)
    with pytest.raises(ValueError, match="tile=-5: "):
        looks(tile=-5)
    with pytest.raises(ValueError, match=r"overlap=1: choose from 0 to 0\.9"):
        looks(tile=100, overlap=1.0)
