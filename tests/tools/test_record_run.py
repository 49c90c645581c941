"""Recording a finished run: numbers from its files, and folders that are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn_jax import config

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "record_run.py"
START = 1_700_000_000


def report(step, images_per_s):
    return {"step": step, "loss": 1.0, "images_per_s": images_per_s, "epoch": step / 20}


@pytest.fixture
def workdir(tmp_path):
    """Batch 8: 19 steps at 4 images/s (38 s), 20 at 8 (20 s), 20 at 16 (10 s)."""
    folder = tmp_path / "my_run"
    folder.mkdir()
    run = config.Run(seed=3)
    run.data.root, run.init.load = "somewhere/cells", "weights/trunk.npz"
    run.train.batch_size, run.model.num_classes = 8, 5
    labels = {"class_names": [], "category_ids": []}
    content = {"run": json.loads(config.to_json(run)), **labels}
    (folder / "config.json").write_text(json.dumps(content))
    lines = [report(20, 4.0), report(40, 8.0), {"step": 40, "eval/AP": 0.1}]
    lines += [report(60, 16.0), {"step": 60, "eval/AP": 0.5}]
    write(folder, lines)
    scores = {"AP": 0.5, "AP50": 0.75, "APl": None, "AR100": 0.6, "per_class": {}}
    (folder / "eval.json").write_text(json.dumps(scores))
    return folder


def write(folder, lines, seconds=80):
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.utime(folder / "config.json", (START, START))
    os.utime(path, (START + seconds, START + seconds))


def record(folder, *words):
    results = folder.parent / "results"
    command = [sys.executable, str(SCRIPT), str(folder), "--name=cells"]
    command += [f"--results={results}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def recorded(folder):
    done = record(folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_finished_run_becomes_a_line(workdir):
    line = recorded(workdir)
    wanted = {"name": "cells", "workdir": "my_run", "seed": 3, "steps": 60}
    wanted |= {"batch_size": 8, "data": "cells", "split": "val", "init": "trunk.npz"}
    wanted |= {"num_classes": 5, "depth": 50, "scored_again": False}
    wanted |= {"images_per_s": 8.0, "reported_s": 68.0, "wall_s": 80.0}
    wanted["scores"] = {"AP": 0.5, "AP50": 0.75, "APl": None, "AR100": 0.6}
    assert {name: line[name] for name in wanted} == wanted
    assert line["versions"]["jax"] and line["machine"]["cores"] >= 1
    assert {"commit", "dirty", "date"} <= set(line)


def test_lines_are_appended(workdir):
    first, second = recorded(workdir), recorded(workdir)
    file = workdir.parent / "results" / "cells.jsonl"
    assert [json.loads(x) for x in file.read_text().splitlines()] == [first, second]


@pytest.mark.parametrize("seconds", [0, 40])
def test_dates_that_cannot_be_true_give_no_wall_time(workdir, seconds):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    write(workdir, map(json.loads, lines), seconds)
    line = recorded(workdir)
    assert line["wall_s"] is None and line["reported_s"] == 68.0


def test_repeated_steps_of_a_continued_run_give_no_times(workdir):
    lines = [report(20, 4.0), report(10, 8.0), {"step": 10, "eval/AP": 0.5}]
    write(workdir, lines)
    line = recorded(workdir)
    assert line["wall_s"] is None and line["reported_s"] is None
    assert line["images_per_s"] == 6.0


def test_a_later_score_is_told(workdir):
    (workdir / "eval.json").write_text('{"AP": 0.4}')
    assert recorded(workdir)["scored_again"] is True


def test_a_run_of_one_report_has_no_covered_time(workdir):
    write(workdir, [report(1, 4.0), {"step": 1, "eval/AP": 0.5}])
    assert recorded(workdir)["reported_s"] == 0.0


@pytest.mark.parametrize("name", ["config.json", "eval.json", "metrics.jsonl"])
def test_a_missing_file_is_named(workdir, name):
    (workdir / name).unlink()
    done = record(workdir)
    assert done.returncode == 1 and f"has no {name}" in done.stderr
    assert not (workdir.parent / "results").exists()


def test_an_unfinished_or_broken_run_is_refused(workdir):
    write(workdir, [report(20, 4.0)])
    assert "does not end with an evaluation" in record(workdir).stderr
    write(workdir, [])
    assert "does not end with an evaluation" in record(workdir).stderr
    (workdir / "metrics.jsonl").write_text('{"step": 1\n')
    assert "no JSON" in record(workdir).stderr


def test_a_name_with_a_folder_is_refused(workdir):
    assert "letters, digits" in record(workdir, "--name=../x").stderr
