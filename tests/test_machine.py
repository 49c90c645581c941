"""The machine's report: on this machine, and on made-up faults."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn_jax import machine
from frcnn_jax.training import devices

ROOT = Path(__file__).parents[1]


def doctor(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "frcnn_jax", *words],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_good_machine(tmp_path):
    done = doctor("doctor", FRCNN_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert lines[-1] == "nothing is wrong"
    assert re.search(r"^jax +\d+\.\d+", done.stdout, re.M)
    assert re.search(r"^devices +1 x cpu \(cpu\)$", done.stdout, re.M)
    assert re.search(r"^device at work +\d+ GFLOP/s", done.stdout, re.M)
    assert f"{tmp_path}: 0 files" in done.stdout


def test_what_is_wrong_is_told_with_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    done = doctor("doctor", FRCNN_CACHE=str(tmp_path / "file/weights"))
    assert done.returncode == 1
    assert f"wrong: fetched weights: {tmp_path}/file is a file" in done.stdout


def test_a_platform_that_does_not_start():
    done = doctor("doctor", JAX_PLATFORMS="rocm")
    assert done.returncode == 1 and "wrong: devices: " in done.stdout
    assert "Traceback" not in done.stderr


def faults(lines):
    return {line.name: line.fault for line in lines if line.fault}


def test_old_and_missing_packages_are_named(monkeypatch):
    asked = {"numpy": "99.1", "nothing-like-this": "1.0", "jax": ""}
    monkeypatch.setattr(machine, "requirements", lambda: asked)
    found = faults(machine.versions())
    assert found.keys() == {"numpy", "nothing-like-this"}
    assert found["numpy"].endswith("is older than 99.1: pip install --upgrade numpy")
    assert found["nothing-like-this"].endswith("pip install nothing-like-this")


def test_jax_and_jaxlib_must_be_of_one_version(monkeypatch):
    there = {"jax": "0.11.2", "jaxlib": "0.10.2"}
    monkeypatch.setattr(machine, "version", there.get)
    monkeypatch.setattr(machine, "requirements", lambda: {})
    assert "jax 0.11.2 with jaxlib 0.10.2" in faults(machine.versions())["jaxlib"]


def test_the_requirements_are_those_of_the_package():
    found = machine.requirements()
    assert {"jax", "flax", "numpy", "optax"} <= found.keys()
    assert machine.numbers(found["jax"]) >= (0, 10)
    assert not {"pytest", "ruff", "flatbuffers"} & found.keys()


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_a_device_that_is_not_used_is_a_fault(monkeypatch, kind):
    said = f"warning: RUNNING ON THE CPU, though there is a {kind}"
    monkeypatch.setattr(devices, "chosen", lambda: "")
    monkeypatch.setattr(devices, "fallback", lambda name: said if name == kind else "")
    found = faults(machine.hardware())
    assert found["devices"] == said.removeprefix("warning: ")


def test_little_room_is_a_fault(monkeypatch):
    monkeypatch.setattr(machine, "ROOM", 2**60)
    assert "checkpoints may not fit" in faults(machine.caches())["free in this folder"]
