import json
import subprocess
import sys

from frcnn_jax import config
from frcnn_jax.data import sources
from tests.doctor.samples import encode, scene


def check(*words):
    command = [sys.executable, "-m", "frcnn_jax.data", "check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_exit_codes_page_and_repair(write_set):
    """The commands of a user whose set has a broken picture, up to a clean set."""
    root = write_set({"a.png": encode(scene()), "b.jpg": b""})
    html, fixed = root / "page.html", root / "annotations" / "good.json"
    code, out, err = check(root, f"--html={html}", f"--fix={fixed}")
    assert (code, err) == (1, "")
    assert "train: image files that cannot be read: 1" in out
    assert "errors found: 1." in out and f"copy of train: {fixed}; 2 changes" in out
    assert html.read_text().startswith("<!DOCTYPE html>")
    named = f"--config.data.root={root}"  # in place of DIR
    code, out, err = check(
        *("--split=good", "--strict", "--config=configs/demo.py", named)
    )
    assert (code, err) == (0, "")
    assert "sizes and anchors as in configs/demo.py" in out
    broken = json.dumps({"images": []})
    (root / "annotations" / "good.json").write_text(broken)
    code, out, err = check(root, "--split=good")
    assert code == 2 and err.startswith("error: ") and "is missing" in err


def test_a_repaired_yolo_folder_trains_as_before(tmp_path):
    """One copied split would hide the other; all of them take the labels' place."""
    for split, lines in {"train": "0 .5 .5 .2 .2\n9 .5 .5 .2 .2", "val": ""}.items():
        for kind, name, content in (
            ("images", "a.png", encode(scene())),
            ("labels", "a.txt", lines.encode()),
        ):
            place = tmp_path / kind / split / name
            place.parent.mkdir(parents=True)
            place.write_bytes(content)
    told = "train: images/train\nval: images/val\nnames: [cat]\n"
    (tmp_path / "data.yaml").write_text(told)
    places = tmp_path / "annotations"
    code, _, err = check(tmp_path, "--split=train", f"--fix={places / 'train.json'}")
    assert code == 1 and "in which val is missing; write all splits" in err
    assert f"--fix={places} --split=train,val" in err and not places.exists()
    code, _, err = check(tmp_path, f"--fix={places / 'train.json'}")
    assert code == 1 and "--split: train, val; or name a folder" in err
    before = sources.load(config.Data(root=str(tmp_path)), "val", training=False)
    code, out, err = check(tmp_path, f"--fix={places}")
    assert err == "" and "is read as COCO from now on" in out
    assert "line 2" in (places / "train.log").read_text()
    data = config.Data(root=str(tmp_path))
    after = sources.load(data, "val", training=False)
    assert [r.path for r in after.records] == [r.path for r in before.records]
    assert len(sources.load(data, "train", training=True).records[0].boxes) == 1


def test_strict_is_an_error_for_what_is_dropped_or_counted(write_set):
    boxes = {"a.png": [[9, 9, 0, 0], [5, 5, 20, 20]]}
    root = write_set({"a.png": encode(scene())}, boxes=boxes)
    code, out, err = check(root, "--strict", "--quick")
    assert (code, err) == (1, "")
    assert "image 1 (a.png), annotation 1: bbox [9, 9, 0, 0]" in out
    assert "verdict: ready for training; oddities worth a look: 1" in out
