import numpy as np

from frcnn_jax import panels
from frcnn_jax.data import sources


def shapes_of(tiny_run):
    return sources.load(tiny_run.data, "val", False)


def test_the_same_few_records_are_chosen(tiny_run):
    data = shapes_of(tiny_run)
    ids = [record.source_id for record in data.records]
    assert [r.source_id for r in panels.chosen(data, 2)] == [ids[0], ids[5]]
    assert [r.source_id for r in panels.chosen(data, 99)] == ids


def test_predictions_stand_beside_ground_truth(tiny_run, tmp_path):
    data = shapes_of(tiny_run)
    record = data.records[0]
    box = {"image_id": record.source_id, "category_id": data.category_ids[0]}
    results = [box | {"bbox": [10, 10, 40, 30], "score": s} for s in (0.9, 0.2)]
    words = {"max_pixels": 10**6, "score": 0.5}
    drawn = panels.panel(record, data, results, **words)
    assert drawn.dtype == np.uint8 and drawn.shape[1] > 2 * record.width
    low = panels.panel(record, data, results[1:], **words)
    assert (drawn != low).any()  # one detection on it, and none
    assert (low == panels.panel(record, data, [], **words)).all()
    gone = record._replace(path=tmp_path / "gone.jpg")
    assert panels.panel(gone, data, results, **words) is None
