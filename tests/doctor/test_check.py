import json

import pytest

from frcnn_jax import config
from frcnn_jax.doctor import check
from tests.doctor.samples import encode, scene


def run_of(root, **fields):
    run = config.Run()
    run.data.root = str(root)
    for name, value in fields.items():
        setattr(run.data, name, value)
    return run


def test_pictures_that_training_has_seen_are_named(write_set):
    write_set({"a.png": encode(scene()), "b.png": encode(scene(5))})
    root = write_set({"c.png": encode(scene(9)), "d.png": encode(scene())}, split="val")
    train, val = check.examine(run_of(root)).splits
    assert (train.name, val.name) == ("train", "val")
    assert not train.findings.counts
    (place,) = val.findings.of("leak")
    assert place.where.endswith("d.png") and place.image == 2
    assert place.detail.endswith("a.png")


def test_a_list_of_shared_pictures_is_a_warning(write_set):
    shared = {f"{n}.png": encode(scene(n)) for n in range(3)}
    write_set(shared)
    same = {f"other{n}": content for n, content in enumerate(shared.values())}
    root = write_set({**same, "own.png": encode(scene(9))}, split="val")
    report = check.examine(run_of(root))
    assert report.count("error") == 0 and report.count("warn") == 3
    places = report.splits[1].findings.of("leak")
    assert [(p.image, p.detail.rpartition("/")[2]) for p in places] == [
        (n + 1, f"{n}.png") for n in range(3)
    ]


def test_splits_with_other_classes_are_an_error(write_set):
    write_set({"a.png": encode(scene())}, names=("cat", "dog"))
    root = write_set({"b.png": encode(scene(5))}, split="val", names=("cat", "dgo"))
    report = check.examine(run_of(root))
    assert report.count("error") == 1
    (place,) = report.splits[1].findings.of("class-names")
    assert "'dog' is missing (did you mean 'dgo'?)" in place.detail


def test_a_lone_split_is_looked_at_whole(write_set):
    root = write_set({f"{n}.png": encode(scene(n)) for n in range(10)})
    report = check.examine(run_of(root, fraction=0.5, image_ids=("1",)))
    assert len(report.splits) == 1 and len(report.splits[0].looks) == 10


def test_which_splits_are_looked_at(write_set):
    for split in ("train", "val", "mini", "test"):
        root = write_set({f"{split}.png": encode(scene(9))}, split=split)
    report = check.examine(run_of(root))
    assert [split.name for split in report.splits] == ["train", "val", "test"]
    assert report.unseen == ("mini",)
    report = check.examine(run_of(root), ["mini"])
    assert [split.name for split in report.splits] == ["mini"]
    assert check.usual(config.Data(), ["a", "b"]) == ("a", "b")


def test_bad_images_are_skipped_where_training_would(write_set):
    root = write_set({"a.png": encode(scene()), "b.jpg": b"", "c.png": None})
    assert check.examine(run_of(root)).count("error") == 2
    report = check.examine(run_of(root, on_bad_image="skip"))
    assert report.count("error") == 0 and report.count("fix") == 2


def test_without_decoding_headers_are_compared(write_set):
    good = encode(scene(), "JPEG")
    sizes = {"b.jpg": (61, 40)}
    root = write_set({"a.jpg": good[:-100], "b.jpg": good}, sizes=sizes)
    report = check.examine(run_of(root), decode=False)
    assert report.splits[0].findings.counts == {"other-size": 1}


def test_what_cannot_be_read_at_all(write_set, tmp_path):
    root = write_set({"a.png": encode(scene())})
    path = tmp_path / "annotations" / "train.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ValueError, match="broken JSON at byte"):
        check.examine(run_of(root))
    path.write_text(json.dumps({"images": []}))
    with pytest.raises(ValueError, match="'annotations' is missing"):
        check.examine(run_of(root))


def test_what_the_header_told_is_not_told_again(tmp_path):
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encode(scene()))
    (tmp_path / "images" / "b.jpg").write_bytes(b"<html>")
    for name in "ab":
        (tmp_path / "images" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5")
    (split,) = check.examine(run_of(tmp_path)).splits
    assert split.findings.counts == {"unreadable-image": 1}
