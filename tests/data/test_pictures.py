import cv2
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.data import pictures

DATA = config.Data(eval_short_side=32, max_side=64)
SIZES = {"a.jpg": (40, 60), "b.png": (60, 40), "c.PNG": (30, 30), "d.jpeg": (20, 90)}


@pytest.fixture
def folder(tmp_path, rng):
    for name, hw in SIZES.items():
        image = rng.integers(0, 256, (*hw, 3), np.uint8)
        good, encoded = cv2.imencode(".png", image)
        (tmp_path / name).write_bytes(encoded.tobytes())
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "e.jpg").write_bytes(b"not looked at")
    return tmp_path


# ---- finding


def test_a_folder_gives_its_pictures_in_order(folder):
    assert [p.name for p in pictures.find([str(folder)])] == list(SIZES)


def test_files_and_folders_in_the_order_of_the_command_line(folder):
    names = [str(folder / "b.png"), str(folder), str(folder / "notes.txt")]
    found = [p.name for p in pictures.find(names)]
    assert found == ["b.png", *SIZES, "notes.txt"]


def test_nothing_named():
    with pytest.raises(ValueError, match="name one or more images or folders"):
        pictures.find([])


def test_a_missing_picture_with_its_nearest_name(folder):
    with pytest.raises(FileNotFoundError, match=r"a\.jpeg does not exist; did you"):
        pictures.find([str(folder / "a.jpeg")])
    with pytest.raises(FileNotFoundError, match=r"zzzzz does not exist$"):
        pictures.find([str(folder / "zzzzz")])
    with pytest.raises(FileNotFoundError, match="does not exist$"):
        pictures.find([str(folder / "nowhere" / "a.jpg")])


def test_a_folder_without_pictures(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"no pictures in .*\.jpg, .*\.webp"):
        pictures.find([str(tmp_path)])


# ---- where drawings go


def test_drawings_keep_the_name(folder, tmp_path):
    paths = [folder / name for name in SIZES]
    out = tmp_path / "out"
    names = [p.name for p in pictures.drawings(paths, out)]
    assert names == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def test_drawings_of_equal_names_are_numbered(tmp_path):
    paths = [tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.jpg", tmp_path / "b.png"]
    names = [p.name for p in pictures.drawings(paths, tmp_path / "out")]
    assert names == ["0000_a.jpg", "0001_a.jpg", "0002_b.jpg"]


def test_pictures_are_never_drawn_over(folder):
    with pytest.raises(ValueError, match=r"a\.jpg would be drawn over; choose another"):
        pictures.drawings([folder / "b.png", folder / "a.jpg"], folder)


# ---- batches


def collected(paths, data=DATA, batch_size=2):
    batches = list(pictures.batches(paths, data, batch_size))
    rows = [row for _, found in batches for row in found]
    return batches, rows


def test_every_picture_once_on_a_canvas_that_holds_it(folder):
    paths = pictures.find([str(folder)])
    batches, rows = collected(paths)
    assert sorted(rows) == list(enumerate(paths))
    shapes = {arrays["images"].shape for arrays, _ in batches}
    assert shapes <= {(2, 32, 64, 3), (2, 64, 32, 3)}
    for arrays, found in batches:
        numbers = [number for number, _ in found]
        filler = [-1] * (2 - len(found))
        assert arrays["image_id"].tolist() == numbers + filler
        for i, (_, path) in enumerate(found):
            original = arrays["image_hw"][i] / arrays["scale_xy"][i, ::-1]
            np.testing.assert_allclose(original, SIZES[path.name], rtol=1e-6)


def test_own_buckets_are_used(folder):
    paths = pictures.find([str(folder)])
    batches, rows = collected(
        paths, config.Data(eval_short_side=32, max_side=64, buckets=((64, 64),))
    )
    assert sorted(rows) == list(enumerate(paths))
    assert {arrays["images"].shape[1:3] for arrays, _ in batches} == {(64, 64)}


def test_equal_sides_need_one_canvas(folder):
    batches, _ = collected(
        [folder / "c.PNG"], config.Data(eval_short_side=64, max_side=64)
    )
    assert [arrays["images"].shape for arrays, _ in batches] == [(2, 64, 64, 3)]


def test_unreadable_files_are_named_and_counted(folder, capsys):
    paths = [folder / "a.jpg", folder / "notes.txt", folder / "deeper" / "e.jpg"]
    _, rows = collected(paths)
    assert rows == [(0, folder / "a.jpg")]
    printed = capsys.readouterr().out
    assert printed.count("skipped: ") == 2 and "notes.txt" in printed
    assert "2 of 3 files could not be read" in printed
