from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from frcnn_jax.data import headers, transforms
from frcnn_jax.data.records import Stored


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_picture_as_it_is_read(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.new("RGB", (7, 4)).save(path, exif=exif)
    h, w = transforms.decode(path).shape[:2]
    assert headers.size(path) == (w, h) == ((7, 4) if orientation < 5 else (4, 7))
    rows = [{"image": path.read_bytes()}]
    assert headers.size(Stored("a", rows, 0)) == (w, h)


def test_what_is_no_picture_has_no_size(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("<!DOCTYPE html>")
    assert headers.size(path) is None
    assert headers.size(Path(tmp_path / "none.png")) is None
    path.write_bytes(b"")
    assert headers.size(path) is None


def test_pictures_are_found_below_in_order(tmp_path):
    for name in ("b.PNG", "a/c.jpeg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "x.png"), np.zeros((2, 2), np.uint8))
        (tmp_path / name).write_bytes((tmp_path / "x.png").read_bytes())
    found = [str(p.relative_to(tmp_path)) for p in headers.pictures_in(tmp_path)]
    assert found == ["a/c.jpeg", "b.PNG", "x.png"]
