"""What leaves our process for W&B, seen by a stand-in for its package."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from frcnn_jax.training import tracker
from frcnn_jax.training.log import MetricLog

ROOT = Path(__file__).resolve().parents[2]


class Run:
    def __init__(self, step):
        self.step, self.logged, self.ended = step, [], None

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.ended = exit_code


@pytest.fixture
def service(monkeypatch):
    """Begun runs; `at` is the step from which the next one takes numbers."""
    there = types.SimpleNamespace(begun=[], runs=[], at=0, fault=None)

    def init(**words):
        if there.fault:
            raise there.fault
        there.begun.append(words)
        there.runs.append(Run(there.at))
        return there.runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return there


def test_a_run_is_begun_told_and_ended(service, tmp_path):
    workdir = tmp_path / "mine"
    workdir.mkdir()
    log = MetricLog(workdir, 0, wandb="shapes", settings={"seed": 3})
    log.write(1, {"loss": 2.5, "name": "x"})
    log.write(1, {"eval/AP": 0.5, "eval/APs": None, "lr": float("nan")})
    log.close()
    (begun,), (run,) = service.begun, service.runs
    identity = begun.pop("id")
    assert len(identity) == 12
    # Nothing about the mode: WANDB_MODE=offline is the package's own to read.
    assert begun == {
        "project": "shapes",
        "name": "mine",
        "resume": "allow",
        "dir": str(workdir),
        "config": {"seed": 3},
    }
    assert run.logged == [(1, {"loss": 2.5}), (1, {"eval/AP": 0.5})]
    assert run.ended == 0


def test_a_continued_run_is_the_same_and_sends_nothing_twice(service, tmp_path):
    for start, service.at in ((0, 0), (2, 4)):  # 3 was sent before the kill
        log = MetricLog(tmp_path, start, wandb="shapes")
        for step in range(start + 1, 6):
            log.write(step, {"loss": step})
        log.close()
    assert service.begun[0]["id"] == service.begun[1]["id"]
    assert [step for step, _ in service.runs[1].logged] == [4, 5]


def test_an_error_on_its_way_ends_the_run_as_failed(service, tmp_path):
    log = MetricLog(tmp_path, 0, wandb="shapes")
    with pytest.raises(RuntimeError):
        try:
            raise RuntimeError
        finally:
            log.close()
    assert service.runs[0].ended == 1


def test_nobody_is_told_unless_asked(service, tmp_path):
    MetricLog(tmp_path, 0).close()
    MetricLog(tmp_path, 0, wandb="shapes", quiet=True).close()  # another process
    assert not service.begun and not (tmp_path / tracker.IDENTITY).exists()


def test_a_start_that_fails_is_one_line_with_the_way_out(service, tmp_path):
    service.fault = RuntimeError("api_key not configured (no-tty)\nand more")
    with pytest.raises(ValueError, match=r"no-tty\)\): log in .* WANDB_MODE=offline"):
        MetricLog(tmp_path, 0, wandb="shapes")


def test_a_folder_of_that_name_is_not_the_package(monkeypatch):
    folder = types.SimpleNamespace(__path__=["wandb"])
    monkeypatch.setitem(sys.modules, "wandb", folder)
    with pytest.raises(ValueError, match="`wandb` is the folder wandb and not the"):
        tracker.check("shapes")


def test_a_missing_package_matters_only_where_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # cannot be imported
    tracker.check("")
    with pytest.raises(ValueError, match="train.wandb is 'shapes'.*pip install wandb"):
        tracker.check("shapes")


def test_training_ends_before_it_reads_data(tmp_path):
    (tmp_path / "wandb.py").write_text("raise ImportError('not here')\n")
    words = ["train.py", "--config=configs/demo.py", f"--workdir={tmp_path / 'run'}"]
    words += ["--config.data.root=nowhere", "--config.train.wandb=shapes"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and not (tmp_path / "run").exists()
    (line,) = [x for x in done.stderr.splitlines() if "error" in x]
    assert line.startswith("error: train.wandb is 'shapes'") and "not here" in line
