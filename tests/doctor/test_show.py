import numpy as np
import pytest
from PIL import Image

from frcnn_jax import config
from frcnn_jax.doctor import show


@pytest.fixture
def run(shapes_root):
    run = config.Run()
    run.data.root, run.data.short_sides = str(shapes_root), (96,)
    run.data.max_side, run.data.threads, run.data.prefetch = 160, 1, 1
    return run


def test_a_sheet_shows_what_training_begins_with(run, tmp_path, capsys):
    run.data.crop, run.data.scale_jitter = (96, 128), (0.5, 1.0)
    place = tmp_path / "new" / "sheet.jpg"
    show.write(run, 6, place)
    with Image.open(place) as picture:
        assert picture.width > 4 * 100 and picture.height > 2 * 90
    told = capsys.readouterr().out
    assert told.startswith(f"{place}: 6 images as training begins with them, ")
    assert int(told.split()[-2]) > 0
    first, boxes = show.sheet(run, 6)
    again, _ = show.sheet(run, 6)
    np.testing.assert_array_equal(first, again)
    run.seed = 1
    assert (show.sheet(run, 6)[0].shape != first.shape) or (
        show.sheet(run, 6)[0] != first
    ).any()


def test_no_images_are_refused(run, tmp_path):
    with pytest.raises(ValueError, match="--count is 0"):
        show.write(run, 0, tmp_path / "sheet.jpg")
