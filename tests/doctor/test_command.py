import json
import subprocess
import sys

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
    assert "errors found: 1." in out and f"repaired copy: {fixed}; 2 changes" in out
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


def test_strict_is_an_error_for_what_is_dropped_or_counted(write_set):
    boxes = {"a.png": [[9, 9, 0, 0], [5, 5, 20, 20]]}
    root = write_set({"a.png": encode(scene())}, boxes=boxes)
    code, out, err = check(root, "--strict", "--quick")
    assert (code, err) == (1, "")
    assert "image 1 (a.png), annotation 1: bbox [9, 9, 0, 0]" in out
    assert "verdict: ready for training; oddities worth a look: 1" in out
