"""Which device JAX found; no accelerator is here, so device files are made up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn_jax.training import devices


def test_the_right_device_passes_without_a_word(capsys):
    devices.check()
    devices.check("cpu")
    assert capsys.readouterr() == ("", "")


def test_options_of_the_compiler_are_left_out_where_it_has_none(monkeypatch):
    assert devices.compiler_options("cpu") == devices.CPU_OPTIONS  # of the pinned one
    assert devices.compiler_options("tpu") == {}
    devices.compiler_options.cache_clear()
    monkeypatch.setattr(devices, "CPU_OPTIONS", {"xla_no_such_option": "1"})
    assert devices.compiler_options("cpu") == {}
    devices.compiler_options.cache_clear()


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_another_device_than_required_is_an_error(kind):
    message = f"--require={kind}, but JAX runs on cpu: (JAX has no|JAX_PLATFORMS is)"
    with pytest.raises(devices.WrongDevice, match=message):
        devices.check(kind)


def test_a_device_that_does_not_start_is_told_in_a_sentence():
    """JAX is told to use one that this machine does not have, or cannot have."""
    program = (
        "from frcnn_jax.training import devices\n"
        "try: devices.check()\n"
        "except devices.WrongDevice as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JAX_PLATFORMS": "rocm"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("no device: ") and "rocm" in line


def test_the_cause_names_what_to_do():
    missing = not any(map(devices.importlib.util.find_spec, devices.PACKAGES["gpu"]))
    expected = 'pip install "jax[cuda13]"' if missing else "JAX_PLATFORMS is 'cpu'"
    assert expected in devices.cause("gpu")
    assert devices.cause("cpu") == f"JAX_PLATFORMS is {devices.chosen()!r}"


def test_signs_of_an_accelerator(tmp_path):
    files = [x for x in devices.signs("gpu", tmp_path) if x.startswith("/")]
    assert files == []
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    (tmp_path / "dev/accel0").touch()
    assert "/dev/nvidia0" in devices.signs("gpu", tmp_path)
    assert "/dev/accel0" in devices.signs("tpu", tmp_path)


def test_a_fall_back_to_the_cpu_is_one_loud_line(tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/accel0").touch()
    said = devices.fallback("tpu", tmp_path)
    assert said.startswith("warning: RUNNING ON THE CPU, though there is /dev/accel0")
    assert "--require=tpu" in said and "\n" not in said


def test_the_speed_of_products_is_plausible():
    speed = devices.matmul_gflops("float32", seconds=0.001)
    assert 0.1 < speed < 1e6
