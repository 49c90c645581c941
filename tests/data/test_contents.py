from frcnn_jax.data import contents
from frcnn_jax.data.findings import Findings


def test_images_ascend_and_remember_their_row():
    findings = Findings()
    size = {"file_name": "a", "width": 1, "height": 1}
    listed = [{"id": 9, **size}, 7, {"id": 2, **size}, {"id": 9, **size}]
    found = contents.images({"images": listed}, source="f", findings=findings)
    assert [(i["id"], i["row"]) for i in found] == [(2, 2), (9, 0)]
    assert findings.counts == {"image-entry": 1, "image-id": 1}


def test_ids_sort_as_texts_once_one_is():
    size = {"file_name": "a", "width": 1, "height": 1}
    listed = [{"id": i, **size} for i in (10, "b", 9)]
    found = contents.images({"images": listed}, source="f", findings=Findings())
    assert [i["id"] for i in found] == [10, 9, "b"]


def test_categories_that_share_a_name_are_named():
    findings = Findings()
    listed = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}, {"id": 3}]
    found = contents.categories({"categories": listed}, source="f", findings=findings)
    assert [c["id"] for c in found] == [1, 2]
    assert [f.detail for f in findings.of("category")] == [
        "category 3 has no name",
        "2 categories have the name 'cat'",
    ]
