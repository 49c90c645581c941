import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from frcnn_jax import config, vis
from frcnn_jax.doctor import check, page
from tests.doctor.samples import encode, scene

VOID = {"meta", "img", "br"}


class Nesting(HTMLParser):
    """Fails at tags that do not close each other; collects addresses and ids."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.seen = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)


def made(root):
    run = config.Run()
    run.data.root = str(root)
    return page.html(check.examine(run))


def test_the_page_stands_alone_and_shows_the_findings(write_set):
    root = write_set(
        {"a.png": encode(scene()), "b.png": encode(scene(5)), "c.jpg": b"nothing"},
        boxes={"a.png": [[5, 5, 20, 2], [1, 1, 0, 0]], "b.png": []},
        names=("cat", "<script>alert(1)</script>"),
    )
    text = made(root)
    parser = Nesting()
    parser.feed(text)
    assert parser.open == []
    assert not {"script", "link", "iframe"} & parser.seen
    assert all(a.startswith("data:image/jpeg;base64,") for a in parser.addresses)
    assert "&lt;script&gt;alert(1)" in text
    assert "errors found: 1." in text and "image files that cannot be read" in text
    shown = [_decoded(encoded) for encoded in re.findall(r"base64,([^\"]+)", text)]
    assert len(shown) == 3  # without objects, tiny, of no size; not the broken file
    assert all(max(picture.shape) == page.SIDE for picture in shown)
    marks = [(abs(p - vis.color(page.MARKED)).sum(2) < 60).sum() for p in shown]
    assert [count > 20 for count in marks] == [False, True, True]


def _decoded(encoded):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(int)


def test_a_set_of_which_nothing_can_be_built(write_set):
    root = write_set({})
    path = root / "annotations" / "train.json"
    content = {"images": [{"id": 1}], "annotations": []}
    content["categories"] = [{"id": 1, "name": "a"}]
    path.write_text(json.dumps(content))
    text = made(root)
    assert "images without a usable id" in text and "<svg" not in text


def test_the_shown_part_lies_in_the_picture():
    for box in (
        [0, 0, 2, 2],
        [598, 398, 600, 400],
        [-50, 9, 700, 20],
        [700, 9, 720, 20],
    ):
        x1, y1, x2, y2 = page._around(page._corners(_xywh(box)), 600, 400)
        assert 0 <= x1 < x2 <= 600 and 0 <= y1 < y2 <= 400


def _xywh(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
