"""predict.py and eval.py with weights that have a name, as a user types them."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from configs import r50_caffe_fpn_ms_1x_person
from frcnn_jax import build
from frcnn_jax.convert import files

ROOT = Path(__file__).resolve().parents[2]
ROW = "r50_caffe_fpn_ms_1x_person"
NARROW = {
    "model.backbone.width": 8,
    "model.fpn.channels": 16,
    "model.rpn.channels": 16,
    "model.roi.fc": (16,),
    "model.rpn.pre_nms_test": 32,
    "model.rpn.post_nms_test": 16,
    "data.eval_short_side": 64,
    "data.max_side": 96,
}
# The script named on the command line, with a table of one small file.
PROGRAM = """
import runpy, sys
from frcnn_jax.convert import published
row = published.Published("mmdet:tiny", sys.argv.pop(1), sys.argv.pop(1), "")
published.table = lambda: {row.name: row}
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file in a cache of its own, of a head that gives all classes the same score."""
    run = r50_caffe_fpn_ms_1x_person.get_config()
    for name, value in NARROW.items():
        *path, last = name.split(".")
        section = run
        for part in path:
            section = getattr(section, part)
        setattr(section, last, value)
    flat = traverse_util.flatten_dict(build.fresh_variables(run), sep="/")
    arrays = {
        name: np.asarray(value) * ("/predictor/" not in name)
        for name, value in flat.items()
    }
    path = tmp_path_factory.mktemp("cache") / "w.safetensors"
    files.save(path, arrays, {})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(path.with_name(f"tiny-{digest}.safetensors"))


def call(weights, script, *words):
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    env = {
        **os.environ,
        "FRCNN_CACHE": str(weights.parent),
        "FRCNN_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    address = f"https://nowhere.invalid/{weights.name}"
    fields = [f"--config.{name}={value}" for name, value in NARROW.items()]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, ROW, address, script, *fields, *words],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_a_name_is_enough_to_predict(weights, tmp_path):
    picture, out = tmp_path / "a.jpg", tmp_path / "out"
    Image.new("RGB", (90, 60), "teal").save(picture)
    words = ["--weights=mmdet:tiny", "--score=0", str(picture), f"--out={out}"]
    done = call(weights, "predict.py", *words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"mmdet:tiny: --config=configs/{ROW}.py"
    assert any(line.startswith("weights mmdet:tiny (ours names)") for line in lines)
    assert re.search(rf"^{picture}: [1-9]\d* person$", done.stdout, re.M)
    found = json.loads((out / "predictions.json").read_text())
    assert {entry["category_id"] for entry in found} == {1}


@pytest.mark.parametrize(
    ("words", "message"),
    {
        ("--weights=mmdet:tinny",): "mmdet:tinny: no such published weights; nearest:"
        " mmdet:tiny; mmdet: lists all",
        ("--weights=mmdet:",): "mmdet: is a peer without a name; there are\n"
        f"  mmdet:tiny: configs/{ROW}.py",
        ("--weights=mmdet:tiny", "--config.data.clases=cat"): "--config.data.clases:"
        " there is no such field; did you mean --config.data.classes?",
    }.items(),
)
def test_a_fault_of_a_name_is_told_plainly(weights, words, message):
    done = call(weights, "eval.py", *words)
    assert (done.returncode, done.stderr) == (1, f"error: {message}\n")
