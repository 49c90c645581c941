"""The images with most errors, on cases done on paper."""

from frcnn_jax.evaluation import worst

BOX = [10, 10, 20, 20]


def truth(*images):
    """One object in each named image."""
    return {
        "images": [{"id": image} for image in (*images, "empty")],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": k, "image_id": image, "category_id": 1, "bbox": BOX}
            for k, image in enumerate(images, 1)
        ],
    }


def hit(image, category=1, score=0.9, box=BOX):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_most_errors_first_and_right_images_are_left_out():
    far = [200, 200, 9, 9]
    found = worst.images(
        truth("right", "lost", "many"),
        [hit("right"), hit("many", 2), hit("many", box=far), hit("empty", box=far)],
        count=9,
    )
    assert found == [
        worst.Worst("many", {"classification": 1, "background": 1}),
        worst.Worst("empty", {"background": 1}),
        worst.Worst("lost", {"missed": 1}),
    ]


def test_low_scores_do_not_take_part():
    detections = [hit("x", score=0.4), hit("x", 2, score=0.3)]
    (one,) = worst.images(truth("x"), detections, count=9)
    assert one.errors == {"missed": 1}
    (one,) = worst.images(truth("x"), detections, count=9, score=0.2)
    assert one.errors == {"classification": 1}


def test_only_so_many_are_named():
    assert len(worst.images(truth("a", "b", "c"), [], count=2)) == 2
    assert worst.images(truth("a"), [hit("a")], count=2) == []
    assert worst.images(truth("a"), [], count=0) == []
