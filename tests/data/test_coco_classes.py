from frcnn_jax.data import coco_classes


def test_there_are_80_names_and_ids():
    assert len(coco_classes.NAMES) == len(set(coco_classes.NAMES)) == 80
    assert len(coco_classes.IDS) == len(set(coco_classes.IDS)) == 80
    assert list(coco_classes.IDS) == sorted(coco_classes.IDS)


def test_known_pairs():
    """COCO's ids run to 90 with ten gaps, the first after fire hydrant."""
    table = dict(zip(coco_classes.IDS, coco_classes.NAMES, strict=True))
    known = {1: "person", 11: "fire hydrant", 13: "stop sign", 37: "sports ball"}
    known |= {44: "bottle", 67: "dining table", 72: "tv", 84: "book"}
    known |= {88: "teddy bear", 90: "toothbrush"}
    assert {key: table[key] for key in known} == known


def test_names_are_clean():
    for name in coco_classes.NAMES:
        assert name == name.strip().lower() and "  " not in name
