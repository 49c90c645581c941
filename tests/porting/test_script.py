"""convert.py as a user types it, with a narrow model; then what needs its file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.convert import files, peers
from frcnn_jax.porting import recognition

ROOT = Path(__file__).resolve().parents[2]
NARROW = {
    "model.backbone.width": 4,
    "model.fpn.channels": 8,
    "model.rpn.channels": 8,
    "model.roi.fc": (8, 8),
    "model.num_classes": 2,
}
ASKED = [
    "--config=configs/r50_fpn_1x.py",
    *(f"--config.{k}={NARROW[k]}" for k in NARROW),
]


def convert(*words, code=0) -> str:
    """What it printed; for a failure, its one line."""
    done = subprocess.run(
        [sys.executable, "convert.py", *map(str, words)],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr.strip() if code else done.stdout


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """(a file with mmdetection's names, its arrays)."""
    model = config.FasterRCNN(num_classes=2)
    model.backbone.width, model.fpn.channels, model.rpn.channels = 4, 8, 8
    model.roi.fc = (8, 8)
    rng = np.random.default_rng(0)
    weights = {
        k: rng.uniform(0.01, 0.02, leaf.shape).astype(np.float32)
        for k, leaf in recognition.shapes(model).items()
    }
    state = peers.to_state_dict(weights, model, "mmdet")
    path = tmp_path_factory.mktemp("theirs") / "theirs.safetensors"
    files.save(path, state, {"meta.CLASSES": ["cat", "crab"]})
    return path, state


def test_there_and_back_and_a_look(theirs, tmp_path):
    path, state = theirs
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.npz"
    printed = convert(path, ours, *ASKED)
    assert "theirs.safetensors: mmdet names" in printed and "295 arrays" in printed
    assert "classes" not in printed  # they agree, and the file names them
    printed = convert(ours, back, "--to=mmdet")
    assert "with the configuration that it carries" in printed
    found, _ = files.load(back)
    assert set(found) == set(state)
    for name, array in state.items():
        assert found[name].tobytes() == array.tobytes(), name
    printed = convert("--check", ours)
    assert "prediction on a drawing: " in printed and "odd: " in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "usage: python convert.py SRC DST"),
        (["--check", "a", "b"], "usage: python convert.py --check FILE"),
        (["none.pth", "{tmp}/a.safetensors"], "none.pth does not exist"),
        (["{theirs}", "{tmp}/a.safetensors"], "nearest --config=configs/r50"),
        (["{theirs}", "{theirs}"], "exists: remove it or choose another name"),
    ],
)
def test_one_line_says_what_is_wrong(words, message, theirs, tmp_path):
    words = [word.format(tmp=tmp_path, theirs=theirs[0]) for word in words]
    error = convert(*words, code=1)
    assert error.startswith("error: ") and message in error and "\n" not in error
    assert not list(tmp_path.iterdir())
