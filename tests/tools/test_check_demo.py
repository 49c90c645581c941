"""The demo's gate, run as CI runs it: on real files, in its own process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "check_demo.py"


def run_gate(file: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), f"--file={file}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_scores_on_the_floor_pass(tmp_path):
    file = tmp_path / "eval.json"
    file.write_text(json.dumps({"AP": 0.60, "AP50": 0.90, "AP75": 0.1}))
    done = run_gate(file)
    assert done.returncode == 0, done.stderr
    assert "AP50 0.900 >= 0.9" in done.stdout


@pytest.mark.parametrize(
    ("scores", "complaint"),
    [
        ({"AP": 0.59, "AP50": 0.95}, "AP is 0.590, below 0.600"),
        ({"AP": 0.70, "AP50": 0.89}, "AP50 is 0.890, below 0.900"),
        ({"AP": float("nan"), "AP50": 0.95}, "AP is nan"),
        ({"AP": 0.70}, "AP50 is None; the file has ['AP']"),
    ],
)
def test_lower_or_missing_scores_fail(tmp_path, scores, complaint):
    file = tmp_path / "eval.json"
    file.write_text(json.dumps(scores))
    done = run_gate(file)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_a_missing_file_says_what_to_run(tmp_path):
    done = run_gate(tmp_path / "eval.json")
    assert done.returncode == 1
    assert "make demo" in done.stderr
