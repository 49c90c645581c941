from frcnn_jax import config, terminal
from frcnn_jax.doctor import check, report
from tests.doctor.samples import encode, scene


def lines(root, **fields):
    run = config.Run()
    run.data.root = str(root)
    for name, value in fields.items():
        setattr(run.data, name, value)
    return terminal.text(report.parts(check.examine(run))).split("\n")


def test_a_clean_set(write_set):
    write_set({"a.png": encode(scene())})
    root = write_set({"b.png": encode(scene(5))}, split="val")
    found = lines(root, short_sides=(40,), eval_short_side=40)
    assert found[0] == f"COCO annotations in {root}"
    table = {line[:22].strip(): line[22:].split() for line in found if line}
    assert table["images"] == ["1", "1"] and table["objects"] == ["1", "1"]
    assert found[-1] == "verdict: ready for training; nothing odd was found"


def test_findings_come_by_policy_with_five_places(write_set):
    files = {f"{n}.png": encode(scene(n)) for n in range(7)}
    root = write_set(
        {**files, "bad.jpg": b"", "gone.jpg": None},
        boxes={f"{n}.png": [[1, 1, 20, 2]] for n in range(7)},
    )
    found = lines(root)
    order = [found.index(f"{title}:") for title in report.POLICIES.values() if
             f"{title}:" in found]  # fmt: skip
    assert len(order) == 2 and order == sorted(order)
    places = [line for line in found if "bbox [1, 1, 20, 2]" in line]
    assert places[0] == "    image 1 (0.png), annotation 1: bbox [1, 1, 20, 2]"
    assert len(places) == report.PLACES and "    ... and 2 more" in found
    assert any(line.endswith("image 8: empty file") for line in found)
    assert "    image 9: gone.jpg" in found
    assert "verdict: not ready, errors found: 2." in " ".join(found[-2:])
    wrapped = [line for line in found if line.startswith(("  train: ", "- "))]
    assert len(wrapped) >= 4 and max(map(len, wrapped)) <= 88


def test_many_classes_are_shortened(write_set):
    names = tuple(f"class {n}" for n in range(30))
    root = write_set({"a.png": encode(scene())}, names=names)
    found = lines(root)
    shown = [line for line in found if line.startswith("  class ")]
    assert len(shown) == report.CLASSES
    assert any(line.startswith("  ... 10 more") for line in found)


def test_scenes_beyond_the_metrics_limit_are_told(write_set):
    boxes = {"a.png": [[n % 40, n % 30, 9, 9 + n % 3] for n in range(120)]}
    found = lines(write_set({"a.png": encode(scene())}, boxes=boxes))
    assert any(line.startswith("images of over 100 objects*") for line in found)
    assert any("the COCO metric counts 100 detections" in line for line in found)
