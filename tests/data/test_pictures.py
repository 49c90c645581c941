import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.data import pictures, views

DATA = config.Data(eval_short_side=32, max_side=64)
PLAIN = views.Looks((32,))
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


def test_a_pattern_gives_the_pictures_that_match(folder):
    names = [p.name for p in pictures.find([str(folder / "*")])]
    assert names == list(SIZES)  # neither the folder nor the text
    deeper = pictures.find([str(folder / "**" / "*.jp*g")])
    assert [p.name for p in deeper] == ["a.jpg", "d.jpeg", "e.jpg"]
    assert pictures.find([str(folder / "n*.txt")]) == [folder / "notes.txt"]
    with pytest.raises(FileNotFoundError, match=r"no picture matches .*\*\.gif"):
        pictures.find([str(folder / "*.gif")])


def test_a_name_with_the_letters_of_a_pattern_is_a_name(folder):
    odd = (folder / "b.png").rename(folder / "b[1].png")
    assert pictures.find([str(odd)]) == [odd]


def test_a_list_is_read_where_a_dash_stands(folder):
    lines = [f"{folder / 'b.png'}\n", "\n", "gone.jpg\n"]
    found = pictures.find([str(folder / "a.jpg"), "-"], lines)
    assert found == [folder / "a.jpg", folder / "b.png", Path("gone.jpg")]
    with pytest.raises(ValueError, match="a path on each line, from standard input"):
        pictures.find(["-"], ["\n"])


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
    """Batches, their rows, and the numbers and errors of unreadable files."""
    bad = []

    def on_bad(number, error):
        bad.append((number, str(error)))

    looks = views.Looks((data.eval_short_side,))
    batches = list(pictures.batches(paths, data, looks, batch_size, on_bad))
    return batches, [row for _, found in batches for row in found], bad


def test_every_picture_once_on_a_canvas_that_holds_it(folder):
    paths = pictures.find([str(folder)])
    batches, rows, bad = collected(paths)
    assert sorted(row.number for row in rows) == [0, 1, 2, 3] and not bad
    shapes = {arrays["images"].shape for arrays, _ in batches}
    assert shapes <= {(2, 32, 64, 3), (2, 64, 32, 3)}
    for arrays, found in batches:
        numbers = [row.number for row in found]
        filler = [-1] * (2 - len(found))
        assert arrays["image_id"].tolist() == numbers + filler
        for i, row in enumerate(found):
            assert row.hw == SIZES[paths[row.number].name] and row.place == 0
            original = arrays["image_hw"][i] / arrays["scale_xy"][i, ::-1]
            np.testing.assert_allclose(original, row.hw, rtol=1e-6)


def test_arrays_are_pictures_as_files_are(folder):
    path = folder / "b.png"
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    (of_file, _), *_ = collected([path])[0]
    (of_array, _), *_ = collected([image])[0]
    for name, value in of_file.items():
        np.testing.assert_array_equal(of_array[name], value)


def test_own_buckets_are_used(folder):
    paths = pictures.find([str(folder)])
    batches, rows, _ = collected(
        paths, config.Data(eval_short_side=32, max_side=64, buckets=((64, 64),))
    )
    assert sorted(row.number for row in rows) == [0, 1, 2, 3]
    assert {arrays["images"].shape[1:3] for arrays, _ in batches} == {(64, 64)}
    own = config.Data(eval_short_side=32, max_side=64, buckets=((32, 64),))
    batches, rows, _ = collected(paths, own)
    assert sorted(row.number for row in rows) == [0, 1, 2, 3]  # tall ones, too
    shapes = {arrays["images"].shape[1:3] for arrays, _ in batches}
    assert shapes == {(32, 64), (64, 32)}


def test_equal_sides_need_one_canvas(folder):
    batches, *_ = collected(
        [folder / "c.PNG"], config.Data(eval_short_side=64, max_side=64)
    )
    assert [arrays["images"].shape for arrays, _ in batches] == [(2, 64, 64, 3)]


def test_unreadable_files_are_told_by_number(folder):
    paths = [folder / "notes.txt", folder / "a.jpg", folder / "deeper" / "e.jpg"]
    _, rows, bad = collected(paths)
    assert [row.number for row in rows] == [1]
    assert [number for number, _ in bad] == [0, 2]
    assert "notes.txt: not an image" in bad[0][1]


def test_batches_that_are_left_early_end_their_threads(folder):
    paths = [folder / "a.jpg"] * 40
    looks = PLAIN
    batches = pictures.batches(paths, DATA, looks, 2, lambda number, error: None)
    next(batches)
    batches.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("ThreadPool")]
