"""Pictures of boxes: what is drawn where, what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from frcnn_jax import vis

NAMES = ("cat", "dog", "an unreasonably long class name", "Löwe", "日本")
GREY = 120


def grey(height=200, width=300):
    return np.full((height, width, 3), GREY, np.uint8)


def changed(picture, image=None):
    image = grey(*picture.shape[:2]) if image is None else image
    return (picture != image).any(2)


def one(box, label=1, score=0.97, image=None):
    image = grey() if image is None else image
    scores = None if score is None else [score]
    return vis.draw(
        image, np.array([box]), np.array([label]), scores, class_names=NAMES
    )


# ---- draw --------------------------------------------------------------------------


def test_frame_lies_on_the_box_and_leaves_its_middle():
    picture = one((100, 80, 180, 150), label=2)
    for y, x in ((80, 140), (149, 140), (115, 100), (115, 179)):
        assert tuple(picture[y, x]) == vis.color(2)
    assert not changed(picture)[90:140, 110:170].any()
    assert not changed(picture)[160:].any() and not changed(picture)[:, 200:].any()


def test_nothing_to_draw_gives_an_equal_copy():
    image = grey()
    for labels in (np.zeros(0, int), np.zeros(2, int)):
        boxes = np.zeros((len(labels), 4))
        picture = vis.draw(image, boxes, labels, class_names=NAMES)
        assert np.array_equal(picture, image)
        picture[:] = 0  # writable, and not the argument
        assert (image == GREY).all()


def test_empty_rows_may_hold_anything():
    boxes = np.array([[np.nan] * 4, [10, 50, 40, 90]])
    picture = vis.draw(grey(), boxes, np.array([0, 1]), class_names=NAMES)
    assert np.array_equal(picture, one((10, 50, 40, 90), score=None))


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 300, 200),
        (290, 190, 300, 200),
        (-50, -50, 10, 10),
        (280, 0, 400, 20),
        (120.2, 80.4, 120.9, 80.6),
        (50, 50, 50, 50),
        (400, 400, 500, 500),
        (80, 80, 40, 40),
        (-1e9, 0, 1e9, 200),
    ],
)
def test_boxes_anywhere_leave_a_frame_and_a_whole_tag(box):
    picture = one(box)
    tag = (np.abs(picture.astype(int) - vis.color(1)).max(2) < 25).sum()
    pen = vis._pen(200, 300)
    width, height = vis._chip_size("cat 0.97", pen)
    assert tag > 0.5 * width * height  # the tag's ground; the rest is its letters


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (20, 500), (100, 75), (2400, 3200)])
@pytest.mark.parametrize("label", [1, 3, 4, 5])
def test_pictures_of_any_size(size, label):
    image = grey(*size)
    box = (0.2 * size[1], 0.2 * size[0], 0.8 * size[1], 0.8 * size[0])
    picture = one(box, label=label, image=image)
    assert picture.shape == image.shape and picture.dtype == np.uint8
    assert changed(picture).any()


def test_lines_and_letters_grow_with_the_picture():
    small, large = vis._pen(100, 100), vis._pen(3000, 4000)
    assert small.text >= 10 and large.text > 60
    assert small.line >= 2 and large.line > 8


def test_high_scores_are_drawn_over_low_ones():
    boxes = np.array([[50, 50, 150, 150], [50, 50, 150, 150]])
    for scores, winner in (([0.9, 0.2], 1), ([0.2, 0.9], 2)):
        picture = vis.draw(
            grey(), boxes, np.array([1, 2]), np.array(scores), class_names=NAMES
        )
        assert tuple(picture[150, 100]) == vis.color(winner)


def test_small_boxes_stay_over_large_ones_without_scores():
    boxes = np.array([[90, 50, 110, 150], [50, 50, 150, 150]])
    picture = vis.draw(grey(), boxes, np.array([1, 2]), class_names=NAMES)
    assert tuple(picture[149, 100]) == vis.color(1)


def test_tags_keep_apart_where_there_is_room():
    pen, size, chips = vis._pen(200, 300), (300, 200), []
    for _ in range(4):
        place = vis._free_place(
            np.array([100, 60, 200, 150]), "cat 0.50", chips, pen=pen, size=size
        )
        assert 0 <= place[0] < place[2] <= 300 and 0 <= place[1] < place[3] <= 200
        assert all(vis._shared(place, chip.place) == 0 for chip in chips)
        chips.append(vis._Chip("cat 0.50", (0, 0, 0), place))


def test_long_names_are_cut_but_keep_their_score():
    pen = vis._pen(100, 100)
    text = vis._fitted(NAMES[2], " 0.55", pen, 100)
    assert text.startswith("an ") and text.endswith("… 0.55")
    assert vis._chip_size(text, pen)[0] <= 100
    assert vis._fitted("cat", " 0.55", pen, 100) == "cat 0.55"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Löwe", "Lowe"),
        ("Straße", "Strasse"),
        ("日本", "#9"),
        ("", "#9"),
        ("a b", "a b"),
    ],
)
def test_names_become_letters_the_font_has(name, shown):
    assert vis.readable(name, 9) == shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((5, 5), np.uint8)}, "uint8"),
        ({"image": np.zeros((5, 5, 3), np.float32)}, "uint8"),
        ({"image": np.zeros((0, 5, 3), np.uint8)}, "no pixels"),
        ({"labels": [1, 1]}, "do not match"),
        ({"scores": [0.5, 0.5]}, "do not match"),
        ({"boxes": [[1, 2, 3]]}, "do not match"),
        ({"labels": [6]}, "5 class names"),
        ({"labels": [-1]}, "5 class names"),
        ({"boxes": [[0, 0, np.inf, 1]]}, "row 0"),
        ({"scores": [np.nan]}, "row 0"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(change, message):
    good = {"image": grey(), "boxes": [[1, 2, 30, 40]], "labels": [1], "scores": [0.5]}
    with pytest.raises(ValueError, match=message):
        vis.draw(**(good | change), class_names=NAMES)


# ---- colours -----------------------------------------------------------------------


def test_colors_are_stable_and_distinct():
    colors = [vis.color(label) for label in range(1, 41)]
    assert colors == [vis.color(label) for label in range(1, 41)]
    assert len(set(colors)) == 40
    assert all(0 <= c <= 255 for rgb in colors for c in rgb)


def test_letters_contrast_with_their_tag():
    def luminance(rgb):
        c = np.array(rgb) / 255
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    for label in range(1, 100):
        pair = [
            luminance(c) for c in (vis.color(label), vis._text_color(vis.color(label)))
        ]
        assert (max(pair) + 0.05) / (min(pair) + 0.05) > 4.0  # WCAG AA asks 4.5 or 3.0


# ---- panels and sheets -------------------------------------------------------------


def records(boxes, labels, scores):
    arrays = (np.array(boxes), np.array(labels), np.array(scores))
    return SimpleNamespace(
        **dict(zip(("boxes", "labels", "scores"), arrays, strict=True))
    )


def test_side_by_side_hides_low_scores_and_empty_rows():
    image = grey(500, 400)
    truth = records([[50, 50, 200, 200]], [1], [1.0])
    some = records([[50, 50, 200, 200]] * 3, [1, 2, 0], [0.9, 0.3, 0.8])
    none = records(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    high = vis.side_by_side(image, truth, some, NAMES, 0.5)
    low = vis.side_by_side(image, truth, some, NAMES, 0.2)
    empty = vis.side_by_side(image, none, none, NAMES, 0.5)
    assert high.shape == low.shape == empty.shape
    assert high.shape[0] > 500 and high.shape[1] > 800
    half = high.shape[1] // 2
    assert not (high[:, :half] != low[:, :half]).any()  # the same ground truth
    assert (high[:, half:] != low[:, half:]).any()
    assert (high[:, :half] != empty[:, :half]).any()


def test_side_by_side_enlarges_small_images_with_their_boxes():
    image = grey(100, 120)
    truth = records([[10, 50, 60, 90]], [1], [1.0])
    sheet = vis.side_by_side(image, truth, truth, NAMES, 0.5)
    assert sheet.shape[0] > 400 and sheet.shape[1] > 960
    framed = (sheet[:, : sheet.shape[1] // 2] == vis.color(1)).all(2)
    xs = np.flatnonzero(framed.any(0))
    assert abs((xs[-1] - xs[0]) - 4 * 50) < 8


def test_contact_sheet_holds_every_picture_whole():
    pictures = [np.full((h, w, 3), 10 * k, np.uint8) for k, (h, w) in enumerate(SIZES)]
    sheet = vis.contact_sheet(pictures, columns=2)
    for k, (h, w) in enumerate(SIZES):
        assert ((sheet == 10 * k).all(2)).sum() == h * w
    assert (sheet[0] == vis.PAPER).all() and (sheet[:, -1] == vis.PAPER).all()
    assert sheet.shape[0] > 30 + 20 and sheet.shape[1] > 50 + 20


SIZES = ((30, 40), (10, 20), (20, 50))


def test_contact_sheet_of_one_needs_one_column():
    picture = grey(20, 30)
    sheets = [vis.contact_sheet([picture], columns=n) for n in (1, 5)]
    assert np.array_equal(*sheets)


@pytest.mark.parametrize(("count", "columns"), [(0, 2), (1, 0)])
def test_an_empty_sheet_is_an_error(count, columns):
    with pytest.raises(ValueError, match="is empty"):
        vis.contact_sheet([grey()] * count, columns)


def test_outlines_have_no_tag_and_leave_the_image_alone():
    image = np.full((60, 80, 3), 128, np.uint8)
    boxes = np.array([[20, 20, 60, 50], [0, 0, 0, 0]])
    drawn = vis.outline(image, boxes, 2)
    assert (image == 128).all()
    rows, columns = np.nonzero((drawn == vis.color(2)).all(2))
    assert {20, 49} <= set(rows) and {20, 59} <= set(columns)
    assert (drawn[25:45, 26:54] == 128).all() and (drawn[:15, 20:] == 128).all()
    np.testing.assert_array_equal(vis.outline(image, boxes[:0]), image)
